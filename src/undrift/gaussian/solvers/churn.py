r"""Churn: the stochastic sampler of EDM. Raise the noise a little, then step down by Heun's method from there.

With :math:`r = \sigma / \alpha`, in which all paths are EDM's, a step from t to s among N is

.. math:: \hat r = r_t (1 + \gamma), \qquad
          \hat x = \frac{\hat\alpha}{\alpha_t} x_t + \hat\alpha\, c\, \sqrt{\hat r^2 - r_t^2}\; z, \qquad
          \gamma = \min(S / N,\ \sqrt 2 - 1) \ \text{if}\ r_t \in [\text{low}, \text{high}], \ \text{else}\ 0,

and a Heun step from r-hat to r_s. S is `churn`, c is `inflation`. The raised level is a time of its own, found by inverting
the schedule; it never passes the path's highest level, the one at t = 1.

Without inflation the raise is the path's own noise, exactly. With c > 1 the variance tends to a wrong value as the steps get
finer, whatever their order: c makes up for networks that denoise too much. `order` is then 0.

Source: Karras et al. 2022 (2206.00364), algorithm 2. Checked by: tests/gaussian/test_stochastic.py
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.heun import Heun
from undrift.gaussian.solvers.plan import Plan
from undrift.gaussian.solvers.reverse_sde import drawn
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["Churn"]

_HEUN = Heun()

Raised = tuple[float, float, Plan]


@dataclass(frozen=True)
class Churn:
    """EDM's stochastic sampler; with churn = 0 it is `Heun`.

    Attributes:
        churn: S >= 0, the total raise of log r, shared among the steps of the grid.
        low: sigma / alpha below which nothing is raised.
        high: sigma / alpha above which nothing is raised.
        inflation: standard deviation of the noise that is added, as a multiple of the right one.

    Raises:
        GridError: a setting out of range.
    """

    churn: float = 40.0
    low: float = 0.05
    high: float = 50.0
    inflation: float = 1.003

    def __post_init__(self) -> None:
        if not (self.churn >= 0 and 0 <= self.low <= self.high and self.inflation > 0):
            raise GridError(f"Churn needs churn >= 0, 0 <= low <= high (in units of sigma / alpha), inflation > 0; got {self}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Weak order of convergence: 2, or 0 with an inflation, whose bias stays."""
        return 2 if self.churn == 0 or self.inflation == 1 else 0

    def calls(self, grid: Grid) -> int:
        """Two a step, one for the step onto t = 0."""
        return _HEUN.calls(grid)

    def plan(self, path: Any, grid: Grid) -> list[Raised]:
        """(a, b, Heun's plan from the raised time) of every step: x-hat = a x_t + b z."""
        check_family(self, path)
        if self.churn > 0 and grid.times[-1] > grid.times[0]:
            raise GridError(
                f"Churn has no step from t = {grid.times[0]:g} up to s = {grid.times[1]:g}: a random solver runs from noise to "
                "data; use Heun() to encode"
            )
        raised, scale, noise = self._raise(path, grid)
        return [
            (a, b, _HEUN.plan(path, Grid((from_, s))))
            for a, b, from_, s in zip(scale.tolist(), noise.tolist(), raised.tolist(), grid.times[1:], strict=True)
        ]

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """The share of the steps that is done, at the ends of those that draw: every step raises log r by as much.

        Grids share a Brownian path in this clock if they are of one shape, with steps enough that gamma is below its limit.
        """
        share = torch.arange(grid.steps + 1, dtype=torch.float64) / grid.steps
        return drawn(share, self._raise(path, grid)[-1])

    def _raise(self, path: Path, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
        """(raised time, scale of the state, standard deviation of the noise), each of shape (n,)."""
        schedule = path.schedule
        t = torch.tensor(grid.times[:-1], dtype=torch.float64)
        alpha, level = schedule.alpha(t), torch.exp(-0.5 * schedule.log_snr(t))
        highest = torch.exp(-0.5 * schedule.log_snr(torch.ones((), dtype=torch.float64)))
        gamma = min(self.churn / grid.steps, math.sqrt(2) - 1)
        raised = schedule.time(-2 * (level * (1 + gamma)).log())
        raised = torch.where(level * (1 + gamma) >= highest, 1.0, raised)
        variance = torch.exp(-schedule.log_snr(raised)) - level.square()  # of the time found, not of the one sought
        free = (level >= self.low) & (level <= self.high) & (alpha > 0) & (raised > t) & (variance > 0) & (gamma > 0)
        scale = torch.where(free, schedule.alpha(raised), alpha)
        noise = torch.where(free, self.inflation * scale * variance.clamp_min(0).sqrt(), 0.0)
        return torch.where(free, raised, t), torch.where(free, scale / alpha, 1.0), noise

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(
        self, denoiser: Denoiser, plan: list[Raised], i: int, x: Tensor, state: None, rng: Random
    ) -> tuple[Tensor, None, Any]:
        """Raise, then Heun's own step."""
        scale, noise, onward = plan[i]
        if noise > 0:
            x = torch.add(x * scale, rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=noise)
        return _HEUN.step(denoiser, onward, 0, x, None, rng)
