r"""Every coordinate between two bounds.

.. math:: C = \{x : low \le x \le high\}, \qquad P x = \min(\max(x, low), high), \qquad
          h_t(x_t) = \prod_i \big(\Phi(b_i) - \Phi(a_i)\big) \ \text{ under independent Gaussian coordinates.}

Bounds are kept in float64 and rounded *inwards* to the dtype of a state: a float32 sample clamped to 0.1 is at most 0.1.

Checked by: tests/guidance/test_constraints.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import LawError, PotentialError
from undrift.guidance.constraints.base import Constraint, flat, no_mass
from undrift.guidance.potentials import Potential
from undrift.laws.mass import in_box

__all__ = ["Box", "Integer"]


@dataclass(frozen=True, eq=False)
class Box(Constraint):
    """Between two bounds, ends included.

    Attributes:
        low: smallest values, one number or shape E; -inf for none.
        high: largest values.

    Raises:
        PotentialError: NaN, low above high somewhere, or bounds of different shapes.

    Checked by: tests/guidance/test_constraints.py::test_infeasible_constraints_are_refused
    """

    low: float | Tensor
    high: float | Tensor

    def __post_init__(self) -> None:
        low, high = (torch.as_tensor(v, dtype=torch.float64).detach().cpu() for v in (self.low, self.high))
        if low.ndim and high.ndim and low.shape != high.shape:
            raise PotentialError(f"bounds have one number or one shape; got {tuple(low.shape)} and {tuple(high.shape)}")
        low, high = (v.clone() for v in torch.broadcast_tensors(low, high))
        if not bool((low <= high).all()) or bool((low == torch.inf).any()) or bool((high == -torch.inf).any()):
            where = int((~(low <= high)).flatten().nonzero()[0]) if not bool((low <= high).all()) else 0
            raise PotentialError(
                f"a {type(self).__name__} needs finite numbers between low and high: coordinate {where} has low = "
                f"{float(low.flatten()[where]):g}, high = {float(high.flatten()[where]):g}; swap them, or drop the NaN"
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def bounds(self) -> tuple[Tensor, Tensor]:
        """(low, high), float64 on the CPU, shape () or E."""
        return self.low, self.high  # pyright: ignore[reportReturnType]

    @property
    def event(self) -> tuple[int, ...] | None:
        """Shape of the bounds; None if they are one number."""
        return tuple(self.bounds[0].shape) or None

    @property
    def thin(self) -> bool:
        """If low = high in some coordinate."""
        return bool((self.bounds[0] == self.bounds[1]).any())

    def inside(self, x: Tensor) -> Tensor:
        """Between the bounds, compared in float64."""
        return in_box(x, *self.bounds)

    def nearest(self, x: Tensor) -> Tensor:
        """Clamped to the bounds, rounded inwards to the state's dtype."""
        low, high = (_inwards(v, x.dtype, way).to(x.device) for v, way in zip(self.bounds, (1, -1), strict=True))
        return torch.minimum(torch.maximum(x, low), high)

    def lift(self, law: Any) -> Tensor:
        """Log mass of the box, shape (B,), nats: exact in one dimension, for independent coordinates and for finite laws.

        Raises:
            LawError: coordinates that depend on each other, a box without width, or a law that knows no masses.
            PotentialError: a gradient was asked for at a point.

        Checked by: tests/guidance/test_constraints.py::test_the_lift_of_a_box_is_its_mass,
            tests/guidance/test_constraints.py::test_the_lift_of_a_box_is_a_martingale
        """
        if self.thin:
            return super().lift(law)
        mass = getattr(law, "log_mass", None)
        if mass is None:
            raise LawError(no_mass(self, law))
        log_h = mass(*self.bounds)
        if torch.is_grad_enabled() and not log_h.requires_grad and law.mean.requires_grad:
            raise PotentialError(flat(self))
        return log_h

    def __and__(self, other: Potential) -> Any:
        """Two boxes are one box; with anything else, the rewards add at the clean end."""
        if type(other) is not type(self):
            return super().__and__(other)
        return type(self)(torch.maximum(self.bounds[0], other.bounds[0]), torch.minimum(self.bounds[1], other.bounds[1]))


@dataclass(frozen=True, eq=False)
class Integer(Box):
    """Whole numbers, between two bounds or without. Not convex: the nearest event is unique but at ties.

    Attributes:
        low: smallest values, one number or shape E.
        high: largest values.

    Raises:
        PotentialError: NaN, or no whole number within the bounds.
    """

    low: float | Tensor = -torch.inf
    high: float | Tensor = torch.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        low, high = self.bounds[0].ceil(), self.bounds[1].floor()
        if bool((low > high).any()):
            where = int((low > high).flatten().nonzero()[0])
            raise PotentialError(
                f"no whole number lies between {float(self.bounds[0].flatten()[where]):g} and "
                f"{float(self.bounds[1].flatten()[where]):g} (coordinate {where}); widen the bounds"
            )
        object.__setattr__(self, "low", low)
        object.__setattr__(self, "high", high)

    @property
    def thin(self) -> bool:
        """Always."""
        return True

    @property
    def convex(self) -> bool:
        """No."""
        return False

    def inside(self, x: Tensor) -> Tensor:
        """Whole, and between the bounds."""
        return super().inside(x) & (x == x.round()).flatten(1).all(1)

    def nearest(self, x: Tensor) -> Tensor:
        """Rounded, then clamped: bounds are whole, so what is clamped is."""
        return super().nearest(x.round())


def _inwards(bound: Tensor, dtype: torch.dtype, way: int) -> Tensor:
    """The nearest number of a dtype that is not below (way 1) or not above (way -1) the bound."""
    rounded = bound.to(dtype)
    short = way * (bound - rounded.double()) > 0
    return torch.where(short, torch.nextafter(rounded, torch.full_like(rounded, way * torch.inf)), rounded)
