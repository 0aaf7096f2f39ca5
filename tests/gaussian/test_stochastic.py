"""Stochastic solvers against their papers' formulas, closed forms, and one another along one Brownian path.

Certified: the updates; one marginal for every stochasticity (moments exactly, laws by a test with a fixed seed); the
deterministic limits; weak order 2 on a law that is not Gaussian, by quadrature; strong order 1 with shared increments, and none
with independent ones; the noise clocks. Orders on Gaussians and the conduct of every solver: test_solvers.py.
"""

import math
from functools import cache

import numpy as np
import pytest
import scipy.integrate
import scipy.stats
import torch
from scipy.interpolate import RectBivariateSpline

from oracles import (
    F64,
    SCHEDULES,
    Fixed,
    MeanOnly,
    at_noise,
    draws,
    line,
    mixture,
    normal,
    propagate,
    relative,
    run,
    slopes,
    spd,
    time,
)
from undrift import gaussian, grids, schedules
from undrift.core import Brownian, PerSample, Shared
from undrift.errors import GridError
from undrift.gaussian.solvers.sa import _weights
from undrift.laws import Point
from undrift.simulate import trajectory

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)
LINE = line([0.4, 0.6], [-1.0, 1.5], [0.2, 0.4])
CLOSE = line([0.4, 0.6], [-0.6, 0.8], [0.3, 0.5])  # no valley between the modes: errors of neighbours stay comparable
HIGH, LOW = 3.0, 0.3

IN_THE_CLEAN_END = [
    *(gaussian.SDEDPMSolverPP(eta) for eta in (0.5, 1.0)),
    *(gaussian.StochasticHeun(tau) for tau in (0.5, 1.0, 2.0)),
    *(gaussian.SASolver(*settings) for settings in ((0.5, 3, 3), (1.0, 1, 0), (1.0, 2, 1), (2.0, 3, 3))),
]
OURS = [*IN_THE_CLEAN_END, gaussian.Churn(), gaussian.Churn(5.0, inflation=1.0)]
ONE_DRAW = [
    *OURS,
    *(gaussian.EulerMaruyama(level) for level in (0.5, 1.0)),
    *(gaussian.ExponentialIntegrator(level) for level in (0.5, 1.0)),
    gaussian.DDIM(0.5),
    gaussian.DDIM(1.0),
    gaussian.DDPM(),
    gaussian.DDPM("forward"),
]
DETERMINISTIC = [gaussian.SDEDPMSolverPP(0.0), gaussian.StochasticHeun(0.0), gaussian.SASolver(0.0), gaussian.Churn(0.0)]

every_clock = pytest.mark.parametrize("clock", SCHEDULES)


def interior(clock: str, steps: int) -> grids.Grid:
    schedule = SCHEDULES[clock]
    return grids.log_snr(schedule, steps, at_noise(schedule, HIGH), at_noise(schedule, LOW))


def pair(schedule: schedules.Schedule, t: float) -> tuple[float, float]:
    return float(schedule.alpha(time(t))), float(schedule.sigma(time(t)))


def log_ratio(schedule: schedules.Schedule, t: float) -> float:
    """Half log-SNR."""
    alpha, sigma = pair(schedule, t)
    return math.log(alpha / sigma)


def noise(steps: int, like: torch.Tensor, seed: int = 20) -> Fixed:
    return Fixed(*(draws(like.shape, seed + k) for k in range(steps)))


# ---------------------------------------------------------------- the papers' updates


@pytest.mark.parametrize("eta", [0.3, 1.0])
def test_sde_dpmpp_matches_the_papers_update(eta):
    # Lu et al. 2022, SDE-DPM-Solver++(2M), which has eta = 1.
    schedule, grid = schedules.Cosine(), grids.of_times([0.9, 0.7, 0.6, 0.2])
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    x = start = draws((4, 2), 2)
    previous, last = None, None
    for k, (t, s) in enumerate(grid.pairs()):
        (_, s_t), (a_s, s_s) = pair(schedule, t), pair(schedule, s)
        h = log_ratio(schedule, s) - log_ratio(schedule, t)
        clean = denoiser(x, time(t)).mean
        slope = clean if previous is None else clean + (clean - previous) * h / (2 * last)
        fresh = s_s * math.sqrt(1 - math.exp(-2 * eta * h)) * draws(x.shape, 20 + k)
        x = s_s / s_t * math.exp(-eta * h) * x + a_s * (1 - math.exp(-(1 + eta) * h)) * slope + fresh
        previous, last = clean, h
    assert relative(run(denoiser, gaussian.SDEDPMSolverPP(eta), grid, start, noise(3, start)), x) < 1e-11


@pytest.mark.parametrize("tau", [0.0, 0.6, 1.0, 2.0])
def test_stochastic_heun_is_the_exponential_trapezoid(tau):
    # The clean end linear in lambda over the step; its integrals by adaptive quadrature.
    schedule, t, s = SCHEDULES["custom"], 0.6, 0.4
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    x, z = draws((4, 2), 2), draws((4, 2), 20)
    (a_t, _), (a_s, s_s) = pair(schedule, t), pair(schedule, s)
    from_, to = log_ratio(schedule, t), log_ratio(schedule, s)

    def kernel(u, power):
        return (1 + tau**2) * math.exp((1 + tau**2) * (u - to)) * ((u - from_) / (to - from_)) ** power

    whole, end = (scipy.integrate.quad(kernel, from_, to, args=(p,), epsabs=1e-14)[0] for p in (0, 1))
    fresh = s_s * math.sqrt(1 - math.exp(-2 * tau**2 * (to - from_))) * z
    base = a_s * math.exp(-(1 + tau**2) * (to - from_)) * x / a_t + fresh
    first = denoiser(x, time(t)).mean
    second = denoiser(base + a_s * whole * first, time(s)).mean
    want = base + a_s * ((whole - end) * first + end * second)
    assert relative(run(denoiser, gaussian.StochasticHeun(tau), grids.of_times([t, s]), x, Fixed(z)), want) < 1e-11


@pytest.mark.parametrize(("p", "q"), [(1, 0), (2, 0), (3, 0), (1, 1), (2, 2), (3, 3), (3, 1), (1, 3)])
@pytest.mark.parametrize("tau", [0.0, 0.7, 1.0])
def test_sa_matches_algorithm_1(tau, p, q):
    # Xue et al. 2023, algorithm 1 with eq. 14-18, by adaptive quadrature of the Lagrange polynomials in lambda.
    schedule, grid = schedules.Cosine(), grids.of_times([0.9, 0.75, 0.6, 0.5, 0.45, 0.3])
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    lam = [log_ratio(schedule, t) for t in grid.times]

    def adams(i, nodes):
        """Weights of the answers at `nodes` over step i."""
        to = lam[i + 1]

        def integrand(u, j):
            basis = math.prod((u - lam[m]) / (lam[j] - lam[m]) for m in nodes if m != j)
            return (1 + tau**2) * math.exp((1 + tau**2) * (u - to)) * basis

        alpha = pair(schedule, grid.times[i + 1])[0]
        return {j: alpha * scipy.integrate.quad(integrand, lam[i], to, args=(j,), epsabs=1e-13)[0] for j in nodes}

    x = start = draws((4, 2), 2)
    answers, predicted = [denoiser(x, time(grid.times[0])).mean], x
    for i in range(grid.steps):
        (_, s_t), (_, s_s) = pair(schedule, grid.times[i]), pair(schedule, grid.times[i + 1])
        h = lam[i + 1] - lam[i]
        fresh = s_s * math.sqrt(1 - math.exp(-2 * tau**2 * h)) * draws(x.shape, 20 + i)
        base = s_s / s_t * math.exp(-(tau**2) * h) * x + fresh
        predicted = base + sum(w * answers[j] for j, w in adams(i, range(max(0, i + 1 - p), i + 1)).items())
        answers.append(denoiser(predicted, time(grid.times[i + 1])).mean)
        corrected = base + sum(w * answers[j] for j, w in adams(i, range(max(0, i + 1 - q), i + 2)).items())
        x = corrected if q else predicted
    assert relative(run(denoiser, gaussian.SASolver(tau, p, q), grid, start, noise(5, start)), predicted) < 1e-10


def test_sa_weights_are_adams_weights_in_the_limit_of_small_steps():
    # Adams-Bashforth and Adams-Moulton of order 3 and 4 (Hairer, Norsett and Wanner, section III.1): nothing cancels.
    h = 1e-7
    nodes = h * np.array([0.0, -1.0, -2.0])
    assert np.allclose(_weights(nodes, 0.0, h, 3) / h, [23 / 12, -16 / 12, 5 / 12], rtol=5 * h)
    nodes = h * np.array([1.0, 0.0, -1.0, -2.0])
    assert np.allclose(_weights(nodes, 0.0, h, 4) / h, [9 / 24, 19 / 24, -5 / 24, 1 / 24], rtol=50 * h)
    for h in (1e-3, 1.0, 30.0, 1e4):  # a constant is integrated exactly, however long the step
        assert math.isclose(_weights(np.array([0.0, -h, -2.5 * h]), 0.0, h, 3).sum(), -math.expm1(-h), rel_tol=1e-11)


@pytest.mark.parametrize("churn", [0.0, 3.0, 40.0])
def test_churn_matches_edm_algorithm_2(churn):
    # Karras et al. 2022, algorithm 2, sigma(t) = 80 t; their S_noise, S_tmin and S_tmax.
    grid = grids.karras(schedules.EDM(), 8)
    denoiser = gaussian.Exact(gaussian.Path(schedules.EDM()), GMM)
    x = start = 80 * draws((4, 2), 2)
    source = noise(8, start)
    for t, s in grid.pairs():
        level, end = 80 * t, 80 * s
        gamma = min(churn / 8, math.sqrt(2) - 1) if 0.05 <= level <= 50 else 0.0
        raised = level * (1 + gamma)
        if gamma > 0:
            x = x + math.sqrt(raised**2 - level**2) * 1.003 * source.normal(x.shape, dtype=F64)
        slope = (x - denoiser(x, time(raised / 80)).mean) / raised
        ahead = x + (end - raised) * slope
        if end > 0:
            slope = 0.5 * (slope + (ahead - denoiser(ahead, time(s)).mean) / end)
        x = x + (end - raised) * slope
    assert relative(run(denoiser, gaussian.Churn(churn), grid, start, noise(8, start)), x) < 1e-10


@pytest.mark.parametrize("clock", ["vp", "subvp", "linear_flow", "custom"])
@pytest.mark.parametrize("solver", OURS)
def test_the_noise_levels_alone_matter(solver, clock):
    # With the same sigma / alpha at every stop and the same noise, x / alpha is that of EDM's clock.
    levels, y = np.geomspace(HIGH, LOW, 9), HIGH * draws((4, 2), 2)

    def end(name):
        schedule = SCHEDULES[name]
        grid = grids.of_times([at_noise(schedule, level) for level in levels])
        denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), GMM))
        (first, _), (last, _) = pair(schedule, grid.times[0]), pair(schedule, grid.times[-1])
        return run(denoiser, solver, grid, first * y, noise(8, y)) / last

    assert relative(end(clock), end("edm")) < 1e-9  # the times come from a bisection


# ---------------------------------------------------------------- limits


@every_clock
def test_without_noise_they_are_the_deterministic_solvers(clock):
    path = gaussian.Path(SCHEDULES[clock])
    denoiser = gaussian.Exact(path, GMM)
    for grid in (interior(clock, 7), grids.karras(path.schedule, 7), grids.uniform(None, 3)):
        x = draws((4, 2), 3)
        ends = {s: run(denoiser, s, grid, x) for s in (*DETERMINISTIC, gaussian.SASolver(0.0, 1, 0))}
        assert torch.equal(ends[gaussian.Churn(0.0)], run(denoiser, gaussian.Heun(), grid, x))
        assert relative(ends[gaussian.SDEDPMSolverPP(0.0)], run(denoiser, gaussian.DPMSolverPP(), grid, x)) < 1e-12
        assert relative(ends[gaussian.SASolver(0.0, 1, 0)], run(denoiser, gaussian.DDIM(), grid, x)) < 1e-10
    assert (
        relative(ends_of_small_noise(denoiser, interior(clock, 7)), ends_of_small_noise(denoiser, interior(clock, 7), 0)) < 1e-4
    )


def ends_of_small_noise(denoiser, grid, tau=1e-5):
    """The states of the two that have no deterministic twin, at a stochasticity next to nothing."""
    x = draws((4, 2), 3)
    return torch.stack(
        [run(denoiser, make(tau), grid, x, noise(7, x)) for make in (gaussian.StochasticHeun, gaussian.SASolver)]
    )


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
def test_one_step_of_order_1_is_the_chain(clock):
    path, grid, x = gaussian.Path(SCHEDULES[clock]), interior(clock, 5), draws((4, 2), 3)
    denoiser = gaussian.Exact(path, GMM)
    chain = run(MeanOnly(denoiser), gaussian.DDPM(), grid, x, noise(5, x))
    assert relative(run(denoiser, gaussian.SASolver(1.0, 1, 0), grid, x, noise(5, x)), chain) < 1e-11


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("solver", [*IN_THE_CLEAN_END, gaussian.Churn(40.0, inflation=1.0)])
@pytest.mark.parametrize("clock", ["vp", "ve", "linear_flow", "custom"])
def test_point_mass_is_exact_at_any_number_of_calls(solver, clock, steps):
    # One atom: the clean end stands still, so that the linear part and the noise are everything.
    value, eye = time([[0.8, -1.3]]), torch.eye(2, dtype=F64)
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), Point(value))
    grid = interior(clock, steps)
    (a_t, s_t), (a_s, s_s) = (pair(SCHEDULES[clock], grid.times[i]) for i in (0, -1))
    mean, cov = propagate(denoiser, solver, grid, a_t * value[0], s_t**2 * eye)
    assert relative(mean, a_s * value[0]) < 1e-10
    assert relative(cov, s_s**2 * eye) < 1e-10


@every_clock
@pytest.mark.parametrize("solver", [*OURS, *DETERMINISTIC])
def test_whole_interval_is_finite_and_converges(solver, clock):
    # From t = 1, where alpha may be 0, onto t = 0. A doubling must remove a third of the covariance's error, until the two end
    # steps are left (1 / 80^2 and .002^2) and, for Churn's default, the bias of its inflation (below).
    schedule = SCHEDULES[clock]
    for steps, builder in ((1, "uniform"), (2, "karras"), (3, "log_snr"), (9, "quadratic")):
        denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), DATA))
        x = float(schedule.sigma(time(1.0))) * draws((3, 2), 4)
        *_, last = trajectory(denoiser, solver, grids.GRIDS[builder](schedule, steps), x, rng=PerSample(0, 3))
        assert torch.isfinite(last.x).all()
        assert relative(last.x, last.law.mean) < 1e-12
    floor = 0.05 if solver == gaussian.Churn() else 5e-4
    exact = MeanOnly(gaussian.Exact(gaussian.Path(schedule), DATA))
    start, end = (gaussian.Exact(exact.path, DATA).marginal(time(t)) for t in (1.0, 0.0))
    errors = []
    for n in (30, 60):
        cov = propagate(exact, solver, grids.karras(schedule, n), start.mean[0], start.cov.dense()[0])[1]
        errors.append(float((cov - end.cov.dense()[0]).norm()))
    assert errors[1] < max(0.67 * errors[0], floor), errors


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_stochastic_heun_starts_without_signal_by_the_mean_of_both(tau):
    # e^((1 + tau^2) lambda) starts at 0 and weighs nothing: x_s = alpha_s (D_1 + D_s) / 2 + sigma_s z, D_s from the predictor.
    schedule, s = SCHEDULES["linear_flow"], 0.7
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    x, z = draws((4, 2), 2), draws((4, 2), 20)
    alpha, sigma = pair(schedule, s)
    first = denoiser(x, time(1.0)).mean
    second = denoiser(alpha * first + sigma * z, time(s)).mean
    want = alpha * (first + second) / 2 + sigma * z
    assert relative(run(denoiser, gaussian.StochasticHeun(tau), grids.of_times([1.0, s]), x, Fixed(z)), want) < 1e-12


@every_clock
def test_churn_never_passes_the_highest_noise(clock):
    schedule = SCHEDULES[clock]
    solver = gaussian.Churn(1e9, 0.0, math.inf)
    for grid in (grids.karras(schedule, 12), grids.of_times([1.0, 0.999, 0.99, 0.5, 0.0])):
        plan = solver.plan(gaussian.Path(schedule), grid)
        raised = [float(onward.times[0]) for _, _, onward in plan]
        assert raised[0] == 1  # nothing is above
        for t, up, (_, added, _) in zip(grid.times, raised, plan, strict=False):
            assert t <= up <= 1
            assert (added > 0) == (up > t)
            if 0 < up < 1 and t < 1:
                assert math.isclose(log_ratio(schedule, t) - log_ratio(schedule, up), 0.5 * math.log(2), rel_tol=1e-6)
    narrow = gaussian.Churn(5.0, 0.5, 2.0).plan(gaussian.Path(schedule), interior(clock, 20))
    levels = [math.exp(-log_ratio(schedule, t)) for t in interior(clock, 20).times]
    assert [b > 0 for _, b, _ in narrow] == [0.5 <= level <= 2.0 for level in levels[:-1]]


# ---------------------------------------------------------------- one marginal


@pytest.mark.parametrize("solver", [*OURS[:-2], gaussian.Churn(5.0, inflation=1.0), *DETERMINISTIC])
def test_every_stochasticity_keeps_the_gaussian_marginal(solver):
    # The covariance at 160 steps, by exact moments, on a clock that is neither VP nor EDM.
    exact, grid = gaussian.Exact(gaussian.Path(SCHEDULES["custom"]), DATA), interior("custom", 160)
    start, end = (exact.marginal(time(grid.times[i])) for i in (0, -1))
    mean, cov = propagate(MeanOnly(exact), solver, grid, start.mean[0], start.cov.dense()[0])
    assert relative(mean, end.mean[0]) < 1e-10  # the mean of a Gaussian is exact
    assert relative(cov, end.cov.dense()[0]) < (4e-2 if solver.order == 1 else 4e-3)  # h = .014, times (1 + tau^2) <= 5


PARTS = [(0.4, -1.0, 0.2), (0.6, 1.5, 0.4)]  # of `LINE`: weight, mean, variance
COUNT = 4000


def start_of_line(alpha: float, sigma: float) -> torch.Tensor:
    """Exact draws of x_t for `LINE`."""
    z, u = draws((COUNT, 2), 7), np.random.default_rng(8).random(COUNT)
    weight, mean, variance = (torch.tensor(v, dtype=F64) for v in zip(*PARTS, strict=True))
    which = torch.from_numpy((u > float(weight[0])).astype(int))
    return (alpha * (mean[which] + variance[which].sqrt() * z[:, 0]) + sigma * z[:, 1])[:, None]


def departure(solver, source) -> float:
    """p-value of x / alpha at the low noise level against its exact law."""
    schedule, grid = SCHEDULES["vp"], interior("vp", 100)
    x = start_of_line(*pair(schedule, grid.times[0]))
    end = run(MeanOnly(gaussian.Exact(gaussian.Path(schedule), LINE)), solver, grid, x, source)

    def cdf(y):
        return sum(w * scipy.stats.norm.cdf(y, m, math.sqrt(v + LOW**2)) for w, m, v in PARTS)

    return scipy.stats.kstest((end / pair(schedule, grid.times[-1])[0]).flatten().numpy(), cdf).pvalue


@pytest.mark.parametrize("solver", [*OURS[:-2], gaussian.Churn(20.0, inflation=1.0), *DETERMINISTIC])
def test_every_stochasticity_keeps_the_law_of_a_mixture(solver):
    if solver.order == 1:
        pytest.skip("of order 1: at 100 steps its own error shows")
    assert departure(solver, Shared(3)) > 0.01  # 4000 draws of a fixed seed: no false alarm in later runs


class Louder(Shared):
    """Noise a quarter too large."""

    def normal(self, shape, *, dtype, device="cpu"):
        return 1.25 * super().normal(shape, dtype=dtype, device=device)


@pytest.mark.parametrize("solver", [gaussian.StochasticHeun(1.0), gaussian.SASolver(1.0)])
def test_the_law_test_sees_noise_a_quarter_too_large(solver):
    assert departure(solver, Louder(3)) < 1e-6


def test_an_inflation_leaves_its_bias():
    # c > 1 adds (c^2 - 1) (r-hat^2 - r^2) a step, about 2 churn / steps of r^2: more steps do not lower the sum over the grid.
    exact, errors = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA), {}
    for inflation in (1.0, 1.01):
        solver = gaussian.Churn(5.0, inflation=inflation)
        assert solver.order == (2 if inflation == 1 else 0)
        for n in (80, 160):
            grid = interior("vp", n)
            start, end = (exact.marginal(time(grid.times[i])) for i in (0, -1))
            cov = propagate(MeanOnly(exact), solver, grid, start.mean[0], start.cov.dense()[0])[1]
            errors[inflation, n] = float((cov - end.cov.dense()[0]).norm())
    assert abs(slopes([errors[1.0, n] for n in (80, 160)])[0] - 2) < 0.25
    assert abs(slopes([errors[1.01, n] for n in (80, 160)])[0]) < 0.25


# ---------------------------------------------------------------- weak order on a law that is not Gaussian


def expectation(solver, steps: int) -> float:
    """Error of E cos(1.3 x + .4) at the end, for `LINE` on VP, without Monte Carlo.

    u_k(x, D) = E u_(k + 1)(next state) is carried backwards on a lattice of the state and the previous answer, with 12
    Gauss-Hermite nodes for the noise of a step and cubic splines in between.
    """
    schedule, grid = SCHEDULES["vp"], interior("vp", steps)
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), LINE))
    plan, memory = solver.plan(denoiser.path, grid), isinstance(solver, gaussian.SDEDPMSolverPP)
    nodes, weights = np.polynomial.hermite_e.hermegauss(12)
    weights = weights / weights.sum()
    answers = np.linspace(-3.5, 4.0, 61) if memory else np.linspace(0.0, 1.0, 4)

    def ahead(k, x, state, value):
        """E of `value` after step k, from states of shape (n,)."""
        rows, z = torch.from_numpy(np.repeat(x, 12))[:, None], torch.from_numpy(np.tile(nodes, len(x)))[:, None]
        before = torch.from_numpy(np.repeat(state, 12))[:, None] if memory and k > 0 else None
        out, after, _ = solver.step(denoiser, plan, k, rows, before, Fixed(z))
        after = after if memory else torch.zeros_like(out)
        return value(out.flatten().numpy(), after.flatten().numpy()).reshape(-1, 12) @ weights

    def wave(x, _state):
        return np.cos(1.3 * x + 0.4)

    value = wave
    for k in range(steps - 1, 0, -1):
        alpha, sigma = pair(schedule, grid.times[k])
        edge = 2.9 * alpha + 4.5 * sigma  # of the state, beyond 4 standard deviations
        x = np.linspace(-edge, edge, 201)
        at = np.meshgrid(x, answers, indexing="ij") if memory else [x, x]
        table = ahead(k, at[0].ravel(), at[1].ravel(), value)
        table = table.reshape(len(x), -1) if memory else np.repeat(table[:, None], len(answers), 1)
        value = RectBivariateSpline(x, answers, table).ev
    (a_t, s_t), (a_s, s_s) = (pair(schedule, grid.times[i]) for i in (0, -1))
    z, w = np.polynomial.hermite_e.hermegauss(40)
    error = 0.0
    for share, m, v in PARTS:
        got = ahead(0, a_t * m + math.sqrt(a_t**2 * v + s_t**2) * z, z, value)
        want = wave(a_s * m + math.sqrt(a_s**2 * v + s_s**2) * z, z)
        error += share * float(w @ (got - want)) / w.sum()
    return error


@pytest.mark.parametrize(
    "solver",
    [
        *(gaussian.StochasticHeun(tau) for tau in (0.5, 1.0)),
        *(gaussian.SDEDPMSolverPP(eta) for eta in (0.5, 1.0)),
        gaussian.SASolver(1.0, 1, 0),
        gaussian.DDPM(),
    ],
)
def test_weak_order_on_a_mixture_is_the_declared_one(solver):
    # The clean end is curved here: Gaussians alone would pass a scheme that misses the second derivative of the drift.
    errors = [abs(expectation(solver, n)) for n in (16, 32)]
    assert abs(slopes(errors)[0] - solver.order) < 0.25


@pytest.mark.parametrize("corrector", [0, 1, 2, 3])
@pytest.mark.parametrize("predictor", [1, 2, 3])
@pytest.mark.parametrize("tau", [0.0, 1.0])
def test_sa_has_at_least_the_declared_order_in_every_combination(tau, predictor, corrector):
    # Some exceed it at these steps, where a small constant hides the leading term.
    solver, exact, errors = (
        gaussian.SASolver(tau, predictor, corrector),
        gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA),
        [],
    )
    for n in (60, 120):
        grid = interior("vp", n)
        start, end = (exact.marginal(time(grid.times[i])) for i in (0, -1))
        cov = propagate(MeanOnly(exact), solver, grid, start.mean[0], start.cov.dense()[0])[1]
        errors.append(float((cov - end.cov.dense()[0]).norm()))
    assert slopes(errors)[0] > solver.order - 0.25


@pytest.mark.parametrize("builder", ["karras", "log_snr", "flow", "uniform"])
@pytest.mark.parametrize("clock", ["vp", "linear_flow"])
def test_sa_is_sound_on_few_steps(clock, builder):
    # The default is better than the chain's step (no corrector) at every number of steps, and more steps are never worse; the
    # paper's orders are not sound there: the docstring's reason.
    path, law = gaussian.Path(SCHEDULES[clock]), normal(draws((4,), 0), spd(4, 3, 0.2, 2.0))
    exact = gaussian.Exact(path, law)
    start, end = (exact.marginal(time(t)) for t in (1.0, 0.0))

    def error(solver, steps):
        grid = grids.GRIDS[builder](path.schedule, steps)
        mean, cov = propagate(MeanOnly(exact), solver, grid, start.mean[0], start.cov.dense()[0])
        return relative(mean, end.mean[0]) + relative(cov, end.cov.dense()[0])

    steps = (3, 5, 8, 12, 20, 40)
    errors = [error(gaussian.SASolver(), n) for n in steps]
    assert errors == sorted(errors, reverse=True)
    assert errors[0] < 2
    assert all(one < other for one, other in zip(errors, (error(gaussian.SASolver(1.0, 1, 0), n) for n in steps), strict=True))
    if builder == "karras":
        assert error(gaussian.SASolver(1.0, 3, 3), 8) > 5
        assert error(gaussian.SASolver(1.0, 3, 3), 40) < 0.3 * errors[-1]


# ---------------------------------------------------------------- along one Brownian path


@cache
def shared_noise(clock: tuple[float, ...], seed: int, event: int) -> tuple[torch.Tensor, ...]:
    """Standardised increments of `event` paths, each of shape (event, 1)."""
    source = Brownian(seed, 1, clock, starts=0)
    return tuple(source.normal((1, event), dtype=F64).T for _ in clock[1:])


def along(solver, denoiser, grid, x, seed=0):
    """A solver's result along the Brownian paths of a seed."""
    clock = tuple(solver.noise_clock(denoiser.path, grid))
    return run(denoiser, solver, grid, x, Fixed(*shared_noise(clock, seed, x.shape[0])))


@pytest.mark.parametrize("solver", [s for s in ONE_DRAW if s != gaussian.Churn()])  # whose raise is at its limit at 32 steps
def test_strong_order_is_one_along_a_shared_path_and_none_without(solver):
    # Root mean square distance from 256 steps at 8 and 32, over 500 paths: two doublings of order 1, less a few per cent of
    # sampling error. With increments of another path for the coarse grid the distance does not fall.
    schedule = SCHEDULES["vp"]
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), CLOSE))
    x = HIGH * pair(schedule, interior("vp", 1).times[0])[0] * draws((500, 1), 9)
    fine = along(solver, denoiser, interior("vp", 256), x)
    for seed, order in ((0, 1.0), (1, 0.0)):
        errors = [float((along(solver, denoiser, interior("vp", n), x, seed) - fine).square().mean().sqrt()) for n in (8, 32)]
        assert abs(0.5 * slopes(errors)[0] - order) < 0.25


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "custom"])
@pytest.mark.parametrize("solver", [*IN_THE_CLEAN_END, gaussian.DDIM(1.0), gaussian.DDPM()])
def test_on_a_point_mass_one_path_has_one_end(solver, clock):
    # The clean end stands still, every step is exact, and the sum of the noise is that of the path: what `noise_clock` claims.
    # One step and twelve then agree within the rounding of the clock, about 2^-24 of a value.
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), Point(time([[0.8]])))
    ends = []
    for steps in (12, 6, 1):
        x = pair(SCHEDULES[clock], interior(clock, 1).times[0])[1] * draws((50, 1), 3)
        ends.append(along(solver, denoiser, interior(clock, steps), x))
    assert relative(ends[1], ends[0]) < 1e-5
    assert relative(ends[2], ends[0]) < 1e-5


@every_clock
def test_the_exponential_integrators_clock_is_the_variance_of_its_noise(clock):
    # In x / alpha. The strong order does not see this: any smooth clock has order 1.
    path, grid, solver = gaussian.Path(SCHEDULES[clock]), interior(clock, 6), gaussian.ExponentialIntegrator(0.7)
    spread = torch.tensor(solver.noise_clock(path, grid), dtype=F64).diff().abs().sqrt()
    for (_, s), want, row in zip(grid.pairs(), spread.tolist(), solver.plan(path, grid).rows, strict=True):
        assert math.isclose(row[2], 0.7 * pair(path.schedule, s)[0] * want, rel_tol=1e-9)


class Counting(Fixed):
    """Zero noise, counted."""

    drawn = 0

    def normal(self, shape, *, dtype, device="cpu"):
        self.drawn += 1
        return torch.zeros(tuple(shape), dtype=dtype)


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "edm"])
@pytest.mark.parametrize("solver", [*ONE_DRAW, *DETERMINISTIC, gaussian.DDIM(0.0), gaussian.EulerMaruyama(0.0)])
def test_the_noise_clock_has_an_increment_for_every_draw(solver, clock):
    schedule = SCHEDULES[clock]
    path = gaussian.Path(schedule)
    start = 0.9 if isinstance(solver, gaussian.EulerMaruyama | gaussian.ExponentialIntegrator) else 1.0
    for grid in (grids.uniform(None, 6, start), grids.karras(schedule, 9, start), grids.uniform(None, 1, 0.8, 0.1)):
        source, x = Counting(), draws((2, 2), 0)
        run(MeanOnly(gaussian.Exact(path, DATA)), solver, grid, x, source)
        values = solver.noise_clock(path, grid)
        assert len(values) == (source.drawn + 1 if source.drawn else 0)
        Brownian(0, 2, values)  # finite and monotone


# ---------------------------------------------------------------- conduct


@pytest.mark.parametrize("solver", OURS)
def test_random_solvers_refuse_to_encode(solver):
    with pytest.raises(GridError, match="a random solver runs from noise to data"):
        solver.plan(gaussian.Path(SCHEDULES["vp"]), interior("vp", 5).flipped())


@pytest.mark.parametrize("solver", [*DETERMINISTIC, gaussian.SASolver(0.0, 2, 0)])
def test_without_noise_they_encode(solver):
    denoiser, grid = gaussian.Exact(gaussian.Path(SCHEDULES["linear_flow"]), DATA), interior("linear_flow", 160)
    x = draws((4, 2), 5)
    assert float((run(denoiser, solver, grid, run(denoiser, solver, grid.flipped(), x)) - x).abs().max()) < 1e-2


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: gaussian.Churn(-1.0), "churn >= 0"),
        (lambda: gaussian.Churn(low=3.0, high=2.0), "low <= high"),
        (lambda: gaussian.Churn(inflation=0.0), "inflation > 0"),
        (lambda: gaussian.SDEDPMSolverPP(1.1), "use SASolver"),
        (lambda: gaussian.StochasticHeun(-0.1), ">= 0"),
        (lambda: gaussian.SASolver(-0.1), ">= 0"),
        (lambda: gaussian.SASolver(1.0, 4), "1, 2 or 3"),
        (lambda: gaussian.SASolver(1.0, 2, 4), "0 .none. to 3"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_cure(make, cure):
    with pytest.raises(GridError, match=cure):
        make()
