r"""Exact denoisers of two-sided paths.

*Pinned*: the reference end is known, and what is left is a Gaussian look at the clean end,

.. math:: x_t - b_t x_1 = a_t x_0 + \gamma_t z ,

so any conjugate law of the data answers. *Gaussian*: two independent Gaussian ends with full covariances,
:math:`x_t = a x_0 + b x_1 + \gamma z`, and the posterior of both ends by linear algebra. *Coupled*: finitely many weighted
pairs of ends, which covers every coupling (independent, optimal, given).

Checked by: tests/bridge/test_exact.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.bridge.path import Path
from undrift.core import Covariance, check_state, pad
from undrift.errors import LawError
from undrift.laws import Conjugate, Empirical, Normal, Pair
from undrift.typing import State, Time

__all__ = ["BothEnds", "Coupled", "GaussianEnds", "Pinned"]


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
        """The exact posterior marginals of both ends given X_t."""
        check_state(x_t)
        q, flat = self.path.schedule, x_t.flatten(1)
        a, b, gamma = (pad(c, flat).to(flat.device).reshape(-1, 1, 1) for c in (q.a(t), q.b(t), q.gamma(t)))
        m_0, m_1 = self.data.mean.flatten(1), self.path.source.mean.flatten(1)
        c_0, c_1 = self.data.covariance(), self.path.source.covariance()
        eye = torch.eye(flat.shape[1], dtype=flat.dtype, device=flat.device)
        seen_0, seen_1, noise = a.square() * c_0, b.square() * c_1, gamma.square() * eye
        residual = flat - a[..., 0] * m_0 - b[..., 0] * m_1
        laws = []
        for weight, mean, cov, rest in ((a, m_0, c_0, seen_1 + noise), (b, m_1, c_1, seen_0 + noise)):
            gain = torch.linalg.solve(seen_0 + seen_1 + noise, weight * cov).mT
            left = eye - weight * gain
            # Joseph's form: a sum of two squares, so it stays a covariance where it vanishes (of x_1 at t = 1).
            posterior = Covariance.full(_symmetric(left @ cov @ left.mT + gain @ rest @ gain.mT))
            laws.append(Normal((mean + (gain @ residual[..., None])[..., 0]).reshape(x_t.shape), posterior))
        return Pair(*laws)


@dataclass(frozen=True)
class BothEnds:
    """An exact denoiser that answers with a `Pair`: what velocity, noise and score of an interpolant are made of.

    Attributes:
        exact: `GaussianEnds` or `Coupled`.

    Checked by: tests/grammar/test_interpolant.py
    """

    exact: "GaussianEnds | Coupled"

    @property
    def path(self) -> Path:
        """The path it was made for."""
        return self.exact.path

    def __call__(self, x_t: State, t: Time) -> Pair:
        """The exact posterior marginals of both ends given X_t."""
        return self.exact.ends(x_t, t)


@dataclass(frozen=True)
class Coupled:
    """The exact denoiser of finitely many weighted pairs of ends.

    Attributes:
        path: a bridge with gamma > 0 inside.
        x_0: clean ends, shape (N, *E).
        x_1: reference ends, shape (N, *E), paired with x_0.
        weights: shape (N,), sum 1.

    Raises:
        LawError: shapes differ, or weights are no probabilities.
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
        Empirical.of(self.x_0, self.weights)  # refuses weights that are no probabilities

    def __call__(self, x_t: State, t: Time) -> Empirical:
        """The exact posterior of X_0 given X_t."""
        return self.ends(x_t, t).x_0

    def ends(self, x_t: State, t: Time) -> Pair:
        """The exact posterior marginals of both ends given X_t: one set of weights over the pairs.

        At gamma = 0 it is the limit: all weight on the pairs nearest to x_t, which at t = 1 are those that end there.

        Checked by: tests/bridge/test_exact.py::test_coupled_at_the_reference_end_is_the_conditional_coupling
        """
        check_state(x_t)
        q, flat = self.path.schedule, x_t.flatten(1)[:, None]
        a, b = pad(q.a(t), flat), pad(q.b(t), flat)
        distance = (flat - a * self.x_0.flatten(1) - b * self.x_1.flatten(1)).square().sum(-1)
        excess = distance - distance.amin(-1, keepdim=True)
        penalty = torch.where(excess > 0, 0.5 * excess / pad(q.gamma(t).square(), distance), 0.0)
        log_weights = torch.log_softmax(self.weights.log() - penalty, -1)
        return Pair(Empirical(log_weights, self.x_0), Empirical(log_weights, self.x_1))


def _symmetric(matrix: Tensor) -> Tensor:
    return 0.5 * (matrix + matrix.mT)
