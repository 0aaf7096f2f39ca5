r"""Scalar functions of time that say how fast a path forgets.

Time t runs over [0, 1]: 0 is data, 1 is reference. Every schedule is evaluated in float64, knows its derivatives, and is
invertible in the quantity that all clocks share.

*Gaussian* paths: :math:`x_t = \alpha_t x_0 + \sigma_t z`, with

.. math:: \mathrm{logsnr}_t = \log(\alpha_t^2 / \sigma_t^2), \qquad
          f_t = \frac{\dot\alpha_t}{\alpha_t}, \qquad
          g_t^2 = 2 \sigma_t \dot\sigma_t - 2 f_t \sigma_t^2,
          \qquad dX = f_t X\,dt + g_t\,dW .

*Bridges*: :math:`x_t = a_t x_0 + b_t x_1 + \gamma_t z`. *Discrete* paths: a symbol has survived until t with probability
`keep(t)`.

Sources: Song et al. 2021 (VP, VE, sub-VP; 2011.13456), Nichol and Dhariwal 2021 (cosine; 2102.09672), Karras et al. 2022
(EDM; 2206.00364), Lipman et al. 2023 (linear flow; 2210.02747), Albergo et al. 2023 (trigonometric; 2303.08797).
Checked by: tests/test_schedules.py (derivatives against autodiff, inverses by round trip, integrals by quadrature).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import softplus

from undrift.core import scalars
from undrift.errors import ScheduleError
from undrift.typing import Time

ScalarFunction = Callable[[Tensor], Tensor]


def derivative(function: ScalarFunction, t: Time) -> Time:
    """Time derivative of `function` by autodiff, shape of t.

    Forward mode: reverse mode turns an infinite slope, such as that of sqrt(t (1 - t)) at t = 0, into 0 * inf = NaN.
    """
    return torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]


def solve_decreasing(function: ScalarFunction, target: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
    """The t in [low, high] where the decreasing `function` passes `target`, by bisection to float64 resolution.

    Bisection and not Newton: it needs no derivative, and a log-SNR is infinite at the ends.
    """
    lower, upper = torch.full_like(target, low), torch.full_like(target, high)
    for _ in range(64):
        middle = 0.5 * (lower + upper)
        above = function(middle) > target
        lower, upper = torch.where(above, middle, lower), torch.where(above, upper, middle)
    return 0.5 * (lower + upper)


class Schedule(ABC):
    """alpha and sigma of a Gaussian path, with what follows from them.

    A new schedule defines `alpha` and `sigma`; derivatives (autodiff) and the inverse (bisection) then work, and a closed
    form may replace them. Requirements: alpha, sigma >= 0, log-SNR strictly decreasing in t.
    """

    @abstractmethod
    def alpha(self, t: Time) -> Time:
        """Scale of the signal, shape of t."""

    @abstractmethod
    def sigma(self, t: Time) -> Time:
        """Standard deviation of the noise, codec units, shape of t."""

    def dalpha(self, t: Time) -> Time:
        """Derivative d alpha / dt, shape of t."""
        return derivative(self.alpha, scalars(t))

    def dsigma(self, t: Time) -> Time:
        """Derivative d sigma / dt, shape of t; infinite at t = 0 for VP-like schedules."""
        return derivative(self.sigma, scalars(t))

    def log_snr(self, t: Time) -> Time:
        """log(alpha^2 / sigma^2) in nats, shape of t; +inf where sigma = 0, -inf where alpha = 0."""
        return 2 * (self.alpha(t).log() - self.sigma(t).log())

    def time(self, log_snr: Tensor) -> Time:
        """The time at which log-SNR has this value; the nearer end if it never has."""
        return solve_decreasing(self.log_snr, scalars(log_snr))

    def ou_time(self, t: Time) -> Time:
        """The theory's clock, tau = log(1 + sigma^2 / alpha^2), shape of t.

        With the state divided by sqrt(alpha^2 + sigma^2), every Gaussian path is the Ornstein-Uhlenbeck process
        dX = -X/2 dtau + dW at time tau; -2 log alpha is right for VP alone.

        Checked by: tests/gaussian/test_processes.py
        """
        return softplus(-self.log_snr(scalars(t)), threshold=700.0)

    def f(self, t: Time) -> Time:
        """Drift coefficient d log alpha / dt, shape of t."""
        return self.dalpha(t) / self.alpha(t)

    def g2(self, t: Time) -> Time:
        """Squared diffusion coefficient, shape of t."""
        sigma = self.sigma(t)
        return 2 * sigma * (self.dsigma(t) - self.f(t) * sigma)


@dataclass(frozen=True)
class VP(Schedule):
    r"""Variance preserving, linear beta: :math:`\alpha^2 = \exp(-\int_0^t \beta)`, :math:`\sigma^2 = 1 - \alpha^2`."""

    beta_min: float = 0.1
    beta_max: float = 20.0

    def __post_init__(self) -> None:
        _require(0 < self.beta_min <= self.beta_max, f"VP needs 0 < beta_min <= beta_max, got {self}")

    def _integral(self, t: Time) -> Time:
        return self.beta_min * t + 0.5 * (self.beta_max - self.beta_min) * t.square()

    def _inverse_integral(self, area: Tensor) -> Tensor:
        area, slope = area.clamp_max(0.5 * (self.beta_min + self.beta_max)), self.beta_max - self.beta_min
        return (2 * area / (self.beta_min + (self.beta_min**2 + 2 * slope * area).sqrt())).clamp(0.0, 1.0)

    def alpha(self, t: Time) -> Time:
        """exp(-1/2 integral of beta)."""
        return torch.exp(-0.5 * self._integral(scalars(t)))

    def sigma(self, t: Time) -> Time:
        """sqrt(1 - alpha^2), without cancellation near t = 0."""
        return torch.expm1(-self._integral(scalars(t))).neg().sqrt()

    def dsigma(self, t: Time) -> Time:
        """Beta alpha^2 / (2 sigma); infinite at t = 0, where autodiff has 0 times infinity."""
        return 0.5 * VP.g2(self, t) * self.alpha(t).square() / self.sigma(t)

    def f(self, t: Time) -> Time:
        """-beta / 2."""
        return -0.5 * self.g2(t)

    def g2(self, t: Time) -> Time:
        """Beta."""
        return self.beta_min + (self.beta_max - self.beta_min) * scalars(t)

    def time(self, log_snr: Tensor) -> Time:
        """Closed form: the quadratic that the integral of beta is."""
        return self._inverse_integral(softplus(-scalars(log_snr), threshold=700.0))


@dataclass(frozen=True)
class SubVP(VP):
    """Sub-VP: the alpha of VP, sigma = 1 - alpha^2 (a smaller noise than VP everywhere)."""

    def sigma(self, t: Time) -> Time:
        """1 - alpha^2."""
        return torch.expm1(-self._integral(scalars(t))).neg()

    def dsigma(self, t: Time) -> Time:
        """Beta alpha^2."""
        return VP.g2(self, t) * self.alpha(t).square()

    def f(self, t: Time) -> Time:
        """-beta / 2."""
        return -0.5 * VP.g2(self, t)

    def g2(self, t: Time) -> Time:
        """Beta (1 - alpha^4)."""
        return VP.g2(self, t) * torch.expm1(-2 * self._integral(scalars(t))).neg()

    def time(self, log_snr: Tensor) -> Time:
        """Closed form: alpha solves a quadratic, then the integral of beta does."""
        ratio = torch.exp(0.5 * scalars(log_snr))
        sigma = 2 / (1 + (1 + 4 * ratio.square()).sqrt())
        return self._inverse_integral(torch.log1p(-sigma).neg())


@dataclass(frozen=True)
class Cosine(Schedule):
    r"""Cosine: :math:`\alpha = \cos\theta_t / \cos\theta_0`, :math:`\theta_t = \frac{\pi}{2}\frac{t + o}{1 + o}`.

    The discrete original clips beta at .999; here alpha reaches 0 at t = 1, so that the prior is exact.
    """

    offset: float = 0.008

    def __post_init__(self) -> None:
        _require(0 < self.offset < 1, f"Cosine needs 0 < offset < 1, got {self}")

    def _angle(self, t: Tensor) -> Tensor:
        return (math.pi / 2) * (t + self.offset) / (1 + self.offset)

    @property
    def _start(self) -> float:
        return (math.pi / 2) * self.offset / (1 + self.offset)

    def alpha(self, t: Time) -> Time:
        """cos(angle), as the sine of the remaining angle so that it is exactly 0 at t = 1."""
        rest = (math.pi / 2) * (1 - scalars(t)) / (1 + self.offset)
        return torch.sin(rest) / math.cos(self._start)

    def sigma(self, t: Time) -> Time:
        """sqrt(1 - alpha^2) = sqrt(sin(angle - start) sin(angle + start)) / cos(start), without cancellation."""
        angle = self._angle(scalars(t))
        step = (math.pi / 2) * scalars(t) / (1 + self.offset)
        return (torch.sin(step) * torch.sin(angle + self._start)).sqrt() / math.cos(self._start)

    def dsigma(self, t: Time) -> Time:
        """-alpha (d alpha / dt) / sigma; infinite at t = 0, where autodiff has 0 times infinity."""
        return -self.alpha(t) * self.dalpha(t) / self.sigma(t)

    def time(self, log_snr: Tensor) -> Time:
        """Closed form by the arc tangent."""
        log_snr = scalars(log_snr)
        cosine2, start2 = math.cos(self._start) ** 2, math.sin(self._start) ** 2
        sine = (start2 + torch.sigmoid(-log_snr) * cosine2).sqrt()
        angle = torch.atan2(sine, (torch.sigmoid(log_snr) * cosine2).sqrt())
        return (angle * (2 / math.pi) * (1 + self.offset) - self.offset).clamp(0.0, 1.0)


@dataclass(frozen=True)
class VE(Schedule):
    r"""Variance exploding: :math:`\alpha = 1`, :math:`\sigma^2 = \sigma_{min}^2 ((\sigma_{max}/\sigma_{min})^{2t} - 1)`.

    The -1 makes sigma(0) = 0, which is what the SDE itself says; many implementations drop it.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self) -> None:
        _require(0 < self.sigma_min < self.sigma_max, f"VE needs 0 < sigma_min < sigma_max, got {self}")

    @property
    def _rate(self) -> float:
        return 2 * math.log(self.sigma_max / self.sigma_min)

    def alpha(self, t: Time) -> Time:
        """1."""
        return torch.ones_like(scalars(t))

    def sigma(self, t: Time) -> Time:
        """sigma_min sqrt(exp(2 t log(sigma_max / sigma_min)) - 1)."""
        return self.sigma_min * torch.expm1(self._rate * scalars(t)).sqrt()

    def f(self, t: Time) -> Time:
        """0."""
        return torch.zeros_like(scalars(t))

    def g2(self, t: Time) -> Time:
        """Derivative d sigma^2 / dt."""
        return self.sigma_min**2 * self._rate * torch.exp(self._rate * scalars(t))

    def time(self, log_snr: Tensor) -> Time:
        """Closed form."""
        return (torch.log1p(torch.exp(-scalars(log_snr)) / self.sigma_min**2) / self._rate).clamp(max=1.0)


@dataclass(frozen=True)
class EDM(Schedule):
    r"""EDM: :math:`\alpha = 1`, :math:`\sigma = \sigma_{max} t`: noise itself is the clock."""

    sigma_max: float = 80.0

    def __post_init__(self) -> None:
        _require(self.sigma_max > 0, f"EDM needs sigma_max > 0, got {self}")

    def alpha(self, t: Time) -> Time:
        """1."""
        return torch.ones_like(scalars(t))

    def sigma(self, t: Time) -> Time:
        """sigma_max t."""
        return self.sigma_max * scalars(t)

    def f(self, t: Time) -> Time:
        """0."""
        return torch.zeros_like(scalars(t))

    def g2(self, t: Time) -> Time:
        """2 sigma_max^2 t."""
        return 2 * self.sigma_max**2 * scalars(t)

    def time(self, log_snr: Tensor) -> Time:
        """Closed form."""
        return (torch.exp(-0.5 * scalars(log_snr)) / self.sigma_max).clamp(max=1.0)


@dataclass(frozen=True)
class LinearFlow(Schedule):
    r"""Linear flow (rectified flow with a Gaussian source): :math:`\alpha = 1 - t`, :math:`\sigma = t`."""

    def alpha(self, t: Time) -> Time:
        """1 - t."""
        return 1 - scalars(t)

    def sigma(self, t: Time) -> Time:
        """The time itself."""
        return 1 * scalars(t)

    def time(self, log_snr: Tensor) -> Time:
        """Closed form."""
        return torch.sigmoid(-0.5 * scalars(log_snr))


@dataclass(frozen=True)
class Trigonometric(Schedule):
    r"""Trigonometric: :math:`\alpha = \cos(\pi t / 2)`, :math:`\sigma = \sin(\pi t / 2)`."""

    def alpha(self, t: Time) -> Time:
        """cos(pi t / 2), as a sine so that it is exactly 0 at t = 1."""
        return torch.sin((math.pi / 2) * (1 - scalars(t)))

    def sigma(self, t: Time) -> Time:
        """sin(pi t / 2)."""
        return torch.sin((math.pi / 2) * scalars(t))

    def time(self, log_snr: Tensor) -> Time:
        """Closed form."""
        return (2 / math.pi) * torch.atan(torch.exp(-0.5 * scalars(log_snr)))


@dataclass(frozen=True)
class Custom(Schedule):
    """Any alpha and sigma: derivatives by autodiff, inverse by root finding.

    Args:
        alpha_of: float64 tensor of times -> tensor of the same shape, differentiable by torch.
        sigma_of: likewise.

    Raises:
        ScheduleError: a value is negative or not finite, or log-SNR does not fall strictly with t.
    """

    alpha_of: ScalarFunction
    sigma_of: ScalarFunction

    def __post_init__(self) -> None:
        t = torch.linspace(0, 1, 1001, dtype=torch.float64)
        for name, values in (("alpha", self.alpha_of(t)), ("sigma", self.sigma_of(t))):
            _require(
                values.shape == t.shape and bool((torch.isfinite(values) & (values >= 0)).all()),
                f"{name}_of must map times of shape (n,) to finite numbers >= 0 of the same shape",
            )
        log_snr = self.log_snr(t)
        bad = int((~(log_snr[1:] < log_snr[:-1])).sum())
        _require(bad == 0, f"alpha/sigma must fall strictly from t = 0 to t = 1; it does not on {bad} of 1000 intervals")
        _require(
            abs(float(self.alpha_of(t)[0]) - 1) < 1e-9,
            "alpha_of must be 1 at t = 0, or samples come back scaled; divide both functions by alpha_of(0)",
        )

    def alpha(self, t: Time) -> Time:
        """The given alpha."""
        return self.alpha_of(scalars(t))

    def sigma(self, t: Time) -> Time:
        """The given sigma."""
        return self.sigma_of(scalars(t))


class BridgeSchedule(ABC):
    """a, b and gamma of a two-sided path x_t = a x_0 + b x_1 + gamma z.

    Requirements: a(0) = b(1) = 1, a(1) = b(0) = gamma(0) = gamma(1) = 0; gamma/a does not fall and gamma/b does not rise
    with t, so that the Markov kernels in both directions have a variance.
    """

    @abstractmethod
    def a(self, t: Time) -> Time:
        """Weight of the clean end, shape of t."""

    @abstractmethod
    def b(self, t: Time) -> Time:
        """Weight of the reference end, shape of t."""

    @abstractmethod
    def gamma(self, t: Time) -> Time:
        """Standard deviation of the noise between the ends, codec units, shape of t."""


@dataclass(frozen=True)
class BrownianBridge(BridgeSchedule):
    r"""Brownian bridge: :math:`a = 1 - t`, :math:`b = t`, :math:`\gamma = c \sqrt{t (1 - t)}`."""

    scale: float = 1.0

    def __post_init__(self) -> None:
        _require(self.scale > 0, f"BrownianBridge needs scale > 0, got {self}; for no noise use LinearInterpolant()")

    def a(self, t: Time) -> Time:
        """1 - t."""
        return 1 - scalars(t)

    def b(self, t: Time) -> Time:
        """The time itself."""
        return 1 * scalars(t)

    def gamma(self, t: Time) -> Time:
        """Scale * sqrt(t (1 - t))."""
        t = scalars(t)
        return self.scale * (t * (1 - t)).sqrt()


@dataclass(frozen=True)
class LinearInterpolant(BridgeSchedule):
    r"""Straight lines between the ends: :math:`a = 1 - t`, :math:`b = t`, :math:`\gamma = 0` (rectified flow)."""

    def a(self, t: Time) -> Time:
        """1 - t."""
        return 1 - scalars(t)

    def b(self, t: Time) -> Time:
        """The time itself."""
        return 1 * scalars(t)

    def gamma(self, t: Time) -> Time:
        """0."""
        return torch.zeros_like(scalars(t))


class SurvivalSchedule(ABC):
    """The one function of a discrete path: keep(t), the probability that a symbol has not jumped by time t.

    Requirements: keep(0) = 1, strictly decreasing, >= 0. A path is exact at t = 1 if keep(1) = 0.
    """

    @abstractmethod
    def keep(self, t: Time) -> Time:
        """Probability of survival until t, shape of t."""

    def rate(self, t: Time) -> Time:
        """Jump rate -d log keep / dt, shape of t; infinite where keep = 0."""
        t = scalars(t)
        return -derivative(self.keep, t) / self.keep(t)


@dataclass(frozen=True)
class LinearSurvival(SurvivalSchedule):
    """keep = 1 - t: the log-linear schedule of masked diffusion (Sahoo et al. 2024)."""

    def keep(self, t: Time) -> Time:
        """1 - t."""
        return 1 - scalars(t)


@dataclass(frozen=True)
class CosineSurvival(SurvivalSchedule):
    """keep = cos(pi t / 2): slower jumps near data."""

    def keep(self, t: Time) -> Time:
        """cos(pi t / 2), as a sine so that it is exactly 0 at t = 1."""
        return torch.sin((math.pi / 2) * (1 - scalars(t)))


@dataclass(frozen=True)
class ExponentialSurvival(SurvivalSchedule):
    """keep = exp(-rate t): a constant jump rate, the plain continuous-time chain; keep(1) = exp(-rate) is not 0."""

    jump_rate: float = 8.0

    def __post_init__(self) -> None:
        _require(self.jump_rate > 0, f"ExponentialSurvival needs jump_rate > 0, got {self}")

    def keep(self, t: Time) -> Time:
        """exp(-rate t)."""
        return torch.exp(-self.jump_rate * scalars(t))


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ScheduleError(message)


SCHEDULES: dict[str, type[Schedule]] = {
    "VP": VP,
    "SubVP": SubVP,
    "Cosine": Cosine,
    "VE": VE,
    "EDM": EDM,
    "LinearFlow": LinearFlow,
    "Trigonometric": Trigonometric,
}
"""Every Gaussian schedule that a recipe on disk may name; a new one is one class and one entry."""
