"""The default route: its grid by the formula, its cost, and that it beats the usual choices at the same number of calls."""

from functools import cache

import numpy as np
import pytest
import torch

from oracles import SCHEDULES, clustered, draws, endpoint, normal, run, spd, time
from undrift import gaussian, grids, schedules
from undrift.errors import GridError, TimeError
from undrift.gaussian import Multistep, Route, default

CALLS = range(1, 61)


def flow_clock(clock: str, grid: grids.Grid) -> np.ndarray:
    times, schedule = time(grid.times), SCHEDULES[clock]
    alpha, sigma = schedule.alpha(times), schedule.sigma(times)
    return (sigma / (alpha + sigma)).numpy()


@pytest.mark.parametrize(("start", "end"), [(1.0, 0.0), (0.9, 0.01)])
@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow"])
def test_every_number_of_calls_is_met_on_the_grid_of_the_formula(clock, start, end):
    for calls in CALLS:
        route = default(gaussian.Path(SCHEDULES[clock]), calls, start, end)
        assert route.calls == route.sampler.calls(route.grid) == calls
        assert (route.grid.times[0], route.grid.times[-1]) == (start, end)
        w = flow_clock(clock, route.grid)
        share, scale = (0.2, 0.03) if calls <= 5 else (np.clip(calls / 100, 0.1, 0.2), 0.001)
        u = (w - w[-1]) / (w[0] - w[-1])
        even = (1 - share) * u + share * np.log1p(u / scale) / np.log1p(1 / scale)
        np.testing.assert_allclose(even, np.linspace(1, 0, calls + 1), rtol=1e-8, atol=1e-8)  # inverses of the schedules


@pytest.mark.parametrize("calls", [1, 2, 5, 6, 25])
def test_the_number_of_calls_alone_decides(calls):
    # Every schedule: the same sampler, and, from the same noise level, the same noise levels.
    routes = {clock: default(gaussian.Path(q), calls) for clock, q in SCHEDULES.items()}
    assert len({route.sampler for route in routes.values()}) == 1
    free = [c for c, q in SCHEDULES.items() if float(q.alpha(time(1.0))) == 0]
    for clock in free:
        np.testing.assert_allclose(flow_clock(clock, routes[clock].grid), flow_clock(free[0], routes[free[0]].grid), atol=1e-9)


def test_the_solver_is_as_said():
    path = gaussian.Path(schedules.VP())
    assert default(path, 1).sampler == Multistep("velocity", 1)
    assert {default(path, n).sampler for n in range(2, 6)} == {Multistep("v_flow", 2)}
    assert {default(path, n).sampler for n in range(6, 15)} == {Multistep("velocity", 3, True)}
    assert {default(path, n).sampler for n in range(15, 25)} == {Multistep("v_flow", 3, True, points=3)}
    assert {default(path, n).sampler for n in range(25, 61)} == {Multistep("v_flow", 3, True, points=4)}


def test_one_call_is_the_posterior_mean():
    for clock, schedule in SCHEDULES.items():
        path, x = gaussian.Path(schedule), draws((3, 2), 0)
        route, exact = default(path, 1), gaussian.Exact(path, normal(time([0.7, -0.4]), spd(2, 3)))
        want = exact(x, time(1.0)).mean
        assert torch.allclose(run(exact, route.sampler, route.grid, x), want, atol=1e-12), clock


def test_refusals():
    path = gaussian.Path(schedules.VP())
    for calls in (0, -2):
        with pytest.raises(GridError, match=f"at least one network call, got calls = {calls}"):
            default(path, calls)
    with pytest.raises(TimeError, match="swap them"):
        default(path, 5, 0.1, 0.9)


# ---------------------------------------------------------------- against the usual choices


@cache
def problem(seed: int) -> tuple[gaussian.Exact, torch.Tensor, torch.Tensor]:
    """A fresh mixture on the straight flow, starts, and their true ends."""
    law, x = clustered(seed), draws((24, 8), seed + 1)
    return gaussian.Exact(gaussian.Path(schedules.LinearFlow()), law), x, endpoint(law, x)


def median(denoiser, route: Route, x: torch.Tensor, want: torch.Tensor) -> float:
    """Median over samples of the root mean square error of their numbers."""
    return float((run(denoiser, route.sampler, route.grid, x) - want).square().mean(1).sqrt().median())


@pytest.mark.parametrize("calls", [4, 5, 6, 8, 12, 20, 40])
@pytest.mark.parametrize("seed", [31, 32])
def test_it_beats_the_usual_solvers_on_the_usual_grid(seed, calls):
    denoiser, x, want = problem(seed)
    schedule = denoiser.path.schedule
    grid = grids.karras(schedule, calls)
    usual = [Route(gaussian.DDIM(), grid), Route(gaussian.DPMSolverPP(), grid), Route(gaussian.UniPC(), grid)]
    usual.append(Route(gaussian.Heun(), grids.karras(schedule, (calls + 1) // 2)))
    assert usual[-1].calls >= calls - 1
    mine = median(denoiser, default(denoiser.path, calls), x, want)
    for other in usual:
        assert mine < 0.9 * median(denoiser, other, x, want), other.sampler


@pytest.mark.parametrize("seed", [31, 32])
def test_more_calls_are_better_and_converge(seed):
    denoiser, x, want = problem(seed)
    errors = [median(denoiser, default(denoiser.path, n), x, want) for n in (5, 10, 20, 40, 80)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 2e-4
