r"""What a linear look sees of a Gaussian: evidence, gain and the covariance that is left.

For :math:`x \sim N(m, C)` and :math:`y = A x + \sqrt R z`, with :math:`S = A C A^\top + R`,

.. math:: \log p(y) = \log N(y;\ A m,\ S), \qquad E[x | y] = m + C A^\top S^{-1} (y - A m), \qquad
          \mathrm{Cov}[x | y] = C - C A^\top S^{-1} A C .

Checked by: tests/core/test_seen.py (dense linear algebra)
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core.covariance import Covariance
from undrift.errors import LawError

__all__ = ["Look", "Seen", "white_log_prob"]

_LOG_2PI = 1.8378770664093453


@runtime_checkable
class Look(Protocol):
    """A linear look at an event, as the operators of `undrift.operators` are.

    Attributes:
        event: shape E of one event.
    """

    event: tuple[int, ...]

    @property
    def matrix(self) -> Tensor:
        """Dense matrix, shape (m, d)."""
        ...

    @property
    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """(left, values, right), directions of singular value 0 dropped."""
        ...

    def forward(self, x: Tensor) -> Tensor:
        """A x, (B, *E) -> (B, m)."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """A^T y, (B, m) -> (B, *E)."""
        ...


@dataclass(frozen=True)
class Seen:
    """S = A C A^T + R and C A^T, written out.

    Attributes:
        cov: C, batch shape (*batch,).
        look: A.
        variance: diagonal of R, shape (m,) or (1,).
        cross: A C, shape (*batch, m, d).
        factor: Cholesky factor of S, shape (*batch, m, m).
    """

    cov: Covariance
    look: Look
    variance: Tensor
    cross: Tensor
    factor: Tensor

    @staticmethod
    def of(cov: Covariance, look: Look, variance: Tensor) -> "Seen":
        """What `look` with independent noise of `variance`, shape (m,) or (1,), sees of a covariance.

        Raises:
            LawError: S is singular: no noise, and a look that the covariance already determines.
        """
        a = look.matrix.to(cov.values)
        cross = cov.across(a)
        s = cross @ a.mT + torch.diag_embed(variance.to(a).expand(a.shape[0]))
        factor, info = torch.linalg.cholesky_ex(s)
        if factor.device.type == "cpu" and bool((info != 0).any()):
            raise LawError(
                "a noiseless look at a law without spread in that direction has no density: give the measurement some noise, "
                "or lift it under a law with a covariance (guidance.second_order), or drop measurements that repeat each other"
            )
        return Seen(cov, look, variance, cross, factor)

    def evidence(self, residual: Tensor) -> Tensor:
        """Log N(residual; 0, S), shape (*batch, m) -> (*batch,), nats."""
        logdet = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return white_log_prob(self._whiten(residual, transposed=False)) - logdet

    def move(self, residual: Tensor) -> Tensor:
        """C A^T S^{-1} residual, shape (*batch, m) -> (*batch, d)."""
        solved = self._whiten(self._whiten(residual, transposed=False), transposed=True)
        return torch.einsum("...md,...m->...d", self.cross, solved)

    def left(self) -> Covariance:
        """The covariance left: low-rank in closed form where C is a multiple of the identity, else one eigendecomposition."""
        c, noise = self.cov.values, self.variance.to(self.cov.values)
        if self.cov.basis is None and c.shape[-1] == 1 and noise.numel() == 1:
            _, singular, right = self.look.svd
            shrunk = c * noise / (c * singular.to(c).square() + noise)
            basis = right.to(c).expand(*c.shape[:-1], *right.shape)
            return Covariance(shrunk.expand(*c.shape[:-1], singular.shape[0]), c, basis, self.cov.dim)
        # Joseph's form, (I - K A) C (I - K A)^T + K R K^T: a sum of two squares stays a covariance however little is left.
        gain = torch.cholesky_solve(self.cross, self.factor).mT
        a = self.look.matrix.to(c)
        stays = torch.eye(self.cov.dim, dtype=c.dtype, device=c.device) - gain @ a
        dense = stays @ self.cov.dense() @ stays.mT + (gain * noise) @ gain.mT
        return Covariance.full(0.5 * (dense + dense.mT))

    def _whiten(self, residual: Tensor, *, transposed: bool) -> Tensor:
        """L^{-1} residual, or L^{-T} residual, shape (*batch, m).

        A factor that the batch shares, batch shape (1, ...), is solved with once, for all rows as right-hand sides.
        """
        factor = self.factor.mT if transposed else self.factor
        if factor.shape[0] == 1:
            columns = residual.movedim(0, -1)
            return torch.linalg.solve_triangular(factor[0], columns, upper=transposed).movedim(-1, 0)
        full = factor.expand(*residual.shape, residual.shape[-1])
        return torch.linalg.solve_triangular(full, residual[..., None], upper=transposed)[..., 0]


def white_log_prob(z: Tensor) -> Tensor:
    """Log density of independent standard normal numbers, summed over the last axis, nats."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * _LOG_2PI)
