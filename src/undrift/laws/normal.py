"""One Gaussian."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from undrift.core import Covariance, Look, Random, Seen
from undrift.laws.mass import box_log_mass
from undrift.laws.parts import column, expect, gaussian_log_prob, look, ratio
from undrift.laws.point import Numbers
from undrift.typing import State

if TYPE_CHECKING:
    import undrift.laws.kernels  # which answers with a Normal


@dataclass(frozen=True)
class Normal(Numbers):
    """A Gaussian over the flattened event.

    Attributes:
        mean: shape (B, *E); the covariance may be shared: batch shape (1,) or (B,).
        cov: covariance over the d = prod(E) flattened coordinates.
    """

    mean: State
    cov: Covariance

    def __post_init__(self) -> None:
        expect(self.mean.ndim >= 2, f"a Normal needs a mean of shape (B, *E), got {tuple(self.mean.shape)}")
        d = self.mean[0].numel()
        expect(self.cov.dim == d, f"a Normal with an event of {d} numbers got a covariance of size {self.cov.dim}")
        batch = self.cov.values.shape[0] if self.cov.values.ndim == 2 else None
        expect(
            batch in (1, self.mean.shape[0]),
            f"a Normal with {self.mean.shape[0]} rows needs a covariance of batch shape (1,) or (B,), got {batch}",
        )

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, shape (B, *E)."""
        return self.cov.variances().expand(self.mean.shape[0], -1).reshape(self.mean.shape)

    def covariance(self) -> Tensor:
        """Dense covariance, shape (B or 1, d, d)."""
        return self.cov.dense()

    def sample(self, rng: Random) -> State:
        """Mean + Sigma^(1/2) z."""
        z = rng.normal(self.mean.shape, dtype=self.mean.dtype, device=self.mean.device)
        return self.mean + self.cov.apply(torch.sqrt, z.flatten(1)).reshape(self.mean.shape)

    def log_prob(self, x: State) -> Tensor:
        """Gaussian log density, shape (B,), nats; needs a covariance without zero eigenvalues."""
        return gaussian_log_prob((x - self.mean).flatten(1), self.cov, lambda v: v)

    def through(self, kernel: "undrift.laws.kernels.Affine") -> "Normal":
        """Scale * mean + shift, scale^2 Sigma + variance."""
        scale, noise = column(kernel.scale, self.cov.values), column(kernel.variance, self.cov.values)
        mean = column(kernel.scale, self.mean) * self.mean + kernel.shift
        return Normal(mean, self.cov.map(lambda v: scale.square() * v + noise))

    def posterior(self, y: State, alpha: Tensor, variance: Tensor) -> "Normal":
        r"""Kalman update, every gain a function of the spectrum.

        .. math:: m + \alpha\Sigma(\alpha^2\Sigma + v)^{-1}(y - \alpha m), \quad v\Sigma(\alpha^2\Sigma + v)^{-1}
        """
        a, v = look(alpha, variance, self.cov.values)
        residual = (y - column(alpha, y) * self.mean).flatten(1)
        step = self.cov.apply(lambda s: ratio(a * s, a.square() * s + v), residual)
        mean = self.mean + step.reshape(y.shape)
        return Normal(mean, self.cov.map(lambda s: ratio(v * s, a.square() * s + v)))

    def rows(self, which: slice | Tensor) -> "Normal":
        """The same law for some rows of the batch."""
        return Normal(self.mean[which], self.cov.rows(which))

    def moved(self, shift: Tensor) -> "Normal":
        """The same law, elsewhere."""
        return Normal(self.mean + shift, self.cov)

    def evidence(self, look: Look, y: Tensor, variance: Tensor) -> Tensor:
        """Log density of y = A X + noise, shape (B,), nats."""
        return Seen.of(self.cov, look, variance).evidence(y - look.forward(self.mean))

    def observe(self, look: Look, y: Tensor, variance: Tensor) -> "Normal":
        """Law of X given y = A X + noise: the Kalman update."""
        seen = Seen.of(self.cov, look, variance)
        step = seen.move(y - look.forward(self.mean))
        return Normal(self.mean + step.reshape(-1, *self.mean.shape[1:]), seen.left())

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Log P(low <= X <= high), shape (B,), nats; bounds broadcast against the event, and may be infinite.

        Raises:
            LawError: more than one coordinate is bounded, and the covariance may tie them together.

        Checked by: tests/laws/test_log_mass.py::test_the_mass_of_an_interval_keeps_its_digits
        """
        return box_log_mass(self.mean.flatten(1), self.cov, low, high, self.mean.shape[1:])

    def log_mgf(self, direction: Tensor) -> Tensor:
        """Log E exp(direction . X) = g.m + g.C g / 2, shape (B,)."""
        flat = direction.expand(-1, *self.mean.shape[1:]).flatten(1)
        return (flat * self.mean.flatten(1)).sum(1) + 0.5 * self.cov.quadratic(lambda v: v, flat)

    def tilt(self, direction: Tensor) -> "Normal":
        """Proportional to p(x) exp(direction . x): the mean moves by C g."""
        shift = self.cov.apply(lambda v: v, direction.expand(-1, *self.mean.shape[1:]).flatten(1))
        return Normal(self.mean + shift.reshape(-1, *self.mean.shape[1:]), self.cov)
