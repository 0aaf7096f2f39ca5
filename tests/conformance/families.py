r"""The registry behind the conformance suite: a new schedule or a new family is one new row, and every test runs on it.

`SCHEDULES`, `BRIDGES` and `SURVIVALS` list the clocks. `ROWS` lists families, each with an exact denoiser (the true joint
posterior of the clean end) and a `Space`, in which a law can be pushed through a kernel without Monte Carlo:

* `Moments`: every kernel is affine-Gaussian, so (mean, covariance) is the law; the affine map is read off the kernel.
* `Line`: one number, its density on a grid of points; the trapezoid rule is exact to rounding for smooth densities whose
  scales exceed the spacing.
* `Finite`: few symbols on few sites, the vector of all probabilities.

The truth at time t never comes from undrift: only the schedule's own numbers are used.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift import bridge, discrete, gaussian, schedules
from undrift.core import Covariance
from undrift.laws import Empirical, Mixture, Normal, Point

SCHEDULES: dict[str, schedules.Schedule] = {
    "vp": schedules.VP(),
    "vp_constant": schedules.VP(3.0, 3.0),
    "subvp": schedules.SubVP(),
    "cosine": schedules.Cosine(),
    "ve": schedules.VE(),
    "edm": schedules.EDM(),
    "linear_flow": schedules.LinearFlow(),
    "trigonometric": schedules.Trigonometric(),
    "custom": schedules.Custom(lambda t: torch.exp(-3 * t.square()), lambda t: t * (0.5 + t)),
    "custom_to_zero": schedules.Custom(lambda t: 1 - t.square(), lambda t: t * (2 - t)),
}
BRIDGES: dict[str, schedules.BridgeSchedule] = {
    "brownian": schedules.BrownianBridge(0.8),
    "linear": schedules.LinearInterpolant(),
    "flipped_brownian": bridge.path.Flipped(schedules.BrownianBridge(0.8)),
}
SURVIVALS: dict[str, schedules.SurvivalSchedule] = {
    "linear": schedules.LinearSurvival(),
    "cosine": schedules.CosineSurvival(),
    "exponential": schedules.ExponentialSurvival(5.0),
}

Kernel = Callable[[Tensor], Any]


def f64(*values: Any) -> Tensor:
    return torch.tensor(values[0] if len(values) == 1 else values, dtype=torch.float64)


def at(function: Callable[[Tensor], Tensor], t: float) -> float:
    return float(function(f64(t)))


class Moments:
    """Gaussian laws over flattened events as (mean (d,), covariance (d, d)).

    Tolerance: 1e-9 of the scale; 200 steps of 1e-16, amplified by at most the signal-to-noise range inverted on the way.
    """

    tolerance = 1e-9
    shortest = 0.0

    def __init__(self, *event: int):
        self.event, self.dim = event, math.prod(event)

    def states(self) -> Tensor:
        return torch.randn(4, *self.event, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def deltas(self) -> list[Any]:
        zero = torch.zeros(self.dim, self.dim, dtype=torch.float64)
        return [(x.flatten(), zero) for x in self.states()[:2]]

    def push(self, law: Any, kernel: Kernel) -> Any:
        mean, cov = law
        probe = 3 * self.states()[:1].flatten(1)
        origin = torch.zeros(1, self.dim, dtype=torch.float64)
        x = torch.cat([origin, torch.eye(self.dim, dtype=torch.float64), probe])
        out = kernel(x.reshape(-1, *self.event))
        assert isinstance(out, Normal)
        shift, columns = out.mean.flatten(1)[0], out.mean.flatten(1)[1:-1] - out.mean.flatten(1)[0]
        matrix, noise = columns.mT, out.covariance().expand(len(x), -1, -1)
        # The law is a Gaussian whose mean is affine and whose covariance is constant, or this calculus does not apply.
        torch.testing.assert_close(out.mean.flatten(1)[-1:], shift + probe @ matrix.mT, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(noise[-1], noise[0], rtol=0, atol=1e-12 * float(1 + noise.abs().max()))
        return matrix @ mean + shift, matrix @ cov @ matrix.mT + noise[0]

    def read(self, prior: Kernel) -> Any:
        law = prior(torch.zeros(1, *self.event, dtype=torch.float64))
        assert isinstance(law, Normal)
        return law.mean.flatten(), law.covariance()[0]

    def gap(self, p: Any, q: Any) -> float:
        """Largest difference of mean and covariance, in units of the second law's scale (1 if it is a point)."""
        scale2 = float(q[1].diagonal().max()) or 1.0
        return max(float((p[0] - q[0]).abs().max()) / scale2**0.5, float((p[1] - q[1]).abs().max()) / scale2)

    def divergence(self, p: Any, q: Any) -> float:
        """KL(p || q), nats."""
        (m, c), (n, d) = p, q
        ratio = torch.linalg.solve(d, c)
        offset = (n - m) @ torch.linalg.solve(d, n - m)
        return 0.5 * float(ratio.trace() - self.dim + offset - ratio.logdet())


class Line:
    """Laws of one number as densities on a grid of points.

    Tolerance: 1e-6 in total variation; the trapezoid rule misses exp(-2 pi^2 (width / spacing)^2) a step, < 1e-8 wherever
    a kernel is at least as wide as the spacing, and the densities hold 1e-12 outside the window.
    """

    tolerance = 1e-6
    shortest = 0.3  # the first time whose kernel from data is wider than the spacing
    event = (1,)

    def __init__(self, low: float, high: float, points: int):
        self.x = torch.linspace(low, high, points, dtype=torch.float64)
        self.spacing = float(self.x[1] - self.x[0])

    def states(self) -> Tensor:
        return f64([[-0.7], [0.1], [0.4], [1.2]])

    def deltas(self) -> list[Any]:
        return []

    def push(self, law: Any, kernel: Kernel) -> Any:
        n = len(self.x)
        out = kernel(self.x.repeat_interleave(n)[:, None])
        density = out.log_prob(self.x.repeat(n)[:, None]).exp().reshape(n, n)
        return self.spacing * law @ density

    def read(self, prior: Kernel) -> Any:
        return prior(self.x[:, None]).log_prob(self.x[:, None]).exp()

    def gap(self, p: Any, q: Any) -> float:
        """Total variation."""
        return 0.5 * self.spacing * float((p - q).abs().sum())

    def divergence(self, p: Any, q: Any) -> float:
        """KL(p || q), nats."""
        return self.spacing * float(torch.where(p > 1e-300, p * (p / q).log(), 0.0).sum())


class Finite:
    """Laws over every sequence of `sites` symbols, as the vector of probabilities.

    Tolerance: 1e-11 in total variation: rounding of 200 products of positive numbers, with nothing to cancel.
    """

    tolerance = 1e-11
    shortest = 0.0

    def __init__(self, symbols: int, sites: int):
        self.all = discrete.enumerate_events(symbols, sites)
        self.event = (sites,)
        self._states = self.all

    def reachable(self, possible: Tensor) -> "Finite":
        self._states = self.all[possible]
        return self

    def states(self) -> Tensor:
        return self._states

    def deltas(self) -> list[Any]:
        return list(torch.eye(len(self.all), dtype=torch.float64))

    def push(self, law: Any, kernel: Kernel) -> Any:
        n, start = len(self.all), self.all[law > 0]  # a posterior exists only where a state is possible
        out = kernel(start.repeat_interleave(n, 0))
        matrix = out.log_prob(self.all.repeat(len(start), 1)).exp().reshape(len(start), n)
        torch.testing.assert_close(matrix.sum(1), torch.ones(len(start), dtype=torch.float64), rtol=0, atol=1e-12)
        return law[law > 0] @ matrix

    def read(self, prior: Kernel) -> Any:
        return prior(self.all).log_prob(self.all).exp()

    def gap(self, p: Any, q: Any) -> float:
        """Total variation."""
        return 0.5 * float((p - q).abs().sum())

    divergence = gap


@dataclass(frozen=True)
class Row:
    """A family to be certified.

    Attributes:
        denoiser: the exact joint posterior of the clean end; carries the path.
        space: where its laws are added up exactly.
        truth: t -> the true law of X_t, in the space.
        forward: what `corrupt` promises: "chain" (kernels compose), "ends" (exact from data; the far end is drawn afresh
            from any other start) or "pairs" (the coupling is the denoiser's, the path pairs independently).
        span: (latest, earliest) times between which every law has the space's form.
        long_span: the same for a run of 200 steps, whose kernels are narrower; `span` by default.
        prior_bound: bound on the divergence of the true X_1 from the prior; 0 = the prior is exact; None = not in the space.
        tiltable: a denoiser whose law the path's tilt accepts; the exact one by default.
    """

    denoiser: Any
    space: Any
    truth: Callable[[float], Any]
    forward: str = "chain"
    span: tuple[float, float] = (1.0, 0.0)
    long_span: tuple[float, float] | None = None
    prior_bound: float | None = 0.0
    tiltable: Any = None

    @property
    def path(self) -> Any:
        return self.denoiser.path

    def interior(self) -> tuple[float, float, float]:
        """Three times well inside."""
        return 0.7, 0.45, 0.25


# ---- data -------------------------------------------------------------------------------------------------------------

_MEAN = f64([0.5, -1.0, 0.2])
_COV = f64([[0.8, 0.3, 0.0], [0.3, 0.5, -0.2], [0.0, -0.2, 0.4]])
_FAR_MEAN = f64([-0.6, 0.4, 2.0])
_FAR_COV = f64([[0.5, -0.1, 0.1], [-0.1, 0.9, 0.2], [0.1, 0.2, 0.6]])
_PIN = f64([1.0, -0.5, 0.3])
_WEIGHTS, _CENTRES, _WIDTHS = f64([0.3, 0.5, 0.2]), f64([-1.0, 0.2, 1.4]), f64([0.35, 0.25, 0.4])
_EYE = torch.eye(3, dtype=torch.float64)


def lead(cov: Covariance) -> Covariance:
    return Covariance(cov.values[None], cov.tail[None], None if cov.basis is None else cov.basis[None], cov.dim)


def normal(mean: Tensor, cov: Tensor, *event: int) -> Normal:
    return Normal(mean.reshape(1, *event), lead(Covariance.full(cov)))


def line_mixture() -> Mixture:
    return Mixture.of(_WEIGHTS, _CENTRES[:, None], Covariance.diagonal(_WIDTHS.square()[:, None]))


# ---- gaussian ---------------------------------------------------------------------------------------------------------


def gaussian_bound(schedule: schedules.Schedule, second_moment: float) -> float:
    """alpha_1^2 E|X_0|^2 / (2 sigma_1^2)."""
    return 0.5 * second_moment * at(schedule.alpha, 1) ** 2 / at(schedule.sigma, 1) ** 2


def gaussian_row(schedule: schedules.Schedule) -> Row:
    def truth(t: float) -> Any:
        alpha, sigma = at(schedule.alpha, t), at(schedule.sigma, t)
        return alpha * _MEAN, alpha**2 * _COV + sigma**2 * _EYE

    bound = gaussian_bound(schedule, float(_MEAN.square().sum() + _COV.trace()))
    return Row(gaussian.Exact(gaussian.Path(schedule), normal(_MEAN, _COV, 3)), Moments(3), truth, prior_bound=bound)


def gaussian_subspace_row(schedule: schedules.Schedule) -> Row:
    """Events (2, 2), all mass on a plane: half of the covariance is exactly zero."""
    factor = f64([[1.0, 0.2], [0.0, 0.7], [-0.4, 0.1], [0.3, 0.5]])
    mean = factor @ f64([0.4, -0.8])
    data = Normal(mean.reshape(1, 2, 2), lead(Covariance.low_rank(factor, f64(0.0))))

    def truth(t: float) -> Any:
        alpha, sigma = at(schedule.alpha, t), at(schedule.sigma, t)
        return alpha * mean, alpha**2 * factor @ factor.mT + sigma**2 * torch.eye(4, dtype=torch.float64)

    bound = gaussian_bound(schedule, float(mean.square().sum() + factor.square().sum()))
    return Row(gaussian.Exact(gaussian.Path(schedule), data), Moments(2, 2), truth, prior_bound=bound)


def gaussian_mixture_row(schedule: schedules.Schedule) -> Row:
    line = Line(-6.3, 6.3, 211)

    def truth(t: float) -> Any:
        alpha, sigma = at(schedule.alpha, t), at(schedule.sigma, t)
        return mixture_density(line.x, alpha * _CENTRES, alpha**2 * _WIDTHS.square() + sigma**2, _WEIGHTS)

    bound = gaussian_bound(schedule, float(_WEIGHTS @ (_CENTRES.square() + _WIDTHS.square())))
    return Row(gaussian.Exact(gaussian.Path(schedule), line_mixture()), line, truth, long_span=(0.9, 0.5), prior_bound=bound)


def gaussian_atoms_row(schedule: schedules.Schedule) -> Row:
    """Data of three atoms: X_t has no density at 0, and steps stop before it."""
    line = Line(-6.3, 6.3, 211)

    def truth(t: float) -> Any:
        alpha, sigma = at(schedule.alpha, t), at(schedule.sigma, t)
        return mixture_density(line.x, alpha * _CENTRES, torch.full_like(_CENTRES, sigma**2), _WEIGHTS)

    bound = gaussian_bound(schedule, float(_WEIGHTS @ _CENTRES.square()))
    data = Empirical.of(_CENTRES[:, None], _WEIGHTS)
    return Row(
        gaussian.Exact(gaussian.Path(schedule), data), line, truth, span=(1.0, 0.3), long_span=(0.9, 0.5), prior_bound=bound
    )


def mixture_density(x: Tensor, means: Tensor, variances: Tensor, weights: Tensor) -> Tensor:
    density = torch.exp(-0.5 * (x[:, None] - means).square() / variances) / (2 * math.pi * variances).sqrt()
    return density @ weights


# ---- bridge -----------------------------------------------------------------------------------------------------------


def pinned_row(schedule: schedules.BridgeSchedule) -> Row:
    def truth(t: float) -> Any:
        a, b, gamma = at(schedule.a, t), at(schedule.b, t), at(schedule.gamma, t)
        return a * _MEAN + b * _PIN, a**2 * _COV + gamma**2 * _EYE

    return Row(bridge.Pinned(bridge.Path(schedule, Point(_PIN[None])), normal(_MEAN, _COV, 3)), Moments(3), truth)


def gaussian_ends_row(schedule: schedules.BridgeSchedule) -> Row:
    def truth(t: float) -> Any:
        a, b, gamma = at(schedule.a, t), at(schedule.b, t), at(schedule.gamma, t)
        return a * _MEAN + b * _FAR_MEAN, a**2 * _COV + b**2 * _FAR_COV + gamma**2 * _EYE

    path = bridge.Path(schedule, normal(_FAR_MEAN, _FAR_COV, 3))
    return Row(bridge.GaussianEnds(path, normal(_MEAN, _COV, 3)), Moments(3), truth, forward="ends")


def coupled_row(schedule: schedules.BridgeSchedule) -> Row:
    line, far = Line(-3.2, 3.2, 201), f64([0.8, -1.2, 0.1])

    def truth(t: float) -> Any:
        a, b, gamma = at(schedule.a, t), at(schedule.b, t), at(schedule.gamma, t)
        return mixture_density(line.x, a * _CENTRES + b * far, torch.full_like(far, gamma**2), _WEIGHTS)

    path = bridge.Path(schedule, Empirical.of(far[:, None], _WEIGHTS))
    denoiser = bridge.Coupled(path, _CENTRES[:, None], far[:, None], _WEIGHTS)
    return Row(denoiser, line, truth, forward="pairs", span=(0.9, 0.1), long_span=(0.85, 0.35), prior_bound=None)


# ---- discrete ---------------------------------------------------------------------------------------------------------


def discrete_row(path: discrete.Path, data_symbols: int, sites: int = 2) -> Row:
    atoms = discrete.enumerate_events(data_symbols, sites)
    weights = torch.arange(1, len(atoms) + 1, dtype=torch.float64).square()
    weights[1] = 0  # an event that never happens
    weights = weights / weights.sum()
    space = Finite(path.symbols, sites)
    start = torch.zeros(len(space.all), dtype=torch.float64)
    for atom, weight in zip(atoms, weights, strict=True):
        start[(space.all == atom).all(1)] = weight

    def truth(t: float) -> Any:
        keep = at(path.schedule.keep, t)
        site = keep * torch.eye(path.symbols, dtype=torch.float64) + (1 - keep) * path.landing
        joint = site
        for _ in range(sites - 1):
            joint = torch.kron(joint, site)
        return start @ joint

    exact = discrete.Exact(path, Empirical.of(atoms, weights))
    bound = sites * at(path.schedule.keep, 1)
    space.reachable(truth(0.5) > 0)
    return Row(exact, space, truth, prior_bound=bound, tiltable=discrete.Factorised(exact))


ROWS: dict[str, Row] = {
    **{f"gaussian-{name}": gaussian_row(schedule) for name, schedule in SCHEDULES.items()},
    "gaussian-subspace": gaussian_subspace_row(SCHEDULES["cosine"]),
    "gaussian-mixture-linear_flow": gaussian_mixture_row(SCHEDULES["linear_flow"]),
    "gaussian-mixture-vp": gaussian_mixture_row(SCHEDULES["vp"]),
    "gaussian-atoms-trigonometric": gaussian_atoms_row(SCHEDULES["trigonometric"]),
    **{f"bridge-pinned-{name}": pinned_row(schedule) for name, schedule in BRIDGES.items() if name != "linear"},
    **{f"bridge-gaussian_ends-{name}": gaussian_ends_row(schedule) for name, schedule in BRIDGES.items()},
    "bridge-coupled-brownian": coupled_row(BRIDGES["brownian"]),
    **{f"discrete-uniform-{name}": discrete_row(discrete.uniform(3, schedule), 3) for name, schedule in SURVIVALS.items()},
    **{f"discrete-masked-{name}": discrete_row(discrete.masked(2, schedule), 2) for name, schedule in SURVIVALS.items()},
}
