r"""MCGdiff: particles that meet the measurement in its own coordinates, without a gradient of the network.

Whiten the look and decompose it, :math:`R^{-1/2} A = U S V^\top`. In the coordinates :math:`c = V^\top x_0` it is a look at
each of r numbers alone, :math:`\bar y_i = c_i + s_i^{-1} z_i` with :math:`\bar y = S^{-1} U^\top R^{-1/2} y`. Had c a flat law,
its noised value would follow

.. math:: g_t(x_t) = \prod_i N\big((V^\top x_t)_i;\ \alpha_t \bar y_i,\ \gamma_{t,i}\big), \qquad
          \gamma_{t,i} = \sigma_t^2 + \alpha_t^2 / s_i^2,

and g_0 is the likelihood itself. Under a Gaussian kernel of the model, :math:`k(x_s | x_t) = N(\mu_t, \beta I)` with the
ancestral variance, products with g_s are closed, so every step is *fully adapted*: with :math:`m = V^\top \mu_t`

.. math:: w \leftarrow w\, \frac{\int k g_s}{g_t(x_t)}, \quad
          \int k g_s = \prod_i N(\alpha_s \bar y_i;\ m_i,\ \beta + \gamma_{s,i}), \qquad
          x_s \sim k(x_s | x_t)\, g_s(x_s) \big/ {\textstyle\int} k g_s,

resampled between the two. The prior at t = 1 is met in the same way. One call of the denoiser a particle and step.

The evidence is unbiased for the discretised model, whatever the twist: :math:`E[\hat Z] = E[N(y; A X_0, R)]` with X_0 from the
ancestral chain of the means, no scale left out. What that chain gets wrong no weight repairs.

The noiseless twist is the paper's. With noise the paper conditions coordinate i on its noised value at the level where sigma /
alpha = 1 / s_i, which needs that level on the grid; here the measurement's noise is added to the twist's variance, and the grid
is free.

Source: Cardoso et al. 2023 (2308.07983), algorithm 1, equations 2.3-2.5.
Checked by: tests/inverse/test_mcgdiff.py
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.core.seen import white_log_prob
from undrift.errors import GridError, OperatorError, PotentialError, ShapeError, TimeError
from undrift.gaussian.solvers import DDPM
from undrift.grids import Grid
from undrift.guidance.potentials import Likelihood, Potential
from undrift.operators import Matrix
from undrift.particles import Particles, effective_size, resample

__all__ = ["mcgdiff"]


@torch.no_grad()
def mcgdiff(
    denoiser: Any,
    likelihood: Potential,
    grid: Grid,
    *,
    event: tuple[int, ...],
    particles: int,
    rng: Random,
    problems: int = 1,
    threshold: float = 0.5,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Particles:
    """Draw weighted posterior samples for a linear measurement, with its evidence.

    Args:
        denoiser: any denoiser on a Gaussian path; its mean alone is used.
        likelihood: the measurement, one for all problems or one per problem; noise > 0.
        grid: times, falling from 1.
        event: shape E of one sample.
        particles: N, per problem.
        rng: one stream for all, or one per row (problems times particles of them).
        problems: P independent runs side by side.
        threshold: resample a problem once its effective size falls below this share of N; 0 never, 1 at every step (the paper).
        dtype: of the states.
        device: of the states.

    Returns:
        Weighted particles. As many calls as steps. The last step is not resampled.

    Raises:
        TimeError: the grid does not start at t = 1.
        GridError: the grid rises, or a step is infinite on this path.
        FamilyError: another family's path.
        ShapeError: the operator measures another event, or there is neither one measurement nor one per problem.
        PotentialError: NaN in the measurement, noise that is not positive, fewer than one particle or problem, a threshold
            outside [0, 1].
        OperatorError: an operator that sees nothing.

    Source: Cardoso et al. 2023 (2308.07983), algorithm 1.
    Checked by: tests/inverse/test_mcgdiff.py::test_the_evidence_is_unbiased,
        tests/inverse/test_mcgdiff.py::test_the_expected_evidence_of_one_particle_is_exact,
        tests/inverse/test_mcgdiff.py::test_the_twist_is_the_likelihood_under_a_flat_law,
        tests/inverse/test_mcgdiff.py::test_moments_are_the_posteriors,
        tests/inverse/test_mcgdiff.py::test_bad_input_is_refused_before_the_first_call
    """
    likelihood = _checked(likelihood, grid, event, particles, problems, threshold)
    rows, path = problems * particles, denoiser.path
    plan = DDPM("posterior").plan(path, grid)
    look = _Coordinates.of(likelihood.per(particles), torch.empty((0, *event), dtype=dtype, device=device))
    times = torch.tensor(grid.times, dtype=torch.float64)
    alpha, sigma = path.schedule.alpha(times).tolist(), path.schedule.sigma(times).tolist()
    twists = [look.twist(a, v) for a, v in zip(alpha[:-1], sigma[:-1], strict=True)]
    twists.append(look.twist(1.0, 0.0))  # the last state is the event itself, and its twist the likelihood
    first = particles * torch.arange(problems, device=device)
    log_n = math.log(particles)

    start = torch.zeros((rows, *event), dtype=dtype, device=device)  # the prior N(0, sigma^2) is one more kernel
    log_w = (twists[0].evidence(start, sigma[0]) + look.constant).expand(rows).reshape(problems, particles)
    x, log_z = twists[0].draw(start, sigma[0], rng), log_w.new_zeros(problems)
    sizes, ancestors = [], []
    for i, (from_state, from_clean, std) in enumerate(plan.rows):
        mean = torch.add(x * from_state, denoiser(x, plan.times[i]).mean, alpha=from_clean)
        gain = twists[i + 1].evidence(mean, std) - twists[i].price(x)
        log_w = log_w + gain.reshape(problems, particles)
        sizes.append(effective_size(log_w))
        # Systematic resampling of the problems that need it, by weights that have seen the step to come; never before the last.
        u = rng.uniform((rows,), dtype=dtype, device=device)[::particles]
        parents, log_w, level = resample(log_w, sizes[-1], u, threshold if i + 1 < grid.steps else 0.0)
        log_z = log_z + level
        ancestors.append(parents)
        x = twists[i + 1].draw(mean[(parents + first[:, None]).flatten()], std, rng)
    sizes.append(effective_size(log_w))
    total = torch.logsumexp(log_w, -1)
    return Particles(
        x.reshape(problems, particles, *event),
        log_w - torch.where(torch.isfinite(total), total, 0.0)[:, None],
        log_z + total - log_n,
        torch.stack(sizes),
        torch.stack(ancestors),
        grid.steps,
    )


@dataclass(frozen=True)
class _Twist:
    """g_t: what the coordinates are wanted near, and how near.

    Attributes:
        basis: V, shape (d, r).
        target: alpha_t y-bar, shape (rows or 1, r).
        variance: gamma_t, shape (r,).
    """

    basis: Tensor
    target: Tensor
    variance: Tensor

    def price(self, x: Tensor) -> Tensor:
        """Log g_t(x), shape (rows,), nats."""
        return self.evidence(x, 0.0)

    def evidence(self, mean: Tensor, std: float) -> Tensor:
        """Log of the integral of N(mean, std^2 I) g_t, shape (rows,), nats."""
        scale = (self.variance + std**2).sqrt()
        return white_log_prob((self.target - mean.flatten(1) @ self.basis) / scale) - scale.log().sum()

    def draw(self, mean: Tensor, std: float, rng: Random) -> Tensor:
        """From the law proportional to N(mean, std^2 I) g_t: coordinates off the basis keep the kernel."""
        if std == 0:
            return mean
        z = std * rng.normal(mean.shape, dtype=mean.dtype, device=mean.device).flatten(1)
        flat, share = mean.flatten(1), std**2 / (std**2 + self.variance)
        moved = share * (self.target - flat @ self.basis) + ((1 - share).sqrt() - 1) * (z @ self.basis)
        return (flat + z + moved @ self.basis.mT).reshape(mean.shape)


@dataclass(frozen=True)
class _Coordinates:
    """A whitened look at numbers of its own.

    Attributes:
        basis: V, shape (d, r).
        seen: y-bar, shape (rows or 1, r).
        noise: s^-2, shape (r,).
        constant: what the likelihood holds beside the coordinates, shape (rows or 1,), nats.
    """

    basis: Tensor
    seen: Tensor
    noise: Tensor
    constant: Tensor

    @staticmethod
    def of(likelihood: Likelihood, like: Tensor) -> "_Coordinates":
        """By one singular value decomposition in the operator's own dtype."""
        matrix = likelihood.look.matrix
        std = likelihood.variance.to(matrix).expand(matrix.shape[0]).sqrt()
        y = likelihood.y.to(matrix) / std
        left, singular, right = Matrix(matrix / std[:, None]).svd
        if len(singular) == 0:
            raise OperatorError("this operator sees nothing: all of its singular values are 0; sample the prior instead")
        inside = y @ left
        blind = white_log_prob(y - inside @ left.mT) + 0.5 * len(singular) * math.log(2 * math.pi)
        constant = blind - std.log().sum() - singular.log().sum() + likelihood.constant
        parts = (right, inside / singular, singular.square().reciprocal(), constant)
        return _Coordinates(*(part.to(like) for part in parts))

    def twist(self, alpha: float, sigma: float) -> _Twist:
        """G at a time."""
        return _Twist(self.basis, alpha * self.seen, sigma**2 + alpha**2 * self.noise)


def _checked(
    likelihood: Potential, grid: Grid, event: tuple[int, ...], particles: int, problems: int, threshold: float
) -> Likelihood:
    """The likelihood, once everything that can be refused before the first call was."""
    if particles < 1 or problems < 1 or not 0 <= threshold <= 1:
        raise PotentialError(
            f"mcgdiff needs at least one particle and one problem and a threshold in [0, 1], got {particles}, {problems}, "
            f"{threshold:g}"
        )
    if grid.times[0] < grid.times[-1]:
        raise GridError("particles run from noise to data; give a grid whose times fall")
    if grid.times[0] != 1:
        raise TimeError(
            f"the grid starts at t = {grid.times[0]:g}, and the path's prior is the law at t = 1; start the grid at 1 (with a "
            "head that is finite there, v or x0)"
        )
    if not isinstance(likelihood, Likelihood):
        raise PotentialError(
            f"mcgdiff takes one linear measurement with Gaussian noise, inverse.gaussian_likelihood(y, A, noise), not a "
            f"{type(likelihood).__name__}; for other rewards use undrift.smc with guidance.twist or guidance.weigh"
        )
    if not bool(torch.isfinite(likelihood.y).all()):
        raise PotentialError("the measurement holds NaN or infinity; leave them out of the operator (operators.Mask)")
    if not bool((likelihood.variance > 0).all()):
        raise PotentialError(
            "mcgdiff weighs by a likelihood, which needs noise > 0; give the measurement a small one, about the spread that "
            "the last steps leave"
        )
    width, size = likelihood.look.matrix.shape[1], math.prod(event)
    if width != size or likelihood.y.shape[0] not in (1, problems):
        raise ShapeError(
            f"{likelihood.y.shape[0]} measurements of events of {width} numbers meet {problems} problems of events of shape "
            f"{tuple(event)}; give one measurement, or one per problem, of the events that are drawn"
        )
    return likelihood
