r"""Sequential Monte Carlo along a path: samples of the steered law with the evidence Z, asymptotically exact.

Particles step back under a steered law, and weights correct what the steering got wrong. With kernels k of the model and q of
the proposals, and any positive twist h with :math:`h_0 = e^r`,

.. math:: w_1 = h_1(x_1), \qquad
          w_s = w_t\, \frac{k(x_s | x_t)\, h_s(x_s)}{q(x_s | x_t)\, h_t(x_t)}, \qquad
          \hat Z = \frac1N \sum_i w^i, \qquad E[\hat Z] = E\big[e^{r(X_0)}\big].

The last step uses the model's own kernel and weighs by r itself. Unbiased is Z, not its logarithm. What the model's kernel
gets wrong itself (a mean in place of a law, too few steps) no weight repairs: Z is then that of the discretised model.

Weights are kept until the effective sample size falls below a share of N, then particles are resampled systematically, every
problem by itself. Many problems run side by side.

Sources: Wu et al. 2023 (twisted SMC, 2306.17775), algorithm 1; Del Moral et al. 2006 (adaptive resampling).
Checked by: tests/test_particles.py
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError, NonFiniteError, PotentialError, ShapeError, TimeError
from undrift.grids import Grid
from undrift.laws import Law

__all__ = ["Particles", "Steering", "effective_size", "smc", "systematic"]


@runtime_checkable
class Steering(Protocol):
    """A steered denoiser as particles see it: `guidance.twist`, `guidance.condition` and `guidance.weigh` are ones."""

    @property
    def path(self) -> Any:
        """The path."""
        ...

    @property
    def potential(self) -> Any:
        """What is wanted, at the clean end: (B, *E) -> (B,), with data for `batch` rows."""
        ...

    def ask(self, x_t: Tensor, t: Tensor) -> tuple[Any, Tensor, Any]:
        """(unsteered law, log h, steered law) at x_t."""
        ...

    def per(self, particles: int) -> Any:
        """The same steering for `particles` rows of every problem."""
        ...


@dataclass(frozen=True)
class Particles:
    """What a run leaves: P problems with N weighted particles each.

    Attributes:
        x: states at the end of the grid, shape (P, N, *E).
        log_weights: normalised, shape (P, N), nats.
        log_evidence: log of the unbiased estimate of Z, shape (P,), nats.
        sizes: effective sample size before each step and at the end, shape (steps + 1, P).
        ancestors: index of each particle's parent at each step, shape (steps, P, N); the identity where nothing was resampled.
        calls: calls of the steered denoiser.
    """

    x: Tensor
    log_weights: Tensor
    log_evidence: Tensor
    sizes: Tensor
    ancestors: Tensor
    calls: int

    def draw(self, rng: Random, n: int | None = None) -> Tensor:
        """N equally weighted draws per problem (default: as many as particles), shape (P, n, *E), systematically.

        Args:
            rng: a source with one stream, or one per problem.
            n: number of draws.

        Raises:
            PotentialError: a problem whose particles all have weight 0.
        """
        self._alive()
        problems, count = self.log_weights.shape
        n = count if n is None else n
        u = rng.uniform((problems,), dtype=self.log_weights.dtype, device=self.x.device)
        index = systematic(self.log_weights, u, n)
        return _take(self.x, index)

    @property
    def mean(self) -> Tensor:
        """Weighted mean, shape (P, *E)."""
        self._alive()
        weights = self.log_weights.exp().reshape(*self.log_weights.shape, *([1] * (self.x.ndim - 2)))
        return (weights * self.x).sum(1)

    @property
    def lineages(self) -> Tensor:
        """How many of the first particles have a descendant left, shape (P,): 1 means that all share one ancestor."""
        index = torch.arange(self.x.shape[1], device=self.x.device).expand(self.log_weights.shape)
        for parents in self.ancestors.flip(0):
            index = parents.gather(1, index)
        return torch.tensor([row.unique().numel() for row in index], device=index.device)

    def _alive(self) -> None:
        dead = self.log_evidence == -torch.inf
        if bool(dead.any()):
            raise PotentialError(
                f"every particle of {int(dead.sum())} of {dead.shape[0]} problems has weight 0 (first: problem "
                f"{int(dead.nonzero()[0])}): nothing drawn satisfies what is wanted; take more particles, steer towards it "
                "(guidance.twist), or check that it is possible at all"
            )


def effective_size(log_weights: Tensor) -> Tensor:
    """(sum w)^2 / sum w^2 of unnormalised log weights, shape (P, N) -> (P,); 0 where all weights are 0."""
    size = torch.exp(2 * torch.logsumexp(log_weights, -1) - torch.logsumexp(2 * log_weights, -1))
    return torch.where(torch.isfinite(size), size, 0.0)


def systematic(log_weights: Tensor, u: Tensor, n: int) -> Tensor:
    """Indices of n draws from weights, shape (P, N), by one uniform number u per problem, shape (P,): shape (P, n).

    Index i comes floor or ceil of n w_i times, and n w_i times on average.

    Source: Kitagawa 1996. Checked by: tests/test_particles.py::test_systematic_resampling_keeps_expected_counts
    """
    cumulative = torch.softmax(log_weights, -1).cumsum(-1)
    points = (torch.arange(n, device=u.device, dtype=cumulative.dtype) + u[:, None]) / n
    points = points.clamp_max(1 - torch.finfo(points.dtype).eps / 2)  # n - 1 + u may round to n: that is past every weight
    return torch.searchsorted(cumulative, points * cumulative[:, -1:], right=True).clamp_max(log_weights.shape[-1] - 1)


def resample(log_weights: Tensor, sizes: Tensor, u: Tensor, threshold: float) -> tuple[Tensor, Tensor, Tensor]:
    """Resample the problems whose effective size is below a share of N; the others keep their particles and weights.

    Args:
        log_weights: unnormalised, shape (P, N).
        sizes: their effective sizes, shape (P,).
        u: one uniform number per problem, shape (P,).
        threshold: the share; 0 resamples nothing.

    Returns:
        (parents (P, N), log weights (P, N), what the log evidence gains (P,)).

    Checked by: tests/test_particles.py::test_the_evidence_is_unbiased
    """
    n = log_weights.shape[-1]
    needy = (sizes < threshold * n) & (sizes > 0)
    here = torch.arange(n, device=u.device).expand_as(log_weights)
    parents = torch.where(needy[:, None], systematic(log_weights, u, n), here)
    level = torch.where(needy, torch.logsumexp(log_weights, -1) - math.log(n), 0.0)
    return parents, torch.where(needy[:, None], 0.0, log_weights), level


@torch.no_grad()
def smc(
    steering: Steering,
    grid: Grid,
    *,
    event: tuple[int, ...],
    particles: int,
    rng: Random,
    problems: int = 1,
    threshold: float = 0.5,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prior: Law | None = None,
) -> Particles:
    """Draw weighted samples of the steered law, with its evidence.

    Args:
        steering: a steered denoiser; it may hold one potential for all problems, or one per problem.
        grid: times, falling.
        event: shape E of one sample.
        particles: N, per problem.
        rng: one stream for all, or one per row (problems times particles of them).
        problems: P independent runs side by side.
        threshold: resample a problem once its effective size falls below this share of N; 0 never, 1 at every step.
        dtype: of the states.
        device: of the states.
        prior: law of the states at the grid's first time; the path's own prior by default, which lives at t = 1.

    Returns:
        Weighted particles. As many calls as steps (and as many gradients where the steering takes them).

    Raises:
        TimeError: the grid starts below t = 1 and no prior was given.
        GridError: the grid rises, or stops before t = 0.
        ShapeError: the denoiser answers in another dtype than the states'; the potential holds data for another number of
            problems; the prior draws other states.
        NonFiniteError: a weight is NaN.
        PotentialError: fewer than one particle or problem, or a threshold outside [0, 1].

    Checked by: tests/test_particles.py::test_the_evidence_is_unbiased,
        tests/test_particles.py::test_particles_fall_to_the_floor_with_their_number
    """
    if particles < 1 or problems < 1 or not 0 <= threshold <= 1:
        raise PotentialError(
            "smc needs at least one particle and one problem and a threshold in [0, 1], got "
            f"{particles}, {problems}, {threshold:g}"
        )
    if grid.times[0] < grid.times[-1]:
        raise GridError("particles run from noise to data; give a grid whose times fall")
    if grid.times[-1] != 0:
        raise GridError(
            "particles are weighed by the potential at the clean end, and this grid stops at "
            f"t = {grid.times[-1]:g}; end it at 0"
        )
    if prior is None and grid.times[0] != 1:
        raise TimeError(
            f"the grid starts at t = {grid.times[0]:g}, and the path's prior is the law at t = 1; start the grid at 1, or give "
            "prior=, the law of the state at the grid's first time"
        )
    held = steering.potential.batch
    if held not in (1, problems):
        raise ShapeError(f"the potential holds data for {held} rows, one per problem: give problems={held}, or one row for all")
    path, steering, rows = steering.path, steering.per(particles), problems * particles
    like = torch.empty((rows, *event), dtype=dtype, device=device)
    x = (prior or path.prior(like)).sample(rng)
    if x.shape != like.shape:
        raise ShapeError(
            f"prior= draws states of shape {tuple(x.shape)}, and {rows} particles of shape {tuple(event)} start from it; give "
            f"a law of {rows} rows, path.prior(torch.empty({rows}, ...), t)"
        )
    times = [torch.tensor(t, dtype=torch.float64) for t in grid.times]
    kind, first = x.dtype, particles * torch.arange(problems, device=x.device)[:, None]

    law, log_h, tilted = steering.ask(x, times[0])
    log_w = log_h.reshape(problems, particles)
    log_z = log_w.new_zeros(problems)
    sizes, ancestors = [effective_size(log_w)], []
    for i, (t, s) in enumerate(pairwise(times)):
        # Systematic resampling of the problems that need it; the others keep their particles and weights.
        u = rng.uniform((rows,), dtype=log_w.dtype, device=x.device)[::particles]
        parents, log_w, level = resample(log_w, sizes[-1], u, threshold)
        log_z = log_z + level
        ancestors.append(parents)
        chosen = (parents + first).flatten()
        last = i == len(times) - 2
        steers = tilted is not law and not last
        x, law, before = x[chosen], law.rows(chosen), log_h[chosen]
        kernel = path.reverse(x, law, t, s)
        proposal = path.reverse(x, tilted.rows(chosen), t, s) if steers else kernel
        x = proposal.sample(rng)
        step = kernel.log_prob(x) - proposal.log_prob(x) if steers else 0.0
        if x.dtype != kind:
            raise ShapeError(
                f"states of {kind} came back as {x.dtype}: the denoiser answers in {x.dtype}; ask for dtype={x.dtype}, or "
                f"build its law or network in {kind}"
            )
        if last:
            log_h = steering.potential(x)
        else:
            law, log_h, tilted = steering.ask(x, s)
        # A particle that is dead stays dead: -inf - (-inf) is no weight. Any other NaN goes on, to be seen.
        gain = torch.where(before == -torch.inf, -torch.inf, log_h - before)
        log_w = log_w + (step + gain).reshape(problems, particles)
        sizes.append(effective_size(log_w))
    total = torch.logsumexp(log_w, -1)
    log_z = log_z + total - math.log(particles)
    if bool(torch.isnan(log_z).any()):
        raise NonFiniteError(
            f"weights of {int(torch.isnan(log_z).sum())} of {problems} problems are NaN: the denoiser, or the potential, is "
            "not finite at some state; run simulate.sample on the steered denoiser, which names the step"
        )
    return Particles(
        x.reshape(problems, particles, *event),
        log_w - torch.where(torch.isfinite(total), total, 0.0)[:, None],
        log_z,
        torch.stack(sizes),
        torch.stack(ancestors),
        len(times) - 1,
    )


def _take(x: Tensor, index: Tensor) -> Tensor:
    """Rows of each problem: x (P, N, *E), index (P, n) -> (P, n, *E)."""
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index]
