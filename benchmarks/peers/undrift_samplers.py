"""undrift: its default and tuned samplers, and every deterministic solver of `gaussian.SOLVERS`, on exact mixtures.

`tune` is given the exact denoiser and noise of its own, not the noise it is scored on; the calls and seconds it spends are in
the records. A path that ends at alpha = 0 starts from pure noise, EDM's at sigma = 80.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from endpoints import F64, Entry, Problem, largest, run
from torch import Tensor

from undrift import gaussian, grids, schedules
from undrift.core import Deterministic, Shared
from undrift.errors import UndriftError
from undrift.laws import Point
from undrift.simulate import last, trajectory

PATHS = {
    "flow": gaussian.Path(schedules.LinearFlow()),
    "trigonometric": gaussian.Path(schedules.Trigonometric()),
    "EDM": gaussian.Path(schedules.EDM()),
}
GRIDS = {"flow": ("flow", "angle"), "EDM": ("angle",)}
# Random solvers, and those whose calls the grid does not tell.
LEFT_OUT = {
    "adaptive", "churn", "ddpm", "euler_maruyama", "langevin", "picard", "predictor_corrector", "restart", "sde_dpmpp",
    "stochastic_heun",
}  # fmt: skip
SETTINGS: dict[str, list[dict[str, Any]]] = {
    "dpm_singlestep": [{"order": 2}, {"order": 3}],
    "exponential": [{"stochasticity": 0}],
    "multistep": [{"quantity": "x0", "order": 3}, {"quantity": "v", "order": 2}, {"quantity": "velocity", "order": 3}],
    "sa": [{"stochasticity": 0}],
    "unipc": [{"predictor": 2}, {"predictor": 3}],
}
TUNING = 10_000  # numbers in the states that tuning starts from, as in `Model.tune`


@dataclass(frozen=True)
class Mean:
    """The exact posterior mean on a path, and no more of the law than a network would give."""

    path: gaussian.Path
    problem: Problem

    def __call__(self, x_t: Tensor, t: Tensor) -> Point:
        """E[X_0 | x_t] at one time for all samples."""
        t = torch.as_tensor(t, dtype=F64)
        if t.ndim and bool((t != t[0]).any()):
            raise ValueError("here every sample has the same time")
        t = t.flatten()[0]
        return Point(self.problem.clean(x_t, float(self.path.schedule.alpha(t)), float(self.path.schedule.sigma(t))))


def solve(problem: Problem, path: gaussian.Path, sampler: Any, grid: grids.Grid) -> Tensor:
    """The endpoint."""
    one = torch.ones((), dtype=F64)
    x = problem.start(float(path.schedule.alpha(one)), float(path.schedule.sigma(one)))
    problem.calls = 0
    return last(trajectory(Mean(path, problem), sampler, grid, x, rng=Deterministic()))


def by_default(problem: Problem, calls: int, path: gaussian.Path) -> Tensor:
    """`gaussian.default`."""
    chosen = gaussian.default(path, calls)
    return solve(problem, path, chosen.sampler, chosen.grid)


def tuned(problem: Problem, calls: int, path: gaussian.Path) -> Tensor:
    """`gaussian.tune` on noise of its own."""
    like = torch.empty(min(256, max(32, TUNING // problem.d)), problem.d, dtype=F64)
    start = path.prior(like).sample(Shared(problem.seed + 1))
    begun = time.perf_counter()
    chosen = gaussian.tune(Mean(path, problem), start, calls, curve=())
    problem.facts = {"tuning_calls": problem.calls, "tuning_seconds": round(time.perf_counter() - begun, 3)}
    return solve(problem, path, chosen.sampler, chosen.grid)


def registered(problem: Problem, calls: int, path: gaussian.Path, maker: Callable[[], Any], grid: str) -> Tensor | None:
    """A solver on a named grid, with the largest number of steps that the calls allow."""
    sampler, refused = maker(), []

    def cost(n: int) -> int:
        try:
            made = grids.GRIDS[grid](path.schedule, n)
            sampler.plan(path, made)
            return sampler.calls(made)
        except UndriftError as error:  # too few steps for this grid, or not on this path
            refused.append(error)
            return calls + 1

    n = largest(calls, cost)
    if n == 0 and len(refused) == calls:
        raise refused[0]
    return None if n == 0 else solve(problem, path, sampler, grids.GRIDS[grid](path.schedule, n))


def entries() -> list[Entry]:
    """The default and the tuned sampler, and every deterministic solver."""
    made = [
        Entry(f"{word} {name}", partial(how, path=path), True)
        for word, how in (("default", by_default), ("tuned", tuned))
        for name, path in PATHS.items()
        if (word, name) != ("tuned", "trigonometric")  # once is enough to see that the schedule's name does not matter
    ]
    for name, maker in gaussian.SOLVERS.items():
        if name in LEFT_OUT:
            continue
        for settings in SETTINGS.get(name, [{}]):
            title = " ".join([name, *(f"{key} {value}" for key, value in settings.items())])
            made += [
                Entry(
                    f"{title}, {path} {grid}",
                    partial(registered, path=PATHS[path], maker=partial(maker, **settings), grid=grid),
                )
                for path, names in GRIDS.items()
                for grid in names
                if (name, path) != ("exponential", "flow")  # has no finite step from alpha = 0
            ]
    return made


if __name__ == "__main__":
    run("undrift", entries(), ["undrift"])
