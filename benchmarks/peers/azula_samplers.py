"""azula 0.11.1: every deterministic sampler of `azula.sample` on exact mixtures, on its schedules.

Equal steps of time from 1 to 0, its default, in float64. Its schedules end at sigma_min > 0 and start at alpha_min > 0, both
settings: the state at time 0 is its sample.
"""

from functools import partial
from typing import Any

import torch
from azula import sample as samplers
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import CosineSchedule, DecaySchedule, RectifiedSchedule, Schedule, VESchedule, VPSchedule
from endpoints import F64, Entry, Problem, largest, run
from torch import Tensor


class Exact(Denoiser):
    """The posterior mean of a problem, as azula's samplers ask for it."""

    def __init__(self, problem: Problem, schedule: Schedule) -> None:
        super().__init__()
        self.problem, self.schedule = problem, schedule

    def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
        """Mean, shape of x_t."""
        alpha, sigma = self.schedule(t)
        return DiracPosterior(self.problem.clean(x_t, float(alpha), float(sigma)))


def sample(problem: Problem, calls: int, kind: str, schedule: Schedule, **extra: Any) -> Tensor | None:
    """A sampler's endpoint."""
    each = 2 if kind == "HeunSampler" else 1
    n = largest(calls, lambda n: each * n)
    if n == 0:
        return None
    sampler = getattr(samplers, kind)(Exact(problem, schedule), steps=n, silent=True, dtype=F64, **extra)
    alpha, sigma = schedule(torch.ones((), dtype=F64))
    return sampler(problem.start(float(alpha), float(sigma)))


def entries() -> list[Entry]:
    """Every sampler on every schedule."""
    schedules: dict[str, Schedule] = {"VP": VPSchedule(), "cosine": CosineSchedule(), "rectified": RectifiedSchedule()}
    schedules["decay"] = DecaySchedule()
    makers = {"VP": VPSchedule, "cosine": CosineSchedule, "rectified": RectifiedSchedule}
    for name, maker in makers.items():
        for alpha, sigma in ((1e-2, 1e-3), (1e-2, 1e-2), (1e-3, 1e-2), (1e-3, 3e-2), (1e-3, 6e-2), (1e-3, 1e-4), (1e-6, 1e-6)):
            schedules[f"{name} {alpha:g} {sigma:g}"] = maker(alpha, sigma)
    for gamma in (0.3, 0.03, 0.01):
        for alpha, sigma in ((1e-2, 1e-3), (1e-3, 1e-2), (1e-3, 1e-3), (1e-6, 1e-6)):
            schedules[f"decay {gamma:g} {alpha:g} {sigma:g}"] = DecaySchedule(alpha, sigma, gamma)
    for sigma in (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2):
        schedules[f"VE {sigma:g} 80"] = VESchedule(sigma, 80.0)
    made = []
    for name, schedule in schedules.items():
        default = " " not in name and name != "decay"
        for kind in ("DDIM", "Euler", "Heun"):
            made.append(Entry(f"{kind} {name}", partial(sample, kind=f"{kind}Sampler", schedule=schedule), default))
        made.append(Entry(f"Ito {name}", partial(sample, kind="ItoSampler", schedule=schedule, eta=0.0)))
        for kind in ("zAB", "vAB", "zEAB", "xEAB", "REAB"):
            for order in (2, 3, 4, 5):
                run_it = partial(sample, kind=f"{kind}Sampler", schedule=schedule, order=order)
                made.append(Entry(f"{kind} {order} {name}", run_it, default and order == 2))
    return made


if __name__ == "__main__":
    run("azula", entries(), ["azula"])
