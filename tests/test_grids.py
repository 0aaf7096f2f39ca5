"""Certifies `undrift.grids`: every builder on every schedule for every step count 1..200 meets its ends, and the ladders."""

import math

import numpy as np
import pytest
import torch

from conformance.families import SCHEDULES, f64
from undrift import grids
from undrift.errors import GridError, TimeError
from undrift.grids import CLOCKS, GRIDS, SHAPES, Grid, bend, graded, spaced

ENDS = [(1.0, 0.0), (1.0, 0.01), (0.9, 0.0), (0.8, 0.1)]
LADDERS = ["log_snr", "karras"]
CLOSED = [name for name in SCHEDULES if not name.startswith("custom")]  # bisection takes 10 ms a grid: a few counts


def noise(name: str, times: tuple[float, ...]) -> np.ndarray:
    """Sigma / alpha at the times of a grid."""
    q = SCHEDULES[name]
    return (q.sigma(f64(list(times))) / q.alpha(f64(list(times)))).numpy()


@pytest.mark.parametrize(("start", "end"), ENDS)
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("builder", GRIDS)
def test_every_step_count_ends_exactly_where_told(builder: str, name: str, start: float, end: float) -> None:
    for steps in range(1, 201) if name in CLOSED else (1, 2, 3, 4, 5, 10, 31, 50, 100, 200):
        grid = GRIDS[builder](SCHEDULES[name], steps, start, end)
        assert grid.steps == steps
        assert len(grid.times) == steps + 1
        assert (grid.times[0], grid.times[-1]) == (start, end)
        assert bool((np.diff(grid.times) < 0).all())
        pairs = grid.pairs()
        assert [t for t, _ in pairs] == list(grid.times[:-1])
        assert [s for _, s in pairs] == list(grid.times[1:])


@pytest.mark.parametrize("name", ["edm", "vp", "linear_flow"])
@pytest.mark.parametrize("steps", [3, 18, 100])
def test_karras_is_the_papers_ladder(name: str, steps: int) -> None:
    """Karras et al. 2022, eq. 5: n noise levels from sigma_max to sigma_min, then 0. Where sigma / alpha is finite at 1."""
    rho, low = 5.0, 0.01
    grid = grids.karras(SCHEDULES[name], steps, rho=rho, sigma_min=low, sigma_max=40.0)
    top = 40.0 if name == "linear_flow" else float(noise(name, (1.0,))[0])
    levels = steps - (name == "linear_flow")  # an infinite start takes a step of its own
    i = np.arange(levels)
    paper = (top ** (1 / rho) + i / max(levels - 1, 1) * (low ** (1 / rho) - top ** (1 / rho))) ** rho
    np.testing.assert_allclose(noise(name, grid.times)[-1 - levels : -1], paper, rtol=1e-9)  # an inverse at 1e-12 in t
    assert grid.times[-1] == 0


def test_karras_defaults_are_edms() -> None:
    q, n = SCHEDULES["edm"], 18
    paper = (80 ** (1 / 7) + np.arange(n) / (n - 1) * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    np.testing.assert_allclose(80 * np.array(grids.karras(q, n).times[:-1]), paper, rtol=1e-12)  # t is sigma / 80 there


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("start", "end"), ENDS)
def test_log_snr_ladder_has_equal_steps(name: str, start: float, end: float) -> None:
    grid = grids.log_snr(SCHEDULES[name], 40, start, end, sigma_min=0.01, sigma_max=30.0)
    height = np.log(noise(name, grid.times[(start == 1 and name in FREE) : (None if end else -1)]))
    np.testing.assert_allclose(np.diff(height), np.diff(height).mean(), rtol=1e-6)  # t near 1 is rounded at 1e-16 / (1 - t)
    # The ladder stands on its stated limits where an end is infinite, and on the ends themselves elsewhere.
    top = 30.0 if start == 1 and name in FREE else noise(name, (start,))[0]
    bottom = noise(name, (end,))[0] if end else 0.01
    np.testing.assert_allclose(np.exp(height[[0, -1]]), [top, bottom], rtol=1e-9)


FREE = [name for name, q in SCHEDULES.items() if float(q.alpha(f64(1.0))) == 0]


@pytest.mark.parametrize("start", [1.0, 0.7])
def test_uniform_and_quadratic_have_equal_steps_in_their_variable(start: float) -> None:
    np.testing.assert_allclose(np.diff(grids.uniform(None, 30, start, 0.05).times), -(start - 0.05) / 30, rtol=1e-12)
    roots = np.sqrt(grids.quadratic(None, 30, start, 0.05).times)
    np.testing.assert_allclose(np.diff(roots), -(math.sqrt(start) - math.sqrt(0.05)) / 30, rtol=1e-12)


HEIGHTS = {
    "time": None,
    "log_snr": np.log,
    "karras": lambda r: r ** (1 / 7),
    "angle": np.arctan,
    "flow": lambda r: r / (1 + r),
}
"""Every clock, written out; of sigma / alpha."""
CURVES = {
    "uniform": lambda u: u,
    "quadratic": lambda u: u * u,
    "cosine": lambda u: 2 * np.sin(np.pi * u / 4) ** 2,
    "sigmoid": lambda u: (1 / (1 + np.exp(6 - 12 * u)) - 1 / (1 + np.exp(6))) / (1 / (1 + np.exp(-6)) - 1 / (1 + np.exp(6))),
}
"""Every shape, written another way."""


@pytest.mark.parametrize("name", ["vp", "edm", "linear_flow", "cosine"])
@pytest.mark.parametrize("clock", CLOCKS)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_on_a_clock_is_its_formula(shape: str, clock: str, name: str) -> None:
    for steps, start, end in ((1, 1.0, 0.0), (2, 1.0, 0.0), (3, 1.0, 0.0), (17, 1.0, 0.0), (17, 0.8, 0.1), (60, 0.9, 0.0)):
        grid = spaced(SCHEDULES[name], steps, start, end, clock=clock, shape=shape)
        assert grid.steps == steps
        assert (grid.times[0], grid.times[-1]) == (start, end)
        if clock == "time":
            want = end + (start - end) * CURVES[shape](np.linspace(1, 0, steps + 1))
            np.testing.assert_allclose(grid.times, want, atol=1e-14)
            continue
        with np.errstate(divide="ignore"):
            levels = noise(name, grid.times)
        ladder = CLOCKS[clock].endless
        first, last = int(ladder and levels[0] == np.inf), steps - int(ladder and levels[-1] == 0)
        if last <= first:  # two ends of their own, and at most one rung
            continue
        with np.errstate(divide="ignore", invalid="ignore"):
            top, bottom = 80.0 if first else levels[0], 0.002 if last < steps else levels[-1]
            height = (lambda r: np.where(np.isinf(r), 1.0, HEIGHTS[clock](r))) if clock == "flow" else HEIGHTS[clock]
            got, (high, low) = height(levels[first : last + 1]), height(np.array([top, bottom]))
        want = low + (high - low) * CURVES[shape](np.linspace(1, 0, last - first + 1))
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-8)  # t near 1 is rounded at 1e-16 / (1 - t)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_rise_from_0_to_1(shape: str) -> None:
    u = np.linspace(0, 1, 101)
    value = SHAPES[shape](u)
    np.testing.assert_allclose(value[[0, -1]], [0, 1], atol=1e-15)
    assert bool((np.diff(value) > 0).all())
    np.testing.assert_allclose(value, CURVES[shape](u), atol=1e-15)


@pytest.mark.parametrize("clock", [c for c in CLOCKS if CLOCKS[c]])
def test_clocks_rise_and_have_their_inverse(clock: str) -> None:
    r = np.geomspace(1e-4, 1e4, 60)
    value = CLOCKS[clock].of(r)
    assert bool((np.diff(value) > 0).all())
    np.testing.assert_allclose(value, HEIGHTS[clock](r), rtol=1e-12)
    np.testing.assert_allclose(CLOCKS[clock].noise(value), r, rtol=1e-10)  # 1e-16 / (1 - w) at 1e4
    with np.errstate(divide="ignore"):
        ends = CLOCKS[clock].of(np.array([0.0, np.inf]))
    assert bool(np.isfinite(ends).all()) != CLOCKS[clock].endless


def test_angle_and_flow_take_equal_steps_between_both_infinities() -> None:
    for steps in (1, 2, 7, 200):
        for name in ("linear_flow", "cosine"):
            i = np.linspace(1, 0, steps + 1)
            with np.errstate(divide="ignore"):
                turn = np.arctan(noise(name, GRIDS["angle"](SCHEDULES[name], steps).times))
                share = noise(name, GRIDS["flow"](SCHEDULES[name], steps).times)
            np.testing.assert_allclose(turn, 0.5 * np.pi * i, atol=1e-9)
            np.testing.assert_allclose(1 / (1 + 1 / share[:-1]), i[:-1], rtol=1e-9)
    # The flow's own time is its clock; the trigonometric schedule's is the angle.
    np.testing.assert_allclose(GRIDS["flow"](SCHEDULES["linear_flow"], 9).times, np.linspace(1, 0, 10), atol=1e-12)
    np.testing.assert_allclose(GRIDS["angle"](SCHEDULES["trigonometric"], 9).times, np.linspace(1, 0, 10), atol=1e-12)


@pytest.mark.parametrize(("data", "towards"), [(1.0, 1.0), (2.0, 1.0), (1.0, 2.0), (0.5, 1.0), (1.6, 1.3)])
def test_bend_crowds_where_it_says(data: float, towards: float) -> None:
    u = np.linspace(0, 1, 1001)
    value = bend(data, towards)(u)
    np.testing.assert_allclose(value[[0, -1]], [0, 1], atol=1e-15)
    assert bool((np.diff(value) > 0).all())
    # Near data it is noise * u^data, near noise 1 - (data (1 - u))^noise.
    assert value[1] == pytest.approx(towards * u[1] ** data, rel=0.01 + u[1] ** data)
    assert 1 - value[-2] == pytest.approx((data * (1 - u[-2])) ** towards, rel=0.01)
    assert (value[1] < u[1]) == (data > 1) or data == 1
    assert (1 - value[-2] < 1 - u[-2]) == (towards > 1) or towards == 1
    grid = spaced(SCHEDULES["linear_flow"], 10, clock="flow", shape=bend(data, towards))
    np.testing.assert_allclose(grid.times, bend(data, towards)(np.linspace(1, 0, 11)), atol=1e-12)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.2, 0.9, 0.999])
@pytest.mark.parametrize("finest", [1e-5, 1e-3, 1.0])
def test_graded_steps_are_equal_in_its_clock(share: float, finest: float) -> None:
    u = np.linspace(0, 1, 1001)
    w = graded(share, finest)(u)
    np.testing.assert_allclose(w[[0, -1]], [0, 1], atol=1e-12)
    np.testing.assert_allclose((1 - share) * w + share * np.log(1 + w / finest) / np.log(1 + 1 / finest), u, atol=1e-9)
    assert bool((np.diff(w) > 0).all())
    grid = spaced(SCHEDULES["linear_flow"], 10, clock="flow", shape=graded(share, finest))
    np.testing.assert_allclose(grid.times, graded(share, finest)(np.linspace(1, 0, 11)), atol=1e-12)


def test_graded_without_a_share_leaves_the_clock() -> None:
    u = np.linspace(0, 1, 11)
    np.testing.assert_array_equal(graded(0.0)(u), u)


def test_a_clock_of_ones_own_serves_as_well() -> None:
    root = grids.Clock(lambda r: np.sqrt(r), np.square)
    grid = spaced(SCHEDULES["edm"], 8, clock=root, shape=lambda u: u**3)
    np.testing.assert_allclose(np.sqrt(noise("edm", grid.times)), np.sqrt(80) * np.linspace(1, 0, 9) ** 3, atol=1e-9)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: spaced(SCHEDULES["vp"], 5, clock="sigma"), "unknown clock 'sigma'; the clocks are time, log_snr, karras"),
        (lambda: spaced(SCHEDULES["vp"], 5, shape="linear"), "unknown shape 'linear'; the shapes are uniform, quadratic"),
        (lambda: spaced(None, 5), "other than 'time' needs a schedule"),
        (lambda: bend(0.0), "two positive exponents, got 0 and 1; 1 leaves"),
        (lambda: graded(1.0), r"a share in \[0, 1\) and a finest detail in \(0, 1\], got 1 and 0.001"),
        (lambda: graded(0.1, 0.0), "got 0.1 and 0"),
        (lambda: graded(0.1, math.inf), "got 0.1 and inf"),
        (lambda: graded(math.nan), "got nan"),
        (lambda: bend(1.0, -1.0), "two positive exponents, got 1 and -1"),
        (lambda: grids.karras(SCHEDULES["vp"], 5, rho=0.0), "needs rho > 0, got 0; 7 is the usual"),
        (lambda: spaced(SCHEDULES["vp"], 5, clock="karras", sigma_min=2.0, sigma_max=1.0), "0 < sigma_min < sigma_max"),
        (lambda: spaced(None, 3, clock="time", shape=lambda u: 0 * u), "must be strictly monotone"),
    ],
)
def test_spaced_refuses_with_the_cure(make, match: str) -> None:
    with pytest.raises(GridError, match=match):
        make()


def test_of_times_keeps_the_callers_numbers() -> None:
    assert grids.of_times([1.0, 0.3, 0.0]).times == (1.0, 0.3, 0.0)
    assert grids.of_times(torch.tensor([0.75, 0.5]).tolist()).pairs() == [(0.75, 0.5)]


@pytest.mark.parametrize(
    ("times", "error", "match"),
    [
        ((), GridError, "at least two times .* ask for steps >= 1"),
        ((1.0,), GridError, "at least two times"),
        ((1.0, math.nan, 0.0), GridError, "NaN or infinite"),
        ((math.inf, 0.0), GridError, "NaN or infinite"),
        ((1000.0, 500.0, 0.0), TimeError, "divide step indices by their number"),
        ((1.0, -0.1), TimeError, r"times lie in \[0, 1\]"),
        ((1.0, 0.2, 0.5, 0.0), GridError, r"times\[1\] = 0.2 is followed by times\[2\] = 0.5; sort it"),
        ((0.0, 0.5, 0.2, 1.0), GridError, r"times\[1\] = 0.5 is followed by times\[2\] = 0.2; sort it"),
        ((1.0, 0.5, 0.5, 0.0), GridError, r"times\[1\] = 0.5 is followed by times\[2\] = 0.5; .* drop repeated times"),
        ((0.5, 0.2, 0.5), GridError, r"times\[0\] = 0.5 is followed by times\[1\] = 0.2"),
    ],
)
def test_what_is_no_grid_is_refused_with_the_cure(times: tuple[float, ...], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        Grid(times)


def test_flipping_a_grid_runs_it_the_other_way() -> None:
    grid = GRIDS["karras"](SCHEDULES["vp"], 7)
    assert grid.flipped().times == tuple(sorted(grid.times))
    assert grid.flipped().flipped() == grid


@pytest.mark.parametrize("builder", GRIDS)
def test_builders_refuse_bad_settings_with_the_cure(builder: str) -> None:
    build = GRIDS[builder]
    for steps in (0, -3):
        with pytest.raises(GridError, match=f"at least one step, got steps = {steps}"):
            build(SCHEDULES["vp"], steps)
    for start, end in ((0.0, 1.0), (0.5, 0.5), (1.1, 0.0), (1.0, -0.1), (math.nan, 0.0)):
        with pytest.raises(TimeError, match=r"0 <= end < start <= 1, .* swap them"):
            build(SCHEDULES["vp"], 5, start, end)


@pytest.mark.parametrize("builder", LADDERS)
@pytest.mark.parametrize("limits", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_ladders_refuse_bad_noise_limits(builder: str, limits: tuple[float, float]) -> None:
    with pytest.raises(GridError, match="0 < sigma_min < sigma_max"):
        GRIDS[builder](SCHEDULES["vp"], 5, sigma_min=limits[0], sigma_max=limits[1])
