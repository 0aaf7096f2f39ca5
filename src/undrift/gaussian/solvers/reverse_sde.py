r"""What is linear in the reverse SDEs, exactly: the part that every solver in the clean end shares.

In half log-SNR :math:`\lambda = \log(\alpha / \sigma)` and with the stochasticity :math:`\tau`, the SDEs that share all
marginals are

.. math:: d\frac{x}{\alpha} = (1 + \tau^2) \Big(\hat x_0 - \frac{x}{\alpha}\Big) d\lambda
          + \sqrt 2\, \tau e^{-\lambda} dW_\lambda .

Everything but the clean end is integrated in closed form. Over a step of length h,

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\tau^2 h} x_t
          + \alpha_s \int_0^{\kappa} e^{-v} \hat x_0(v)\, dv + \sigma_s \sqrt{1 - e^{-2 \tau^2 h}}\; z,
          \qquad \kappa = (1 + \tau^2) h,

with v = (1 + tau^2)(lambda_s - lambda) counted back from the end of the step. Multiplied by
:math:`e^{(1 + \tau^2) \lambda} / \alpha`, the state has additive noise, which is Brownian in the clock
:math:`e^{2 \tau^2 \lambda} = (\sigma / \alpha)^{-2 \tau^2}`.

Source: Xue et al. 2023 (2309.05019), proposition 4.2. Checked by: tests/gaussian/test_stochastic.py
"""

import torch
from torch import Tensor

from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import ends
from undrift.grids import Grid

__all__ = ["drawn", "exact_part", "half_log_snr", "signal_clock"]


def half_log_snr(path: Path, grid: Grid) -> Tensor:
    """Lambda at every stop, shape (n + 1,), float64; infinite where alpha or sigma is 0."""
    return 0.5 * path.schedule.log_snr(torch.tensor(grid.times, dtype=torch.float64))


def exact_part(path: Path, grid: Grid, level2: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(h, weight of x_t, weight of a clean end that stands still, standard deviation of the noise), each of shape (n,).

    Args:
        path: alpha and sigma.
        grid: n steps.
        level2: tau squared, >= 0.
    """
    t, s = ends(grid)
    lengths = half_log_snr(path, grid).diff()
    if level2 == 0:  # also from s to t, for encoding
        still, scale, none = path.step_back(t, s, 0.0)
        return lengths, scale, still, none
    alpha_s, sigma_s = path.schedule.alpha(s), path.schedule.sigma(s)
    scale = sigma_s / path.schedule.sigma(t) * torch.exp(-level2 * lengths)
    still = -alpha_s * torch.expm1(-(1 + level2) * lengths)
    return lengths, scale, still, sigma_s * torch.expm1(-2 * level2 * lengths).neg().sqrt()


def signal_clock(path: Path, grid: Grid, level2: float = 1.0) -> Tensor:
    """(sigma / alpha)^(-2 tau^2) at every stop, shape (n + 1,): 0 where alpha = 0, infinite where sigma = 0."""
    return torch.exp(2 * level2 * half_log_snr(path, grid))


def drawn(clock: Tensor, noise: Tensor) -> list[float]:
    """The clock at the ends of those steps that draw noise, which follow one another; empty if none does.

    Args:
        clock: shape (n + 1,).
        noise: standard deviation of every step's noise, shape (n,).
    """
    steps = (noise > 0).nonzero().flatten().tolist()
    return clock[steps[0] : steps[-1] + 2].tolist() if steps else []
