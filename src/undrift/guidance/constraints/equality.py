r"""Linear equalities A x = b.

With the singular value decomposition A = U S V^T, the rows of V^T are orthonormal and :math:`c = S^{-1} U^\top b`,

.. math:: C = \{x : V^\top x = c\}, \qquad P x = x - V (V^\top x - c), \qquad |x - P x| = |V^\top x - c| .

An equality is a look without noise. Its probability is 0, and what is lifted is the density of V^T X at c: the limit of the
mass of a slab by its volume, the same however A is written. Gaussians and mixtures absorb it exactly; the covariance that is
left is written in a basis of the plane, so that no sample leaves it by the root of a rounding error.

Checked by: tests/guidance/test_constraints.py
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from undrift.core import Covariance
from undrift.errors import PotentialError
from undrift.guidance.constraints.base import Constraint, rounding
from undrift.laws import Liftable
from undrift.operators import Matrix, Operator

__all__ = ["Equality"]


@dataclass(frozen=True, eq=False)
class Equality(Constraint):
    """A x = b, closed under Gaussian laws. Redundant rows are dropped.

    `contains` allows for the rounding of a state: a distance of (8 eps(dtype) + d eps(float64)) (|x| + |c|).

    Attributes:
        operator: A, a linear operator or its matrix, shape (m, d).
        b: right-hand side, shape (m,), or (B, m) for one per row.

    Raises:
        PotentialError: NaN, no equality at all (A = 0), a b of another length, or no x with A x = b.
        OperatorError: a matrix with NaN.

    Checked by: tests/guidance/test_constraints.py::test_equalities_are_absorbed_exactly,
        tests/guidance/test_constraints.py::test_equality_and_likelihood_are_one_gaussian
    """

    density = "an equality"
    operator: Operator | Tensor
    b: Tensor
    rows: Matrix = field(init=False, repr=False)
    """V^T, orthonormal rows, shape (r, d)."""
    at: Tensor = field(init=False, repr=False)
    """c, shape (1 or B, r)."""

    def __post_init__(self) -> None:
        operator = Matrix(self.operator.double()) if isinstance(self.operator, Tensor) else self.operator
        if not isinstance(self.b, Tensor):
            raise PotentialError(f"b in A x = b is a tensor, one number per row of A, got {type(self.b).__name__}")
        b = self.b.double() if self.b.ndim > 1 else self.b.double()[None]
        if b.ndim != 2 or b.shape[1] != operator.measurements or not bool(torch.isfinite(b).all()):
            raise PotentialError(
                f"A x = b with {operator.measurements} rows in A needs finite numbers b of shape ({operator.measurements},) "
                f"or (B, {operator.measurements}), got shape {tuple(self.b.shape)}"
            )
        left, values, right = (v.double() for v in operator.svd)
        if not len(values):
            raise PotentialError("A is 0, so A x = b says nothing of x; give the rows that do")
        solved = b @ left
        miss = (b - solved @ left.mT).norm(dim=1)
        if bool((miss > 1e-9 * b.norm(dim=1)).any()):
            raise PotentialError(
                f"no x satisfies A x = b: rows of A repeat each other and b disagrees by {float(miss.max()):.3g}; drop or mend "
                "those rows"
            )
        object.__setattr__(self, "rows", Matrix(right.mT.contiguous(), operator.event))
        object.__setattr__(self, "at", solved / values)

    @property
    def batch(self) -> int:
        """Number of right-hand sides."""
        return self.at.shape[0]

    @property
    def closed(self) -> bool:
        """Yes."""
        return True

    @property
    def thin(self) -> bool:
        """Yes."""
        return True

    @property
    def event(self) -> tuple[int, ...]:
        """That of the operator."""
        return self.rows.event

    def inside(self, x: Tensor) -> Tensor:
        """Within rounding."""
        flat = x.double().flatten(1)
        at = self.at.to(flat)
        slack = rounding(x.dtype, flat.shape[1]) * (flat.norm(dim=1) + at.norm(dim=1))
        return self._off(x.double()).norm(dim=1) <= slack

    def nearest(self, x: Tensor) -> Tensor:
        """X - V (V^T x - c), and once more for what rounding left."""
        wide = x.double()
        for _ in range(2):
            wide = wide - self.rows.adjoint(self._off(wide))
        return wide.to(x)

    def lift(self, law: Liftable) -> Tensor:
        """Log density of V^T X at c, shape (B,).

        Raises:
            LawError: a law without spread along some row.
        """
        at = self.at.to(law.mean)  # pyright: ignore[reportAttributeAccessIssue]
        return law.evidence(self.rows, at, at.new_zeros(1))  # pyright: ignore[reportArgumentType]

    def absorb(self, law: Liftable) -> Any:
        """The law on the plane.

        Raises:
            LawError: a law without spread along some row.
        """
        at = self.at.to(law.mean)  # pyright: ignore[reportAttributeAccessIssue]
        left = law.observe(self.rows, at, at.new_zeros(1))  # pyright: ignore[reportArgumentType]
        cov = getattr(left, "cov", None)
        return (
            left
            if cov is None or cov.basis is None or cov.basis.shape[-1] < cov.dim
            else replace(left, cov=self._flattened(cov))
        )

    @cached_property
    def plane(self) -> Tensor:
        """Orthonormal directions along the plane, shape (d, d - r)."""
        return torch.linalg.svd(self.rows.values, full_matrices=True).Vh[len(self.rows.values) :].mT.contiguous()

    def _flattened(self, cov: Covariance) -> Covariance:
        """The same covariance on the plane, and exactly none off it."""
        along = self.plane.to(cov.values)
        values, inner = torch.linalg.eigh(along.mT @ cov.dense() @ along)
        return Covariance(values.clamp_min(0), torch.zeros_like(cov.tail), along @ inner, cov.dim)

    def per(self, particles: int) -> "Equality":
        """Right-hand sides repeated."""
        return self if self.at.shape[0] == 1 else Equality(self.operator, self.b.repeat_interleave(particles, 0))

    def _off(self, x: Tensor) -> Tensor:
        return self.rows.forward(x) - self.at.to(x)
