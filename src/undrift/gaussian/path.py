r"""The Gaussian path: :math:`x_t = \alpha_t x_0 + \sigma_t z`, a Markov chain in t.

.. math:: X_t \mid X_s \sim N(\alpha_{t|s} X_s,\ \sigma_{t|s}^2 I), \qquad
          \alpha_{t|s} = \alpha_t / \alpha_s, \qquad
          \sigma_{t|s}^2 = \sigma_t^2 - \alpha_{t|s}^2 \sigma_s^2
          = \sigma_t^2\,(1 - \mathrm{snr}_t / \mathrm{snr}_s)

and, given the clean end, for any spread :math:`\omega \le \sigma_s` (Song et al. 2021, DDIM, eq. 7)

.. math:: X_s \mid X_t, X_0 \sim N\big(\alpha_s X_0 + \kappa (X_t - \alpha_t X_0),\ \omega^2 I\big), \qquad
          \kappa = \sqrt{\sigma_s^2 - \omega^2} / \sigma_t .

Checked by: tests/gaussian/test_path.py and tests/conformance/test_families.py

`stochasticity` is omega as a multiple of the chain's own, :math:`\omega = \sigma_{t|s}\sigma_s/\sigma_t`: 1 is the chain
(DDPM), 0 is deterministic (DDIM). Every choice keeps every one-time marginal.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.core import Covariance, check_order, check_state, pad, scalars
from undrift.errors import ScheduleError
from undrift.laws import Affine, Clean, Law, Normal, Point
from undrift.laws.point import Numbers
from undrift.schedules import Schedule
from undrift.typing import State, Time

__all__ = ["Path"]


@dataclass(frozen=True)
class Path:
    """Clean data fading into Gaussian noise along a schedule.

    Attributes:
        schedule: alpha and sigma.
    """

    schedule: Schedule

    @property
    def family(self) -> str:
        """Name of the wing."""
        return "gaussian"

    def prior(self, like: State, t: float = 1.0) -> Normal:
        """N(0, sigma_t^2 I) for states with the shape (B, *E), dtype and device of `like`; t < 1 for a grid that starts there.

        The true law of X_1 is that of alpha_1 X_0 + sigma_1 z. Their distance is at most `prior_gap`: 0 for schedules that
        end at alpha = 0, and for the others bounded by the data's second moment.
        """
        sigma = float(self.schedule.sigma(torch.tensor(t, dtype=torch.float64)))
        mean = torch.zeros_like(like)
        return Normal(mean, Covariance.isotropic(mean.new_full((1,), sigma**2), mean[0].numel()))

    def prior_gap(self, second_moment: float) -> float:
        r"""Upper bound of KL(law of X_1 || prior), nats: :math:`\alpha_1^2 E|X_0|^2 / (2 \sigma_1^2)`.

        By convexity of KL over the mixture that X_1 is. `second_moment` is E|X_0|^2 over the whole event.

        Checked by: tests/gaussian/test_path.py::test_prior_gap_bounds_the_divergence
        """
        return 0.5 * second_moment * math.exp(float(self.schedule.log_snr(torch.ones((), dtype=torch.float64))))

    def corrupt(self, x_s: State, s: Time, t: Time) -> Normal:
        """Law of X_t given X_s = x_s.

        Args:
            x_s: state at time s, shape (B, *E), codec units.
            s: earlier time, shape () or (B,), 0 = data.
            t: later time, same shape as s, s < t.

        Returns:
            Normal(alpha_{t|s} x_s, sigma_{t|s}^2 I), batch shape (B,).

        Raises:
            ShapeError: s or t is neither () nor (B,).
            TimeError: not 0 <= s < t <= 1.

        Source: Song et al. 2021, eq. 29; Kingma et al. 2021, eq. 20-22.
        Checked by: tests/conformance/test_families.py::test_corrupt_composes
        """
        check_state(x_s, "x_s")
        check_order(t, s)
        scale = self.schedule.alpha(t) / self.schedule.alpha(s)
        variance = self.schedule.sigma(t).square() * self._fresh(t, s)
        pad(t, x_s)
        shift = torch.zeros_like(x_s)
        return Affine(scale, shift, variance).at(x_s)

    def reverse(self, x_t: State, law: Clean, t: Time, s: Time, *, stochasticity: float = 1.0) -> Law:
        r"""Law of X_s given X_t = x_t when the clean end follows `law`.

        .. math:: q(x_s | x_t) = \int p(x_s | x_t, x_0) \, q(x_0 | x_t) \, dx_0

        Args:
            x_t: state at time t, shape (B, *E), codec units.
            law: law of the clean end, batch shape (B,), event shape E.
            t: current time, shape () or (B,), dimensionless, 0 = data, 1 = reference.
            s: target time, same shape as t, s < t.
            stochasticity: 1 = the chain's own posterior (DDPM), 0 = deterministic (DDIM); in [0, 1].

        Returns:
            Law of X_s, batch shape (B,), event shape E. Marginal exact for any step if `law` is the true joint posterior; a
            `Point` at its mean keeps the mean and loses covariance O((t - s)^2).

        Raises:
            ShapeError: t or s is neither () nor (B,).
            TimeError: not 0 <= s < t <= 1.

        Source: Ho et al. 2020, eq. 7; Song et al. 2021 (DDIM), eq. 7 and 12.
        Checked by: tests/conformance/test_families.py::test_reverse_keeps_marginals
        """
        check_state(x_t)
        check_order(t, s)
        from_clean, from_state, variance = self.step_back(t, s, stochasticity)
        return law.through(Affine(from_clean, pad(from_state, x_t) * x_t, variance))

    def tilt(self, law: Numbers, signal: State, t: Time) -> Point:
        r"""The clean law under a reward whose lifted gradient at x_t is `signal` = grad log h_t(x_t).

        .. math:: E_h[X_0 | x_t] = E[X_0 | x_t] + (\sigma_t^2 / \alpha_t)\, \nabla \log h_t(x_t)

        Tweedie's formula for the tilted score. The tilted law is known by its mean alone, hence a `Point`.

        Args:
            law: law of the clean end, anything with a mean.
            signal: gradient, shape (B, *E), nats per codec unit.
            t: time, shape () or (B,).

        Raises:
            ScheduleError: alpha = 0 at t, where x_t says nothing about the clean end.

        Checked by: tests/gaussian/test_path.py::test_tilt_is_tweedie_for_the_tilted_law
        """
        alpha = self.schedule.alpha(t)
        if alpha.device.type == "cpu" and bool((alpha == 0).any()):
            raise ScheduleError(
                "a gradient at x_t cannot tilt the clean end where alpha = 0 (here at t = 1): x_t is pure noise there; "
                "apply guidance from the second step on, or start the grid just below t = 1"
            )
        return Point(law.mean + pad(self.schedule.sigma(t).square() / alpha, signal) * signal)

    def step_back(self, t: Time, s: Time, stochasticity: float) -> tuple[Tensor, Tensor, Tensor]:
        """Coefficients of X_s given X_t and X_0: (weight of X_0, weight of X_t, variance), each shape of t, float64."""
        if not 0 <= stochasticity <= 1:
            raise ScheduleError(f"stochasticity lies in [0, 1] (0 deterministic, 1 the chain itself), got {stochasticity:g}")
        schedule = self.schedule
        ratio = schedule.sigma(s) / schedule.sigma(t)
        if stochasticity == 0:  # the noise keeps its direction; also from s to t, for encoding
            return schedule.alpha(s) - ratio * schedule.alpha(t), ratio, torch.zeros_like(ratio)
        variance = stochasticity**2 * schedule.sigma(s).square() * self._fresh(t, s)
        if stochasticity == 1:  # sqrt(sigma_s^2 - variance) / sigma_t without its cancellation
            from_state = ratio.square() * schedule.alpha(t) / schedule.alpha(s)
        else:
            from_state = ratio * (1 - stochasticity**2 * self._fresh(t, s)).sqrt()
        return schedule.alpha(s) - from_state * schedule.alpha(t), from_state, variance

    def _fresh(self, t: Time, s: Time) -> Tensor:
        """Share of the noise variance at t that is newer than s: 1 - snr_t / snr_s, without cancellation."""
        return torch.expm1(self.schedule.log_snr(scalars(t)) - self.schedule.log_snr(scalars(s))).neg()
