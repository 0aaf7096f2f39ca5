r"""Two-sided paths: :math:`x_t = a_t x_0 + b_t x_1 + \gamma_t z`, between any two laws.

Given the clean end, and whatever the other end is, one kernel steps back without knowing it:

.. math:: X_s \mid X_t, X_0 \sim N\Big(\tfrac{b_s}{b_t} X_t + \big(a_s - a_t \tfrac{b_s}{b_t}\big) X_0,\
          \big(\gamma_s^2 - \tfrac{b_s^2}{b_t^2} \gamma_t^2\big) I\Big)

For a Brownian bridge this is the bridge's own conditional law; for gamma = 0 it is the straight line. So a step back needs
the law of the clean end only, as in the other families, and one ancestral sampler serves all three.

The mirror image steps forward from a known state towards the reference end,

.. math:: X_t \mid X_s, X_1 \sim N\Big(\tfrac{a_t}{a_s} X_s + \big(b_t - b_s \tfrac{a_t}{a_s}\big) X_1,\
          \big(\gamma_t^2 - \tfrac{a_t^2}{a_s^2} \gamma_s^2\big) I\Big).

Sources: Albergo et al. 2023 (2303.08797); Liu et al. 2023 (I2SB, 2302.05872); Zhou et al. 2024 (DDBM, 2309.16948).
Checked by: tests/bridge/test_path.py and tests/conformance/test_families.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import check_order, check_state, pad, scalars
from undrift.errors import ScheduleError, ShapeError
from undrift.laws import Affine, Clean, Law, Pair, Point
from undrift.schedules import BridgeSchedule, derivative
from undrift.typing import State, Time

__all__ = ["Flipped", "Path", "interpolate"]


@dataclass(frozen=True)
class Path:
    """A bridge from data to a source law, the two ends paired independently (pin the source to pair them otherwise).

    Attributes:
        schedule: a, b and gamma.
        source: law of the reference end, batch shape (1,) or (B,): `Normal`, `Mixture`, `Empirical`, or `Point` for one
            known end per sample.
    """

    schedule: BridgeSchedule
    source: Any

    @property
    def family(self) -> str:
        """Name of the wing."""
        return "bridge"

    def prior(self, like: State) -> Law:
        """The source law for states shaped like `like`; exact, since X_1 is the source.

        Raises:
            ShapeError: the source's event or dtype is not that of `like`.
        """
        mean = self.source.mean
        if mean.dtype != like.dtype:
            raise ShapeError(
                f"the source of this bridge holds {mean.dtype}, and states of {like.dtype} were asked for; ask for "
                f"dtype={mean.dtype}, or build the source in {like.dtype}"
            )
        if mean.shape[1:] != like.shape[1:] or mean.shape[0] not in (1, like.shape[0]):
            raise ShapeError(
                f"the source of this bridge has shape {tuple(mean.shape)}, and states of shape {tuple(like.shape)} were asked "
                "for; ask for the source's own event, and for as many samples as it has rows (any number if it has one)"
            )
        start = torch.zeros_like(like)
        one = torch.ones((), dtype=torch.float64)
        return self.source.through(Affine(one, start, torch.zeros_like(one)))

    def pinned(self, x_1: State) -> "Path":
        """The bridge to known ends x_1, one per sample, shape (B, *E)."""
        return Path(self.schedule, Point(x_1))

    def corrupt(self, x_s: State, s: Time, t: Time) -> Law:
        """Law of X_t given X_s = x_s, the reference end averaged over the source.

        Args:
            x_s: state at time s, shape (B, *E), codec units.
            s: earlier time, shape () or (B,), 0 = data.
            t: later time, same shape as s, s < t.

        Returns:
            Law of X_t, batch shape (B,). Kernels compose (s to t to u is s to u) where the end is pinned; with a spread
            source, a start at s > 0 is paired with a fresh end.

        Raises:
            ShapeError: s or t is neither () nor (B,).
            TimeError: not 0 <= s < t <= 1.
            ScheduleError: gamma / a falls from s to t, so that no such kernel exists.

        Checked by: tests/conformance/test_families.py::test_corrupt_composes
        """
        check_state(x_s, "x_s")
        check_order(t, s)
        q = self.schedule
        keep = q.a(t) / q.a(s)
        variance = _variance(q.gamma(t).square(), keep.square() * q.gamma(s).square())
        return self.source.through(Affine(q.b(t) - keep * q.b(s), pad(keep, x_s) * x_s, variance))

    def reverse(self, x_t: State, law: Clean, t: Time, s: Time) -> Law:
        r"""Law of X_s given X_t = x_t when the clean end follows `law`.

        Args:
            x_t: state at time t, shape (B, *E), codec units.
            law: law of the clean end, batch shape (B,), event shape E.
            t: current time, shape () or (B,), 0 = data, 1 = reference.
            s: target time, same shape as t, s < t.

        Returns:
            Law of X_s, batch shape (B,). Marginal exact for any step if `law` is the true joint posterior.

        Raises:
            ShapeError: t or s is neither () nor (B,).
            TimeError: not 0 <= s < t <= 1.
            ScheduleError: gamma / b rises from s to t, so that no such kernel exists.

        Source: Liu et al. 2023 (I2SB), eq. 4, for a Brownian bridge.
        Checked by: tests/conformance/test_families.py::test_reverse_keeps_marginals
        """
        check_state(x_t)
        check_order(t, s)
        q = self.schedule
        keep = q.b(s) / q.b(t)
        variance = _variance(q.gamma(s).square(), keep.square() * q.gamma(t).square())
        return law.through(Affine(q.a(s) - keep * q.a(t), pad(keep, x_t) * x_t, variance))

    def tilt(self, law: Any, signal: State, t: Time) -> Point:
        r"""The clean law under a reward whose lifted gradient at x_t, with the reference end held, is `signal`.

        .. math:: E_h[X_0 | x_t, x_1] = E[X_0 | x_t, x_1] + (\gamma_t^2 / a_t)\, \nabla \log h_t(x_t)

        Raises:
            ScheduleError: a = 0 at t, where x_t says nothing about the clean end.

        Checked by: tests/bridge/test_path.py::test_tilt_is_tweedie_for_the_tilted_law
        """
        a = self.schedule.a(t)
        if a.device.type == "cpu" and bool((a == 0).any()):
            raise ScheduleError(
                "a gradient at x_t cannot tilt the clean end where a = 0 (here at t = 1): x_t is the reference end itself; "
                "apply guidance from the second step on"
            )
        return Point(law.mean + pad(self.schedule.gamma(t).square() / a, signal) * signal)

    def flip(self, source: Any) -> "Path":
        """The same bridge read from the other side, towards `source`, the law of what was the clean end."""
        return Path(Flipped(self.schedule), source)

    def noise(self, x_t: State, pair: Pair, t: Time) -> State:
        """E[z | x_t] = (x_t - a E[x_0] - b E[x_1]) / gamma from the law of both ends, shape (B, *E).

        Raises:
            ScheduleError: gamma = 0 at t, where there is no noise to ask for.
        """
        q = self.schedule
        gamma = q.gamma(t)
        if gamma.device.type == "cpu" and bool((gamma == 0).any()):
            raise ScheduleError("a bridge has no noise where gamma = 0 (its ends, or everywhere); ask for its velocity instead")
        residual = x_t - pad(q.a(t), x_t) * pair.x_0.mean - pad(q.b(t), x_t) * pair.x_1.mean
        return residual / pad(q.gamma(t), x_t)

    def velocity(self, x_t: State, pair: Pair, t: Time) -> State:
        r"""Mean velocity of the interpolant at x_t from the law of both ends, codec units per unit of t, shape (B, *E).

        .. math:: v(x, t) = \dot a_t E[x_0 | x_t] + \dot b_t E[x_1 | x_t] + \dot\gamma_t E[z | x_t]

        With the score -E[z | x_t] / gamma it is the drift of every SDE that shares the marginals:
        dX = (v + epsilon score) dt + sqrt(2 epsilon) dW forwards, and v - epsilon score backwards.

        Raises:
            ScheduleError: the velocity is infinite at t (an end of a noisy bridge).

        Source: Albergo et al. 2023, theorem 2.6 and corollary 2.10.
        Checked by: tests/bridge/test_path.py::test_velocity_is_the_derivative_of_the_interpolant and
        tests/grammar/test_interpolant.py
        """
        q = self.schedule
        a, b, gamma = (derivative(f, scalars(t)) for f in (q.a, q.b, q.gamma))
        if gamma.device.type == "cpu" and not bool(torch.isfinite(gamma).all()):
            raise ScheduleError(
                "the velocity of a noisy bridge is infinite at its ends, t = 0 and t = 1; start and end the grid just inside, "
                "or step with undrift.Ancestral(), which needs no velocity"
            )
        residual = x_t - pad(q.a(t), x_t) * pair.x_0.mean - pad(q.b(t), x_t) * pair.x_1.mean
        spread = torch.where(gamma == 0, 0.0, gamma / q.gamma(t))
        return pad(a, x_t) * pair.x_0.mean + pad(b, x_t) * pair.x_1.mean + pad(spread, x_t) * residual


@dataclass(frozen=True)
class Flipped(BridgeSchedule):
    """A bridge schedule with its ends exchanged: t -> 1 - t."""

    inner: BridgeSchedule

    def a(self, t: Time) -> Time:
        """Weight of the clean end."""
        return self.inner.b(1 - scalars(t))

    def b(self, t: Time) -> Time:
        """Weight of the reference end."""
        return self.inner.a(1 - scalars(t))

    def gamma(self, t: Time) -> Time:
        """Noise between the ends."""
        return self.inner.gamma(1 - scalars(t))


def interpolate(schedule: BridgeSchedule, x_0: State, x_1: State, z: State, t: Time) -> State:
    """x_t = a x_0 + b x_1 + gamma z, shape (B, *E): what training draws, whatever paired the ends."""
    a, b, gamma = (pad(c, x_0) for c in (schedule.a(t), schedule.b(t), schedule.gamma(t)))
    return a * x_0 + b * x_1 + gamma * z


def _variance(total: Tensor, inherited: Tensor) -> Tensor:
    """Fresh variance of a kernel, shape of t; what rounding leaves below 0 is 0, and anything more is refused."""
    fresh = total - inherited
    if fresh.device.type == "cpu" and bool((fresh < -1e-12 * (total + inherited)).any()):
        raise ScheduleError(
            f"a step of this bridge would need the variance {float(fresh.min()):.3g}: gamma / a must not fall with t, and "
            "gamma / b must not rise, or there is no Markov kernel between two times; take gamma = c sqrt(t (1 - t))"
        )
    return fresh.clamp_min(0)
