"""One-call steps: x_s = a x_t + b E[X_0 | x_t] + c z, with every number known before the loop.

DDIM, DDPM, Euler-Maruyama and the exponential integrator differ in the three numbers alone. A solver of this kind defines
`coefficients(path, t, s)`; the plan and the arithmetic are here, once.
"""

from abc import ABC, abstractmethod
from typing import Any

from torch import Tensor

from undrift.core import Random
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import Plan, combine, ends, tabulate
from undrift.gaussian.solvers.reverse_sde import drawn, signal_clock
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["AffineSolver"]


class AffineSolver(ABC):
    """A solver whose step is affine in the state, the posterior mean and fresh noise."""

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Declared order of convergence."""
        return 1

    @abstractmethod
    def coefficients(self, path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(a, b, c) for all steps at once: t and s have shape (n,), float64."""

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(a, b, c) of every step."""
        check_family(self, path)
        return tabulate(self, path, grid, self.coefficients(path, *ends(grid)))

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """Values of the clock in which its noise is Brownian, at the ends of the steps that draw.

        The SNR: the chain's steps are exact in x alpha / sigma^2, whose noise has that variance. Another stochasticity, or
        variance, weighs the same increments by a smooth function of the noise level.

        Checked by: tests/gaussian/test_stochastic.py (strong order with shared increments)
        """
        return drawn(signal_clock(path, grid), self.coefficients(path, *ends(grid))[-1])

    def init(self, x: Tensor) -> None:
        """No state."""
        return None

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """One call, then at most three elementwise operations; noise is drawn only where c > 0."""
        a, b, c = plan.rows[i]
        law = denoiser(x, plan.times[i])
        x = combine(x, a, law.mean, b)
        if c > 0:
            x.add_(rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=c)
        return x, None, law
