r"""The methods side by side: draw from p(x_0 | y) by name.

Each row of `METHODS` says what a method costs, what it is exact for, and where it is from. The rows differ in the law that the
likelihood is lifted under, or in how a sampler holds the problem; `docs/benchmarks/posteriors.md` has their measured errors.

`auto` is twisted particles: weights correct what its own approximation gets wrong. It lifts under the denoiser's own law where
that is more than a mean, and under the Jacobian's covariance where it is not, and draws from several times as many particles as
are asked for. The more a measurement tells (hundreds of pixels), the more particles it takes: look at `Posterior.effective`.
For a closed-form denoiser `condition` is exact and needs none.

Checked by: tests/inverse/test_posterior.py
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Arnoldi, RowSum, Shared
from undrift.errors import PotentialError, ShapeError, TimeError
from undrift.gaussian import DDIM
from undrift.grids import Grid
from undrift.guidance.potentials import All, Likelihood, Potential
from undrift.guidance.second_order import Asked, isotropic, jacobian, second_order
from undrift.guidance.twist import condition, twist, weigh
from undrift.inverse.daps import DAPS, Closed
from undrift.inverse.ddnm import DDNM
from undrift.inverse.ddrm import DDRM
from undrift.inverse.diffpir import DiffPIR
from undrift.inverse.dps import DPS
from undrift.inverse.mcgdiff import mcgdiff
from undrift.inverse.reddiff import Adam, REDdiff
from undrift.inverse.repaint import RePaint
from undrift.laws import Law, Point
from undrift.operators import Matrix, Operator
from undrift.particles import Particles, smc
from undrift.protocols import Denoiser
from undrift.simulate import Ancestral, Step, sample

__all__ = ["METHODS", "Method", "Posterior", "Problem", "posterior"]


@dataclass(frozen=True)
class Problem:
    """What a method is given.

    Attributes:
        denoiser: of the prior.
        likelihood: the measurement.
        grid: where to stop.
        event: shape of one sample.
        n: samples wanted.
        seed: of everything random.
        data_std: standard deviation of the data about their mean, codec units, for methods that need the size of the prior.
        particles: how many, for methods that weigh them.
        dtype: of the states.
        device: of the states.
        progress: wraps the loop.
    """

    denoiser: Denoiser
    likelihood: Likelihood
    grid: Grid
    event: tuple[int, ...]
    n: int
    seed: int
    data_std: float
    particles: int
    dtype: torch.dtype
    device: torch.device | str
    progress: Callable[[Iterator[Step]], Iterator[Step]]


@dataclass(frozen=True)
class Posterior:
    """Samples, and what is known of them.

    Attributes:
        samples: shape (n, *E).
        method: its name.
        particles: the weighted particles they were drawn from, with the evidence; None for methods without.
        effective: how many independent draws the particles are worth at the end, n without particles. Far below n the samples
            repeat each other: take more particles or more steps, or "mmps", which has none.
        misfit: root mean square of the whitened residual (y - A x) / noise of every sample, shape (n,): about 1 where the
            samples explain the measurement, whatever its size.
    """

    samples: Tensor
    method: str
    particles: Particles | None
    effective: float
    misfit: Tensor


Drawn = tuple[Tensor, Particles | None]
"""Samples, and the particles they were drawn from if a method has them."""


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Attributes:
        run: the method.
        calls: denoiser calls on a grid.
        products: vector-Jacobian products on a grid, at most, for m measurements.
        exact: what it is exact for, in the limit of many steps.
        source: paper.
    """

    run: Callable[[Problem], Drawn]
    calls: Callable[[Grid], int]
    products: Callable[[Grid, int], int]
    exact: str
    source: str


def _guided(guide: Callable[[Problem], Any], stochasticity: float = 1.0) -> Callable[[Problem], Drawn]:
    """A guide, run by DDIM."""
    return lambda p: _sample(p, guide(p), DDIM(stochasticity))


def _linear(p: Problem) -> tuple[Operator, Tensor, float]:
    """(operator, y, noise) with one noise for all measurements: where they differ, in units of their noise."""
    look, std, y = p.likelihood.look, p.likelihood.variance.sqrt(), p.likelihood.y
    if std.numel() == 1 and isinstance(look, Operator):
        return look, y.to(dtype=p.dtype, device=p.device), float(std)
    std = std.to(look.matrix)
    return Matrix(look.matrix / std[:, None], p.event), (y.to(std) / std).to(dtype=p.dtype, device=p.device), 1.0


def _descent(p: Problem) -> REDdiff:
    """RED-diff with the paper's rate and strength (.1 and .25), in units of the data and of the noise; n random starts."""
    start = Shared(p.seed + 2, p.device).normal((p.n, *p.event), dtype=p.dtype, device=p.device)
    strength = 0.25 / float(p.likelihood.variance.mean())
    return REDdiff(p.likelihood, Adam(0.1 * p.data_std), strength, p.data_std * start)


def _filtered(p: Problem) -> Drawn:
    """MCGdiff."""
    found = mcgdiff(
        p.denoiser,
        p.likelihood,
        p.grid,
        event=p.event,
        particles=p.particles,
        rng=Shared(p.seed, p.device),
        dtype=p.dtype,
        device=p.device,
    )
    return found.draw(Shared(p.seed + 1, p.device), p.n)[0], found


def _held(sampler: Callable[[Problem], Any]) -> Callable[[Problem], Drawn]:
    """A sampler that holds the problem."""
    return lambda p: _sample(p, p.denoiser, sampler(p))


def _weighed(steer: Callable[[Problem], Any]) -> Callable[[Problem], Drawn]:
    """Particles."""

    def run(p: Problem) -> Drawn:
        found = smc(
            steer(p),
            p.grid,
            event=p.event,
            particles=p.particles,
            rng=Shared(p.seed, p.device),
            dtype=p.dtype,
            device=p.device,
            prior=_start(p, p.particles),
        )
        return found.draw(Shared(p.seed + 1, p.device), p.n)[0], found

    return run


def _start(p: Problem, rows: int) -> Law:
    """The path's prior at the grid's first time."""
    like = torch.empty((rows, *p.event), dtype=p.dtype, device=p.device)
    return p.denoiser.path.prior(like, p.grid.times[0])


def _sample(p: Problem, denoiser: Any, sampler: Any) -> Drawn:
    samples = sample(
        denoiser,
        sampler,
        p.grid,
        (p.n, *p.event),
        seed=p.seed,
        dtype=p.dtype,
        device=p.device,
        prior=_start(p, p.n),
        rng=lambda: Shared(p.seed, p.device),
        progress=p.progress,
    )
    return samples, None


_BROAD = jacobian(spread=True)


def own(asked: Asked, mean: Tensor) -> Any:
    """The denoiser's own law where it is more than a mean; the Jacobian's covariance where it is not."""
    return _BROAD(asked, mean) if isinstance(asked.law, Point) else asked.law


def _once(grid: Grid) -> int:
    return grid.steps


def _none(grid: Grid, m: int) -> int:
    return 0


def _one(grid: Grid, m: int) -> int:
    return grid.steps


def _solving(grid: Grid, m: int) -> int:
    """A gradient, and a system of m equations, by at most m (or 32) products."""
    return grid.steps * (1 + min(m, Arnoldi().iterations))


METHODS: dict[str, Method] = {
    "condition": Method(
        lambda p: _sample(p, condition(p.denoiser, p.likelihood), Ancestral()),
        _once,
        _none,
        "closed-form denoisers, in any number of steps",
        "Bayes' rule",
    ),
    "zero": Method(
        _guided(lambda p: twist(second_order(p.denoiser, "zero"), p.likelihood)),
        _once,
        _one,
        "nothing; stiff",
        "Chung et al. 2022, as a likelihood",
    ),
    "dps": Method(_held(lambda p: DPS(p.likelihood, p.data_std)), _once, _one, "nothing", "Chung et al. 2022 (2209.14687)"),
    "pigdm": Method(
        _guided(lambda p: twist(second_order(p.denoiser, isotropic(p.data_std)), p.likelihood)),
        _once,
        _one,
        "isotropic Gaussian data",
        "Song et al. 2023 (PiGDM)",
    ),
    "tmpd": Method(
        _guided(lambda p: twist(second_order(p.denoiser, jacobian(RowSum())), p.likelihood)),
        _once,
        lambda grid, m: 2 * grid.steps,
        "Gaussian data, one measurement",
        "Boys et al. 2023 (2310.06721)",
    ),
    "mmps": Method(
        _guided(lambda p: twist(second_order(p.denoiser, "jacobian"), p.likelihood)),
        _once,
        _solving,
        "Gaussian data",
        "Rozet et al. 2024 (2405.13712)",
    ),
    "repaint": Method(
        _held(lambda p: RePaint(*_linear(p), rounds=3)),
        lambda grid: 3 * grid.steps,
        _none,
        "nothing with noise: forgets y below its level",
        "Lugmayr et al. 2022 (2201.09865), three rounds",
    ),
    "ddnm": Method(_held(lambda p: DDNM(*_linear(p))), _once, _none, "nothing", "Wang et al. 2022 (2212.00490)"),
    "ddrm": Method(
        _held(lambda p: DDRM(*_linear(p))),
        _once,
        _none,
        "nothing; biased towards y by many steps",
        "Kawar et al. 2022 (2201.11793)",
    ),
    "diffpir": Method(
        _held(lambda p: DiffPIR(*_linear(p))), _once, _none, "the mean of Gaussian data", "Zhu et al. 2023 (2305.08995)"
    ),
    "daps": Method(
        _held(lambda p: DAPS(p.likelihood, Closed(), p.data_std)),
        _once,
        _none,
        "Gaussian data",
        "Zhang et al. 2024 (2407.01521), one call a level",
    ),
    "reddiff": Method(_held(_descent), _once, _none, "nothing; seeks a mode", "Mardani et al. 2023 (2305.04391)"),
    "mcgdiff": Method(_filtered, _once, _none, "any data, with particles and steps", "Cardoso et al. 2023 (2308.07983)"),
    "tds": Method(
        _weighed(lambda p: twist(second_order(p.denoiser, "jacobian"), p.likelihood)),
        _once,
        _solving,
        "any data, with particles and steps",
        "Wu et al. 2023 (2306.17775)",
    ),
    "fk": Method(
        _weighed(lambda p: weigh(second_order(p.denoiser, isotropic(p.data_std)), p.likelihood)),
        _once,
        _none,
        "any data, with particles and steps",
        "Singhal et al. 2025 (2501.06848)",
    ),
    "auto": Method(
        _weighed(lambda p: twist(second_order(p.denoiser, own), p.likelihood)),
        _once,
        lambda grid, m: _solving(grid, m) + grid.steps,
        "any data, with particles and steps",
        "twisted particles under the richest law the denoiser has",
    ),
}


def posterior(
    denoiser: Denoiser,
    likelihood: Potential,
    grid: Grid,
    n: int,
    *,
    method: str,
    event: tuple[int, ...],
    seed: int,
    data_std: float,
    particles: int | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    progress: Callable[[Iterator[Step]], Iterator[Step]] = iter,
) -> Posterior:
    """Draw samples of the clean end given a measurement.

    Args:
        denoiser: of the prior, on a Gaussian path.
        likelihood: the measurement, from `gaussian_likelihood`, or several joined with `&`; one for all samples.
        grid: times, falling to the data; a grid that starts below t = 1 starts from the path's own noise there.
        n: samples wanted.
        method: a key of `METHODS`; "auto" if in doubt.
        event: shape E of one sample.
        seed: of everything random.
        data_std: standard deviation of the data about their mean, codec units: pigdm, dps, fk, daps and reddiff need the size
            of the prior; the others do not look.
        particles: for methods that weigh them; 4 n by default. Samples are drawn from them systematically.
        dtype: of the states.
        device: of the states.
        progress: wraps the loop of methods without particles, for a bar.

    Returns:
        Samples with their misfit, and the particles and the evidence where the method has them.

    Raises:
        PotentialError: no method of that name, no samples wanted, a measurement per sample, or a size of the data that is none.
        ShapeError: the operator measures another event.
        TimeError: the path is pure noise at the grid's first time, where no gradient exists: start the grid below it.

    Checked by: tests/inverse/test_posterior.py
    """
    if method not in METHODS:
        raise PotentialError(f"no method is called {method!r}; there are {', '.join(METHODS)}")
    if n < 1 or not data_std > 0:
        raise PotentialError(
            f"at least one sample and a positive size of the data are needed, got n = {n}, data_std = {data_std:g}"
        )
    if isinstance(likelihood, All) and len(likelihood.parts) == 1:  # several looks, joined to one
        likelihood = likelihood.parts[0]
    if not isinstance(likelihood, Likelihood):
        raise PotentialError(
            "the methods by name take one linear measurement with Gaussian noise (gaussian_likelihood); steer by other "
            "potentials, and by several joined with &, with guidance.twist, guidance.condition or undrift.smc"
        )
    if tuple(event) != likelihood.look.event:
        raise ShapeError(
            f"samples of shape {tuple(event)} were asked for, and the operator measures events of shape "
            f"{likelihood.look.event}; build it for the event (a mask for every channel is mask.expand(event))"
        )
    if likelihood.y.shape[0] != 1:
        raise PotentialError(
            f"{likelihood.y.shape[0]} measurements were given at once; draw from one posterior at a time, or run undrift.smc "
            f"with problems={likelihood.y.shape[0]}"
        )
    start = torch.tensor(grid.times[0], dtype=torch.float64)
    if METHODS[method].products(grid, 1) > 0 and float(denoiser.path.schedule.alpha(start)) == 0:
        raise TimeError(
            f"at t = {grid.times[0]:g} the state is pure noise and says nothing of the clean end, so nothing can be steered "
            "there by gradient; start the grid just below, for example with start=0.999"
        )
    problem = Problem(
        denoiser,
        likelihood,
        grid,
        tuple(event),
        n,
        seed,
        data_std,
        4 * n if particles is None else particles,
        dtype,
        device,
        progress,
    )
    samples, found = METHODS[method].run(problem)
    white = (likelihood.y.to(samples) - likelihood.look.forward(samples)) / likelihood.variance.to(samples).sqrt()
    effective = float(n) if found is None else min(float(n), float(found.sizes[-1, 0]))
    return Posterior(samples, method, found, effective, white.square().mean(1).sqrt())
