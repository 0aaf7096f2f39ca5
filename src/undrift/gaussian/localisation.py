r"""Stochastic localisation: reverse diffusion seen as an observation that grows.

Let X be the data, and watch :math:`Y_u = u X + W_u` with W a Brownian motion. Then

.. math:: dY = m_u(Y)\, du + dB, \qquad m_u(y) = E[X \mid u X + \sqrt{u}\, z = y], \qquad Y_u / u \to X .

No reversal of time is needed. It is the Gaussian path all the same: at :math:`\sigma_t^2 / \alpha_t^2 = 1 / u` the state is
:math:`x_t = \alpha_t\, y / u`, so any denoiser on any Gaussian path gives m. In the theory's clock, s = log(1 + 1/u), the
Ornstein-Uhlenbeck state is :math:`X_s = Y_u / \sqrt{u (1 + u)}`, and its score

.. math:: \nabla \log p_s(X_s) = \sqrt{(1 + u) / u}\; \big(u\, m_u(Y_u) - Y_u\big) .

An Euler step in u is the ancestral step (DDPM, posterior variance) of the path, to rounding: so its weak order is 1.

Sources: Eldan 2013; El Alaoui, Montanari and Sellke 2022 (2203.05093); Montanari 2023 (2305.10690), section 2.
Checked by: tests/gaussian/test_localisation.py
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from undrift.core import Random, check_state
from undrift.errors import TimeError
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.typing import State

__all__ = ["Localisation"]


@dataclass(frozen=True)
class Localisation:
    """The localisation process of a denoiser.

    Attributes:
        denoiser: any denoiser on a Gaussian path.
    """

    denoiser: Denoiser

    def times(self, grid: Grid) -> Tensor:
        """U = alpha^2 / sigma^2 at the times of a grid that ends above t = 0, shape (n + 1,), float64, rising.

        Raises:
            TimeError: the grid rises, or ends at t = 0, where u is infinite.
        """
        if grid.times[-1] == 0 or grid.times[-1] > grid.times[0]:
            raise TimeError(
                f"localisation follows a falling grid that ends above t = 0, got one from t = {grid.times[0]:g} to "
                f"{grid.times[-1]:g}: u = alpha^2 / sigma^2 rises from noise to data, and is infinite at t = 0; end just above"
            )
        return self.denoiser.path.schedule.log_snr(torch.tensor(grid.times, dtype=torch.float64)).exp()

    def mean(self, y: State, u: float) -> State:
        """m_u(y) = E[X | u X + sqrt(u) z = y], shape (B, *E), codec units.

        At u = 0 nothing has been seen and y is 0: the denoiser is asked at the centre of its pure noise.

        Args:
            y: observation, shape (B, *E).
            u: localisation time >= 0, dimensionless.

        Raises:
            TimeError: u < 0, or the denoiser's path never has so little signal or noise.

        Checked by: tests/gaussian/test_localisation.py::test_mean_is_the_posterior_mean_of_the_observation
        """
        check_state(y, "y")
        schedule = self.denoiser.path.schedule
        clock = torch.tensor(u, dtype=torch.float64).log()  # of a negative number NaN, which is refused below
        t = schedule.time(clock)
        reached = schedule.log_snr(t)
        if not 0 <= u < math.inf or (clock != reached and not bool((clock - reached).abs() < 1e-6)):
            first = float(schedule.log_snr(torch.ones_like(t)).exp())
            raise TimeError(
                f"localisation time u = {u:g} is no signal-to-noise ratio alpha^2 / sigma^2 of {schedule!r}; stay at finite "
                f"u >= {first:g}, or take a schedule that ends at alpha = 0 to start from u = 0"
            )
        scale = float(schedule.sigma(t)) / u**0.5 if u > 0 else 0.0  # alpha / u = sigma / sqrt(u), finite where alpha is small
        return self.denoiser(y * scale, t).mean

    def start(self, like: State, u: float, rng: Random) -> State:
        """Y_u = sqrt(u) z: exact at u = 0, and for a small u as far from the truth as the path's prior is.

        Args:
            like: a tensor with the shape (B, *E), dtype and device wanted.
            u: first localisation time.
            rng: source of noise.
        """
        return u**0.5 * rng.normal(like.shape, dtype=like.dtype, device=like.device)

    def run(self, y: State, times: Tensor, rng: Random) -> Iterator[tuple[float, State]]:
        """Euler-Maruyama in u, yielding (u, Y_u) at the start and after every step; one network call a step.

        Args:
            y: state at times[0], shape (B, *E).
            times: rising localisation times, shape (n + 1,). Steps even in log u cost the least.
            rng: source of noise.

        Raises:
            TimeError: the times do not rise strictly.

        Checked by: tests/gaussian/test_localisation.py (moments on Gaussians, order 1; weights of a mixture; equal to DDPM)
        """
        clock = times.tolist()
        if len(clock) < 2 or any(not b > a for a, b in pairwise(clock)):
            raise TimeError(f"localisation needs at least two strictly rising times, got {clock[:5]}; sort them")
        yield clock[0], y
        for u, v in pairwise(clock):
            y = torch.add(y, self.mean(y, u), alpha=v - u)
            y.add_(rng.normal(y.shape, dtype=y.dtype, device=y.device), alpha=(v - u) ** 0.5)
            yield v, y

    def as_ou(self, y: State, u: float) -> State:
        """The Ornstein-Uhlenbeck state X_s = Y_u / sqrt(u (1 + u)) at s = log(1 + 1/u), u > 0."""
        return y / (u * (1 + u)) ** 0.5

    def ou_score(self, y: State, u: float) -> State:
        """Score of the law of X_s at `as_ou(y, u)`, shape (B, *E), nats per codec unit, u > 0.

        Checked by: tests/gaussian/test_localisation.py::test_score_identity_under_the_map
        """
        return ((1 + u) / u) ** 0.5 * (u * self.mean(y, u) - y)
