"""deepinv 0.5.0: its diffusion processes as ODEs (`alpha=0`) with its solvers, on exact mixtures.

The processes are variance exploding, variance preserving, flow matching and EDM's (sigma = t), each in equal steps of its own
time, EDM's on Karras et al.'s ladder. deepinv hands its denoiser float32; the answer is float64. Its solvers take the
caller's times: Heun's ends a little above 0, because it asks at the end too.

deepinv imports torchvision, whose wheel is built for another build of torch than this processor's: the operators that it then
misses, none of which a sampler uses, are declared empty first.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from endpoints import Entry, Problem, largest, run
from torch import Tensor, nn

OPERATORS = ["nms", "qnms", "roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "qroi_align", "deform_conv2d"]
OPERATORS += [f"_{name}_backward" for name in ("roi_align", "roi_pool", "ps_roi_align", "ps_roi_pool", "deform_conv2d")]
library = torch.library.Library("torchvision", "DEF")
for operator in OPERATORS:
    library.define(f"{operator}() -> ()")

from deepinv import sampling  # noqa: E402

PROCESSES: dict[str, tuple[Callable[..., Any], float, float]] = {  # maker, first time, last time of Heun
    "VE": (sampling.VarianceExplodingDiffusion, 1.0, 0.0),
    "VE 0.01": (partial(sampling.VarianceExplodingDiffusion, sigma_min=0.01), 1.0, 0.0),
    "VP": (sampling.VariancePreservingDiffusion, 1.0, 1e-3),
    "flow": (sampling.FlowMatching, 0.99, 1e-3),
    "EDM": (partial(sampling.EDMDiffusionSDE, sigma_t=lambda t: t, variance_exploding=True, T=80.0), 80.0, 2e-3),
}


class Exact(nn.Module):
    """The posterior mean, as deepinv calls a denoiser."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def forward(self, x: Tensor, sigma: Tensor, **_: object) -> Tensor:
        """Mean of x_0 given x = x_0 + sigma z."""
        return self.problem.clean(x.double(), 1.0, float(sigma))


def times(process: str, n: int, start: float, stop: float) -> np.ndarray:
    """The n + 1 times."""
    if process == "EDM":
        ladder = np.linspace(start ** (1 / 7), 2e-3 ** (1 / 7), n if stop == 0 else n + 1) ** 7
        return np.append(ladder, 0.0) if stop == 0 else ladder
    return np.linspace(start, stop, n + 1)


def sample(problem: Problem, calls: int, process: str, solver: str) -> Tensor | None:
    """The endpoint with the largest number of steps that the calls allow."""
    maker, start, late = PROCESSES[process]
    heun = solver == "HeunSolver"
    n = largest(calls, lambda n: (1 + heun) * n)
    if n == 0 or (process == "EDM" and n == 1):
        return None
    grid = times(process, n, start, late if heun else 0.0)
    sde = maker(alpha=0.0, denoiser=Exact(problem), solver=getattr(sampling, solver)(grid), minus_one_one=False)
    scale, level = float(sde.scale_t(start)), float(sde.sigma_t(start))
    if not math.isfinite(level):
        return None
    return sde.sample(problem.start(scale, scale * level))


def entries() -> list[Entry]:
    """Every solver on every process."""
    return [
        Entry(f"{solver.removesuffix('Solver')} {process}", partial(sample, process=process, solver=solver), " " not in process)
        for process in PROCESSES
        for solver in ("EulerSolver", "HeunSolver", "DDIMSolver")
    ]


if __name__ == "__main__":
    run("deepinv", entries(), ["deepinv", "torchvision"])
