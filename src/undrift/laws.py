r"""Distributions as frozen dataclasses of tensors: what a denoiser answers, and what a step backwards draws from.

A law has batch shape (B,) and event shape E; `sample(rng)` draws one event per row. Everything else is a small capability:
`Moments` (`mean`, `variance`), `Density` (`log_prob`), `Conjugate` (`posterior`, Bayes' rule under a Gaussian look).

Two operations are closed over laws, and they are all that a path needs to step:

*through*: push a law through a kernel, :math:`\int k(\cdot \mid x)\, p(dx)`. `Affine` kernels serve continuous paths,
`Jump` kernels discrete ones; `Point`, `Empirical` and `Pair` do not care which.

*posterior*: condition a law on :math:`y = \alpha x + \sqrt{v}\, z`. A Gaussian stays Gaussian, a mixture a mixture, weighted
atoms weighted atoms: this is every exact denoiser at once.

Checked by: tests/test_laws.py
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from undrift.core import Covariance, Random
from undrift.core.covariance import pick
from undrift.errors import LawError, ShapeError
from undrift.typing import State

__all__ = [
    "Affine",
    "Categorical",
    "Clean",
    "Compound",
    "Conjugate",
    "Density",
    "Empirical",
    "Jump",
    "Kernel",
    "Law",
    "Mixture",
    "Moments",
    "Normal",
    "Pair",
    "Point",
]

_LOG_2PI = 1.8378770664093453


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

    def rows(self, which: slice) -> Any:
        """The same law for some rows of the batch."""
        ...

    def extrapolate(self, other: Any, scale: float) -> Any:
        """`other + scale (self - other)` in the coordinates where evidence adds: label guidance."""
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
class Kernel(Protocol):
    """A conditional law: x -> law of y, one per batch row."""

    @property
    def batch(self) -> int:
        """Number of rows."""
        ...

    def at(self, x: Tensor) -> "Density":
        """Law of y given x, batch shape that of x."""
        ...


def column(c: Tensor, like: Tensor) -> Tensor:
    """Coefficients of shape () or (B,) as a column that broadcasts against `like`, shape (B, ...)."""
    return c.to(like.dtype) if c.ndim == 0 else c.to(like).reshape(-1, *([1] * (like.ndim - 1)))


@dataclass(frozen=True)
class Affine:
    r"""Gaussian kernel :math:`y = \text{scale}\, x + \text{shift} + \sqrt{\text{variance}}\, z`.

    Attributes:
        scale: shape () or (B,).
        shift: shape (B, *E).
        variance: shape () or (B,), >= 0.
    """

    scale: Tensor
    shift: Tensor
    variance: Tensor

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.shift.shape[0]

    def at(self, x: Tensor) -> "Normal":
        """Law of y given x, shape (B, *E)."""
        mean = column(self.scale, self.shift) * x + self.shift
        variance = self.variance.to(mean)
        variance = variance.expand(mean.shape[0]) if variance.ndim == 0 else variance
        return Normal(mean, Covariance.isotropic(variance, mean[0].numel()))


@dataclass(frozen=True)
class Jump:
    r"""Finite-state kernel, sitewise: :math:`p(y \mid x) = w_x (\text{land}_y + \text{stay}_y [y = x])`.

    A full K x K matrix is never needed: jumps of the shared families land on a law that does not depend on where they
    started.

    Attributes:
        land: shape (B, *E, K).
        stay: shape (B, *E, K).
        weight: shape (B, *E, K); 0 marks a start that is impossible.
    """

    land: Float[Tensor, "b *e k"]
    stay: Float[Tensor, "b *e k"]
    weight: Float[Tensor, "b *e k"]

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.land.shape[0]

    def at(self, x: Tensor) -> "Categorical":
        """Law of y given symbols x, integer, shape (B, *E)."""
        weight = self.weight.gather(-1, x[..., None])
        here = torch.nn.functional.one_hot(x, self.land.shape[-1]).to(self.land.dtype)
        return Categorical.from_probabilities(weight * (self.land + self.stay * here))

    def average(self, probabilities: Tensor) -> "Categorical":
        """Law of y when x is itself random with `probabilities`, shape (B, *E, K)."""
        weighted = probabilities * self.weight
        return Categorical.from_probabilities(self.land * weighted.sum(-1, keepdim=True) + self.stay * weighted)


def shared_rows(values: Tensor, which: slice) -> Tensor:
    """Rows of a tensor whose leading axis is the batch, or 1 and shared by it."""
    return values if values.shape[0] == 1 else values[which]


class Numbers:
    """What every law of numbers does alike."""

    mean: Any

    def extrapolate(self, other: "Numbers", scale: float) -> "Point":
        """Label guidance in the mean. A guided mean belongs to no known posterior, so the answer is a `Point`."""
        return Point(torch.lerp(other.mean, self.mean, scale))


@dataclass(frozen=True)
class Point(Numbers):
    """All mass at one value: a network that regresses the clean end answers with its mean.

    Attributes:
        value: shape (B, *E).
    """

    value: Tensor

    @property
    def mean(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The value."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)

    def sample(self, rng: Random) -> Tensor:
        """The value; draws nothing."""
        return self.value

    def through(self, kernel: Kernel) -> Density:
        """The kernel at the value."""
        return kernel.at(self.value)

    def posterior(self, y: Tensor, alpha: Tensor, variance: Tensor) -> "Point":
        """Unchanged: nothing is left to learn."""
        return Point(self.value.expand(y.shape[0], *self.value.shape[1:]))

    def rows(self, which: slice) -> "Point":
        """The same law for some rows of the batch."""
        return Point(shared_rows(self.value, which))


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
        _expect(self.mean.ndim >= 2, f"a Normal needs a mean of shape (B, *E), got {tuple(self.mean.shape)}")
        d = self.mean[0].numel()
        _expect(self.cov.dim == d, f"a Normal with an event of {d} numbers got a covariance of size {self.cov.dim}")
        batch = self.cov.values.shape[0] if self.cov.values.ndim == 2 else None
        _expect(
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

    def through(self, kernel: Affine) -> "Normal":
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
        step = self.cov.apply(lambda s: _ratio(a * s, a.square() * s + v), residual)
        mean = self.mean + step.reshape(y.shape)
        return Normal(mean, self.cov.map(lambda s: _ratio(v * s, a.square() * s + v)))

    def rows(self, which: slice) -> "Normal":
        """The same law for some rows of the batch."""
        return Normal(self.mean[which], self.cov.rows(which))


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
        _probabilities(weights)
        _expect(
            means.ndim >= 2 and means.shape[0] == weights.shape[0] and cov.dim == means[0].numel(),
            f"a mixture of {weights.shape[0]} components got means of shape {tuple(means.shape)} (wanted (K, *E)) and "
            f"covariances of size {cov.dim}",
        )
        lead = Covariance(cov.values[None], cov.tail[None], None if cov.basis is None else cov.basis[None], cov.dim)
        return Mixture(weights.log()[None], means[None], lead)

    @property
    def mean(self) -> State:
        """Mean, shape (B, *E)."""
        return _weighted(self.log_weights.exp(), self.means)

    @property
    def variance(self) -> State:
        """Variance of each coordinate, shape (B, *E): within plus between components."""
        within = self.cov.variances().reshape(*self.cov.values.shape[:2], *self.means.shape[2:])
        between = (self.means - self.mean[:, None]).square()
        return _weighted(self.log_weights.exp(), within + between)

    def covariance(self) -> Tensor:
        """Dense covariance, shape (B, d, d): within plus between components."""
        weights = self.log_weights.exp()
        offset = (self.means - self.mean[:, None]).flatten(2)
        between = torch.einsum("bk,bkd,bke->bde", weights.expand(offset.shape[:2]), offset, offset)
        return _weighted(weights, self.cov.dense()) + between

    def rows(self, which: slice) -> "Mixture":
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
        step = self.cov.apply(lambda s: _ratio(a * s, a.square() * s + v), residual)
        means = self.means + step.reshape(residual.shape[0], *self.means.shape[1:])
        return Mixture(log_weights, means, self.cov.map(lambda s: _ratio(v * s, a.square() * s + v)))


@dataclass(frozen=True)
class Categorical:
    """Independent symbols, one categorical per site.

    Attributes:
        log_probs: normalised, shape (B, *E, K), nats.
    """

    log_probs: Float[Tensor, "b *e k"]

    @staticmethod
    def from_probabilities(weights: Tensor) -> "Categorical":
        """From weights >= 0, shape (B, *E, K), normalised here.

        Raises:
            LawError: a site has no possible symbol (all weights 0), or a weight is negative or NaN.
        """
        total = weights.sum(-1, keepdim=True)
        if weights.device.type == "cpu" and not bool(((total > 0) & (weights >= 0).all(-1, keepdim=True)).all()):
            raise LawError(
                "a categorical law has a site without any possible symbol (or a negative weight): the law of the clean end "
                "contradicts the state; a denoiser must give the symbol it sees at sites that have not jumped"
            )
        return Categorical((weights / total).log())

    @property
    def probs(self) -> Tensor:
        """Probabilities, shape (B, *E, K)."""
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """Mean of the one-hot symbol: the probabilities, shape (B, *E, K)."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """Variance of the one-hot symbol, shape (B, *E, K)."""
        return self.probs * (1 - self.probs)

    def sample(self, rng: Random) -> Int[Tensor, "b *e"]:
        """One symbol per site."""
        return draw_index(self.log_probs, rng)

    def log_prob(self, x: Int[Tensor, "b *e"]) -> Float[Tensor, "b"]:
        """Log mass of whole events, shape (B,), nats."""
        return self.log_probs.gather(-1, x[..., None])[..., 0].flatten(1).sum(1)

    def through(self, kernel: Jump) -> "Categorical":
        """Sitewise average of the kernel."""
        return kernel.average(self.probs)

    def extrapolate(self, other: "Categorical", scale: float) -> "Categorical":
        """Label guidance in the log probabilities, normalised; a symbol that is impossible without the label stays so."""
        guided = torch.lerp(other.log_probs, self.log_probs, scale)
        impossible = (other.log_probs == -torch.inf) | (self.log_probs == -torch.inf)
        return Categorical(torch.log_softmax(torch.where(impossible, -torch.inf, guided), -1))

    def rows(self, which: slice) -> "Categorical":
        """The same law for some rows of the batch."""
        return Categorical(shared_rows(self.log_probs, which))


@dataclass(frozen=True)
class Empirical(Numbers):
    """Weighted atoms shared by the batch: numbers or symbols, whole events jointly.

    Attributes:
        log_weights: normalised, shape (B or 1, N).
        atoms: shape (N, *E).
    """

    log_weights: Float[Tensor, "b n"]
    atoms: Tensor

    @staticmethod
    def of(atoms: Tensor, weights: Tensor | None = None) -> "Empirical":
        """A single empirical law (batch shape (1,)) from atoms (N, *E) and weights (N,), uniform by default."""
        n = atoms.shape[0]
        dtype = atoms.dtype if atoms.dtype.is_floating_point else torch.float64
        weights = torch.full((n,), 1 / n, dtype=dtype, device=atoms.device) if weights is None else weights
        _probabilities(weights)
        _expect(weights.shape[0] == n, f"{n} atoms got {weights.shape[0]} weights")
        return Empirical(weights.log()[None], atoms)

    @property
    def mean(self) -> Tensor:
        """Weighted mean, shape (B, *E)."""
        mean = self.log_weights.exp() @ self.atoms.flatten(1).to(self.log_weights.dtype)
        return mean.reshape(-1, *self.atoms.shape[1:])

    @property
    def variance(self) -> Tensor:
        """Weighted variance of each coordinate, shape (B, *E)."""
        # Around the atoms' common mean, so that the difference of squares does not cancel.
        atoms = self.atoms.flatten(1).to(self.log_weights.dtype)
        centred = atoms - atoms.mean(0)
        weights = self.log_weights.exp()
        return (weights @ centred.square() - (weights @ centred).square()).reshape(-1, *self.atoms.shape[1:])

    def rows(self, which: slice) -> "Empirical":
        """The same law for some rows of the batch."""
        return replace(self, log_weights=shared_rows(self.log_weights, which))

    def expand(self, batch: int) -> "Empirical":
        """The same law for `batch` rows."""
        return replace(self, log_weights=self.log_weights.expand(batch, -1))

    def sample(self, rng: Random) -> Tensor:
        """One atom per row."""
        return self.atoms[draw_index(self.log_weights, rng)]

    def through(self, kernel: Kernel) -> "Compound":
        """An atom, then the kernel at it, each row its own atom."""
        return Compound(self.expand(max(kernel.batch, self.log_weights.shape[0])), kernel)

    def posterior(self, y: State, alpha: Tensor, variance: Tensor) -> "Empirical":
        """Softmax attention over the atoms: weights times the Gaussian likelihood of y.

        Source: Pidstrigach 2022, the optimum of denoising regression on a finite set.
        Checked by: tests/gaussian/test_exact.py::test_empirical_posterior_is_softmax_attention
        """
        # log N(y; alpha x, v) up to a constant is (alpha / v) (y.x - alpha |x|^2 / 2). In float64: it is a small difference
        # of large numbers, one matrix product, and the weights it makes are what memorisation is measured by.
        y64, atoms = y.flatten(1).double(), self.atoms.flatten(1).double()
        a, v = look(alpha.double(), variance.double(), y64)
        fit = torch.where(self.log_weights > -torch.inf, a * (y64 @ atoms.mT - 0.5 * a * atoms.square().sum(1)), -torch.inf)
        # Short of the best by 0 costs 0, also under a noiseless look, where everything else is ruled out.
        short = fit.amax(-1, keepdim=True) - fit
        log_weights = torch.log_softmax(self.log_weights.double() - torch.where(short > 0, short / v, 0.0), -1)
        return replace(self, log_weights=log_weights.to(self.log_weights.dtype))


@dataclass(frozen=True)
class Compound:
    """An atom of an empirical law, then a kernel at it: a kernel density that is never written out.

    Attributes:
        base: law of the atom.
        kernel: conditional law given the atom.
    """

    base: Empirical
    kernel: Kernel

    def sample(self, rng: Random) -> Tensor:
        """An atom, then a draw of the kernel at it."""
        return self.kernel.at(self.base.sample(rng)).sample(rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, shape (B,), nats: one pass over the atoms, memory O(B)."""
        total = torch.full(x.shape[:1], -torch.inf, dtype=self.base.log_weights.dtype, device=x.device)
        weights = self.base.log_weights
        likely = self.base.atoms[weights.argmax(-1)]  # stands in for atoms of no weight, where the kernel may be undefined
        for n, atom in enumerate(self.base.atoms):
            possible = (weights[:, n] > -torch.inf).reshape(-1, *([1] * (x.ndim - 1)))
            inside = self.kernel.at(torch.where(possible, atom, likely).expand(x.shape)).log_prob(x)
            total = torch.logaddexp(total, weights[:, n] + inside)
        return total


@dataclass(frozen=True)
class Pair:
    """Both ends of a two-sided path, as two laws over the same rows.

    Attributes:
        x_0: law of the clean end.
        x_1: law of the reference end.
    """

    x_0: Any
    x_1: Any

    def sample(self, rng: Random) -> Tensor:
        """A draw of both ends, stacked on a new last axis: shape (B, *E, 2)."""
        return torch.stack([self.x_0.sample(rng), self.x_1.sample(rng)], -1)

    def through(self, kernel: Kernel) -> Law:
        """The clean end through the kernel: a step back needs no more."""
        return self.x_0.through(kernel)

    def rows(self, which: slice) -> "Pair":
        """The same law for some rows of the batch."""
        return Pair(self.x_0.rows(which), self.x_1.rows(which))

    def extrapolate(self, other: "Pair", scale: float) -> "Pair":
        """Label guidance in both ends."""
        return Pair(self.x_0.extrapolate(other.x_0, scale), self.x_1.extrapolate(other.x_1, scale))


def gaussian_log_prob(residual: Tensor, cov: Covariance, spectrum) -> Tensor:
    """Log density of a centred Gaussian with covariance `spectrum(cov)` at `residual`, shape (*batch, d) -> (*batch,)."""
    quadratic = cov.quadratic(lambda s: 1 / spectrum(s), residual)
    return -0.5 * (quadratic + cov.logdet(spectrum) + residual.shape[-1] * _LOG_2PI)


def draw_index(log_weights: Tensor, rng: Random) -> Tensor:
    """An index along the last axis per row, by inverting the cumulative distribution (one uniform number per draw)."""
    weights = log_weights.exp()
    cumulative = weights.cumsum(-1)
    u = rng.uniform(log_weights.shape[:-1], dtype=weights.dtype, device=weights.device)[..., None]
    index = (u * cumulative[..., -1:] >= cumulative).sum(-1).clamp_max(log_weights.shape[-1] - 1)
    return torch.where(torch.isnan(cumulative[..., -1]), -1, index)  # no symbol: `simulate.sample` names the step


def look(alpha: Tensor, variance: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and variance of a Gaussian look as columns; a look with alpha = 0 says nothing, whatever its variance."""
    variance = torch.where(alpha == 0, torch.ones_like(variance), variance)
    return column(alpha, like), column(variance, like)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator with 0 / 0 = 0: an eigenvalue 0 moves nothing, even under a noiseless look."""
    return torch.where(numerator == 0, torch.zeros_like(numerator), numerator / denominator)


def _weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over components: weights (B or 1, K) and values (B or 1, K, ...) -> (B, ...)."""
    return (weights.reshape(*weights.shape, *([1] * (values.ndim - 2))) * values).sum(1)


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise ShapeError(message)


def _probabilities(weights: Tensor) -> None:
    total = float(weights.sum())
    if not bool((weights >= 0).all()) or abs(total - 1) > 1e-6:
        raise LawError(f"weights must be >= 0 and sum to 1, got a sum of {total:.6g}; divide them by their sum")
