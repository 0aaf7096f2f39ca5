r"""Euler-Maruyama on the family of reverse SDEs that share every marginal.

.. math:: dX = \big[f X - \tfrac12 (1 + \lambda^2) g^2 \nabla \log p_t(X)\big] dt + \lambda g\, d\bar W

lambda = 1 is the time reversal (Anderson 1982), lambda = 0 the probability-flow ODE. Steps are in t itself, so the schedule
must have a finite drift on the grid; DDIM has not that limit.

Source: Song et al. 2021 (2011.13456), eq. 6 and 13; Karras et al. 2022, eq. 103 (any lambda).
Checked by: tests/gaussian/test_solvers.py and test_processes.py (weak order; marginals for lambda = 0, 1/2, 1, 2)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.affine import AffineSolver
from undrift.gaussian.solvers.plan import ends
from undrift.gaussian.solvers.reverse_sde import drawn
from undrift.grids import Grid

__all__ = ["EulerMaruyama"]


@dataclass(frozen=True)
class EulerMaruyama(AffineSolver):
    """Euler-Maruyama.

    Attributes:
        stochasticity: lambda >= 0.

    Raises:
        GridError: negative stochasticity.
    """

    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if self.stochasticity < 0:
            raise GridError(f"EulerMaruyama's stochasticity is >= 0, got {self.stochasticity:g}")

    def coefficients(self, path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """One Euler step: x - (t - s) drift + lambda g sqrt(t - s) z, with the score written by the posterior mean."""
        schedule, step = path.schedule, t - s
        g2, sigma2 = schedule.g2(t), schedule.sigma(t).square()
        pull = 0.5 * (1 + self.stochasticity**2) * g2 * step / sigma2
        return 1 - step * schedule.f(t) - pull, pull * schedule.alpha(t), (self.stochasticity**2 * g2 * step).sqrt()

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """The times themselves: dW is frozen beside g over a step in t."""
        return drawn(torch.tensor(grid.times, dtype=torch.float64), self.coefficients(path, *ends(grid))[-1])
