"""Every way to run a Gaussian path backwards, tested through one registry.

Certified: measured orders (weak, by exact moment propagation; strong, against the probability-flow ODE) within .25 of the
declared one on every schedule; updates equal to the papers'; exactness on a point mass; the limits alpha = 0 and t = 0; calls.

A solver added to `gaussian.SOLVERS` is tested here without a change (its default settings; more in `SETTINGS`).
"""

import math
from functools import cache
from itertools import pairwise

import numpy as np
import pytest
import torch

import oracles
from oracles import (
    F64,
    SCHEDULES,
    Fixed,
    at_noise,
    draws,
    flow,
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
from undrift.bridge import Path as BridgePath
from undrift.core import Covariance, PerSample
from undrift.errors import FamilyError, GridError
from undrift.laws import Normal, Point
from undrift.protocols import Sampler
from undrift.simulate import Ancestral, trajectory

SETTINGS: dict[str, list[dict]] = {
    "dpm_singlestep": [{"order": k, "quantity": q} for k in (2, 3) for q in ("eps", "x0")],
    "explicit_runge_kutta": [
        *({"tableau": name, "clock": "flow"} for name in ("ralston2", "heun3", "ralston3", "rk4")),
        *({"tableau": "ralston3", "clock": clock} for clock in ("signal", "noise")),
        *({"tableau": name, "clock": "angle"} for name in ("midpoint", "rk4")),  # midpoint elsewhere: test_runge_kutta.py
    ],
    "langevin": [{"steps": 3}],
    "multistep": [
        {"quantity": q, "order": k, "corrector": c}
        for q in ("x0", "eps", "v", "velocity")
        for k, c in ((1, False), (2, False), (3, False), (2, True), (3, True))
        if (k > 1 or q == "v") and ((k, c) != (2, True) or q == "velocity")  # order 1 is DDIM; test_multistep.py has them all
    ],
    "picard": [{"window": 7, "tolerance": 0.0}],  # a positive tolerance has an error of its own: test_picard.py
    "unipc": [{"predictor": p, "kernel": b} for p in (1, 2, 3) for b in ("bh1", "bh2")],
    "churn": [{"churn": s, "inflation": 1.0} for s in (0.0, 5.0)],  # an inflation has a bias of its own: test_stochastic.py
    "sa": [
        {"stochasticity": tau, "predictor": p, "corrector": q}
        for tau, p, q in [(0.0, 1, 0), (0.0, 3, 0), (0.0, 2, 2), (1.0, 1, 0), (1.0, 1, 1), (1.0, 3, 3), (2.0, 3, 3)]
    ],
    "sde_dpmpp": [{"stochasticity": eta} for eta in (0.0, 0.5, 1.0)],
    "stochastic_heun": [{"stochasticity": tau} for tau in (0.0, 0.5, 1.0, 2.0)],
    "ddim": [{"stochasticity": eta} for eta in (0.0, 0.5, 1.0)],
    "ddpm": [{"variance": v} for v in ("posterior", "forward")],
    "dpmpp": [{"order": k} for k in (1, 2)],
    "euler_maruyama": [{"stochasticity": level} for level in (0.0, 0.5, 1.0, 2.0)],
    "exponential": [{"stochasticity": level} for level in (0.0, 0.5, 1.0, 2.0)],
}
CASES: dict[str, Sampler] = {
    "-".join([name, *(str(v) for v in setting.values())]): make(**setting)
    for name, make in gaussian.SOLVERS.items()
    for setting in SETTINGS.get(name, [{}])
}
CASES["ancestral"] = Ancestral()
SWEEPING = ("adaptive", "picard")  # documented: `calls` is the least that a grid can cost
STAGED = ("dpm_singlestep", "explicit_runge_kutta", "adaptive")  # many calls in a step
EXTRAPOLATING = (*STAGED, "multistep-v")  # finite, but the last state is no answer of the denoiser
# documented: a finite step from alpha = 0 and onto t = 0
FINITE = ("ddim", "ddpm", "dpmpp", "heun", "multistep-x0", "picard", "restart", "unipc", "ancestral")
DRIFTING = ("euler_maruyama", "exponential")  # documented: needs a finite drift

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)
HIGH, LOW = 3.0, 0.3  # an interior interval in sigma / alpha, the same on every clock

ORDERED = [c for c in CASES if CASES[c].order > 0]  # 0: documented to have none in the grid

every_case = pytest.mark.parametrize("case", CASES)
every_schedule = pytest.mark.parametrize("clock", SCHEDULES)


class MeanOnly(oracles.MeanOnly):
    """Also for solvers that ask about some rows of the batch."""

    def rows(self, which):
        """Of some rows."""
        return MeanOnly(gaussian.rows(self.inner, which))


class Counted(oracles.Counted):
    """Also for solvers that ask about some rows of the batch."""

    def rows(self, which):
        """Itself: the laws of this file are shared by all samples."""
        return self


class Silent(Fixed):
    """Zero noise, and a note that some was asked for."""

    drawn = False

    def normal(self, shape, *, dtype, device="cpu"):
        """Zeros."""
        self.drawn = True
        return torch.zeros(tuple(shape), dtype=dtype)


def is_random(case: str) -> bool:
    """Whether a solver draws noise (asked of the solver itself, so that a new one is sorted by what it does)."""
    path = gaussian.Path(schedules.VP())
    source = Silent()
    run(MeanOnly(gaussian.Exact(path, DATA)), CASES[case], grids.uniform(None, 2, 0.9, 0.1), draws((1, 2), 0), source)
    return source.drawn


def interior(clock: str, steps: int) -> grids.Grid:
    schedule = SCHEDULES[clock]
    return grids.log_snr(schedule, steps, at_noise(schedule, HIGH), at_noise(schedule, LOW))


def steps(case: str) -> tuple[int, int]:
    """The last doubling: finer where a start-up takes long to be felt, coarser where a step has many calls."""
    return (20, 40) if case.startswith(STAGED) else (80, 160)


def weak_error(case: str, clock: str, grid: grids.Grid) -> tuple[float, float]:
    """Errors of mean and covariance at the grid's end, started from the exact law at its start."""
    exact = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), DATA)
    start, end = (exact.marginal(time(grid.times[i])) for i in (0, -1))
    mean, cov = propagate(MeanOnly(exact), CASES[case], grid, start.mean[0], start.cov.dense()[0])
    return float((mean - end.mean[0]).norm()), float((cov - end.cov.dense()[0]).norm())


@pytest.mark.parametrize("clock", ["vp", "subvp", "edm", "linear_flow", "custom"])
@pytest.mark.parametrize("case", ORDERED)
def test_weak_order_is_the_declared_one(case, clock):
    # Mean and covariance are propagated exactly, so the only tolerance is the .25 of the design (higher-order terms in the
    # last doubling). A mean below 1e-12 is exact: nothing to measure.
    means, covs = zip(*(weak_error(case, clock, interior(clock, n)) for n in steps(case)), strict=True)
    assert abs(slopes(covs)[-1] - CASES[case].order) < 0.25
    if means[0] > 1e-12:
        assert abs(slopes(means)[-1] - CASES[case].order) < 0.25
    assert covs[-1] < 0.1  # converging, and to the truth


@cache
def reference() -> tuple[torch.Tensor, torch.Tensor]:
    """Starts of x / alpha at the high noise level, and the probability-flow solution at the low one, on the mixture."""
    start = HIGH * draws((6, 2), 11)
    return start, flow(GMM, start, HIGH, LOW)


@pytest.mark.parametrize("clock", ["vp", "cosine", "edm", "linear_flow"])
@pytest.mark.parametrize("case", [c for c in ORDERED if not is_random(c)])
def test_strong_order_on_a_mixture_is_the_declared_one(case, clock):
    start, end = reference()
    schedule = SCHEDULES[clock]
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    errors = []
    for n in steps(case):
        grid = interior(clock, n)
        head, tail = (float(schedule.alpha(time(grid.times[i]))) for i in (0, -1))
        errors.append(float((run(denoiser, CASES[case], grid, head * start) / tail - end).norm()))
    assert abs(slopes(errors)[-1] - CASES[case].order) < 0.25
    assert errors[-1] < {1: 0.1, 2: 1e-3, 3: 1e-4, 4: 1e-6}[CASES[case].order]


@pytest.mark.parametrize("clock", ["subvp", "ve", "custom"])
@pytest.mark.parametrize("case", [c for c in ORDERED if not is_random(c)])
def test_strong_order_on_a_gaussian_is_the_declared_one(case, clock):
    # Per eigendirection the flow is x_s = alpha_s m + sqrt(v_s / v_t) (x_t - alpha_t m), v = alpha^2 lambda + sigma^2.
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), DATA)
    x = draws((5, 2), 12)
    errors = []
    for n in steps(case):
        grid = interior(clock, n)
        before, after = (denoiser.marginal(time(grid.times[i])) for i in (0, -1))
        ratio = (after.cov.values / before.cov.values).sqrt()
        basis = before.cov.basis[0]
        want = after.mean + ((x - before.mean) @ basis * ratio) @ basis.mT
        errors.append(float((run(denoiser, CASES[case], grid, x) - want).norm()))
    assert abs(slopes(errors)[-1] - CASES[case].order) < 0.25


def test_first_order_multistep_is_ddim():
    for clock in SCHEDULES:
        grid = grids.karras(SCHEDULES[clock], 9)
        denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM)
        x = float(SCHEDULES[clock].sigma(time(1.0))) * draws((4, 2), 1)
        one, other = (run(denoiser, solver, grid, x) for solver in (gaussian.DPMSolverPP(1), gaussian.DDIM()))
        assert relative(one, other) < 1e-12, clock  # the same numbers by another route: rounding only


# ---------------------------------------------------------------- the papers' updates


def one_step(solver, schedule, t: float, s: float, x, noise=None, law=DATA):
    denoiser = gaussian.Exact(gaussian.Path(schedule), law)
    rng = Fixed() if noise is None else Fixed(noise)
    return run(MeanOnly(denoiser), solver, grids.of_times([t, s]), x, rng), denoiser(x, time(t)).mean


STEPS = [(1.0, 0.9), (0.7, 0.3), (0.31, 0.3), (0.02, 0.001)]


@pytest.mark.parametrize("variance", ["posterior", "forward"])
@pytest.mark.parametrize(("t", "s"), [*STEPS, (0.02, 0.0)])
def test_ddpm_matches_the_papers_update(t, s, variance):
    # Ho et al. 2020, algorithm 2, with alpha-bar and beta of the step, and no noise at the last one.
    schedule = schedules.VP()
    bar_t, bar_s = (float(schedule.alpha(time(u))) ** 2 for u in (t, s))
    beta = 1 - bar_t / bar_s
    x, z = draws((4, 2), 2), draws((4, 2), 3)
    got, clean = one_step(gaussian.DDPM(variance), schedule, t, s, x, z)
    eps = (x - math.sqrt(bar_t) * clean) / math.sqrt(1 - bar_t)
    mean = (x - beta / math.sqrt(1 - bar_t) * eps) / math.sqrt(1 - beta)
    spread = {"posterior": (1 - bar_s) / (1 - bar_t) * beta, "forward": beta if s > 0 else 0.0}[variance]
    assert relative(got, mean + math.sqrt(spread) * z) < 1e-10  # 1 - bar cancels near t = 0 in the paper's form


@pytest.mark.parametrize("variance", ["posterior", "forward"])
def test_ddpm_variance_recursion_on_a_gaussian(variance):
    # Scalar data of variance c: D = a c x / (a^2 c + v), so var_s = (A + B gain)^2 var_t + beta, by hand.
    schedule, c = schedules.VP(), 0.6
    law = normal(time([0.0]), time([[c]]))
    grid = grids.uniform(None, 50)
    var = 1.0
    for t, s in grid.pairs():
        bar_t, bar_s = (float(schedule.alpha(time(u))) ** 2 for u in (t, s))
        beta = 1 - bar_t / bar_s
        eps = math.sqrt(1 - bar_t) / (bar_t * c + 1 - bar_t)  # E[eps | x] / x
        slope = (1 - beta / math.sqrt(1 - bar_t) * eps) / math.sqrt(1 - beta)
        tilde = (1 - bar_s) / (1 - bar_t) * beta
        var = slope**2 * var + (0.0 if s == 0 else tilde if variance == "posterior" else beta)
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), law))
    mean, cov = propagate(denoiser, gaussian.DDPM(variance), grid, time([0.0]), time([[1.0]]))
    assert float(mean.abs().max()) == 0
    assert math.isclose(float(cov), var, rel_tol=1e-9)


def test_ddpm_variances_bracket_the_truth():
    # The docstring's claim: posterior is exact for a point, forward for unit white noise on VP, the truth lies between.
    path, grid = gaussian.Path(schedules.VP()), grids.uniform(None, 30, 0.9, 0.1)

    def gap(law, variance):
        exact = gaussian.Exact(path, law)
        start, end = (exact.marginal(time(u)) for u in (0.9, 0.1))
        cov = propagate(MeanOnly(exact), gaussian.DDPM(variance), grid, start.mean[0], start.cov.dense()[0])[1]
        return float(cov - end.cov.dense()[0])

    point, white, between = (normal(time([0.5]), time([[c]])) for c in (0.0, 1.0, 0.4))
    assert abs(gap(point, "posterior")) < 1e-12
    assert abs(gap(white, "forward")) < 1e-12
    assert gap(between, "posterior") < -1e-3
    assert gap(between, "forward") > 1e-3


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_ddim_matches_the_papers_update(t, s, eta):
    # Song, Meng and Ermon 2021, eq. 12 and 16, in alpha-bar.
    schedule = schedules.VP()
    bar_t, bar_s = (float(schedule.alpha(time(u))) ** 2 for u in (t, s))
    x, z = draws((4, 2), 2), draws((4, 2), 3)
    got, clean = one_step(gaussian.DDIM(eta), schedule, t, s, x, z)
    eps = (x - math.sqrt(bar_t) * clean) / math.sqrt(1 - bar_t)
    spread = eta * math.sqrt((1 - bar_s) / (1 - bar_t)) * math.sqrt(1 - bar_t / bar_s)
    want = math.sqrt(bar_s) * clean + math.sqrt(1 - bar_s - spread**2) * eps + spread * z
    assert relative(got, want) < 1e-10  # as above


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("clock", ["vp", "subvp", "edm", "custom"])
def test_euler_maruyama_is_the_reverse_sde(clock, level):
    schedule, t, s = SCHEDULES[clock], 0.5, 0.45
    x, z = draws((4, 2), 2), draws((4, 2), 3)
    got, _ = one_step(gaussian.EulerMaruyama(level), schedule, t, s, x, z)
    alpha, sigma = (float(v(time(t))) for v in (schedule.alpha, schedule.sigma))
    h = 1e-5  # drift and diffusion by central differences of alpha and sigma: relative error ~ h^2
    up, down = time(t + h), time(t - h)
    f = float((schedule.alpha(up).log() - schedule.alpha(down).log()) / (2 * h))
    g2 = float((schedule.sigma(up) ** 2 - schedule.sigma(down) ** 2) / (2 * h)) - 2 * f * sigma**2
    centred = x - alpha * DATA.mean
    score = -torch.linalg.solve(alpha**2 * DATA.covariance()[0] + sigma**2 * torch.eye(2, dtype=F64), centred.mT).mT
    drift = f * x - 0.5 * (1 + level**2) * g2 * score
    assert relative(got, x - (t - s) * drift + level * math.sqrt(g2 * (t - s)) * z) < 1e-7


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0, 2.0])
def test_exponential_integrator_has_its_closed_form_on_vp(level):
    # With B = integral of beta over the step: x_s = e^(B/2) x + (1 + level^2) (e^(B/2) - 1) score + level sqrt(e^B - 1) z.
    schedule, t, s = schedules.VP(), 0.8, 0.2
    x, z = draws((4, 2), 2), draws((4, 2), 3)
    got, clean = one_step(gaussian.ExponentialIntegrator(level), schedule, t, s, x, z)
    area = 0.1 * (t - s) + 0.5 * 19.9 * (t**2 - s**2)
    alpha, sigma = float(schedule.alpha(time(t))), float(schedule.sigma(time(t)))
    score = (alpha * clean - x) / sigma**2
    grow = math.exp(area / 2)
    want = grow * x + (1 + level**2) * (grow - 1) * score + level * math.sqrt(grow**2 - 1) * z
    assert relative(got, want) < 1e-12  # 32-point quadrature is exact to rounding here


def test_multistep_matches_algorithm_2m():
    # Lu et al. 2022, algorithm 2, with their lambda; first step of order 1.
    schedule = schedules.Cosine()
    grid = grids.of_times([0.9, 0.7, 0.6, 0.2])
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    x = start = draws((4, 2), 2)
    previous, last = None, None
    for t, s in grid.pairs():
        (a_t, a_s), (s_t, s_s) = ([float(f(time(u))) for u in (t, s)] for f in (schedule.alpha, schedule.sigma))
        h = math.log(a_s / s_s) - math.log(a_t / s_t)
        clean = denoiser(x, time(t)).mean
        slope = clean if previous is None else clean + (clean - previous) * h / (2 * last)
        x = s_s / s_t * x - a_s * (math.exp(-h) - 1) * slope
        previous, last = clean, h
    assert relative(run(denoiser, gaussian.DPMSolverPP(), grid, start), x) < 1e-11


def test_heun_matches_edm_algorithm_1():
    # Karras et al. 2022, algorithm 1 without churn, sigma(t) = 80 t, to t = 0.
    grid = grids.karras(schedules.EDM(), 8)
    denoiser = gaussian.Exact(gaussian.Path(schedules.EDM()), GMM)
    x = start = 80 * draws((4, 2), 2)
    for t, s in grid.pairs():
        slope = (x - denoiser(x, time(t)).mean) / (80 * t)
        ahead = x + 80 * (s - t) * slope
        if s > 0:
            slope = 0.5 * (slope + (ahead - denoiser(ahead, time(s)).mean) / (80 * s))
        x = x + 80 * (s - t) * slope
    assert relative(run(denoiser, gaussian.Heun(), grid, start), x) < 1e-11


@pytest.mark.parametrize("clock", ["cosine", "linear_flow", "trigonometric"])
def test_heun_starts_without_signal_by_a_trapezoid_in_the_angle(clock):
    # y = x / norm, dy / dtheta = y cot(theta) - D / sin(theta), theta from pi / 2: the docstring's step, by hand.
    schedule, s = SCHEDULES[clock], 0.8
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    x = draws((4, 2), 2)
    alpha, sigma = float(schedule.alpha(time(s))), float(schedule.sigma(time(s)))
    norm, angle = math.hypot(alpha, sigma), math.atan2(sigma, alpha)
    step, first = angle - math.pi / 2, -denoiser(x, time(1.0)).mean
    ahead = alpha * -first + sigma * x  # the DDIM predictor from pure noise
    second = ahead / norm / math.tan(angle) - denoiser(ahead, time(s)).mean / math.sin(angle)
    want = norm * (x + 0.5 * step * (first + second))
    assert relative(run(denoiser, gaussian.Heun(), grids.of_times([1.0, s]), x), want) < 1e-12


# ---------------------------------------------------------------- fewer steps


def test_strided_chain_is_the_respaced_chain():
    # F1: a sub-sequence of a 1000-step chain is DDPM with respaced betas, whose products are the same alpha-bar.
    schedule = schedules.Cosine()
    fine = grids.uniform(None, 1000)
    bars = schedule.alpha(time(fine.times)).square()
    betas = 1 - bars[:-1] / bars[1:]
    for stride in (5, 40, 250):
        coarse = grids.of_times(fine.times[::stride])
        respaced = 1 - torch.stack([(1 - chunk).prod() for chunk in betas.split(stride)])
        rows = gaussian.DDPM("forward").plan(gaussian.Path(schedule), coarse).rows
        spreads = time([row[2] for row in rows])
        assert relative(spreads[:-1].square(), respaced[:-1]) < 1e-9  # products of up to 250 rounded factors
        assert spreads[-1] == 0


@pytest.mark.parametrize("case", ["ddpm-posterior", "ddpm-forward", "ddim-0.0", "ddim-0.5", "dpmpp-2", "heun"])
def test_more_calls_are_never_worse(case):
    fine = grids.log_snr(schedules.VP(), 320, 0.95, 0.02)
    errors = [weak_error(case, "vp", grids.of_times(fine.times[::stride]))[1] for stride in (32, 16, 8, 4, 2, 1)]
    assert errors == sorted(errors, reverse=True)


def test_ddpm_posterior_is_ancestral_sampling_from_a_mean():
    grid = grids.uniform(None, 12)
    for clock in SCHEDULES:
        exact = MeanOnly(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), DATA))
        start = time([0.1, 0.2]), spd(2, 1)
        moments = [propagate(exact, CASES[c], grid, *start) for c in ("ddpm-posterior", "ddim-1.0", "ancestral")]
        for mean, cov in moments[1:]:
            assert relative(mean, moments[0][0]) < 1e-12
            assert relative(cov, moments[0][1]) < 1e-12


# ---------------------------------------------------------------- exactness, limits, conduct


STRAIGHT = (
    *("ddim", "ddpm-posterior", "dpm", "explicit_runge_kutta", "heun", "picard", "restart", "unipc", "ancestral"),
    *("multistep-x0", "multistep-eps", "multistep-velocity"),  # not v, which turns with the angle
)


@pytest.mark.parametrize("steps", [1, 2, 7])
@every_schedule
@pytest.mark.parametrize("case", [c for c in CASES if c.startswith(STRAIGHT) and not c.endswith("angle")])
def test_point_mass_is_exact_at_any_number_of_calls(case, clock, steps):
    # One atom: the posterior is the atom, every one of these steps is exact, noise and all (F2).
    value = time([[0.8, -1.3]])
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), Point(value))
    grid = interior(clock, steps)
    (a_t, a_s), (s_t, s_s) = ([float(f(time(grid.times[i]))) for i in (0, -1)] for f in gaussian_pair(clock))
    eye = torch.eye(2, dtype=F64)
    mean, cov = propagate(denoiser, CASES[case], grid, a_t * value[0], s_t**2 * eye)
    assert relative(mean, a_s * value[0]) < 1e-11
    assert relative(cov, s_s**2 * eye) < 1e-11


def gaussian_pair(clock: str):
    return SCHEDULES[clock].alpha, SCHEDULES[clock].sigma


INVERTIBLE = [
    gaussian.DDIM(),
    gaussian.DPMSolverPP(),
    gaussian.DPMSolverSingle(3),
    gaussian.ExplicitRungeKutta("ralston3"),
    gaussian.ExplicitRungeKutta("rk4"),
    gaussian.Heun(),
    gaussian.Multistep("v", 2),
    gaussian.Multistep("velocity", 3, True),
    gaussian.Picard(tolerance=0.0),
    gaussian.UniPC(2),
    gaussian.EulerMaruyama(0.0),
]


@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow", "custom"])
@pytest.mark.parametrize("solver", INVERTIBLE)
def test_deterministic_solvers_invert(solver, clock):
    # F2. Encoding runs the same grid the other way round. Both maps follow one ODE with the declared order, so a Gaussian comes
    # back with an error that falls at least like it (the errors of the two ways may cancel to one order more).
    path = gaussian.Path(SCHEDULES[clock])
    x = draws((4, 2), 5)

    def round_trip(law, steps):
        denoiser, grid = gaussian.Exact(path, law), interior(clock, steps)
        first = float(SCHEDULES[clock].alpha(time(grid.times[-1]))) * x
        return float((run(denoiser, solver, grid, run(denoiser, solver, grid.flipped(), first)) - first).abs().max())

    # Most are exact in a clock where a point mass is a line; it is none in t or in the angle.
    if not isinstance(solver, gaussian.EulerMaruyama) and solver != gaussian.Multistep("v", 2):
        assert round_trip(Point(time([[0.3, 0.4]])), 5) < 1e-10
    assert slopes([round_trip(DATA, n) for n in (40, 80, 160)])[-1] > solver.order - 0.25


@pytest.mark.parametrize("solver", [gaussian.DDPM(), gaussian.DDIM(0.5), gaussian.ExponentialIntegrator(1.0)])
def test_random_solvers_refuse_to_encode(solver):
    path = gaussian.Path(SCHEDULES["vp"])
    with pytest.raises(GridError, match="a random solver runs from noise to data"):
        solver.plan(path, interior("vp", 5).flipped())


def refusal(case: str, path: gaussian.Path, grid: grids.Grid) -> str | None:
    """Why a solver refuses a grid, or None."""
    try:
        CASES[case].plan(path, grid)
    except GridError as error:
        return str(error)
    return None


@every_schedule
@every_case
def test_limits_are_finite_or_refused_with_the_step(case, clock):
    schedule = SCHEDULES[clock]
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), DATA))
    no_signal = float(schedule.alpha(time(1.0))) == 0
    x = float(schedule.sigma(time(1.0))) * draws((3, 2), 4)
    for steps, builder in ((1, "uniform"), (2, "karras"), (3, "log_snr"), (9, "quadratic"), (12, "karras")):
        grid = grids.GRIDS[builder](schedule, steps)
        if case.startswith(DRIFTING) and no_signal:
            with pytest.raises(GridError, match=rf"t = 1 to s = {grid.times[1]:g}.*use DDIM"):
                CASES[case].plan(denoiser.path, grid)
            continue
        if (refused := refusal(case, denoiser.path, grid)) is not None:  # a new solver may refuse, if it names the step
            assert not case.startswith((*FINITE, *EXTRAPOLATING, *DRIFTING))
            assert "t = " in refused
            continue
        stops = list(trajectory(denoiser, CASES[case], grid, x, rng=PerSample(0, 3)))
        assert stops[-1].t == 0
        assert len(stops) == steps + 1
        assert torch.isfinite(stops[-1].x).all()
        if case.startswith(FINITE):  # onto the data: the last answer itself, no noise left
            assert relative(stops[-1].x, stops[-1].law.mean) < 1e-12


# Its error changes its sign near 20 of these steps; its order onto both ends is measured in test_multistep.py.
CROSSING = "multistep-v-1-False"


@every_schedule
@pytest.mark.parametrize("case", [c for c in ORDERED if c.startswith((*FINITE, *EXTRAPOLATING)) and c != CROSSING])
def test_whole_interval_converges(case, clock):
    # From t = 1 (alpha = 0 on some clocks) onto t = 0. Each doubling must remove at least a third of the error.
    schedule = SCHEDULES[clock]
    errors = [
        weak_error(case, clock, grids.karras(schedule, n))[1]
        for n in ((10, 20, 40) if case.startswith(STAGED) else (20, 40, 80))
    ]
    floor = 1e-4  # the two end steps at noise .002 and 80 are not refined: they leave (.002)^2 and 1 / 80^2
    assert all(b < max(0.67 * a, floor) for a, b in pairwise(errors)), errors


def test_every_step_count_ends_where_told():
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedules.LinearFlow()), DATA))
    for case in ("dpmpp-2", "heun"):
        for steps in (1, 2, 3, 4, 5, 9, 40):
            for builder in grids.GRIDS.values():
                *_, last = trajectory(
                    denoiser, CASES[case], builder(schedules.LinearFlow(), steps), draws((1, 2), 0), rng=PerSample(0, 1)
                )
                assert last.t == 0
                assert relative(last.x, last.law.mean) < 1e-12


@every_case
def test_calls_are_those_promised(case):
    for grid in (grids.uniform(None, 6), grids.uniform(None, 6, 0.9, 0.1), grids.of_times([0.5, 0.2])):
        counted = Counted(MeanOnly(gaussian.Exact(gaussian.Path(schedules.VP()), DATA)))
        run(counted, CASES[case], grid, draws((2, 2), 0), PerSample(0, 2))
        if case.startswith(SWEEPING):
            assert counted.calls >= CASES[case].calls(grid)
        else:
            assert counted.calls == CASES[case].calls(grid)


@every_case
def test_sample_is_unchanged_by_its_neighbours(case):
    denoiser, grid = gaussian.Exact(gaussian.Path(schedules.VP()), GMM), grids.uniform(None, 7)
    x = draws((5, 2), 8)
    together = run(denoiser, CASES[case], grid, x.clone(), PerSample(3, 5))
    alone = run(denoiser, CASES[case], grid, x[2:3].clone(), PerSample(3, [2]))
    assert relative(together[2:3], alone) < 1e-12  # rounding of a batched product


@every_case
def test_nothing_given_is_changed(case):
    denoiser, grid, x = gaussian.Exact(gaussian.Path(schedules.VP()), DATA), grids.uniform(None, 5), draws((3, 2), 8)
    kept = x.clone()
    stops = list(trajectory(MeanOnly(denoiser), CASES[case], grid, x, rng=PerSample(0, 3)))
    again = list(trajectory(MeanOnly(denoiser), CASES[case], grid, x, rng=PerSample(0, 3)))
    assert torch.equal(x, kept)
    for a, b in zip(stops, again, strict=True):  # no state is left in the sampler, and no yielded state is overwritten
        assert torch.equal(a.x, b.x)


@every_case
def test_protocol(case):
    assert isinstance(CASES[case], Sampler)
    if CASES[case].family != "any":
        with pytest.raises(FamilyError, match="Ancestral"):
            CASES[case].plan(BridgePath(schedules.BrownianBridge(), Point(time([[0.0, 0.0]]))), grids.uniform(None, 3))


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: gaussian.DDIM(1.5), "use EulerMaruyama"),
        (lambda: gaussian.DDIM(-0.1), r"\[0, 1\]"),
        (lambda: gaussian.DPMSolverPP(3), "order 1 or 2"),
        (lambda: gaussian.EulerMaruyama(-1.0), ">= 0"),
        (lambda: gaussian.ExponentialIntegrator(-1.0), ">= 0"),
        (lambda: gaussian.DDPM("beta"), "'posterior' or 'forward'"),
        (lambda: gaussian.ExplicitRungeKutta("euler"), "choose one of midpoint"),
        (lambda: gaussian.ExplicitRungeKutta(clock="log"), "choose one of signal"),
        (lambda: gaussian.DPMSolverSingle(1), r"order 1 is DDIM\(\)"),
        (lambda: gaussian.DPMSolverSingle(2, "v"), "'eps' or 'x0'"),
        (lambda: gaussian.UniPC(4), "order 1, 2 or 3"),
        (lambda: gaussian.UniPC(2, "bh3"), "'bh1'"),
        (lambda: gaussian.Picard(gaussian.DDIM(1.0)), r"DDIM\(\) or ExponentialIntegrator\(0\)"),
        (lambda: gaussian.Picard(window=0), "window >= 1"),
        (lambda: gaussian.Adaptive(0.0, 0.0), "one of them positive"),
        (lambda: gaussian.Adaptive(max_calls=2), "max_calls >= 3"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_cure(make, cure):
    with pytest.raises(GridError, match=cure):
        make()


def test_order_slopes_are_a_real_measurement():
    # The instrument itself: an Euler step called "order 2" must fail the order test.
    schedule = schedules.VP()
    denoiser = gaussian.Exact(gaussian.Path(schedule), line([0.4, 0.6], [-1.0, 1.5], [0.2, 0.4]))
    x = np.linspace(-2, 2, 5)[:, None]
    want = flow(denoiser.data, torch.from_numpy(x), HIGH, LOW)
    a_t, a_s = (float(schedule.alpha(time(at_noise(schedule, v)))) for v in (HIGH, LOW))
    errors = [
        float((run(denoiser, gaussian.DDIM(), interior("vp", n), a_t * torch.from_numpy(x)) / a_s - want).norm())
        for n in (80, 160)
    ]
    assert abs(slopes(errors)[0] - 2) > 0.5


@pytest.mark.parametrize("solver", [s for s in INVERTIBLE if not isinstance(s, gaussian.EulerMaruyama)])
@pytest.mark.parametrize("clock", ["linear_flow", "cosine", "trigonometric"])
def test_encoding_reaches_pure_noise(solver, clock):
    # Up to t = 1, where alpha = 0: the encoded Gaussian has the prior's spread, within the solver's error at 400 steps.
    path, law = gaussian.Path(SCHEDULES[clock]), Normal(time([[0.0]]), Covariance.isotropic(time([0.36]), 1))
    start = 1e-3
    grid = grids.uniform(None, 400, 1.0, start).flipped()
    x = float(SCHEDULES[clock].alpha(time(start))) * 0.6 * time([[1.0]])
    encoded = run(gaussian.Exact(path, law), solver, grid, x)
    assert abs(float(encoded)) == pytest.approx(float(SCHEDULES[clock].sigma(time(1.0))), rel=0.02)
