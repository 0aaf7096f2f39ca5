"""The exponential multistep: weights by exact arithmetic, steps written out by hand, limits, orders.

Nothing here shares a formula with the solver: the weights of a polynomial through the last answers come from its coefficients
and the closed moments of 1 and e^u, in 50 decimal digits.
"""

import math
from decimal import Decimal, localcontext
from itertools import pairwise

import pytest
import torch
from scipy.integrate import quad

from oracles import (
    F64,
    SCHEDULES,
    Fixed,
    MeanOnly,
    at_noise,
    draws,
    endpoint,
    flow,
    mixture,
    normal,
    relative,
    run,
    slopes,
    spd,
    time,
)
from undrift import gaussian, grids
from undrift.core import PerSample
from undrift.errors import GridError
from undrift.gaussian import Multistep
from undrift.gaussian.solvers.multistep import QUANTITIES
from undrift.laws import Point
from undrift.simulate import trajectory

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)
HIGH, LOW = 3.0, 0.3
SETTINGS = [
    Multistep(quantity, order, corrector)
    for quantity in QUANTITIES
    for order, corrector in ((1, False), (2, False), (3, False), (2, True), (3, True))
]


def called(solver: Multistep) -> str:
    return f"{solver.quantity}-{solver.order}-{solver.corrector}"


every_setting = pytest.mark.parametrize("solver", SETTINGS, ids=called)
# v_flow is a polynomial in another variable than the clock it is integrated in: it has a test by quadrature of its own.
every_closed_setting = pytest.mark.parametrize("solver", [s for s in SETTINGS if s.quantity != "v_flow"], ids=called)


def levels(clock: str, grid: grids.Grid) -> list[tuple[float, float]]:
    """(alpha, sigma) at every stop."""
    times, schedule = time(grid.times), SCHEDULES[clock]
    return list(zip(schedule.alpha(times).tolist(), schedule.sigma(times).tolist(), strict=True))


def interior(clock: str, steps: int) -> grids.Grid:
    schedule = SCHEDULES[clock]
    return grids.log_snr(schedule, steps, at_noise(schedule, HIGH), at_noise(schedule, LOW))


# name: (norm, clock tau, the variable u of the polynomial, q from the state and the posterior mean), each of alpha and sigma.
BY_HAND = {
    "x0": (lambda a, s: s, lambda a, s: math.log(a / s), lambda x, m, a, s: m),
    "eps": (lambda a, s: a, lambda a, s: s / a, lambda x, m, a, s: (x - a * m) / s),
    "v": (
        math.hypot,
        lambda a, s: math.atan2(s, a),
        lambda x, m, a, s: (a * (x - a * m) / s - s * m) / math.hypot(a, s),
    ),
    "velocity": (lambda a, s: a + s, lambda a, s: s / (a + s), lambda x, m, a, s: (x - a * m) / s - m),
}


def lagrange(nodes: list[float], start: float, end: float, exponential: bool = False) -> list[float]:
    """Integrals from start to end of each Lagrange polynomial of the nodes, times e^(u - end) if asked, in 50 digits."""
    with localcontext() as context:
        context.prec = 50
        at, (low, high) = [Decimal(v) - Decimal(end) for v in nodes], (Decimal(start) - Decimal(end), Decimal(0))
        moments = []
        for power in range(len(nodes)):
            if exponential:  # by parts: I_p = [u^p e^u] - p I_(p-1)
                boundary = high**power * high.exp() - low**power * low.exp() if power else high.exp() - low.exp()
                moments.append(boundary - power * moments[-1] if power else boundary)
            else:
                moments.append((high ** (power + 1) - low ** (power + 1)) / (power + 1))
        weights = []
        for j, node in enumerate(at):
            coefficients = [Decimal(1)]
            for other in at[:j] + at[j + 1 :]:
                shifted = [Decimal(0), *coefficients]
                coefficients = [
                    (s - other * c) / (node - other) for s, c in zip(shifted, [*coefficients, Decimal(0)], strict=True)
                ]
            weights.append(float(sum(c * m for c, m in zip(coefficients, moments, strict=True))))
        return weights


def onward(quantity: str, levels, i: int, which: list[int]) -> tuple[float, list[float]]:
    """Step i: weight of the state, and of the answers at the stops `which`."""
    norm, clock, _ = BY_HAND[quantity]
    (a, s), (b, r) = levels[i], levels[i + 1]
    weights = lagrange([clock(*levels[k]) for k in which], clock(a, s), clock(b, r), quantity == "x0")
    scale = b if quantity == "x0" else norm(b, r)  # sigma e^lambda = alpha
    return norm(b, r) / norm(a, s), [scale * w for w in weights]


def by_hand(denoiser, solver: Multistep, clock: str, grid: grids.Grid, x: torch.Tensor) -> torch.Tensor:
    """The docstring's recursion: predict with the last answers, correct with one more; order 3 alone begins by a trapezoid."""
    at, read = levels(clock, grid), BY_HAND[solver.quantity][2]
    points = solver.order - solver.corrector

    def asked(state, k):
        return read(state, denoiser(state, time(grid.times[k])).mean, *at[k])

    def sum_of(state, i, which, answers):
        gain, weights = onward(solver.quantity, at, i, which)
        return gain * state + sum(w * answers[k] for w, k in zip(weights, which, strict=True))

    answers, mended = {}, x
    for i in range(grid.steps):
        answers[i] = asked(x, i)
        if solver.corrector and i > 0:
            mended = sum_of(mended, i - 1, list(range(i, max(-1, i - points - 1), -1)), answers)
        else:
            mended = x
        x = sum_of(mended, i, list(range(i, max(-1, i - points), -1)), answers)
        if i == 0 and solver.order == 3 and not solver.corrector:
            x = sum_of(mended, 0, [1, 0], {0: answers[0], 1: asked(x, 1)})
    return x


@every_closed_setting
@pytest.mark.parametrize("clock", ["vp", "linear_flow", "custom"])
def test_steps_are_those_written_out(solver, clock):
    # Uneven steps, so that a rule for even ones fails.
    schedule = SCHEDULES[clock]
    grid = grids.of_times([at_noise(schedule, level) for level in (4.0, 2.0, 1.5, 0.7, 0.6, 0.2)])
    denoiser, x = gaussian.Exact(gaussian.Path(schedule), GMM), draws((4, 2), 2)
    want = by_hand(denoiser, solver, clock, grid, x)
    assert relative(run(denoiser, solver, grid, x), want) < 1e-12


@pytest.mark.parametrize("clock", ["linear_flow", "trigonometric", "vp"])
@pytest.mark.parametrize("solver", [s for s in SETTINGS if s.quantity in ("v", "velocity")])
def test_steps_from_pure_noise_onto_data_are_those_written_out(solver, clock):
    denoiser, x = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM), draws((4, 2), 2)
    grid = grids.of_times([1.0, 0.8, 0.5, 0.4, 0.1, 0.0])
    assert relative(run(denoiser, solver, grid, x), by_hand(denoiser, solver, clock, grid, x)) < 1e-12


# ---------------------------------------------------------------- special cases


@pytest.mark.parametrize("quantity", ["x0", "eps", "velocity"])
@pytest.mark.parametrize("clock", SCHEDULES)
def test_order_1_is_ddim(clock, quantity):
    schedule = SCHEDULES[clock]
    denoiser, x = gaussian.Exact(gaussian.Path(schedule), GMM), draws((4, 2), 1)
    whole = grids.uniform(None, 1), grids.karras(schedule, 9)
    for grid in (interior(clock, 7), *(() if quantity == "eps" else whole)):  # eps has no step from alpha = 0
        one, other = (run(denoiser, solver, grid, x) for solver in (Multistep(quantity, 1), gaussian.DDIM()))
        assert relative(one, other) < 1e-12


@pytest.mark.parametrize("clock", ["vp", "trigonometric", "custom"])
def test_v_of_order_1_is_euler_in_the_angle(clock):
    # y = x / n moves by dy / dtheta = v; DDIM turns on the circle of which this is the tangent.
    grid = interior(clock, 6)
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM)
    x = start = draws((4, 2), 1)
    for t, (before, after) in zip(grid.times, pairwise(levels(clock, grid)), strict=False):
        (a, s), (b, r) = before, after
        clean = denoiser(x, time(t)).mean
        eps = (x - a * clean) / s
        y = x / math.hypot(a, s) + (math.atan(r / b) - math.atan(s / a)) * (a * eps - s * clean) / math.hypot(a, s)
        x = math.hypot(b, r) * y
    assert relative(run(denoiser, Multistep("v", 1), grid, start), x) < 1e-13


def answers_weights(solver, clock, grid) -> list[tuple[float, ...]]:
    """Of every step: the weights of state and answers in the predictor."""
    return [row[2] for row in solver.plan(gaussian.Path(SCHEDULES[clock]), grid).rows]


def test_x0_of_order_2_has_the_exact_phi_weights():
    # D + (u - l_t) / h' (D - D') against e^u: (1 - e^-h) D and (h - 1 + e^-h) / h' of the difference, times alpha_s.
    grid = grids.of_times([0.9, 0.7, 0.6, 0.2])
    at = levels("cosine", grid)
    lam = [math.log(a / s) for a, s in at]
    rows = answers_weights(Multistep("x0", 2), "cosine", grid)
    for i in (1, 2):
        h, back = lam[i + 1] - lam[i], lam[i] - lam[i - 1]
        slope = at[i + 1][0] * (h + math.expm1(-h)) / back
        want = (at[i + 1][1] / at[i][1], -at[i + 1][0] * math.expm1(-h) + slope, -slope)
        assert rows[i] == pytest.approx(want, rel=1e-12)
    assert rows[0] == pytest.approx((at[1][1] / at[0][1], -at[1][0] * math.expm1(lam[0] - lam[1]), 0.0), rel=1e-12)


def test_x0_of_order_2_is_dpm_solver_pp_to_third_order():
    # Its weight of the difference is (1 - e^-h) h / 2 h': the two differ by h^3 / 12 h', which meets a difference of O(h).
    for n in (40, 80):
        grid = interior("vp", n)
        mine, theirs = answers_weights(Multistep("x0", 2), "vp", grid)[-1], gaussian.DPMSolverPP(2)
        theirs = theirs.plan(gaussian.Path(SCHEDULES["vp"]), grid).rows[-1]
        h, alpha = math.log(HIGH / LOW) / n, levels("vp", grid)[-1][0]
        assert mine[0] == pytest.approx(theirs[0], rel=1e-12)
        assert sum(mine[1:]) == pytest.approx(sum(theirs[1:]), rel=1e-10)
        assert (theirs[2] - mine[2]) / (alpha * h**2 / 12) == pytest.approx(1, abs=h)  # and terms of O(h)


def test_eps_of_order_2_is_adams_bashforth_in_the_noise_level():
    # Uneven AB2: (1 + r / 2) e_i - (r / 2) e_(i-1) with r = h / h'.
    grid = interior("edm", 5)
    at = levels("edm", grid)
    noise = [s / a for a, s in at]
    for i, row in enumerate(answers_weights(Multistep("eps", 2), "edm", grid)):
        h = noise[i + 1] - noise[i]
        ratio = h / (noise[i] - noise[i - 1]) if i else 0.0
        assert row == pytest.approx((1.0, h * (1 + ratio / 2), -h * ratio / 2), rel=1e-12)


@pytest.mark.parametrize(("quantity", "clock"), [("eps", "edm"), ("velocity", "linear_flow"), ("v", "trigonometric")])
def test_even_steps_have_the_weights_of_adams(quantity, clock):
    # Each schedule's t is the clock of that quantity, up to a factor. AB2, AB3 and AM3 (Hairer, Norsett, Wanner, III.1).
    grid, path = grids.uniform(None, 8, 0.9, 0.1), gaussian.Path(SCHEDULES[clock])
    norm, tau, _ = BY_HAND[quantity]
    at = levels(clock, grid)
    h = tau(*at[1]) - tau(*at[0])

    def scaled(row, i):
        return [w / (h * norm(*at[i])) for w in row[1:]]

    for i in range(3, 8):
        two, three, mends = (Multistep(quantity, *s).plan(path, grid).rows[i] for s in ((2,), (3,), (3, True)))
        assert scaled(two[2], i + 1) == pytest.approx([3 / 2, -1 / 2], rel=1e-11)
        assert scaled(three[2], i + 1) == pytest.approx([23 / 12, -16 / 12, 5 / 12], rel=1e-11)
        assert scaled(mends[2], i + 1) == pytest.approx([3 / 2, -1 / 2], rel=1e-11)
        assert scaled(mends[1], i) == pytest.approx([5 / 12, 8 / 12, -1 / 12], rel=1e-11)
    assert scaled(mends_first(quantity, path, grid), 1) == pytest.approx([1 / 2, 1 / 2, 0], abs=1e-12)


def mends_first(quantity, path, grid):
    """What mends the first step: there is no past, so a trapezoid."""
    return Multistep(quantity, 3, True).plan(path, grid).rows[1][1]


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize("builder", ["karras", "log_snr", "flow", "uniform"])
@every_closed_setting
def test_weights_of_a_thousand_steps_lose_no_digits(solver, builder):
    # Every stop against 50 digits. The rounding of the clock itself, 1e-16 u / du, is what both are given.
    clock = "vp"
    grid = grids.GRIDS[builder](SCHEDULES[clock], 1000, 1.0, at_noise(SCHEDULES[clock], 0.002))
    at = levels(clock, grid)
    rows, points = solver.plan(gaussian.Path(SCHEDULES[clock]), grid).rows, solver.order - solver.corrector
    for i in (*range(5), *range(5, 990, 97), *range(990, 1000)):
        gain, want = onward(solver.quantity, at, i, list(range(i, max(-1, i - points), -1)))
        scale = sum(abs(w) for w in want)
        got = rows[i][2]
        assert got[0] == pytest.approx(gain, rel=1e-14)
        assert list(got[1 : 1 + len(want)]) == pytest.approx(want, abs=1e-10 * scale)
        if solver.corrector and i:
            gain, want = onward(solver.quantity, at, i - 1, list(range(i, max(-1, i - points - 1), -1)))
            assert list(rows[i][1][1 : 1 + len(want)]) == pytest.approx(want, abs=1e-10 * scale)


@every_closed_setting
def test_a_polynomial_is_integrated_exactly(solver):
    # A denoiser whose quantity is u^p, p below the number of answers: after the start-up every step is exact.
    clock, grid = "custom", interior("custom", 7)
    at, (norm, tau, _) = levels(clock, grid), BY_HAND[solver.quantity]
    points = solver.order - solver.corrector

    class Polynomial:
        path = gaussian.Path(SCHEDULES[clock])

        def __call__(self, x, t):
            k = grid.times.index(float(t))
            (a, s), q = at[k], tau(*at[k]) ** self.power
            clean = {
                "x0": q,
                "eps": (x - s * q) / a,
                "v": (a * x - math.hypot(a, s) * s * q) / (a * a + s * s),
                "velocity": (x - s * q) / (a + s),
            }[solver.quantity]
            return Point(torch.zeros_like(x) + clean)

    for power in range(points + solver.corrector):
        denoiser = Polynomial()
        denoiser.power = power
        plan, x, state, made = solver.plan(denoiser.path, grid), draws((2, 1), 0), solver.init(draws((2, 1), 0)), []
        for i in range(grid.steps):
            x, state, _ = solver.step(denoiser, plan, i, x, state, Fixed())
            if solver.corrector:  # undo the predictor: what remains is the mended state that the step began with
                gain, weights = onward(solver.quantity, at, i, list(range(i, max(-1, i - points), -1)))
                made.append((x - sum(w * tau(*at[i - m]) ** power for m, w in enumerate(weights))) / gain)
            else:
                made.append(x)
        made = made[1:] if solver.corrector else made
        for i in range(points, grid.steps - 1):
            (a, s), (b, r) = at[i], at[i + 1]
            step = lagrange([tau(*at[i + 1 - m]) for m in range(power + 1)], tau(a, s), tau(b, r), solver.quantity == "x0")
            exact = sum(w * tau(*at[i + 1 - m]) ** power for m, w in enumerate(step))
            scale = b if solver.quantity == "x0" else norm(b, r)
            want = made[i - 1] * norm(b, r) / norm(a, s) + scale * exact
            assert relative(made[i], want) < 1e-12


@every_setting
def test_the_noise_levels_alone_matter(solver):
    ends = []
    for clock in ("vp", "edm", "linear_flow", "custom"):
        schedule = SCHEDULES[clock]
        grid = grids.of_times([at_noise(schedule, HIGH * (LOW / HIGH) ** (k / 7)) for k in range(8)])
        denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), GMM))
        (first, _), *_, (last, _) = levels(clock, grid)
        ends.append(run(denoiser, solver, grid, first * HIGH * draws((4, 2), 2)) / last)
    for end in ends[1:]:
        assert relative(end, ends[0]) < 1e-9  # the times come from inverses at 1e-12


@every_setting
def test_order_is_the_declared_one_to_a_tenth(solver):
    # On the mixture, in one clock; test_solvers.py has the others, within .25.
    start = HIGH * draws((6, 2), 11)
    end, schedule, errors = reference(), SCHEDULES["linear_flow"], []
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    for n in (160, 320):
        grid = interior("linear_flow", n)
        (head, _), *_, (tail, _) = levels("linear_flow", grid)
        errors.append(float((run(denoiser, solver, grid, head * start) / tail - end).norm()))
    assert abs(slopes(errors)[0] - solver.order) < 0.1


_REFERENCE: list[torch.Tensor] = []


def reference() -> torch.Tensor:
    """Of the mixture, once."""
    if not _REFERENCE:
        _REFERENCE.append(flow(GMM, HIGH * draws((6, 2), 11), HIGH, LOW))
    return _REFERENCE[0]


@pytest.mark.parametrize("clock", ["linear_flow", "cosine", "vp"])
@pytest.mark.parametrize("solver", [s for s in SETTINGS if s.quantity in ("v", "velocity")])
def test_order_holds_from_pure_noise_onto_data(solver, clock):
    # The docstring's claim for the clocks that are finite at both ends. A Gaussian's flow is in closed form.
    schedule = SCHEDULES[clock]
    denoiser, x, errors = gaussian.Exact(gaussian.Path(schedule), DATA), draws((5, 2), 12), []
    before, after = (denoiser.marginal(time(t)) for t in (1.0, 0.0))
    ratio, basis = (after.cov.values / before.cov.values).sqrt(), before.cov.basis[0]
    want = after.mean + ((x - before.mean) @ basis * ratio) @ basis.mT
    for n in (80, 160):
        errors.append(float((run(denoiser, solver, grids.flow(schedule, n), x) - want).norm()))
    assert abs(slopes(errors)[0] - solver.order) < 0.25


@pytest.mark.parametrize("clock", SCHEDULES)
@every_setting
def test_ends_without_noise_or_signal(solver, clock):
    schedule = SCHEDULES[clock]
    no_signal = float(schedule.alpha(time(1.0))) == 0
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), DATA))
    x = draws((3, 2), 4)
    for grid in (grids.uniform(None, 1), grids.karras(schedule, 2), grids.flow(schedule, 9)):
        if solver.quantity == "eps" and no_signal:
            with pytest.raises(GridError, match=rf"no finite step from t = 1 to s = {grid.times[1]:g}.*use DDIM"):
                solver.plan(denoiser.path, grid)
            continue
        stops = list(trajectory(denoiser, solver, grid, x, rng=PerSample(0, 3)))
        assert torch.isfinite(stops[-1].x).all()
        if solver.quantity == "x0":  # order 1 onto data: the last answer itself
            assert relative(stops[-1].x, stops[-1].law.mean) < 1e-12


@pytest.mark.parametrize("clock", ["linear_flow", "cosine"])
def test_encoding_onto_pure_noise_keeps_the_last_answer(clock):
    # alpha = 0: the clock of eps is infinite there, and the step is DDIM's, sigma_s times the noise found at its start.
    denoiser, x = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM), draws((4, 2), 1)
    for order in (1, 2, 3):
        solver = Multistep("eps", order)
        before, last = list(trajectory(denoiser, solver, grids.of_times([0.2, 0.4, 0.5, 0.7, 1.0]), x, rng=PerSample(0, 4)))[
            -2:
        ]
        assert relative(last.x, run(denoiser, gaussian.DDIM(), grids.of_times([0.7, 1.0]), before.x)) < 1e-12


@pytest.mark.parametrize("clock", ["linear_flow", "cosine"])
def test_x0_from_pure_noise_waits_for_a_past_of_finite_clock(clock):
    # lambda = -inf at the first stop: DDIM there, no corrector of that step, and no extrapolation through that answer.
    grid = grids.of_times([1.0, 0.8, 0.6, 0.5, 0.3])
    path, at = gaussian.Path(SCHEDULES[clock]), levels(clock, grid)
    ddim = [row[2] for row in Multistep("x0", 1).plan(path, grid).rows]
    rows = Multistep("x0", 3, True).plan(path, grid).rows
    assert ddim[0] == pytest.approx((at[1][1] / at[0][1], at[1][0]), rel=1e-12)
    assert rows[0][2] == pytest.approx((*ddim[0], 0.0), rel=1e-14)
    assert rows[1][1] == pytest.approx((ddim[0][0], 0.0, ddim[0][1], 0.0), rel=1e-14)  # mended to what it was
    assert rows[1][2] == pytest.approx((*ddim[1], 0.0), rel=1e-14)
    gain, weights = onward("x0", at, 1, [2, 1])
    assert rows[2][1] == pytest.approx((gain, *weights, 0.0), rel=1e-12)
    gain, weights = onward("x0", at, 2, [2, 1])
    assert rows[2][2] == pytest.approx((gain, *weights), rel=1e-12)


def test_order_3_alone_makes_two_calls_in_its_first_step():
    path = gaussian.Path(SCHEDULES["vp"])
    for solver in SETTINGS:
        extra = solver.order == 3 and not solver.corrector
        assert solver.calls(grids.uniform(None, 6, 0.9, 0.1)) == 6 + extra
        assert solver.calls(grids.uniform(None, 1, 0.9, 0.1)) == 1
    asked = []

    class Noted:
        def __init__(self):
            self.path = path

        def __call__(self, x, t):
            asked.append(float(t))
            return gaussian.Exact(path, GMM)(x, t)

    run(Noted(), Multistep("v", 3), grids.of_times([0.9, 0.5, 0.2]), draws((2, 2), 0))
    assert asked == [0.9, 0.5, 0.5]


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: Multistep("score"), "extrapolates one of x0, eps, v, v_flow, velocity"),
        (lambda: Multistep("x0", 0), "without a corrector has order 1 to 3, got 0"),
        (lambda: Multistep("x0", 4), "without a corrector has order 1 to 3, got 4"),
        (lambda: Multistep("x0", 1, True), "with a corrector has order 2 to 3, got 1"),
        (lambda: Multistep("x0", 4, True), "with a corrector has order 2 to 3, got 4"),
    ],
)
def test_settings_out_of_range_are_refused_with_the_cure(make, cure):
    with pytest.raises(GridError, match=cure):
        make()


def test_states_and_answers_given_are_not_written_to():
    denoiser, grid = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), GMM), interior("vp", 5)
    for solver in SETTINGS:
        stops = [(s.x, s.x.clone()) for s in trajectory(denoiser, solver, grid, draws((3, 2), 0).to(F64), rng=PerSample(0, 3))]
        assert all(torch.equal(now, then) for now, then in stops)


def test_more_points_make_the_error_smaller_and_not_the_order():
    # From r = 3 to .3 the start, which has fewer points, keeps order 3; from pure noise, where it matters little, they help.
    start = HIGH * draws((6, 2), 11)
    end, noise = flow(GMM, start, HIGH, LOW), draws((6, 2), 12)
    data = endpoint(GMM, noise)
    usual, three = (Multistep("v", 3, corrector=True, points=p) for p in (None, 3))

    def error(solver, clock, grid, x, want):
        return float((run(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM), solver, grid, x) - want).norm())

    errors = [error(three, "edm", interior("edm", n), start, end) for n in (40, 80)]
    assert abs(slopes(errors)[0] - 3) < 0.1
    whole = grids.flow(SCHEDULES["linear_flow"], 40)
    assert error(three, "linear_flow", whole, noise, data) < 0.5 * error(usual, "linear_flow", whole, noise, data)
    with pytest.raises(GridError, match="with a corrector predicts from 2 to 4 points, got 1"):
        Multistep("v", 3, corrector=True, points=1)
    with pytest.raises(GridError, match="without a corrector predicts from 2 to 4 points, got 5"):
        Multistep("eps", 2, points=5)


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.6), (0.6, 0.2), (0.2, 0.0)])
def test_v_in_the_flow_clock_by_quadrature(start, end):
    # Weights of the two last answers: integrals over the angle of the line through them in w, by scipy.
    schedule = SCHEDULES["linear_flow"]
    times = [*([start + 0.1] if start < 1 else []), start, end]
    plan = Multistep("v_flow", 2).plan(gaussian.Path(schedule), grids.of_times(times))
    angles = [math.atan2(t, 1 - t) for t in times]  # on the straight flow w is t itself
    norm = math.hypot(1 - end, end)

    def w(angle):
        return math.sin(angle) / (math.sin(angle) + math.cos(angle))

    if start == 1:
        want = [norm * (angles[1] - angles[0])]
    else:
        before, now = times[:2]
        lines = (lambda a: (w(a) - before) / (now - before), lambda a: (w(a) - now) / (before - now))
        want = [norm * quad(line, angles[1], angles[2], epsabs=1e-13)[0] for line in lines]
    got = plan.rows[-1][3][1:]
    assert got[: len(want)] == pytest.approx(want, abs=1e-12)
    assert all(weight == 0 for weight in got[len(want) :])
