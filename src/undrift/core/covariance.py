r"""One covariance for every structure: a spectrum, and perhaps a basis.

.. math:: \Sigma = U \,\mathrm{diag}(\lambda)\, U^\top + \tau\,(I - U U^\top), \qquad U^\top U = I

Isotropic, diagonal, full and low-rank covariances are this formula with U = I (basis `None`), U square, or U tall. Any
function of the matrix (inverse, square root, posterior gain, the covariance at another noise level) is then a function of
the numbers lambda and tau: `f(Sigma) = U diag(f(lambda)) U^T + f(tau) (I - U U^T)`. One eigendecomposition serves every
noise level, and no matrix is ever inverted.

Checked by: tests/core/test_covariance.py (against dense linear algebra).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import LawError

Spectral = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Covariance:
    """A symmetric positive semi-definite matrix of size d, batched, kept as its spectrum.

    Attributes:
        values: eigenvalues lambda, shape (*batch, r); with no basis (*batch, d), or (*batch, 1) meaning all d equal.
        tail: eigenvalue tau off the basis, shape (*batch, 1); unused where the basis is square or absent.
        basis: orthonormal columns U, shape (*batch, d, r), or None for the identity.
        dim: d.
    """

    values: Tensor
    tail: Tensor
    basis: Tensor | None
    dim: int

    @staticmethod
    def isotropic(variance: Tensor, dim: int) -> "Covariance":
        """`variance` times the identity; variance has shape (*batch,), >= 0.

        Raises:
            LawError: a negative variance (seen on the CPU only; elsewhere looking would stall the device in every step).
        """
        if variance.device.type == "cpu":
            _nonnegative(variance, "variance")
        values = variance[..., None]
        return Covariance(values, values, None, dim)

    @staticmethod
    def diagonal(variances: Tensor) -> "Covariance":
        """A diagonal matrix; variances have shape (*batch, d)."""
        _nonnegative(variances, "variances")
        return Covariance(variances, torch.zeros_like(variances[..., :1]), None, variances.shape[-1])

    @staticmethod
    def full(matrix: Tensor) -> "Covariance":
        """Any covariance, shape (*batch, d, d); one symmetric eigendecomposition.

        Raises:
            LawError: the matrix is not symmetric positive semi-definite.
        """
        if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
            raise LawError(f"a full covariance is a square matrix, got shape {tuple(matrix.shape)}")
        if not torch.allclose(matrix, matrix.mT, rtol=1e-6, atol=1e-9 * float(matrix.abs().max())):
            raise LawError("a covariance must be symmetric; give 0.5 * (C + C.mT)")
        values, basis = torch.linalg.eigh(0.5 * (matrix + matrix.mT))
        floor = -1e-8 if matrix.dtype == torch.float64 else -1e-4
        if bool((values < floor * values.abs().amax(-1, keepdim=True)).any()):
            raise LawError(f"a covariance must be positive semi-definite; smallest eigenvalue {float(values.min()):.3g}")
        return Covariance(values.clamp_min(0), torch.zeros_like(values[..., :1]), basis, matrix.shape[-1])

    @staticmethod
    def low_rank(factor: Tensor, tail: Tensor) -> "Covariance":
        """`F F^T + tail * (I - P_F)`: a subspace with its own variances and a constant variance around it.

        Args:
            factor: F, shape (*batch, d, r), r < d, full column rank.
            tail: variance outside the span of F, shape (*batch,); 0 puts all mass on the subspace.

        Raises:
            LawError: a negative tail, or a factor that is not of full column rank.
        """
        basis, singular, _ = torch.linalg.svd(factor, full_matrices=False)
        _nonnegative(tail, "tail")
        if factor.shape[-1] > factor.shape[-2] or bool((singular[..., -1] <= 1e-12 * singular[..., 0]).any()):
            raise LawError(
                f"a low-rank factor of shape {tuple(factor.shape)} needs no more columns than rows, and independent ones; drop "
                "the redundant columns, or use Covariance.full(F @ F.mT)"
            )
        return Covariance(singular.square(), tail[..., None], basis, factor.shape[-2])

    def map(self, function: Spectral) -> "Covariance":
        """`function` of the matrix: applied to every eigenvalue (they keep shape (*batch, r) and (*batch, 1))."""
        return Covariance(function(self.values), function(self.tail), self.basis, self.dim)

    def apply(self, function: Spectral, x: Tensor) -> Tensor:
        """`function(matrix) @ x` for vectors x, shape (*batch, d)."""
        if self.basis is None:
            return function(self.values) * x
        inner = torch.einsum("...dr,...d->...r", self.basis, x)
        if self._square:
            return torch.einsum("...dr,...r->...d", self.basis, function(self.values) * inner)
        tail = function(self.tail)
        return torch.einsum("...dr,...r->...d", self.basis, (function(self.values) - tail) * inner) + tail * x

    def across(self, rows: Tensor) -> Tensor:
        """`rows @ matrix` for a stack of vectors, shape (m, d), shared by the batch: shape (*batch, m, d)."""
        if self.basis is None:
            return self.values[..., None, :] * rows
        inner = rows @ self.basis
        scaled = inner * self.values[..., None, :]
        if self._square:
            return scaled @ self.basis.mT
        tail = self.tail[..., None, :]
        return (scaled - tail * inner) @ self.basis.mT + tail * rows

    def quadratic(self, function: Spectral, x: Tensor) -> Tensor:
        """`x^T function(matrix) x`, shape (*batch,)."""
        if self.basis is None:
            return (function(self.values) * x.square()).sum(-1)
        inner = torch.einsum("...dr,...d->...r", self.basis, x)
        energy = (function(self.values) * inner.square()).sum(-1)
        if self._square:
            return energy
        # The part off the basis, by projection and not by subtracting energies: no cancellation.
        rest = x - torch.einsum("...dr,...r->...d", self.basis, inner)
        return energy + function(self.tail)[..., 0] * rest.square().sum(-1)

    def logdet(self, function: Spectral) -> Tensor:
        """`log det function(matrix)`, shape (*batch,)."""
        values = function(self.values).log()
        if self.basis is None:
            return values.mean(-1) * self.dim
        inside = values.sum(-1)
        outside = self.dim - self.values.shape[-1]
        return inside if self._square else inside + outside * function(self.tail)[..., 0].log()

    def variances(self) -> Tensor:
        """Diagonal of the matrix, shape (*batch, d)."""
        if self.basis is None:
            return self.values.expand(*self.values.shape[:-1], self.dim)
        inside = torch.einsum("...dr,...r->...d", self.basis.square(), self.values)
        return inside if self._square else inside + self.tail * (1 - self.basis.square().sum(-1))

    def dense(self) -> Tensor:
        """The matrix itself, shape (*batch, d, d)."""
        if self.basis is None:
            return torch.diag_embed(self.variances())
        eye = torch.eye(self.dim, dtype=self.values.dtype, device=self.values.device)
        tail = torch.zeros_like(self.tail) if self._square else self.tail
        scaled = self.basis * (self.values - tail)[..., None, :]
        return scaled @ self.basis.mT + tail[..., None] * eye

    def pick(self, component: Tensor) -> "Covariance":
        """Of batch shape (B or 1, K), the one covariance per sample that `component`, shape (B,), names."""
        basis = None if self.basis is None else pick(self.basis, component)
        return Covariance(pick(self.values, component), pick(self.tail, component), basis, self.dim)

    def rows(self, which: slice | Tensor) -> "Covariance":
        """The same covariance for some rows of the batch; a shared one (batch shape (1, ...)) stays shared."""
        values, tail = (v if v.shape[0] == 1 else v[which] for v in (self.values, self.tail))
        basis = self.basis if self.basis is None or self.basis.shape[0] == 1 else self.basis[which]
        return Covariance(values, tail, basis, self.dim)

    @property
    def _square(self) -> bool:
        return self.basis is not None and self.basis.shape[-1] == self.dim


def pick(values: Tensor, component: Tensor) -> Tensor:
    """Rows of `values`, shape (B or 1, K, ...), chosen per sample by `component`, shape (B,): shape (B, ...)."""
    if values.shape[0] == 1:
        return values[0][component]
    return values[torch.arange(component.shape[0], device=values.device), component]


def _nonnegative(values: Tensor, name: str) -> None:
    if not bool((values >= 0).all()):
        raise LawError(f"{name} must be >= 0 and not NaN, got a smallest value of {float(values.min()):.3g}")
