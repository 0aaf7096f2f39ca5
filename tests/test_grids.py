"""Certifies `undrift.grids`: every builder on every schedule for every step count 1..200 meets its ends, and the ladders."""

import math

import numpy as np
import pytest
import torch

from conformance.families import SCHEDULES, f64
from undrift import grids
from undrift.errors import GridError, TimeError
from undrift.grids import GRIDS, Grid

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
