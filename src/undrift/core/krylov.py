r"""Systems given by products: conjugate gradients, their cousin for what is no true covariance, and row sums.

**Conjugate gradients**, batched: solve :math:`S x = b` with products :math:`S v` alone.

.. math:: x_{k} = \arg\min_{x \in K_k(S, b)} (x - x_*)^\top S (x - x_*), \qquad
          K_k = \mathrm{span}\{b, S b, \dots, S^{k-1} b\}

S is symmetric positive definite, one per row of the batch. In exact arithmetic m numbers need at most m products. Where a row's
search direction meets non-positive curvature that row stops with what it has, the last iterate that is known to be better than
its predecessor. A network's Jacobian is far enough from symmetric for that not to be enough: see `Arnoldi`.

Source: Hestenes and Stiefel 1952. Checked by: tests/core/test_krylov.py (dense solves, counted products)
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.errors import LawError

__all__ = ["CG", "Arnoldi", "RowSum", "Solved", "System"]


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


@dataclass(frozen=True)
class Arnoldi:
    r"""Solves (A C A^T + R) x = b where C is a covariance only nearly: the Jacobian of a network's mean.

    On an orthonormal basis Q of the Krylov space of :math:`M = R^{-1/2} A C A^\top R^{-1/2}`, with :math:`H = Q^\top M Q`,

    .. math:: x = R^{-1/2} Q\, \big(\big[\tfrac12 (H + H^\top)\big]_+ + I\big)^{-1} Q^\top R^{-1/2} b ,

    where [.]_+ takes negative eigenvalues, which are no variances, for 0. For a true covariance this is what conjugate
    gradients give. For a network, whose Jacobian is asymmetric by tens of per cent with eigenvalues below -R, those diverge,
    and this stays within |b| / R.

    Attributes:
        iterations: products at most, and never more than the m numbers of a row.
        tolerance: stop once every row's Galerkin residual is below tolerance |b|; 0 never looks (it would stall a device).

    Source: Arnoldi 1951; Saad 2003, section 6.4. Checked by: tests/core/test_arnoldi.py
    """

    iterations: int = 32
    tolerance: float = 1e-6

    def system(self, seen: Callable[[Tensor], Tensor], noise: Tensor, b: Tensor) -> Tensor:
        """Solve by at most `iterations` products with A C A^T, shape (B, m).

        Raises:
            LawError: several noises, some of them 0.
        """
        alike = noise.numel() == 1
        if not alike and noise.device.type == "cpu" and bool((noise <= 0).any()):
            raise LawError("some of these measurements have noise and some have none; give each some noise, or none to all")
        scale, ridge = (torch.ones_like(noise), noise) if alike else (noise.sqrt(), torch.ones_like(noise[:1]))
        white = b / scale
        length = white.norm(dim=-1, keepdim=True)
        basis = [white / torch.where(length > 0, length, 1.0)]
        steps = min(self.iterations, b.shape[-1])
        h = b.new_zeros(b.shape[0], steps, steps)
        for j in range(steps):
            w = seen(basis[j] / scale) / scale
            q = torch.stack(basis, 1)
            for _ in range(2):  # once more, or rounding costs the basis its orthogonality
                part = torch.einsum("bim,bm->bi", q, w)
                h[:, : j + 1, j] += part
                w = w - torch.einsum("bim,bi->bm", q, part)
            left = w.norm(dim=-1, keepdim=True)
            if j + 1 == steps or (self.tolerance > 0 and bool((self._residual(h, ridge, left, j) <= self.tolerance).all())):
                break
            h[:, j + 1, j] = left[:, 0]
            basis.append(torch.where(left > 1e-12 * length, w / torch.where(left > 0, left, 1.0), 0.0))
        size = len(basis)
        y = self._small(h[:, :size, :size], ridge) * length
        return torch.einsum("bim,bi->bm", torch.stack(basis, 1), y) / scale

    @staticmethod
    def _small(h: Tensor, ridge: Tensor) -> Tensor:
        """First column of the inverse of the projected system, shape (B, k)."""
        finite = torch.isfinite(h).flatten(1).all(1)[:, None]
        symmetric = torch.where(finite[..., None], 0.5 * (h + h.mT), 0.0)
        one = h.shape[-1] == 1  # nothing to decompose, and by far the commonest case
        values, vectors = (symmetric[..., 0], torch.ones_like(symmetric)) if one else torch.linalg.eigh(symmetric)
        total = values.clamp_min(0) + ridge
        gain = torch.where(total > 0, 1 / torch.where(total > 0, total, 1.0), 0.0)
        first = torch.einsum("bki,bi->bk", vectors, gain * vectors[:, 0])
        return torch.where(finite, first, torch.nan)  # NaN goes on, to be seen in the answer

    @classmethod
    def _residual(cls, h: Tensor, ridge: Tensor, left: Tensor, j: int) -> Tensor:
        """What the solution in j + 1 dimensions leaves, relative to |b|, shape (B,)."""
        return left[:, 0] * cls._small(h[:, : j + 1, : j + 1], ridge)[:, j].abs()
