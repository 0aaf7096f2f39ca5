r"""Exact denoisers of two-sided paths.

*Pinned*: the reference end is known, and what is left is a Gaussian look at the clean end,

.. math:: x_t - b_t x_1 = a_t x_0 + \gamma_t z ,

so any conjugate law of the data answers. *Gaussian*: two independent Gaussian ends with full covariances,
:math:`x_t = a x_0 + b x_1 + \gamma z`, and the posterior of both ends by linear algebra. *Coupled*: finitely many weighted
pairs of ends, which covers every coupling (independent, optimal, given).

Checked by: tests/bridge/test_exact.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.bridge.path import Path
from undrift.core import Covariance, check_state, pad
from undrift.errors import LawError
from undrift.laws import Conjugate, Empirical, Normal, Pair
from undrift.typing import State, Time

__all__ = ["Coupled", "GaussianEnds", "Pinned"]


@dataclass(frozen=True)
class Pinned:
    """The exact denoiser of a bridge whose reference ends are known.

    Attributes:
        path: a bridge pinned to x_1 (its source is a `Point`).
        data: law of the clean end given x_1, batch shape (1,) or (B,).
    """

    path: Path
    data: Conjugate

    def __call__(self, x_t: State, t: Time) -> Conjugate:
        """The exact posterior of X_0 given X_t and X_1."""
        check_state(x_t)
        q = self.path.schedule
        seen = x_t - pad(q.b(t), x_t) * self.path.source.mean
        return self.data.posterior(seen, q.a(t), q.gamma(t).square())


@dataclass(frozen=True)
class GaussianEnds:
    """The exact denoiser between two independent Gaussians.

    Attributes:
        path: a bridge whose source is a `Normal` of batch shape (1,).
        data: law of the clean end, a `Normal` of batch shape (1,).
    """

    path: Path
    data: Normal

    def __call__(self, x_t: State, t: Time) -> Normal:
        """The exact posterior of X_0 given X_t."""
        return self.ends(x_t, t).x_0

    def ends(self, x_t: State, t: Time) -> Pair:
        """The exact posterior marginals of both ends given X_t; t of shape ()."""
        check_state(x_t)
        q = self.path.schedule
        a, b, gamma = float(q.a(t)), float(q.b(t)), float(q.gamma(t))
        m_0, m_1 = self.data.mean.flatten(1), self.path.source.mean.flatten(1)
        c_0, c_1 = self.data.covariance()[0], self.path.source.covariance()[0]
        total = a * a * c_0 + b * b * c_1 + gamma * gamma * torch.eye(c_0.shape[0], dtype=c_0.dtype)
        residual = x_t.flatten(1) - a * m_0 - b * m_1
        laws = []
        for weight, mean, cov in ((a, m_0, c_0), (b, m_1, c_1)):
            gain = torch.linalg.solve(total, weight * cov).mT
            posterior = Covariance.full(_symmetric(cov - weight * gain @ cov))
            laws.append(Normal((mean + residual @ gain.mT).reshape(x_t.shape), _shared(posterior)))
        return Pair(*laws)


@dataclass(frozen=True)
class Coupled:
    """The exact denoiser of finitely many weighted pairs of ends.

    Attributes:
        path: a bridge with gamma > 0 inside.
        x_0: clean ends, shape (N, *E).
        x_1: reference ends, shape (N, *E), paired with x_0.
        weights: shape (N,), sum 1.

    Raises:
        LawError: shapes differ.
    """

    path: Path
    x_0: Tensor
    x_1: Tensor
    weights: Float[Tensor, "n"]

    def __post_init__(self) -> None:
        if self.x_0.shape != self.x_1.shape or self.weights.shape != self.x_0.shape[:1]:
            raise LawError(
                f"a coupling pairs ends of one shape with one weight a pair, got {tuple(self.x_0.shape)}, "
                f"{tuple(self.x_1.shape)} and {tuple(self.weights.shape)}"
            )

    def __call__(self, x_t: State, t: Time) -> Empirical:
        """The exact posterior of X_0 given X_t."""
        return self.ends(x_t, t).x_0

    def ends(self, x_t: State, t: Time) -> Pair:
        """The exact posterior marginals of both ends given X_t: one set of weights over the pairs."""
        check_state(x_t)
        q = self.path.schedule
        centre = pad(q.a(t), x_t)[..., None] * self.x_0.flatten(1) + pad(q.b(t), x_t)[..., None] * self.x_1.flatten(1)
        distance = (x_t.flatten(1)[:, None] - centre).square().sum(-1)
        variance = pad(q.gamma(t).square(), distance)
        log_weights = torch.log_softmax(self.weights.log() - 0.5 * distance / variance, -1)
        return Pair(Empirical(log_weights, self.x_0), Empirical(log_weights, self.x_1))


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)


def _shared(cov: Covariance) -> Covariance:
    return Covariance(cov.values[None], cov.tail[None], None if cov.basis is None else cov.basis[None], cov.dim)


Ends = Any
