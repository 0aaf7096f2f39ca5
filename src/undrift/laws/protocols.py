"""What a law and a kernel offer: small capabilities."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from undrift.core import Look, Random


@runtime_checkable
class Law(Protocol):
    """A distribution: one independent event per batch row."""

    def sample(self, rng: Random) -> Tensor:
        """One draw per row, shape (B, *E)."""
        ...


@runtime_checkable
class Clean(Law, Protocol):
    """A law of the clean end: it can be pushed one step back, cut into rows, and contrasted with another."""

    def through(self, kernel: Any) -> Law:
        """Law of Y where X follows this law and Y | X follows `kernel`."""
        ...

    def rows(self, which: slice | Tensor) -> Any:
        """The same law for some rows of the batch: a slice, or indices, shape (n,)."""
        ...

    def extrapolate(self, other: Any, scale: float | Tensor) -> Any:
        """`other + scale (self - other)` in the coordinates where evidence adds: label guidance; scale () or (B,)."""
        ...


@runtime_checkable
class Moments(Clean, Protocol):
    """A law whose mean and marginal variances are known."""

    @property
    def mean(self) -> Tensor:
        """Mean, shape (B, *E)."""
        ...

    @property
    def variance(self) -> Tensor:
        """Variance of each coordinate, shape (B, *E)."""
        ...


@runtime_checkable
class Density(Law, Protocol):
    """A law with a density (or a mass function)."""

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density at x, shape (B, *E) -> (B,), nats."""
        ...


@runtime_checkable
class Conjugate(Moments, Protocol):
    """A law closed under Bayes' rule with a Gaussian look."""

    def posterior(self, y: Tensor, alpha: Tensor, variance: Tensor) -> "Conjugate":
        """Law of X given y = alpha X + sqrt(variance) z."""
        ...


@runtime_checkable
class Liftable(Clean, Protocol):
    """A law under which a potential can be lifted: linear Gaussian looks and linear rewards in closed form."""

    def evidence(self, look: Look, y: Tensor, variance: Tensor) -> Tensor:
        """Log density of y = A X + noise of independent variances, shape (B,), nats."""
        ...

    def observe(self, look: Look, y: Tensor, variance: Tensor) -> Any:
        """Law of X given y = A X + noise."""
        ...

    def log_mgf(self, direction: Tensor) -> Tensor:
        """Log E exp(direction . X), shape (B,)."""
        ...

    def tilt(self, direction: Tensor) -> Any:
        """Law proportional to p(x) exp(direction . x)."""
        ...


@runtime_checkable
class Kernel(Protocol):
    """A conditional law: x -> law of y, one per batch row."""

    @property
    def batch(self) -> int:
        """Number of rows."""
        ...

    def at(self, x: Tensor) -> "Density":
        """Law of y given x, batch shape that of x."""
        ...
