r"""The variational bound of the ancestral chain on a grid.

With the chain's own variances, every term is a distance between the clean end and its estimate,

.. math:: -\log p(x_0) \le
          \underbrace{\tfrac{\alpha_1^2}{2\sigma_1^2} |x_0|^2}_{\text{prior}}
          + \sum_{t \to s} E\, \tfrac{w_{t \to s}^2}{2 v_{t \to s}} |x_0 - \hat x_0(x_t)|^2
          - \underbrace{E \log N(x_0;\ x_\epsilon / \alpha_\epsilon,\ \sigma_\epsilon^2 / \alpha_\epsilon^2 I)}_{\text{decoder}}

where w and v are the weight of x_0 and the variance in the chain's step back, and epsilon is the last time of the grid.

Sources: Ho et al. 2020 (2006.11239), eq. 5-10; Kingma et al. 2021 (2107.00630), eq. 11-13.
Checked by: tests/gaussian/test_elbo.py
"""

import math

import torch

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.denoiser import Trainable
from undrift.gaussian.objectives import corrupted
from undrift.grids import Grid
from undrift.typing import PerSample, State

__all__ = ["elbo"]


def elbo(denoiser: Trainable, x_0: State, grid: Grid, rng: Random) -> PerSample:
    """A lower bound of the log likelihood, one random draw of each term.

    Args:
        denoiser: on a Gaussian path; its mean is used.
        x_0: data, shape (B, *E), codec units.
        grid: from t = 1 down to a time > 0.
        rng: draws the noise of each term.

    Returns:
        Estimates of the bound, shape (B,), nats per event; unbiased, and on average below the log likelihood.

    Raises:
        GridError: the grid does not run from t = 1 to a time > 0.
    """
    if grid.times[0] != 1 or not grid.times[-1] > 0:
        raise GridError(
            f"a variational bound needs a grid from t = 1 down to a time > 0, got {grid.times[0]:g} to {grid.times[-1]:g}"
        )
    path, d = denoiser.path, x_0[0].numel()
    times = torch.tensor(grid.times, dtype=torch.float64)
    weight, _, variance = path.step_back(times[:-1], times[1:], 1.0)
    bound = -float(0.5 * path.schedule.log_snr(times[0]).exp()) * x_0.flatten(1).square().sum(1)
    for t, gain in zip(times, (0.5 * weight.square() / variance).tolist(), strict=False):
        x_t, _ = corrupted(path, x_0, t, rng)
        bound = bound - gain * (x_0 - denoiser(x_t, t).mean).flatten(1).square().sum(1)
    _, z = corrupted(path, x_0, times[-1], rng)
    spread = -0.5 * float(path.schedule.log_snr(times[-1]))
    return bound - 0.5 * z.flatten(1).square().sum(1) - d * (spread + 0.5 * math.log(2 * math.pi))
