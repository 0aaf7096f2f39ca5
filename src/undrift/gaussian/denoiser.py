r"""A network made a denoiser, on any clock.

.. math:: \hat x_0(x_t, t) = \text{skip}_t\, x_t + \text{out}_t\, F\big(c_t x_t,\ n_t\big)

with the head's skip and out, an input scale that gives the network unit variance, and a noise label that depends on
sigma / alpha alone. Nothing in it is tied to t, so a model trained on one clock samples on another (`on`): two Gaussian
paths at equal log-SNR differ by a scale of the state.

Sources: Karras et al. 2022, section 5 (preconditioning, here for any alpha); Song et al. 2021, appendix (VE <-> VP).
Checked by: tests/gaussian/test_denoiser.py
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch._C._functorch import is_functorch_wrapped_tensor

from undrift.core import check_state, pad, scalars
from undrift.errors import LabelError, ScheduleError, ShapeError, TimeError
from undrift.gaussian.heads import Head
from undrift.gaussian.path import Path
from undrift.laws import Point
from undrift.typing import State, Time

__all__ = ["NetDenoiser", "Reclocked", "Trainable", "noise_label", "rows", "score"]

Network = Callable[..., Tensor]


@runtime_checkable
class Trainable(Protocol):
    """A denoiser whose error can be measured in the units of its own head."""

    @property
    def path(self) -> Path:
        """The path it was made for."""
        ...

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Law of the clean end."""
        ...

    def error(self, x_0: Tensor, x_t: Tensor, t: Time) -> Tensor:
        """Prediction minus target in head units, shape (B, *E)."""
        ...


def noise_label(log_snr: Tensor, floor: float = 1e-4) -> Tensor:
    r"""What the network is told of the time: a bounded, smooth function of sigma / alpha, shape kept.

    .. math:: n = \tfrac18 \log\frac{r^2 + \epsilon^2}{1 + \epsilon^2 r^2}, \qquad r = \sigma / \alpha

    It is EDM's log(sigma)/4 wherever epsilon << r << 1/epsilon, and finite at both ends of every schedule.

    Checked by: tests/gaussian/test_denoiser.py::test_noise_label_is_edm_inside_and_finite_at_the_ends
    """
    signal, noise = torch.sigmoid(log_snr), torch.sigmoid(-log_snr)  # alpha^2 and sigma^2 of the unit-power clock
    return 0.125 * ((noise + floor**2 * signal).log() - (signal + floor**2 * noise).log())


def score(denoiser: Any, x_t: State, t: Time) -> State:
    r"""The score by Tweedie's formula, :math:`\nabla \log p_t(x_t) = (\alpha_t E[X_0 | x_t] - x_t) / \sigma_t^2`.

    Args:
        denoiser: any denoiser on a Gaussian path.
        x_t: state, shape (B, *E).
        t: time, shape () or (B,), sigma > 0.

    Returns:
        Shape (B, *E), nats per codec unit.

    Raises:
        ScheduleError: sigma = 0 at t.

    Source: Efron 2011. Checked by: tests/gaussian/test_exact.py::test_score_is_the_gradient_of_the_log_density
    """
    schedule = denoiser.path.schedule
    variance = schedule.sigma(t).square()
    if variance.device.type == "cpu" and bool((variance == 0).any()):
        raise ScheduleError("the score is not defined where sigma = 0 (here at t = 0); ask for it at an early stop t0 > 0")
    return (pad(schedule.alpha(t), x_t) * denoiser(x_t, t).mean - x_t) / pad(variance, x_t)


def rows(denoiser: Any, which: Tensor) -> Any:
    """The denoiser of some rows of its batch, in any order and any number of times: what it holds per sample, re-ordered.

    For solvers that ask about some samples only, or about one sample at several times in one call.

    Args:
        denoiser: one with a method `rows`, like every denoiser of this module and of `exact`.
        which: row indices, shape (M,).

    Raises:
        ShapeError: it has no such method.

    Checked by: tests/gaussian/test_picard.py::test_rows_follow_their_samples
    """
    if not hasattr(denoiser, "rows"):
        raise ShapeError(
            f"{type(denoiser).__name__} cannot be asked about some rows of its batch alone; give it a method rows(which) that "
            "returns it with everything it holds per sample (conditions, measurements) indexed by which, or itself if it "
            "holds nothing"
        )
    return denoiser.rows(which)


REMEMBERED = 4096
"""Times whose numbers a denoiser keeps: more than a grid has, and few enough for random ones."""


def plain(t: Time) -> bool:
    """Whether t is one time whose value may be read: on the CPU, and not inside a transform of `torch.func`."""
    return t.ndim == 0 and t.device.type == "cpu" and not is_functorch_wrapped_tensor(t)


@dataclass(frozen=True)
class NetDenoiser:
    """Anybody's network as a denoiser (and, with `given`, as a conditional model).

    Attributes:
        net: `net(x, noise)` or `net(x, noise, cond)`: x (B, *E), noise (B,) -> (B, *E).
        path: the Gaussian path it was trained on.
        head: what it predicts, a key of `heads.HEADS`.
        data_std: root mean square of the data about zero, codec units, measured.
        cond: the bound condition, one per sample, or None.
        span: (earliest, latest) time it serves.

    Raises:
        HeadError: the head is unknown, or singular on the path within the span.
    """

    net: Network
    path: Path
    head: str
    data_std: float = 1.0
    cond: Tensor | None = None
    span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        _ = self._row  # a singular head is refused here, not in the first step

    @cached_property
    def _row(self) -> Head:
        return Head(self.head, self.path.schedule, self.data_std, self.span)

    def given(self, cond: Tensor) -> "NetDenoiser":
        """The denoiser of the clean end given `cond`: one condition per sample, or one for all, shape (1,)."""
        bound = copy.copy(self)  # not `replace`: the checks of construction hold for every condition
        object.__setattr__(bound, "cond", cond)
        return bound

    def rows(self, which: Tensor) -> "NetDenoiser":
        """The denoiser of some rows of the batch."""
        if self.cond is None or self.cond.shape[0] == 1:
            return self
        return self.given(self.cond[which.to(self.cond.device)])

    def null(self, cond: Tensor) -> Tensor:
        """Conditions that say nothing: the number of classes for class indices, NaN for rows of numbers.

        Checked by: tests/gaussian/test_denoiser.py
        """
        if cond.is_floating_point():
            return torch.full_like(cond, torch.nan)
        classes = getattr(self.net, "classes", None)
        if classes is None:
            raise LabelError(f"{type(self.net).__name__} takes no condition; build it with classes=K to train it with labels")
        return torch.full_like(cond, classes)

    def output(self, x_t: State, t: Time) -> State:
        """The network's own output y, in head units, shape (B, *E).

        Raises:
            ShapeError: the state has no batch axis, conditions are not one or one per sample, or the network answers with
                another shape.
            TimeError: t lies outside the span.
        """
        self._check(x_t, t)
        kind = torch.promote_types(x_t.dtype, torch.float32)
        if plain(t):  # the label is filled in on the device, without a copy that it would wait for
            number, known = self._numbers(t)[:2]
            inputs, label = x_t * number, torch.full(x_t.shape[:1], known, dtype=kind, device=x_t.device)
        else:
            scale, noise = self._scaling(t)
            inputs, label = pad(scale, x_t) * x_t, noise.to(kind).expand(x_t.shape[0]).to(x_t.device)
        if self.cond is None:
            y = self.net(inputs, label)
        else:
            y = self.net(inputs, label, self.cond.expand(x_t.shape[0], *self.cond.shape[1:]))
        if y.shape != x_t.shape:
            raise ShapeError(
                f"{type(self.net).__name__} answered with shape {tuple(y.shape)} to a state of shape {tuple(x_t.shape)}; a "
                "denoiser's network returns what it was given: drop a learned variance, or adapt the output"
            )
        return y.to(x_t.dtype)

    def _scaling(self, t: Time) -> tuple[Tensor, Tensor]:
        """Scale of the network's input and its noise label, shape of t, float64."""
        schedule = self.path.schedule
        power = schedule.alpha(t).square() * self.data_std**2 + schedule.sigma(t).square()
        return power.rsqrt(), noise_label(schedule.log_snr(t))

    @cached_property
    def _known(self) -> dict[float, tuple[float, ...]]:
        return {}

    def _numbers(self, t: Time) -> tuple[float, ...]:
        """Scale, label, skip and out at one time, as plain numbers: computed once for a grid, whatever runs along it."""
        known, key = self._known, float(t)
        if key not in known:
            if len(known) >= REMEMBERED:
                known.clear()
            known[key] = tuple(float(v) for v in (*self._scaling(t), *self._row.coefficients(t)))
        return known[key]

    def _check(self, x_t: State, t: Time) -> None:
        check_state(x_t)
        if self.cond is not None and self.cond.shape[0] not in (1, x_t.shape[0]):
            raise ShapeError(f"{self.cond.shape[0]} conditions were given for a batch of {x_t.shape[0]}; give one, or one each")
        low, high = self.span
        if not (low <= float(t) <= high if plain(t) else t.device.type != "cpu" or bool(((t >= low) & (t <= high)).all())):
            raise TimeError(
                f"this denoiser serves times from {self.span[0]:g} to {self.span[1]:g}, and was asked at t = "
                f"{float(t.flatten()[0]):g}; start or end the grid within that span"
            )

    def __call__(self, x_t: State, t: Time) -> Point:
        """Point at the predicted clean end."""
        y = self.output(x_t, t)
        if not plain(t):
            return Point(self._row.clean(y, x_t, t))
        skip, out = self._numbers(t)[2:]
        return Point(torch.add(x_t * skip, y, alpha=out))

    def error(self, x_0: State, x_t: State, t: Time) -> State:
        """Prediction minus target in head units, where the loss is well-scaled at every noise level."""
        return self.output(x_t, t) - self._row.target(x_0, x_t, t)

    def on(self, path: Path) -> "Reclocked":
        """The same model on another clock."""
        return Reclocked(self, path)

    def modules(self) -> list[nn.Module]:
        """The torch modules inside, for optimisers."""
        return [self.net] if isinstance(self.net, nn.Module) else []


@dataclass(frozen=True)
class Reclocked:
    r"""A denoiser made for one Gaussian path, used on another.

    At equal log-SNR the two states differ by a scale,
    :math:`x^{own} = x \sqrt{(\alpha_{own}^2 + \sigma_{own}^2) / (\alpha^2 + \sigma^2)}`.

    Attributes:
        inner: the denoiser.
        path: the clock it is used on.

    Checked by: tests/gaussian/test_denoiser.py::test_reclocked_exact_law_is_exact
    """

    inner: Any
    path: Path

    def __call__(self, x_t: State, t: Time) -> Any:
        """Law of the clean end.

        Raises:
            TimeError: the noise level at t lies outside the inner path's.
        """
        own, here = self.inner.path.schedule, self.path.schedule
        log_snr = here.log_snr(scalars(t))
        clock = own.time(log_snr)
        if clock.device.type == "cpu":
            off = (own.log_snr(clock) - log_snr).abs()
            if bool((off > 1e-3 * (1 + own.log_snr(clock).abs())).any()):
                raise TimeError(
                    f"log-SNR {float(log_snr.flatten()[0]):g} at t = {float(t.flatten()[0]):g} of {here!r} is never reached by "
                    f"{own!r}, on which this model was made; start the grid where it is: "
                    f"start={float(here.time(own.log_snr(torch.ones((), dtype=torch.float64)))):.6g}"
                )
        power = (own.alpha(clock).square() + own.sigma(clock).square()) / (here.alpha(t).square() + here.sigma(t).square())
        return self.inner(pad(power.sqrt(), x_t) * x_t, clock)

    def given(self, cond: Tensor) -> "Reclocked":
        """The same condition on this clock, where the inner model is conditional."""
        return Reclocked(self.inner.given(cond), self.path)

    def rows(self, which: Tensor) -> "Reclocked":
        """The denoiser of some rows of the batch, where the inner one can be asked for them."""
        return Reclocked(rows(self.inner, which), self.path)

    def null(self, cond: Tensor) -> Tensor:
        """Conditions that say nothing, where the inner model knows one."""
        return self.inner.null(cond)
