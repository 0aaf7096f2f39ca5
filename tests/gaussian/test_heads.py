"""Heads: each row of the table against its textbook formula, every conversion both ways, singular ones refused.

Certified: rows L5 of the method list; the docstring table of `gaussian.heads`.
"""

import itertools
import math

import pytest
import torch

from oracles import SCHEDULES, draws, relative, time
from undrift import gaussian, schedules
from undrift.errors import HeadError
from undrift.gaussian.heads import Head

D = 0.7  # standard deviation of the data
TIMES = (1e-3, 0.01, 0.3, 0.7, 0.999)
NO_SIGNAL = [name for name, s in SCHEDULES.items() if float(s.alpha(time(1.0))) == 0]

every_schedule = pytest.mark.parametrize("clock", SCHEDULES)


def make(name, clock):
    span = (0.0, 0.999) if clock in NO_SIGNAL else (0.0, 1.0)
    return gaussian.Head(name, SCHEDULES[clock], D, span)


def pair(clock, t):
    """(x_0, z, x_t, alpha, sigma)."""
    alpha, sigma = (float(f(time(t))) for f in (SCHEDULES[clock].alpha, SCHEDULES[clock].sigma))
    x_0, z = D * draws((5, 2, 3), 1), draws((5, 2, 3), 2)
    return x_0, z, alpha * x_0 + sigma * z, alpha, sigma


def textbook(name, clock, t):
    """The value of a head from (x_0, z), by its definition."""
    x_0, z, x_t, alpha, sigma = pair(clock, t)
    if name == "velocity":  # dx_t / dt along the path of a fixed (x_0, z), by a fourth-order central difference
        h = min(1e-3, 0.05 * t, 0.4 * (1 - t))
        path = [pair(clock, t + k * h)[2] for k in (-2, -1, 1, 2)]
        return (path[0] - 8 * path[1] + 8 * path[2] - path[3]) / (12 * h)
    if name == "edm":  # Karras et al. 2022, table 1, for the state and noise level of the EDM clock
        level, state = sigma / alpha, x_t / alpha
        c_skip = D**2 / (level**2 + D**2)
        c_out = level * D / math.sqrt(level**2 + D**2)
        return (x_0 - c_skip * state) / c_out
    return {"x0": x_0, "eps": z, "score": -z / sigma, "v": alpha * z - sigma * x_0}[name]


@every_schedule
@pytest.mark.parametrize("name", gaussian.HEADS)
def test_head_is_its_textbook_formula(name, clock):
    for t in TIMES:
        x_0, _, x_t, alpha, sigma = pair(clock, t)
        want, row = textbook(name, clock, t), make(name, clock)
        # Rounding, amplified by 1 / alpha or 1 / sigma where a head divides by it; for velocity the h^4 of the difference.
        slack = 1e-4 if name == "velocity" else 1e-13 / min(alpha, sigma, 1.0)
        assert relative(row.target(x_0, x_t, time(t)), want) < slack, t
        if name != "velocity":
            assert relative(row.clean(want, x_t, time(t)), x_0) < 1e-13 / min(alpha, 1.0) * max(sigma, 1.0), t


@every_schedule
def test_velocity_is_exact_where_the_slopes_are_known(clock):
    schedule = SCHEDULES[clock]
    for t in TIMES:
        x_0, z, x_t, alpha, _ = pair(clock, t)
        dalpha, dsigma = float(schedule.dalpha(time(t))), float(schedule.dsigma(time(t)))
        got = make("velocity", clock).target(x_0, x_t, time(t))
        assert relative(got, dalpha * x_0 + dsigma * z) < 1e-12 / min(alpha, t)


@every_schedule
def test_every_conversion_round_trips(clock):
    for (a, b), t in itertools.product(itertools.permutations(gaussian.HEADS, 2), (*TIMES, 1.0)):
        if t == 1.0 and clock in NO_SIGNAL and {a, b} & {"eps", "score"}:
            continue  # singular there, and refused: test_singular_heads_name_the_head_to_use
        ends = {n: (0.0, 0.999) if n in ("eps", "score") else (0.0, 1.0) for n in (a, b)}
        one, other = (gaussian.Head(n, SCHEDULES[clock], D, ends[n]) for n in (a, b))
        x_0, _, x_t, _, _ = pair(clock, t)
        y = one.target(x_0, x_t, time(t))
        through = other.target(one.clean(y, x_t, time(t)), x_t, time(t))
        back = one.target(other.clean(through, x_t, time(t)), x_t, time(t))
        assert relative(back, y) < 1e-6, (a, b, t)


def make_full(name, clock):
    """A head on the whole interval, refused where it cannot serve it."""
    return gaussian.Head(name, SCHEDULES[clock], D, (0.0, 1.0))


@every_schedule
def test_edm_target_has_unit_variance(clock):
    # Var F = ((1 - skip alpha)^2 d^2 + skip^2 sigma^2) / out^2 = 1 at every noise level: what the preconditioning is for.
    for t in (*TIMES, 1.0):
        skip, out = (float(v) for v in make_full("edm", clock).coefficients(time(t)))
        _, _, _, alpha, sigma = pair(clock, t)
        assert math.isclose(((1 - skip * alpha) ** 2 * D**2 + skip**2 * sigma**2) / out**2, 1.0, rel_tol=1e-9)


def test_edm_is_table_1_on_its_own_clock():
    level = 80 * 0.02
    skip, out = (float(v) for v in gaussian.Head("edm", schedules.EDM(), 0.5).coefficients(time(0.02)))
    assert math.isclose(skip, 0.25 / (level**2 + 0.25), rel_tol=1e-12)
    assert math.isclose(out, 0.5 * level / math.sqrt(0.25 + level**2), rel_tol=1e-12)


@pytest.mark.parametrize("name", ["eps", "score"])
@pytest.mark.parametrize("clock", NO_SIGNAL)
def test_singular_heads_name_the_head_to_use(name, clock):
    assert NO_SIGNAL == ["cosine", "linear_flow", "trigonometric"]
    with pytest.raises(HeadError, match=r"t = 1, where alpha = 0; use head 'v'"):
        gaussian.Head(name, SCHEDULES[clock])
    assert gaussian.Head(name, SCHEDULES[clock], span=(0.0, 0.99))  # and the other cure works


@every_schedule
@pytest.mark.parametrize("name", ["x0", "v", "velocity", "edm"])
def test_other_heads_serve_the_whole_interval(name, clock):
    # The cure that the error names must work; at t = 0 every head gives back the state itself.
    row = make_full(name, clock)
    x = draws((3, 2), 0)
    if name != "x0":
        assert relative(row.clean(torch.ones_like(x), x, time(0.0)), x) < 1e-12


def test_target_without_noise_is_refused():
    x = draws((3, 2), 0)
    for name in ("eps", "score", "v", "velocity", "edm"):
        with pytest.raises(HeadError, match="early stop t0 > 0, or use 'x0'"):
            gaussian.Head(name, schedules.VP()).target(x, x, time(0.0))
    assert torch.equal(gaussian.Head("x0", schedules.VP()).target(x, x, time(0.0)), x)


def test_unknown_head_and_bad_scale_are_refused():
    with pytest.raises(HeadError, match="the heads are edm, eps"):
        gaussian.Head("epsilon", schedules.VP())
    with pytest.raises(HeadError, match="measure it on your encoded data"):
        gaussian.Head("edm", schedules.VP(), 0.0)


def test_per_sample_times_are_row_by_row():
    row, t = Head("v", schedules.Cosine()), time([0.1, 0.4, 0.9])
    x, y = draws((3, 2), 0), draws((3, 2), 1)
    whole = row.clean(y, x, t)
    for i in range(3):
        assert relative(whole[i : i + 1], row.clean(y[i : i + 1], x[i : i + 1], t[i])) < 1e-14
