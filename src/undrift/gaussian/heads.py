r"""What a network predicts, as rows of one table.

Every head y is an affine function of the state and the clean end, so each row is two scalar functions of time,

.. math:: x_0 = \text{skip}_t\, x_t + \text{out}_t\, y
          \qquad\Longleftrightarrow\qquad y = (x_0 - \text{skip}_t\, x_t) / \text{out}_t ,

and a conversion between two heads goes through x_0. With s = sigma, a = alpha, d = root mean square of the data about zero:

=========  =======================================  ===========================  ==========================
head       y                                        skip                         out
=========  =======================================  ===========================  ==========================
x0         x_0                                      0                            1
eps        z                                        1 / a                        -s / a
score      grad log p_t = -z / s                    1 / a                        s^2 / a
v          a z - s x_0                              a / (a^2 + s^2)              -s / (a^2 + s^2)
velocity   da/dt x_0 + ds/dt z                      -s' / (a' s - a s')          s / (a' s - a s')
edm        unit-variance target                     d^2 a / (s^2 + a^2 d^2)      s d / sqrt(s^2 + a^2 d^2)
=========  =======================================  ===========================  ==========================

A head is singular where x_0 cannot be computed from it (eps and score at alpha = 0). It is refused at construction, with the
name of the head to use. At sigma = 0 every head but x0 has out = 0: a target there is undefined, and `target` says so.

Sources: Ho et al. 2020 (eps), Salimans and Ho 2022 (v), Lipman et al. 2023 (velocity), Karras et al. 2022, table 1 (edm,
here for any alpha). Checked by: tests/gaussian/test_heads.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.core import pad
from undrift.errors import HeadError
from undrift.schedules import Schedule
from undrift.typing import State, Time

__all__ = ["HEADS", "Head"]


@dataclass(frozen=True)
class Signal:
    """The numbers a head row may use, float64, shape of t."""

    alpha: Tensor
    sigma: Tensor
    schedule: Schedule
    t: Tensor
    data_std: float


Row = Callable[[Signal], tuple[Tensor, Tensor]]


def _x0(q: Signal) -> tuple[Tensor, Tensor]:
    return torch.zeros_like(q.alpha), torch.ones_like(q.alpha)


def _eps(q: Signal) -> tuple[Tensor, Tensor]:
    return 1 / q.alpha, -q.sigma / q.alpha


def _score(q: Signal) -> tuple[Tensor, Tensor]:
    return 1 / q.alpha, q.sigma.square() / q.alpha


def _v(q: Signal) -> tuple[Tensor, Tensor]:
    power = q.alpha.square() + q.sigma.square()
    return q.alpha / power, -q.sigma / power


def _velocity(q: Signal) -> tuple[Tensor, Tensor]:
    # A slope above 1 is divided out, so that an infinite one (VP at t = 0) gives its limit.
    dalpha, dsigma = q.schedule.dalpha(q.t), q.schedule.dsigma(q.t)
    steep = dsigma.abs() > 1
    slope, shrink = torch.where(steep, torch.ones_like(dsigma), dsigma), torch.where(steep, 1 / dsigma, 1.0)
    rest = dalpha * shrink * q.sigma - q.alpha * slope
    return -slope / rest, q.sigma * shrink / rest


def _edm(q: Signal) -> tuple[Tensor, Tensor]:
    power = q.sigma.square() + (q.alpha * q.data_std).square()
    return q.data_std**2 * q.alpha / power, q.sigma * q.data_std / power.sqrt()


HEADS: dict[str, Row] = {"x0": _x0, "eps": _eps, "score": _score, "v": _v, "velocity": _velocity, "edm": _edm}
"""Every head: name -> (skip, out). A new head is one function and one entry."""


@dataclass(frozen=True)
class Head:
    """A head on a schedule.

    Attributes:
        name: key of `HEADS`.
        schedule: the clock it is read on.
        data_std: root mean square of the data about zero, codec units; only `edm` depends on it.
        span: (earliest, latest) time it must serve.

    Raises:
        HeadError: unknown name, or singular within the span.
    """

    name: str
    schedule: Schedule
    data_std: float = 1.0
    span: tuple[float, float] = (0.0, 1.0)

    def __post_init__(self) -> None:
        if self.name not in HEADS:
            raise HeadError(f"unknown head {self.name!r}; the heads are {', '.join(sorted(HEADS))}")
        if not self.data_std > 0:
            raise HeadError(f"data_std must be > 0, got {self.data_std:g}; measure it on your encoded data")
        ends = torch.tensor(self.span, dtype=torch.float64)
        skip, out = self.coefficients(ends)
        bad = ~(torch.isfinite(skip) & torch.isfinite(out))
        if bool(bad.any()):
            where = " and ".join(f"t = {t:g}" for t in ends[bad].tolist())
            raise HeadError(
                f"head {self.name!r} on {self.schedule!r} cannot give the clean end at {where}, where alpha = 0; use head "
                f"'v', 'edm' or 'x0', or train and sample on a span that ends before it (now {self.span})"
            )

    def coefficients(self, t: Time) -> tuple[Tensor, Tensor]:
        """(skip, out) at t, float64, shape of t."""
        alpha, sigma = self.schedule.alpha(t), self.schedule.sigma(t)
        return HEADS[self.name](Signal(alpha, sigma, self.schedule, t, self.data_std))

    def clean(self, y: State, x_t: State, t: Time) -> State:
        """x_0 from the head's value: skip x_t + out y."""
        skip, out = self.coefficients(t)
        return pad(skip, x_t) * x_t + pad(out, x_t) * y

    def target(self, x_0: State, x_t: State, t: Time) -> State:
        """The head's value from x_0: (x_0 - skip x_t) / out.

        Raises:
            HeadError: out = 0 at t, that is, sigma = 0.
        """
        skip, out = self.coefficients(t)
        if out.device.type == "cpu" and bool((out == 0).any()):
            raise HeadError(f"head {self.name!r} has no value where sigma = 0; keep t >= an early stop t0 > 0, or use 'x0'")
        return (x_0 - pad(skip, x_t) * x_t) / pad(out, x_t)
