r"""Restart: a deterministic backbone that goes back up, with fresh noise, and runs a stretch again.

.. math:: x_{t_{max}} = \frac{\alpha_{t_{max}}}{\alpha_{t_{min}}} x_{t_{min}}
          + \sigma_{t_{max}} \sqrt{1 - \mathrm{snr}_{t_{max}} / \mathrm{snr}_{t_{min}}}\; z, \qquad
          x_{t_{min}} \leftarrow \mathrm{ODE}(x_{t_{max}},\ t_{max} \to t_{min}), \qquad K \text{ times}

Going up is the forward process, exact. Going down contracts what was wrong at t_min (a network's errors above t_max, a wrong
prior), and the noise, much more than an SDE adds in a stretch, hides it: that error shrinks geometrically in K, while an ODE
keeps it. On a Gaussian of variance c, with r = sigma / alpha, an error of the mean shrinks by
:math:`\sqrt{(c + r_{min}^2) / (c + r_{max}^2)}` a restart. With an exact score there is nothing to forgive, and the same
calls do more in a finer grid.

An interval is given by shares of the grid's steps, 0 its first time and 1 its last, and runs on the grid's own times. So it
refines with the grid, which keeps the order, depends on noise levels as the grid does, and costs calls known in advance. On
Karras et al.'s 18 steps the default interval lies between the noise levels .30 and .06, the paper's for CIFAR-10.

Source: Xu et al. 2023 (2306.14878), algorithm 1 and theorem 1.
Checked by: tests/gaussian/test_restart.py; order in tests/gaussian/test_solvers.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.heun import Heun
from undrift.gaussian.solvers.plan import Plan
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["Restart"]


@dataclass(frozen=True)
class Restart:
    """Heun with restart intervals; weak order 2.

    Both ends of an interval are rounded to the nearest time of the grid; it holds at least one step, and ends above t = 0. A
    grid of one step onto t = 0 has no room for a restart, and runs without; `calls` tells.

    Attributes:
        intervals: (share where it starts, share where it ends, number of restarts) of each, in any order; where several end at
            one time, the one that starts latest comes first.

    Raises:
        GridError: a share outside [0, 1], an interval that does not run forward, fewer than one restart.
    """

    intervals: tuple[tuple[float, float, int], ...] = ((0.65, 0.8, 2),)

    def __post_init__(self) -> None:
        for interval in self.intervals:
            first, last, repeats = interval
            if not 0 <= first < last <= 1:
                raise GridError(
                    f"a restart interval {interval} must satisfy 0 <= start < end <= 1: shares of the grid's steps, noise "
                    "first; swap them, or divide step indices by the number of steps"
                )
            if repeats < 1:
                raise GridError(f"a restart interval {interval} needs at least one restart; drop it for none for none")
        if not self.intervals:
            raise GridError("Restart needs at least one interval (start, end, restarts); for none use Heun()")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Weak order: Heun's, since going up is exact."""
        return 2

    def stretches(self, grid: Grid) -> list[tuple[int, int, int]]:
        """(index of t_max, index of t_min, restarts) of every interval on a grid, in the order they are run."""
        bottom = grid.steps - (grid.times[-1] == 0)  # never from t = 0, where a network would be asked about data itself
        found = []
        for first, last, repeats in self.intervals if bottom > 0 else ():
            end = min(max(round(last * grid.steps), 1), bottom)
            found.append((min(round(first * grid.steps), end - 1), end, repeats))
        return sorted(found, key=lambda stretch: (stretch[1], -stretch[0]))

    def calls(self, grid: Grid) -> int:
        """Heun's, and two for every step that is run again."""
        return Heun().calls(grid) + sum(2 * (end - start) * repeats for start, end, repeats in self.stretches(grid))

    def plan(self, path: Any, grid: Grid) -> tuple[Plan, dict[int, list[tuple[int, int, float, float]]]]:
        """Heun's plan; and by the step that ends a stretch: (its first step, restarts, gain, spread)."""
        check_family(self, path)
        if grid.times[-1] > grid.times[0]:
            raise GridError(
                f"Restart has no step from t = {grid.times[0]:g} up to s = {grid.times[1]:g}: a random solver runs from noise "
                "to data; encode with Heun()"
            )
        backbone, stretches = Heun().plan(path, grid), self.stretches(grid)
        again: dict[int, list[tuple[int, int, float, float]]] = {}
        if stretches:
            index = torch.tensor([(start, end) for start, end, _ in stretches])
            high, low = torch.tensor(grid.times, dtype=torch.float64)[index].unbind(1)
            schedule = path.schedule
            fresh = torch.expm1(schedule.log_snr(high) - schedule.log_snr(low)).neg()
            gain, spread = schedule.alpha(high) / schedule.alpha(low), schedule.sigma(high) * fresh.sqrt()
            for (start, end, repeats), up, noise in zip(stretches, gain.tolist(), spread.tolist(), strict=True):
                again.setdefault(end - 1, []).append((start, repeats, up, noise))
        return backbone, again

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(self, denoiser: Denoiser, plan: Any, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """Heun's step; where it ends a stretch, up and down again."""
        backbone, again = plan
        heun = Heun()
        x, _, law = heun.step(denoiser, backbone, i, x, None, rng)
        for start, repeats, gain, spread in again.get(i, ()):
            for _ in range(repeats):
                x = torch.add(x * gain, rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=spread)
                for j in range(start, i + 1):
                    x, _, law = heun.step(denoiser, backbone, j, x, None, rng)
        return x, None, law
