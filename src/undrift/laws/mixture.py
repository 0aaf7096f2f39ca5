"""A mixture of Gaussians."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import Covariance, Look, Random, Seen
from undrift.core.covariance import pick
from undrift.laws.kernels import Affine
from undrift.laws.mass import box_log_mass
from undrift.laws.normal import Normal
from undrift.laws.parts import (
    check_probabilities,
    column,
    draw_index,
    expect,
    gaussian_log_prob,
    look,
    ratio,
    shared_rows,
    weighted,
)
from undrift.laws.point import Numbers
from undrift.typing import State


@dataclass(frozen=True)
class Mixture(Numbers):
    """A mixture of K Gaussians over the flattened event.

    Attributes:
        log_weights: shape (B or 1, K), normalised on construction through `Mixture.of`.
        means: shape (B or 1, K, *E).
        cov: covariances of batch shape (B or 1, K).
    """

    log_weights: Float[Tensor, "b k"]
    means: Tensor
    cov: Covariance

    @staticmethod
    def of(weights: Float[Tensor, "k"], means: Tensor, cov: Covariance) -> "Mixture":
        """A single mixture (batch shape (1,)) from weights (K,), means (K, *E) and covariances of batch shape (K,).

        Raises:
            LawError: weights are negative or do not sum to 1.
            ShapeError: shapes do not match.
        """
        check_probabilities(weights)
        expect(
            means.ndim >= 2 and means.shape[0] == weights.shape[0] and cov.dim == means[0].numel(),
            f"a mixture of {weights.shape[0]} components got means of shape {tuple(means.shape)} (wanted (K, *E)) and "
            f"covariances of size {cov.dim}",
        )
        lead = Covariance(cov.values[None], cov.tail[None], None if cov.basis is None else cov.basis[None], cov.dim)
        return Mixture(weights.log()[None], means[None], lead)

    @property
    def mean(self) -> State:
        """Mean, shape (B, *E)."""
        return weighted(self.log_weights.exp(), self.means)

    @property
    def variance(self) -> State:
        """Variance of each coordinate, shape (B, *E): within plus between components."""
        within = self.cov.variances().reshape(*self.cov.values.shape[:2], *self.means.shape[2:])
        between = (self.means - self.mean[:, None]).square()
        return weighted(self.log_weights.exp(), within + between)

    def covariance(self) -> Tensor:
        """Dense covariance, shape (B, d, d): within plus between components."""
        weights = self.log_weights.exp()
        offset = (self.means - self.mean[:, None]).flatten(2)
        between = torch.einsum("bk,bkd,bke->bde", weights.expand(offset.shape[:2]), offset, offset)
        return weighted(weights, self.cov.dense()) + between

    def rows(self, which: slice | Tensor) -> "Mixture":
        """The same law for some rows of the batch."""
        return Mixture(shared_rows(self.log_weights, which), shared_rows(self.means, which), self.cov.rows(which))

    def expand(self, batch: int) -> "Mixture":
        """The same mixture for `batch` rows."""
        return replace(self, log_weights=self.log_weights.expand(batch, -1))

    def sample(self, rng: Random) -> State:
        """A component, then a Gaussian draw; rows are those of `log_weights`."""
        component = draw_index(self.log_weights, rng)
        return Normal(pick(self.means, component), self.cov.pick(component)).sample(rng)

    def log_prob(self, x: State) -> Tensor:
        """Log density, shape (B,), nats."""
        inside = gaussian_log_prob((x[:, None] - self.means).flatten(2), self.cov, lambda v: v)
        return torch.logsumexp(self.log_weights + inside, -1)

    def through(self, kernel: Affine) -> "Mixture":
        """Each component through the kernel."""
        scale, noise = column(kernel.scale, self.cov.values), column(kernel.variance, self.cov.values)
        means = column(kernel.scale, self.means) * self.means + kernel.shift[:, None]
        weights = self.log_weights.expand(means.shape[0], -1)
        return Mixture(weights, means, self.cov.map(lambda v: scale.square() * v + noise))

    def posterior(self, y: State, alpha: Tensor, variance: Tensor) -> "Mixture":
        """Responsibilities by Bayes' rule, each component by its Kalman update."""
        a, v = look(alpha, variance, self.cov.values)
        residual = (y[:, None] - column(alpha, self.means) * self.means).flatten(2)
        evidence = gaussian_log_prob(residual, self.cov, lambda s: a.square() * s + v)
        log_weights = torch.log_softmax(self.log_weights + evidence, -1)
        step = self.cov.apply(lambda s: ratio(a * s, a.square() * s + v), residual)
        means = self.means + step.reshape(residual.shape[0], *self.means.shape[1:])
        return Mixture(log_weights, means, self.cov.map(lambda s: ratio(v * s, a.square() * s + v)))

    def moved(self, shift: State) -> "Mixture":
        """The same law, elsewhere."""
        return replace(self, means=self.means + shift[:, None])

    def evidence(self, look: Look, y: Tensor, variance: Tensor) -> State:
        """Log density of y = A X + noise, shape (B,), nats."""
        seen = Seen.of(self.cov, look, variance)
        return torch.logsumexp(self.log_weights + seen.evidence(self._residual(look, y)), -1)

    def observe(self, look: Look, y: Tensor, variance: Tensor) -> "Mixture":
        """Law of X given y = A X + noise: responsibilities by Bayes' rule, each component by its Kalman update."""
        seen, residual = Seen.of(self.cov, look, variance), self._residual(look, y)
        log_weights = torch.log_softmax(self.log_weights + seen.evidence(residual), -1)
        moved = seen.move(residual)
        means = self.means + moved.reshape(*moved.shape[:2], *self.means.shape[2:])
        return Mixture(log_weights, means, seen.left())

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Log P(low <= X <= high), shape (B,), nats; bounds broadcast against the event, and may be infinite.

        Raises:
            LawError: more than one coordinate is bounded, and the covariance may tie them together.

        Checked by: tests/laws/test_log_mass.py::test_mixtures_weigh_their_components
        """
        inside = box_log_mass(self.means.flatten(2), self.cov, low, high, self.means.shape[2:])
        return torch.logsumexp(self.log_weights + inside, -1)

    def log_mgf(self, direction: Tensor) -> Tensor:
        """Log E exp(direction . X), shape (B,)."""
        return torch.logsumexp(self.log_weights + self._lean(direction), -1)

    def tilt(self, direction: Tensor) -> "Mixture":
        """Proportional to p(x) exp(direction . x): every component moves by its own C g, and weighs what it gains."""
        shift = self.cov.apply(lambda v: v, self._spread(direction))
        log_weights = torch.log_softmax(self.log_weights + self._lean(direction), -1)
        return Mixture(log_weights, self.means + shift.reshape(*shift.shape[:2], *self.means.shape[2:]), self.cov)

    def _residual(self, look: Look, y: Tensor) -> Tensor:
        """Y - A mean of every component, shape (B, K, m)."""
        rows, components = self.means.shape[:2]
        return y[:, None] - look.forward(self.means.flatten(0, 1)).reshape(rows, components, -1)

    def _spread(self, direction: Tensor) -> Tensor:
        """A direction, shape (B or 1, *E), against every component, shape (B, K, d)."""
        flat = direction.flatten(1)[:, None]
        return flat.expand(max(flat.shape[0], self.means.shape[0]), self.means.shape[1], -1)

    def _lean(self, direction: Tensor) -> Tensor:
        """Log E exp(direction . X) of every component, shape (B, K)."""
        flat = self._spread(direction)
        return (flat * self.means.flatten(2)).sum(-1) + 0.5 * self.cov.quadratic(lambda v: v, flat)
