r"""Exact denoisers: the posterior of the clean end when the law of the data is known.

.. math:: q(x_0 \mid x_t) \propto p(x_0)\, N(x_t;\ \alpha_t x_0,\ \sigma_t^2 I)

A law that is `Conjugate` answers this itself, so one class serves a Gaussian (full, diagonal, low-rank), a mixture with full
covariances, data on a linear subspace and a finite set of points. These are the truth that every learned part is measured
against.

Checked by: tests/gaussian/test_exact.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import Covariance, check_state, pad
from undrift.errors import LabelError, LawError
from undrift.gaussian.denoiser import Reclocked
from undrift.gaussian.path import Path
from undrift.laws import Affine, Conjugate, Density, Mixture, Normal
from undrift.typing import State, Time

__all__ = ["Exact", "ExactConditional", "JointGaussian", "LabelledMixture", "subspace"]


@dataclass(frozen=True)
class Exact:
    """The denoiser of a known data law.

    Attributes:
        path: a Gaussian path.
        data: law of the data, batch shape (1,) or (B,).
    """

    path: Path
    data: Conjugate

    def __call__(self, x_t: State, t: Time) -> Conjugate:
        """The exact posterior of X_0 given X_t = x_t."""
        check_state(x_t)
        pad(t, x_t)
        schedule = self.path.schedule
        return self.data.posterior(x_t, schedule.alpha(t), schedule.sigma(t).square())

    def marginal(self, t: Time) -> Density:
        """The law of X_t, the data pushed through the path; batch shape that of the data law, t of shape ()."""
        schedule = self.path.schedule
        scale, variance = schedule.alpha(t), schedule.sigma(t).square()
        return self.data.through(Affine(scale, torch.zeros_like(self.data.mean), variance))  # pyright: ignore[reportReturnType]

    def error(self, x_0: State, x_t: State, t: Time) -> State:
        """Posterior mean minus x_0: head x0."""
        return self(x_t, t).mean - x_0

    def rows(self, which: Tensor) -> "Exact":
        """The denoiser of some rows of the batch."""
        return self if self.data.mean.shape[0] == 1 else Exact(self.path, self.data.rows(which))

    def on(self, path: Path) -> Reclocked:
        """The same law on another clock."""
        return Reclocked(self, path)


@dataclass(frozen=True)
class ExactConditional:
    """Exact denoisers of X_0 given a condition.

    Attributes:
        path: a Gaussian path.
        law: cond, shape (B, ...) -> law of the data given it, batch shape (B,).
        nothing: the condition that says nothing.
    """

    path: Path
    law: Callable[[Tensor], Conjugate]
    nothing: float

    def given(self, cond: Tensor) -> Exact:
        """The exact denoiser given `cond`."""
        return Exact(self.path, self.law(cond))

    def null(self, cond: Tensor) -> Tensor:
        """Conditions that say nothing."""
        return torch.full_like(cond, self.nothing)

    def on(self, path: Path) -> Reclocked:
        """The same laws on another clock."""
        return Reclocked(self, path)


@dataclass(frozen=True)
class LabelledMixture:
    """A mixture whose components carry class labels: the law given a label is exact.

    Attributes:
        mixture: law of the data, batch shape (1,).
        labels: class of each component, shape (K,), integers 0..C-1; the label C says nothing.

    Raises:
        LabelError: not one label per component, or a class without a component.
    """

    mixture: Mixture
    labels: Tensor

    def __post_init__(self) -> None:
        known = sorted(set(self.labels.tolist()))
        if self.labels.shape != self.mixture.log_weights.shape[1:] or known != list(range(len(known))):
            raise LabelError(
                f"labels {self.labels.tolist()} do not name the {self.mixture.log_weights.shape[1]} components; give each a "
                "class, numbered 0, 1, 2, ... without a gap"
            )

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return int(self.labels.max()) + 1

    def __call__(self, cond: Tensor) -> Mixture:
        """Law of the data given labels, shape (B,).

        Raises:
            LabelError: a label is not in 0..C.
        """
        if bool(((cond < 0) | (cond > self.classes)).any()):
            raise LabelError(f"labels run from 0 to {self.classes - 1}, and {self.classes} says nothing; got {cond.tolist()}")
        allowed = (cond[:, None] == self.labels) | (cond[:, None] == self.classes)
        log_weights = torch.where(allowed, self.mixture.log_weights, -torch.inf)
        return Mixture(torch.log_softmax(log_weights, -1), self.mixture.means, self.mixture.cov)


@dataclass(frozen=True)
class JointGaussian:
    r"""A joint Gaussian of data x and observation y: the law of x given y is exact (conditional diffusion, P15).

    .. math:: x \mid y \sim N\big(m_x + C_{xy} C_{yy}^{-1} (y - m_y),\ C_{xx} - C_{xy} C_{yy}^{-1} C_{yx}\big)

    Attributes:
        mean: shape (d + k,), x first.
        covariance: shape (d + k, d + k).
        dim: d.

    Checked by: tests/gaussian/test_conditional.py
    """

    mean: Float[Tensor, "n"]
    covariance: Float[Tensor, "n n"]
    dim: int

    def __call__(self, cond: Float[Tensor, "b k"]) -> Normal:
        """Law of x given y = cond, batch shape (B,)."""
        d = self.dim
        gain = torch.linalg.solve(self.covariance[d:, d:], self.covariance[d:, :d]).mT
        cov = self.covariance[:d, :d] - gain @ self.covariance[d:, :d]
        mean = self.mean[:d] + (cond - self.mean[d:]) @ gain.mT
        full = Covariance.full(cov)
        return Normal(mean, Covariance(full.values[None], full.tail[None], _lead(full.basis), d))


def subspace(basis: Float[Tensor, "D d"], weights: Tensor, means: Tensor, covariances: Tensor) -> Mixture:
    r"""Data on a linear subspace: x = A z with z a mixture of Gaussians, exactly no variance off the subspace.

    The score then splits (survey, eq. 8), and its part off the subspace blows up as 1/sigma^2,

    .. math:: s(x, t) = A \nabla \log p^{ld}_t(A^\top x) - \sigma_t^{-2} (I - A A^\top) x .

    Args:
        basis: A, orthonormal columns, shape (D, d).
        weights: shape (K,).
        means: of z, shape (K, d).
        covariances: of z, shape (K, d, d).

    Returns:
        Law of x, event shape (D,), batch shape (1,).

    Raises:
        LawError: the columns of A are not orthonormal.

    Source: Chen et al. 2023 (2302.07194). Checked by: tests/gaussian/test_exact.py::test_subspace_score_splits
    """
    eye = torch.eye(basis.shape[1], dtype=basis.dtype, device=basis.device)
    if not torch.allclose(basis.mT @ basis, eye, atol=1e-6):
        raise LawError("the columns of a subspace basis must be orthonormal; take Q of torch.linalg.qr(basis)")
    values, inner = torch.linalg.eigh(Covariance.full(covariances).dense())
    cov = Covariance(values.clamp_min(0), torch.zeros_like(values[..., :1]), basis @ inner, basis.shape[0])
    return Mixture.of(weights, means @ basis.mT, cov)


def _lead(values: Tensor | None) -> Tensor | None:
    return None if values is None else values[None]
