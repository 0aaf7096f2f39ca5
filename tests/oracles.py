"""Closed forms that tests measure against, and the exact propagation of moments through any sampler.

Nothing here imports the code under test beyond laws, schedules and the loop: an oracle that shares a formula with what it
judges proves nothing.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

from undrift import schedules
from undrift.core import Covariance
from undrift.grids import Grid
from undrift.laws import Mixture, Normal, Point
from undrift.simulate import last, trajectory

F64 = torch.float64

SCHEDULES: dict[str, schedules.Schedule] = {
    "vp": schedules.VP(),
    "subvp": schedules.SubVP(),
    "cosine": schedules.Cosine(),
    "ve": schedules.VE(),
    "edm": schedules.EDM(),
    "linear_flow": schedules.LinearFlow(),
    "trigonometric": schedules.Trigonometric(),
    # Neither unit power nor constant alpha: catches a formula that holds on VP or EDM alone.
    "custom": schedules.Custom(lambda t: 1 - 0.7 * t * t, lambda t: 0.05 * t + 2 * t * t),
}
"""Every Gaussian schedule, by name."""


def time(value: float | Sequence[float]) -> Tensor:
    """Times as the library wants them."""
    return torch.tensor(value, dtype=F64)


def at_noise(schedule: schedules.Schedule, noise: float) -> float:
    """The time at which sigma / alpha = noise: the same difficulty on every clock."""
    return float(schedule.time(time(-2 * math.log(noise))))


def draws(shape: Sequence[int], seed: int) -> Tensor:
    """Standard normal float64 numbers of a seed."""
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(tuple(shape)))


def spd(d: int, seed: int, low: float = 0.2, high: float = 2.0) -> Tensor:
    """A covariance with eigenvalues spread over [low, high] and a random basis, shape (d, d)."""
    basis = torch.linalg.qr(draws((d, d), seed))[0]
    return basis @ torch.diag(torch.linspace(low, high, d, dtype=F64)) @ basis.mT


def normal(mean: Tensor, cov: Tensor) -> Normal:
    """A Gaussian law of batch shape (1,) from a mean (d,) and a covariance (d, d)."""
    full = Covariance.full(cov[None])
    return Normal(mean[None], full)


COVARIANCES = ("isotropic", "diagonal", "full", "low_rank", "flat")


def covariance(kind: str, k: int, d: int, seed: int) -> Covariance:
    """K covariances of size d of a kind; `flat` has no variance off a subspace."""
    noise = draws((k, d), seed)
    if kind == "isotropic":
        return Covariance.isotropic(0.3 + 0.2 * torch.arange(k, dtype=F64), d)
    if kind == "diagonal":
        return Covariance.diagonal(0.1 + noise.square())
    if kind == "full":
        return Covariance.full(torch.stack([spd(d, seed + 1 + i) for i in range(k)]))
    rank = max(1, d // 3)
    tail = torch.zeros(k, dtype=F64) if kind == "flat" else 0.1 + 0.1 * torch.arange(k, dtype=F64)
    return Covariance.low_rank(draws((k, d, rank), seed + 7), tail)


def mixture(d: int, kind: str = "full", k: int = 3, seed: int = 0, spread: float = 1.5) -> Mixture:
    """A mixture of K unequal Gaussians in d dimensions."""
    weights = torch.arange(1, k + 1, dtype=F64)
    means = spread * draws((k, d), seed + 100) / math.sqrt(d) * math.sqrt(2)
    return Mixture.of(weights / weights.sum(), means, covariance(kind, k, d, seed))


def clustered(seed: int, d: int = 8, k: int = 25) -> Mixture:
    """A mixture of unit total variance, half of it within its parts, with random weights and Wishart covariances."""
    rng = np.random.default_rng(seed)
    weights = rng.dirichlet(np.ones(k))
    means, roots = rng.normal(size=(k, d)), rng.normal(size=(k, d, d)) / np.sqrt(d)
    means = means - weights @ means
    scale = np.sqrt(weights @ (means**2).mean(1) + weights @ (roots**2).sum((1, 2)) / d)
    cov = Covariance.full(torch.from_numpy(roots @ roots.transpose(0, 2, 1) / scale**2))
    return Mixture.of(torch.from_numpy(weights), torch.from_numpy(means / scale), cov)


def line(weights: Sequence[float], means: Sequence[float], variances: Sequence[float]) -> Mixture:
    """A mixture on the line."""
    means_, variances_ = time(means)[:, None], time(variances)
    return Mixture.of(time(weights), means_, Covariance.isotropic(variances_, 1))


class Fixed:
    """A source of noise that hands out what it was given: expectations become sums over a design."""

    def __init__(self, *noise: Tensor):
        self.noise, self.used = noise, 0

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The next block."""
        block = self.noise[self.used]
        self.used += 1
        return block.reshape(tuple(shape)).to(dtype)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Never asked for."""
        raise AssertionError("a uniform number was drawn where only Gaussian noise was expected")

    def replay(self) -> "Fixed":
        """From the start."""
        return Fixed(*self.noise)


class Impulse(Fixed):
    """Noise that is zero but for one unit impulse in a row of its own, per draw and coordinate."""

    def __init__(self, first: int, dim: int):
        self.row, self.dim = first, dim

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Zeros, with the identity in the next `dim` rows."""
        z = torch.zeros(tuple(shape), dtype=dtype)
        z.flatten(1)[self.row : self.row + self.dim] = torch.eye(self.dim, dtype=dtype)
        self.row += self.dim
        return z

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The middle: chooses among components, of which only one may have weight if the result is to be affine."""
        return torch.full(tuple(shape), 0.5, dtype=dtype)


class Counting(Fixed):
    """Zero noise, and the number of draws that were asked for."""

    draws = 0

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Zeros."""
        self.draws += 1
        return torch.zeros(tuple(shape), dtype=dtype)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The middle, as `Impulse` has it."""
        return torch.full(tuple(shape), 0.5, dtype=dtype)


def moments(act: Callable[[Tensor, Any], Tensor], mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean (d,) and covariance (d, d) of act(x, rng), affine in x ~ (mean, cov) and in every noise draw.

    One row with the mean, one per column of the start's root and one per noise coordinate give every coefficient: no Monte
    Carlo. How many draws there are is counted first.
    """
    d, counting = mean.shape[0], Counting()
    act(mean[None], counting)
    values, basis = torch.linalg.eigh(cov)
    root = basis * values.clamp_min(0).sqrt()
    x = mean.repeat(1 + d + d * counting.draws, 1)
    x[1 : d + 1] += root.mT
    x = act(x, Impulse(1 + d, d))
    spread = x[1:] - x[0]
    return x[0], spread.mT @ spread


def propagate(denoiser: Any, sampler: Any, grid: Grid, mean: Tensor, cov: Tensor) -> tuple[Tensor, Tensor]:
    """Exact mean (d,) and covariance (d, d) of a sampler's result when its step is affine (a Gaussian data law)."""
    return moments(lambda x, rng: run(denoiser, sampler, grid, x, rng), mean, cov)


@dataclass(frozen=True)
class MeanOnly:
    """A denoiser that knows the posterior mean and nothing else, as a network does."""

    inner: Any

    @property
    def path(self) -> Any:
        """The inner path."""
        return self.inner.path

    def __call__(self, x_t: Tensor, t: Tensor) -> Point:
        """Point at the posterior mean."""
        return Point(self.inner(x_t, t).mean)


@dataclass
class Counted:
    """A denoiser that counts its calls and notes the times."""

    inner: Any
    calls: int = 0

    @property
    def path(self) -> Any:
        """The inner path."""
        return self.inner.path

    def __call__(self, x_t: Tensor, t: Tensor) -> Any:
        """The inner law."""
        self.calls += 1
        return self.inner(x_t, t)


def run(denoiser: Any, sampler: Any, grid: Grid, x: Tensor, rng: Any = None) -> Tensor:
    """The last state of a trajectory."""
    return last(trajectory(denoiser, sampler, grid, x, rng=rng or Fixed()))


def slopes(errors: Sequence[float]) -> list[float]:
    """Measured orders between successive doublings of the number of steps."""
    return [math.log2(a / b) for a, b in pairwise(errors)]


def relative(got: Tensor, want: Tensor) -> float:
    """Largest error as a share of the largest entry."""
    return float((got - want).abs().max() / want.abs().max().clamp_min(1e-300))


def gaussian_kl(mean: Tensor, cov: Tensor) -> float:
    """KL(N(mean, cov) || N(0, I)), nats."""
    d = mean.shape[0]
    return float(0.5 * (cov.trace() + mean @ mean - d - torch.linalg.slogdet(cov)[1]))


def hermite(nodes: int) -> tuple[Tensor, Tensor]:
    """Nodes and weights of E f(Z), Z standard normal."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    return torch.from_numpy(x), torch.from_numpy(w / w.sum())


def dense_log_prob(law: Any, alpha: Tensor | float, sigma: Tensor | float, x: Tensor) -> Tensor:
    """Log density of alpha X + sigma z at x (B, d), X a Gaussian or a mixture: by dense Cholesky, shape (B,)."""
    if isinstance(law, Normal):
        weights, means, covs = torch.zeros(1, dtype=x.dtype), law.mean.flatten(1), law.cov.dense()
    else:
        weights, means, covs = law.log_weights[0], law.means[0].flatten(1), law.cov.dense()[0]
    eye = torch.eye(x.shape[-1], dtype=x.dtype)
    inside = torch.distributions.MultivariateNormal(alpha * means, alpha**2 * covs + sigma**2 * eye, validate_args=False)
    return torch.logsumexp(weights + inside.log_prob(x[:, None]), -1)


def dense_score(law: Any, alpha: float, sigma: float, x: Tensor) -> Tensor:
    """Gradient of `dense_log_prob` by autodiff, shape (B, d)."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        return torch.autograd.grad(dense_log_prob(law, alpha, sigma, x).sum(), x)[0]


def flow(law: Any, x: Tensor, noise: float, end: float) -> Tensor:
    """Probability-flow solution for x / alpha from one noise level sigma / alpha to another, by DOP853 at 1e-12.

    In this clock the ODE is dx = -level^2 score dlog(level) whatever the schedule, so one reference serves them all.
    """

    def slope(clock: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat).reshape(x.shape)
        level = math.exp(clock)
        return (-(level**2) * dense_score(law, 1.0, level, state)).numpy().ravel()

    span = (math.log(noise), math.log(end))
    done = solve_ivp(slope, span, x.numpy().ravel(), method="DOP853", rtol=1e-12, atol=1e-12)
    return torch.from_numpy(done.y[:, -1]).reshape(x.shape)


def endpoint(law: Any, x: Tensor, *, end: float = 0.0) -> Tensor:
    """Probability-flow solution from pure noise x (alpha = 0, sigma = 1) to the noise level sigma / alpha = `end`, of x / norm.

    By DOP853 in the angle atan2(sigma, alpha), in which dx / dtheta = z_hat cos - x0_hat sin is finite everywhere. To data it
    stops at 1e-6 and goes on by the posterior mean, which is right to the square of that where the law has variance.
    """
    angle = max(math.atan(end), 1e-6)

    def clean(state: Tensor, theta: float) -> Tensor:
        alpha, sigma = time(math.cos(theta)), time(math.sin(theta))
        return law.posterior(state, alpha * (theta < 0.5 * math.pi), sigma.square()).mean

    def slope(theta: float, flat: np.ndarray) -> np.ndarray:
        state = torch.from_numpy(flat).reshape(x.shape)
        return ((math.cos(theta) * state - clean(state, theta)) / math.sin(theta)).numpy().ravel()

    done = solve_ivp(slope, (0.5 * math.pi, angle), x.numpy().ravel(), method="DOP853", rtol=1e-10, atol=1e-10)
    state = torch.from_numpy(done.y[:, -1]).reshape(x.shape)
    return state if end else clean(state, angle)
