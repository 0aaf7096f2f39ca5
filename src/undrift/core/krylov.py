r"""Conjugate gradients, batched: solve :math:`S x = b` with products :math:`S v` alone.

.. math:: x_{k} = \arg\min_{x \in K_k(S, b)} (x - x_*)^\top S (x - x_*), \qquad
          K_k = \mathrm{span}\{b, S b, \dots, S^{k-1} b\}

S is symmetric positive definite, one per row of the batch. In exact arithmetic m numbers need at most m products. The Jacobian
of a learned mean is only nearly symmetric; where a row's search direction meets non-positive curvature that row stops with
what it has, which is the last iterate that is known to be better than its predecessor.

Source: Hestenes and Stiefel 1952. Checked by: tests/core/test_krylov.py (dense solves, counted products)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

__all__ = ["CG", "RowSum", "Solved", "System"]


@runtime_checkable
class System(Protocol):
    """A way to solve (A C A^T + R) x = b, exactly or not."""

    def system(self, seen: Callable[[Tensor], Tensor], noise: Tensor, b: Tensor) -> Tensor:
        """Shape (B, m)."""
        ...


@dataclass(frozen=True)
class Solved:
    """A solution and what it cost.

    Attributes:
        x: shape (B, m).
        residual: |b - S x| / |b| per row as CG tracks it, shape (B,); 0 where b = 0.
        products: products with S that were spent.
    """

    x: Tensor
    residual: Tensor
    products: int


@dataclass(frozen=True)
class CG:
    """Settings of the solver.

    Attributes:
        iterations: products at most, and never more than the m numbers of a row: in exact arithmetic m are enough. Rounding
            makes badly conditioned systems want more; `Solved.residual` tells.
        tolerance: stop once every row has |b - S x| <= tolerance |b|. Looking costs a synchronisation on a device, so 0 never
            looks and always spends min(iterations, m) products.
    """

    iterations: int = 32
    tolerance: float = 1e-6

    def system(self, seen: Callable[[Tensor], Tensor], noise: Tensor, b: Tensor) -> Tensor:
        """Solve (A C A^T + R) x = b: `seen` is the product with A C A^T, `noise` the diagonal of R, shape (m,) or (1,)."""
        return self.solve(lambda v: seen(v) + noise * v, b).x

    def solve(self, product: Callable[[Tensor], Tensor], b: Tensor) -> Solved:
        """Solve S x = b from x = 0; `product` maps (B, m) to (B, m).

        Checked by: tests/core/test_krylov.py::test_it_solves_dense_systems
        """
        x, r = torch.zeros_like(b), b
        p, rr = r, r.square().sum(-1, keepdim=True)
        start = rr
        spent = 0
        for _ in range(min(self.iterations, b.shape[-1])):
            if self.tolerance > 0 and bool((rr <= self.tolerance**2 * start).all()):
                break
            sp = product(p)
            spent += 1
            curvature = (p * sp).sum(-1, keepdim=True)
            go = ~(curvature <= 0)  # NaN goes on, to be seen in the answer
            step = torch.where(go, rr / torch.where(go, curvature, 1.0), 0.0)
            x = x + step * p
            r = r - step * sp
            new = torch.where(go, r.square().sum(-1, keepdim=True), rr)
            p = torch.where(go, r + new / torch.where(rr > 0, rr, 1.0) * p, torch.zeros_like(p))
            rr = new
        residual = torch.where(start > 0, (rr / torch.where(start > 0, start, 1.0)).sqrt(), 0.0)[..., 0]
        return Solved(x, residual, spent)


@dataclass(frozen=True)
class RowSum:
    """Takes A C A^T for the diagonal matrix of its row sums: one product in place of a solve, exact for one measurement.

    A row sum below zero is no variance and counts as 0: what is left there is the noise.

    Source: Boys et al. 2023 (TMPD, 2310.06721), section 3. Checked by: tests/core/test_row_sum.py
    """

    def system(self, seen: Callable[[Tensor], Tensor], noise: Tensor, b: Tensor) -> Tensor:
        """B / (row sums + R), shape (B, m)."""
        return b / (seen(torch.ones_like(b)).clamp_min(0) + noise)
