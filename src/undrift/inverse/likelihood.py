r"""Measurements as potentials.

*Linear*, :math:`y = A x_0 + R^{1/2} z`: `gaussian_likelihood`, closed, which every method of this room takes.

*Any function*, :math:`y = f(x_0) + R^{1/2} z`: `measurement`, a reward, lifted at the mean, by draws, or by particles.

Checked by: tests/inverse/test_likelihood.py
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undrift.core.seen import white_log_prob
from undrift.errors import OperatorError, PotentialError, ShapeError
from undrift.guidance.potentials import Likelihood, Potential
from undrift.operators import as_operator

__all__ = ["Measurement", "gaussian_likelihood", "measurement"]


def gaussian_likelihood(y: Any, a: Any, noise: float | Tensor, *, event: Sequence[int] | None = None) -> Likelihood:
    """The potential log N(y; A x_0, noise^2).

    Args:
        y: one measurement, m numbers in any shape, for all samples; or one per sample, shape (B, *M).
        a: an operator, a matrix (m, d), a boolean mask shaped like an event, or a linear function of a batch.
        noise: standard deviation, in the measurement's units: one number, or one per measured number (m of them); > 0.
        event: shape of one event, where `a` does not tell it.

    Raises:
        ShapeError: y does not hold m numbers, or m for each sample; noise neither one number nor m.
        PotentialError: NaN or infinity in y; noise that is not positive.
        OperatorError: `a` is no linear operator.

    Checked by: tests/inverse/test_likelihood.py::test_bad_measurements_are_refused
    """
    look = as_operator(a, event)
    rows = _rows(y, look.measurements)
    return Likelihood(look, rows, _variance(noise, look.measurements, rows))


@dataclass(frozen=True)
class Measurement(Potential):
    """A look through any function, with Gaussian noise; see `measurement`.

    Attributes:
        function: (B, *E) -> (B, *M).
        y: shape (1, m) or (B, m).
        variance: shape (m,) or (1,).
    """

    density = "a measurement's density"
    function: Callable[[Tensor], Tensor]
    y: Tensor
    variance: Tensor

    def __call__(self, x_0: Tensor) -> Tensor:
        """Log N(y; f(x_0), R), shape (B,)."""
        if self.batch not in (1, x_0.shape[0]):
            raise ShapeError(f"{self.batch} measurements were given for {x_0.shape[0]} events; give one, or one per event")
        seen = self.function(x_0).flatten(1)
        if seen.shape != (x_0.shape[0], self.y.shape[1]):
            raise PotentialError(
                f"the measured function answered {tuple(seen.shape)} to events of shape {tuple(x_0.shape)}, and a measurement "
                f"holds {self.y.shape[1]} numbers; it maps (B, *E) to (B, *M)"
            )
        scale = self.variance.to(seen).sqrt().expand(seen.shape[1])
        return white_log_prob((self.y.to(seen) - seen) / scale) - scale.log().sum()

    @property
    def batch(self) -> int:
        """Number of measurements."""
        return self.y.shape[0]

    def per(self, particles: int) -> "Measurement":
        """Measurements repeated."""
        return self if self.y.shape[0] == 1 else replace(self, y=self.y.repeat_interleave(particles, 0))


def measurement(y: Any, function: Callable[[Tensor], Tensor], noise: float | Tensor, *, event: Sequence[int]) -> Measurement:
    """The potential log N(y; f(x_0), noise^2) for any function f.

    Args:
        y: one measurement for all samples, or one per sample, shape (B, *M).
        function: (B, *E) -> (B, *M); differentiable where a gradient is to steer.
        noise: standard deviation, one number or one per measured number; > 0.
        event: shape of one event.

    Raises:
        ShapeError: y does not hold as many numbers as the function makes; noise neither one number nor m.
        PotentialError: NaN or infinity in y; noise that is not positive.
        OperatorError: the function fails on an event of its own.

    Source: Chung et al. 2022 (2209.14687), section 3.3.
    Checked by: tests/inverse/test_likelihood.py::test_any_function_can_be_measured
    """
    try:
        made = function(torch.zeros((1, *event), dtype=torch.float64))
    except RuntimeError as error:
        raise OperatorError(
            f"the measured function fails on an event of float64 zeros ({error}); inside, bring its constants and weights to "
            "the event's dtype and device: w.to(x)"
        ) from error
    rows = _rows(y, made.numel())
    return Measurement(function, rows, _variance(noise, made.numel(), rows))


def _rows(y: Any, m: int) -> Tensor:
    """Measurements as (1, m) or (B, m)."""
    y = torch.as_tensor(y)
    y = y if y.dtype.is_floating_point else y.double()
    bad = ~torch.isfinite(y)
    if bool(bad.any()):
        raise PotentialError(
            f"{int(bad.sum())} of {y.numel()} measured numbers are NaN or infinite (first at "
            f"{tuple(bad.nonzero()[0].tolist())}); leave them out of the operator (operators.Mask)"
        )
    if y.numel() == m and (y.ndim == 0 or y.shape[0] != 1 or y.ndim == 1):
        return y.reshape(1, m)
    if y.ndim > 1 and y[0].numel() == m:
        return y.reshape(y.shape[0], m)
    raise ShapeError(
        f"a measurement of {m} numbers was expected (or m for each sample, shape (B, {m})), and y has shape {tuple(y.shape)}; "
        "of a masked event give what is seen: y[mask]"
    )


def _variance(noise: float | Tensor, m: int, like: Tensor) -> Tensor:
    std = torch.as_tensor(noise, dtype=like.dtype).flatten()
    if std.numel() not in (1, m):
        raise ShapeError(f"noise is one standard deviation, or one for each of the {m} measured numbers; got {std.numel()}")
    if not bool((std > 0).all() and torch.isfinite(std).all()):
        raise PotentialError(
            "a Gaussian likelihood needs a noise standard deviation > 0; for exact measurements use guidance.Equality, or a "
            "sampler that holds them exactly (inverse.DDNM, inverse.RePaint)"
        )
    return std.square()
