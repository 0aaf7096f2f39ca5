r"""Linear operators: what a measurement sees of an event, and the way back.

.. math:: y = A x + \text{noise}, \qquad \langle A x, y \rangle = \langle x, A^\top y \rangle

An operator knows its event shape, its number of measurements m, its forward and its adjoint. A matrix and a mask say so
themselves; any linear function of a batch gets its adjoint by automatic differentiation. Measurements are flat, shape (B, m).

Checked by: tests/test_operators.py (adjoint identity, singular values against dense linear algebra)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from undrift.errors import OperatorError, ShapeError

__all__ = ["SVD", "Function", "Mask", "Matrix", "Operator", "Stacked", "as_operator"]


class SVD(NamedTuple):
    """A = U diag(s) V^T with s > 0: left (m, r), values (r,), right (d, r)."""

    left: Tensor
    values: Tensor
    right: Tensor


class Operator(ABC):
    """A linear map from events to measurements."""

    event: tuple[int, ...]
    """Shape E of one event."""

    @property
    @abstractmethod
    def measurements(self) -> int:
        """Number m of measurements."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """A x, shape (B, *E) -> (B, m)."""

    @abstractmethod
    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, shape (B, m) -> (B, *E)."""

    def __call__(self, x: Tensor) -> Tensor:
        """A x, shape (B, *E) -> (B, m).

        Raises:
            ShapeError: the event is not the operator's.
        """
        if tuple(x.shape[1:]) != self.event:
            raise ShapeError(
                f"this operator measures events of shape {self.event}, and a batch of shape {tuple(x.shape)} was given; "
                f"wanted (B, {', '.join(map(str, self.event))}): a mask for every channel is mask.expand(event)"
            )
        return self.forward(x)

    @property
    def matrix(self) -> Tensor:
        """The dense matrix, shape (m, d), written out once: m adjoints in one batch."""
        return self._matrix

    @property
    def svd(self) -> SVD:
        """Its singular value decomposition, directions of singular value 0 dropped; made once.

        Checked by: tests/test_operators.py::test_singular_values_rebuild_the_matrix
        """
        return self._svd

    @cached_property
    def _matrix(self) -> Tensor:
        return self.adjoint(torch.eye(self.measurements, dtype=self.dtype)).flatten(1)

    @cached_property
    def _svd(self) -> SVD:
        left, values, right = torch.linalg.svd(self.matrix, full_matrices=False)
        rank = int((values > values[0] * max(self.matrix.shape) * torch.finfo(values.dtype).eps).sum()) if len(values) else 0
        return SVD(left[:, :rank], values[:rank], right[:rank].mT)

    @property
    def dtype(self) -> torch.dtype:
        """What the matrix is written in."""
        return torch.float64


@dataclass(frozen=True)
class Matrix(Operator):
    """A dense matrix on flattened events.

    Attributes:
        values: shape (m, d).
        event: shape of one event, d numbers in all; (d,) by default.

    Raises:
        ShapeError: not a matrix, or its columns do not count the numbers of an event.
        OperatorError: it holds NaN or infinity.
    """

    values: Tensor
    event: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 2:
            raise ShapeError(f"an operator's matrix has shape (m, d), got {tuple(self.values.shape)}")
        object.__setattr__(self, "event", tuple(self.event) or (self.values.shape[1],))
        if _numel(self.event) != self.values.shape[1]:
            raise ShapeError(
                f"a matrix with {self.values.shape[1]} columns cannot measure events of shape {self.event}, which hold "
                f"{_numel(self.event)} numbers; flatten the event in the matrix's column order"
            )
        if not self.values.is_floating_point():
            object.__setattr__(self, "values", self.values.double())
        if not bool(torch.isfinite(self.values).all()):
            raise OperatorError("the matrix of a measurement holds NaN or infinity; drop or mend those rows")

    @property
    def measurements(self) -> int:
        """Number of rows."""
        return self.values.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """That of the values."""
        return self.values.dtype

    @property
    def matrix(self) -> Tensor:
        """The values."""
        return self.values

    def forward(self, x: Tensor) -> Tensor:
        """A x."""
        return x.flatten(1) @ self.values.to(x).mT

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y."""
        return (y @ self.values.to(y)).reshape(y.shape[0], *self.event)


@dataclass(frozen=True)
class Mask(Operator):
    """Some coordinates are seen, the others are not: inpainting.

    Attributes:
        seen: boolean, shape E; True where it is measured.

    Raises:
        OperatorError: not boolean, or nothing is seen.
    """

    seen: Tensor

    def __post_init__(self) -> None:
        if self.seen.dtype != torch.bool or not bool(self.seen.any()):
            raise OperatorError(
                f"a mask is boolean and True where the event is seen, at least once; got {self.seen.dtype} with "
                f"{int(self.seen.count_nonzero())} nonzero entries"
            )
        object.__setattr__(self, "event", tuple(self.seen.shape))

    event: tuple[int, ...] = field(init=False, default=())

    @cached_property
    def _where(self) -> Tensor:
        return self.seen.flatten().nonzero()[:, 0]

    @property
    def measurements(self) -> int:
        """Number of coordinates seen."""
        return self._where.shape[0]

    @property
    def svd(self) -> SVD:
        """Coordinates are their own singular vectors, of value 1: nothing is decomposed."""
        eye = torch.eye(self.measurements, dtype=self.dtype)
        return SVD(eye, eye.new_ones(self.measurements), self.matrix.mT)

    def forward(self, x: Tensor) -> Tensor:
        """The seen coordinates, in row-major order."""
        return x.flatten(1)[:, self._where.to(x.device)]

    def adjoint(self, y: Tensor) -> Tensor:
        """The coordinates put back, zero elsewhere."""
        return y.new_zeros(y.shape[0], self.seen.numel()).index_copy(1, self._where.to(y.device), y).reshape(-1, *self.event)


@dataclass(frozen=True)
class Function(Operator):
    """Any linear function of a batch; its adjoint by automatic differentiation, or given.

    Attributes:
        function: (B, *E) -> (B, *M), linear, each row on its own.
        event: shape E.
        transpose: (B, *M) -> (B, *E), or None to have it from automatic differentiation.

    Raises:
        OperatorError: the function is not linear, cannot be differentiated, or the given transpose is not its adjoint
            (checked at construction on random events, in float64, relative 1e-6).

    Checked by: tests/test_operators.py::test_functions_that_are_not_linear_are_refused
    """

    function: Callable[[Tensor], Tensor]
    event: tuple[int, ...]
    transpose: Callable[[Tensor], Tensor] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "event", tuple(self.event))
        rng = torch.Generator().manual_seed(0)
        x = torch.randn((2, *self.event), dtype=torch.float64, generator=rng)
        try:
            y, mix = self.function(x), self.function(x[:1] - 3 * x[1:])
        except RuntimeError as error:
            raise OperatorError(
                f"this function fails on float64 events ({error}); inside, bring its constants and weights to the event's "
                "dtype and device: kernel.to(x)"
            ) from error
        if y.shape[0] != 2 or not _close(mix, y[:1] - 3 * y[1:]):
            raise OperatorError(
                "this function is not linear in a batch of events: f(x - 3 x') differs from f(x) - 3 f(x'); steer by a reward "
                "such as inverse.measurement(y, f, noise, event=...) in place of a linear likelihood"
            )
        object.__setattr__(self, "_output", tuple(y.shape[1:]))
        probe = torch.randn(y.shape, dtype=torch.float64, generator=rng)
        back = self.adjoint(probe.reshape(2, -1))
        if not _close((back * x).flatten(1).sum(1), (probe * y).reshape(2, -1).sum(1)):
            raise OperatorError(
                "the given transpose is not the adjoint of the function: <A x, y> differs from <x, A^T y>; leave it out to "
                "have it by automatic differentiation"
                if self.transpose is not None
                else "automatic differentiation does not see all of this function (is something detached?); give transpose=, "
                "the function that maps measurements back to events"
            )

    @property
    def output(self) -> tuple[int, ...]:
        """Shape M of one measurement as the function makes it."""
        return self._output  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def measurements(self) -> int:
        """Numbers in one measurement."""
        return _numel(self.output)

    def forward(self, x: Tensor) -> Tensor:
        """The function, flattened."""
        return self.function(x).reshape(x.shape[0], -1)

    def adjoint(self, y: Tensor) -> Tensor:
        """The transpose, or one vector-Jacobian product."""
        y = y.reshape(-1, *self.output)
        if self.transpose is not None:
            return self.transpose(y)
        start = torch.zeros((y.shape[0], *self.event), dtype=y.dtype, device=y.device)
        try:
            return torch.func.vjp(self.function, start)[1](y)[0]
        except RuntimeError as error:
            raise OperatorError(
                f"this function has no adjoint by automatic differentiation ({error}); give transpose=, the function that maps "
                "measurements back to events"
            ) from error


@dataclass(frozen=True)
class Stacked(Operator):
    """Several looks at one event, their measurements side by side.

    Attributes:
        parts: operators on the same event.
    """

    parts: Sequence[Operator]

    event: tuple[int, ...] = field(init=False, default=())

    def __post_init__(self) -> None:
        events = {part.event for part in self.parts}
        if len(events) != 1:
            raise ShapeError(f"looks at one event must agree on its shape, got {sorted(events)}")
        object.__setattr__(self, "event", self.parts[0].event)

    @property
    def measurements(self) -> int:
        """All of them."""
        return sum(part.measurements for part in self.parts)

    def forward(self, x: Tensor) -> Tensor:
        """Each part's measurements."""
        return torch.cat([part.forward(x) for part in self.parts], 1)

    def adjoint(self, y: Tensor) -> Tensor:
        """Sum of the parts' adjoints."""
        pieces = y.split([part.measurements for part in self.parts], 1)
        back = [part.adjoint(piece) for part, piece in zip(self.parts, pieces, strict=True)]
        return torch.stack(back).sum(0)


def as_operator(a: Any, event: Sequence[int] | None = None) -> Operator:
    """An operator from what people have: an operator, a matrix (m, d), a boolean mask of an event's shape, a linear function.

    Args:
        a: any of these.
        event: shape of one event: needed for a function, and for a matrix that measures events of more than one axis.

    Raises:
        OperatorError: a function without its event, or something else altogether.

    Checked by: tests/test_operators.py::test_operators_are_made_from_what_people_have
    """
    if isinstance(a, Operator):
        return a
    if isinstance(a, np.ndarray):
        a = torch.from_numpy(a)
    if isinstance(a, Tensor):
        return Mask(a) if a.dtype == torch.bool else Matrix(a, tuple(event or ()))
    if callable(a) and event is not None:
        return Function(a, tuple(event))  # pyright: ignore[reportArgumentType]
    raise OperatorError(
        f"a measurement is a matrix (m, d), a boolean mask, a linear function with event=(shape of one event), or an operator; "
        f"got {type(a).__name__}" + ("" if not callable(a) else " without event=")
    )


def _numel(shape: Sequence[int]) -> int:
    return int(torch.Size(shape).numel())


def _close(a: Tensor, b: Tensor) -> bool:
    return bool((a - b).norm() <= 1e-6 * (a.norm() + b.norm()))
