r"""The exponential integrator: score frozen over a step, everything linear exact.

.. math:: x_s = \frac{\alpha_s}{\alpha_t} x_t
          + \frac{1 + \lambda^2}{2}\, \nabla\log p_t(x_t) \int_s^t \frac{\alpha_s}{\alpha_u} g_u^2\, du
          + \lambda \alpha_s \sqrt{\frac{\sigma_t^2}{\alpha_t^2} - \frac{\sigma_s^2}{\alpha_s^2}}\; z

The noise integral is closed; the other is done by Gauss-Legendre quadrature, once per grid. It is the integrator of the
sampling theory (survey, section 2.1 and 4.3; Chen et al. 2023). Freezing the clean end in place of the score gives DDIM.

Source: Zhang and Chen 2023 (2204.13902), section 3; Chen et al. 2023 (2209.11215).
Checked by: tests/gaussian/test_solvers.py (weak order by moment propagation; closed form on VP)
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.affine import AffineSolver
from undrift.gaussian.solvers.plan import ends
from undrift.gaussian.solvers.reverse_sde import drawn
from undrift.grids import Grid

__all__ = ["ExponentialIntegrator"]

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))


@dataclass(frozen=True)
class ExponentialIntegrator(AffineSolver):
    """Exponential integrator with a frozen score.

    Attributes:
        stochasticity: lambda >= 0; 1 is the time reversal, 0 the probability-flow ODE.

    Raises:
        GridError: negative stochasticity.
    """

    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if self.stochasticity < 0:
            raise GridError(f"ExponentialIntegrator's stochasticity is >= 0, got {self.stochasticity:g}")

    def coefficients(self, path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Linear part, frozen score, and the exact noise."""
        schedule = path.schedule
        alpha_t, alpha_s = schedule.alpha(t), schedule.alpha(s)
        sigma2_t, sigma2_s = schedule.sigma(t).square(), schedule.sigma(s).square()
        half = 0.5 * (t - s)
        u = 0.5 * (t + s)[:, None] + half[:, None] * _NODES
        integral = half * ((schedule.g2(u) / schedule.alpha(u)) @ _WEIGHTS)
        pull = 0.5 * (1 + self.stochasticity**2) * alpha_s * integral / sigma2_t
        noise = sigma2_t / alpha_t.square() - sigma2_s / alpha_s.square()
        return alpha_s / alpha_t - pull, pull * alpha_t, alpha_s * (self.stochasticity**2 * noise).sqrt()

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """(sigma / alpha)^2, the variance of the noise in x / alpha."""
        level2 = torch.exp(-path.schedule.log_snr(torch.tensor(grid.times, dtype=torch.float64)))
        return drawn(level2, self.coefficients(path, *ends(grid))[-1])
