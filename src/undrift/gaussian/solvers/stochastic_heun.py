r"""Stochastic Heun: an exponential trapezoid for the reverse SDEs, weak order 2 with any stochasticity.

With the exact linear part and the exact noise of `reverse_sde`,

.. math:: x' &= \frac{\sigma_s}{\sigma_t} e^{-\tau^2 h} x_t + \alpha_s (1 - e^{-\kappa})\, \hat x_0(x_t, t) + \omega z \\
          x_s &= x' + \alpha_s \Big(1 - \frac{1 - e^{-\kappa}}{\kappa}\Big)
          \big(\hat x_0(x', s) - \hat x_0(x_t, t)\big), \qquad \kappa = (1 + \tau^2) h

The clean end is linear in the half log-SNR over a step; predictor and corrector share the noise z. What the noise does to the
clean end on the way is then right to the order that a law needs, because the noise is additive in the scaled state.

From alpha = 0 that clock is infinite. That one step takes the clean end linear in :math:`e^{(1 + \tau^2) \lambda}` (in the
SNR for tau = 1), which starts at 0: the bracket is half of 1. Onto sigma = 0 a step is one call.

Source: exponential Runge-Kutta of order 2 (Hochbruck and Ostermann 2010, eq. 2.39) on the SDEs of Xue et al. 2023 (2309.05019),
proposition 4.2; weak order with additive noise: Kloeden and Platen 1992, section 15.1.
Checked by: tests/gaussian/test_stochastic.py (update, weak order on a mixture), test_solvers.py (weak order on Gaussians)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.gaussian.solvers.reverse_sde import drawn, exact_part, signal_clock
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["StochasticHeun"]


@dataclass(frozen=True)
class StochasticHeun:
    """Stochastic Heun; two calls a step and one for the step onto t = 0.

    Attributes:
        stochasticity: tau >= 0; 1 is the time reversal, 0 the probability-flow ODE.

    Raises:
        GridError: negative stochasticity.
    """

    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if self.stochasticity < 0:
            raise GridError(f"StochasticHeun's stochasticity is >= 0, got {self.stochasticity:g}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Weak order of convergence."""
        return 2

    def calls(self, grid: Grid) -> int:
        """Two a step, one for the step onto t = 0."""
        return 2 * grid.steps - (grid.times[-1] == 0)

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(a, b, c, d): x' = a x_t + b D_t + c z, then x_s = x' + d (D_s - D_t)."""
        check_family(self, path)
        t, s = ends(grid)
        level2 = self.stochasticity**2
        lengths, scale, still, noise = exact_part(path, grid, level2)
        kappa = (1 + level2) * lengths
        alpha_t, alpha_s, sigma_s = path.schedule.alpha(t), path.schedule.alpha(s), path.schedule.sigma(s)
        slope = torch.where((alpha_t == 0) | (alpha_s == 0), 0.5 * still, alpha_s * (1 + torch.expm1(-kappa) / kappa))
        return tabulate(self, path, grid, (scale, still, noise, torch.where(sigma_s == 0, 0.0, slope)))

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """Values of the clock in which its noise is Brownian, at the ends of the steps that draw."""
        level2 = self.stochasticity**2
        return drawn(signal_clock(path, grid, level2), exact_part(path, grid, level2)[-1])

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """Predict with the clean end frozen, correct with the one found there, under the same noise."""
        a, b, c, d = plan.rows[i]
        law = denoiser(x, plan.times[i])
        ahead = torch.add(x * a, law.mean, alpha=b)
        if c > 0:
            ahead.add_(rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=c)
        if d == 0:
            return ahead, None, law
        there = denoiser(ahead, plan.times[i + 1])
        return torch.add(ahead, there.mean, alpha=d).add_(law.mean, alpha=-d), None, there
