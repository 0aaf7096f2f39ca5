"""Tuning: what was fitted holds on starts that it never saw, and the errors that it states are the true ones.

Truth is the probability flow of a known law by DOP853, which shares nothing with the teacher.
"""

import json
import math
from dataclasses import dataclass, replace
from functools import cache

import pytest
import torch

from oracles import F64, SCHEDULES, clustered, draws, endpoint, normal, relative, run, spd, time
from undrift import discrete, gaussian, grids, schedules
from undrift.core import Covariance
from undrift.errors import FamilyError, GridError, ShapeError
from undrift.gaussian import Fitted, Multistep, Route, Tuned, default, discretisation, tune
from undrift.gaussian.tune import _least_squares, _Teacher, _unrolled
from undrift.laws import Normal

BASE = Multistep("velocity", order=3, corrector=True)

FLOW = gaussian.Path(schedules.LinearFlow())
SEEDS = [41, 42]
CALLS = [5, 8, 15]

every_problem = pytest.mark.parametrize("seed", SEEDS)


@dataclass
class Counted:
    """Counts the rows that were asked about."""

    inner: gaussian.Exact
    asked: list[int]

    @property
    def path(self):
        return self.inner.path

    def __call__(self, x_t, t):
        self.asked.append(len(x_t))
        return self.inner(x_t, t)


@cache
def problem(seed: int):
    """A denoiser, starts to tune with, fresh starts, and the true ends of the starts that judge and of the fresh ones."""
    exact = gaussian.Exact(FLOW, clustered(seed))
    start, fresh = draws((160, 8), seed + 1), draws((160, 8), seed + 2)
    ends = endpoint(exact.data, torch.cat([start[80:], fresh]))
    return exact, start, fresh, ends[:80], ends[80:]


@cache
def tuned(seed: int, calls: int) -> Tuned:
    exact, start, *_ = problem(seed)
    return tune(exact, start, calls, curve=(4, 10))


def off(denoiser, route: Route, x, want) -> torch.Tensor:
    """Root mean square error of every sample's numbers."""
    return (run(denoiser, route.sampler, route.grid, x) - want).square().mean(1).sqrt()


# ---------------------------------------------------------------- the outcome


@pytest.mark.parametrize("calls", CALLS)
@every_problem
def test_it_helps_on_starts_that_it_never_saw(seed, calls):
    exact, _, fresh, _, want = problem(seed)
    route, plain = tuned(seed, calls), default(FLOW, calls)
    assert route.calls == calls
    assert float(off(exact, route, fresh, want).median()) < 0.7 * float(off(exact, plain, fresh, want).median())


@pytest.mark.parametrize("calls", CALLS)
@every_problem
def test_the_errors_it_states_are_true(seed, calls):
    # Medians of 80 and 160 samples that share nothing: 20 % of chance, and some of choosing the least of 70.
    exact, start, fresh, ends, want = problem(seed)
    route = tuned(seed, calls)
    seen = float(off(exact, route, fresh, want).median())
    assert seen / 1.5 < route.error.median < 1.5 * seen
    # On its own starts nothing is left but the teacher's error: each figure to a tenth.
    for error, on in ((route.error, route), (route.default, default(FLOW, calls))):
        true = off(exact, on, start[80:], ends)
        assert error.calls == calls
        assert error.median == pytest.approx(float(true.median()), rel=0.1)
        assert error.rms == pytest.approx(float(true.square().mean().sqrt()), rel=0.1)
    for error in route.curve:
        true = off(exact, default(FLOW, error.calls), start[80:], ends)
        assert error.median == pytest.approx(float(true.median()), rel=0.1)
    assert [error.calls for error in route.curve] == [4, 10]


@pytest.mark.parametrize("calls", [1, 2, 3, *CALLS])
@every_problem
def test_it_is_never_worse_than_the_default_where_it_was_judged(seed, calls):
    route = tuned(seed, calls)
    assert route.error.median <= route.default.median
    assert route.error.rms <= 1.05 * route.default.rms
    assert route.calls == calls


def test_one_call_is_the_default():
    route = tuned(41, 1)
    assert (route.sampler, route.grid) == (default(FLOW, 1).sampler, default(FLOW, 1).grid)


@pytest.mark.parametrize("calls", [3, 6])
def test_a_gaussian_is_solved(calls):
    # Its flow is linear in the state, with one factor per eigenvalue of the covariance: k + 1 weights for 8 of them.
    exact, fresh = gaussian.Exact(FLOW, normal(draws((8,), 0), spd(8, 3))), draws((48, 8), 5)
    want = endpoint(exact.data, fresh)
    route = tune(exact, draws((64, 8), 7), calls, curve=())
    errors = [float(off(exact, on, fresh, want).median()) for on in (route, default(FLOW, calls))]
    assert errors[0] < 0.02 * errors[1]


def test_other_ends_and_schedules():
    path = gaussian.Path(schedules.VP())
    exact = gaussian.Exact(path, clustered(41))
    route = tune(exact, draws((32, 8), 3), 6, grid=(0.9, 0.01), curve=())
    assert (route.grid.times[0], route.grid.times[-1]) == (0.9, 0.01)
    assert route.error.median < 0.8 * route.default.median
    assert torch.isfinite(run(exact, route.sampler, route.grid, draws((4, 8), 9))).all()


def test_what_the_denoiser_holds_per_sample_stays_with_it():
    # One Gaussian per start, asked for by rows: judged against each one's own flow, in closed form.
    means, spreads = draws((24, 4), 1), 0.2 + draws((24, 4), 2).square()
    exact = gaussian.Exact(FLOW, Normal(means, Covariance.diagonal(spreads)))
    x = draws((24, 4), 3)
    want = means + spreads.sqrt() * x
    route = tune(exact, x, 6, curve=())
    true = off(exact, default(FLOW, 6), x, want)[12:]
    assert route.default.median == pytest.approx(float(true.median()), rel=0.02)
    assert float(off(exact, route, x, want)[12:].median()) < 0.5 * route.default.median


def test_the_order_of_the_starts_does_not_matter():
    exact, start, *_ = problem(41)
    start = start[:32]
    shuffled = torch.cat([start[:16].flip(0), start[16:].flip(0)])
    one, other = (tune(exact, x, 4, curve=()) for x in (start, shuffled))
    assert one.grid == other.grid
    assert type(one.sampler) is type(other.sampler)
    assert one.error.median == pytest.approx(other.error.median, rel=1e-6)  # sums in another order
    assert one.error.rms == pytest.approx(other.error.rms, rel=1e-6)


def test_a_run_repeats_and_travels_as_plain_numbers():
    exact, start, *_ = problem(42)
    route = tuned(42, 5)
    assert tune(exact, start, 5, curve=(4, 10)) == route
    for one in (route, tuned(42, 1), replace(route, sampler=BASE)):
        assert Tuned.from_config(json.loads(json.dumps(one.to_config()))) == one
    assert str(route).splitlines()[-1].endswith("tuned")


def test_the_cost_is_what_was_asked():
    exact, start, *_ = problem(41)
    asked = []
    route = tune(Counted(exact, asked), start[:16], 6, curve=(4, 10))
    assert sum(asked) / 16 == pytest.approx(route.cost, abs=2)  # halves are rounded up


def test_too_little_is_refused_with_the_cure():
    exact = gaussian.Exact(FLOW, clustered(41))
    with pytest.raises(ShapeError, match="give at least 8, not 7"):
        tune(exact, draws((7, 8), 0), 5)
    with pytest.raises(GridError, match="at least one network call"):
        tune(exact, draws((8, 8), 0), 0)
    assert tune(exact, draws((8, 8), 0), 4, curve=()).calls == 4


# ---------------------------------------------------------------- its parts


@pytest.mark.parametrize("clock", ["linear_flow", "vp", "edm"])
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_fitted_with_the_weights_of_the_multistep_is_the_multistep(clock, steps):
    path = gaussian.Path(SCHEDULES[clock])
    grid, x = grids.flow(path.schedule, steps), draws((5, 8), 3)
    exact = gaussian.Exact(path, clustered(41))
    rows = _unrolled(path, grid, BASE)
    fitted = Fitted(grid, tuple(tuple(rows[i + 1, : i + 2].tolist()) for i in range(steps)))
    one, other = run(exact, fitted, grid, x), run(exact, BASE, grid, x)
    assert float((one - other).abs().max()) < 1e-12  # the same sum in another order, of numbers of order 1
    assert fitted.calls(grid) == BASE.calls(grid) == steps


@every_problem
def test_the_teacher_is_true_at_every_noise_level(seed):
    # Its own error at 100 calls, and that of the cubic between them; a quarter of the tightest error it is used to judge.
    exact, start, *_ = problem(seed)
    start = start[:24]
    teacher = _Teacher.of(exact, start, 100, (1.0, 0.0), lambda items, title, total: items)
    assert relative(teacher.end, endpoint(exact.data, start)) < 3e-4
    for angle in (1.5, 1.2, 0.8, 0.3, 0.05, 0.01):
        got = teacher.at(math.cos(angle), math.sin(angle))
        assert relative(got, endpoint(exact.data, start[:12], end=math.tan(angle))) < 3e-4
    assert torch.equal(teacher.at(0.0, 1.0), start[:12])
    assert relative(teacher.at(1.0, 0.0), teacher.end[:12]) < 1e-12


def test_samples_that_went_to_another_mode_have_little_say():
    # Off = .3 p_1 - .2 p_2 + small noise, but for one sample in six, which is far away: least squares alone misses by a lot.
    parts, true = [draws((60, 8), k) for k in (1, 2)], time([0.3, -0.2])
    off = 0.3 * parts[0] - 0.2 * parts[1] + 0.01 * draws((60, 8), 3)
    off[::6] = 4 + parts[0][::6]
    products = torch.stack([torch.stack([(p * q).sum(1) for q in parts], 1) for p in parts], 1)
    aims = torch.stack([(p * off).sum(1) for p in parts], 1)
    plain = torch.linalg.solve(products.sum(0), aims.sum(0))
    assert float((plain - true).abs().max()) > 0.05
    assert float((_least_squares(products, aims, off.square().sum(1)) - true).abs().max()) < 0.01


def test_fitted_weights_serve_their_own_grid_alone():
    exact, *_ = problem(41)
    route = tuned(41, 5)
    assert isinstance(route.sampler, Fitted)
    with pytest.raises(GridError, match=r"fitted to a grid of 5 steps .* tune for the number of calls you want"):
        route.sampler.plan(exact.path, grids.flow(exact.path.schedule, 5))
    with pytest.raises(GridError, match="fit them again"):
        Fitted(route.grid, route.sampler.rows[:-1])
    with pytest.raises(FamilyError, match="Ancestral"):
        route.sampler.plan(discrete.masked(4), route.grid)
    x = draws((3, 8), 0)
    kept = x.clone()
    run(exact, route.sampler, route.grid, x)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("solver", "factor"), [(gaussian.DDIM(), 1 / 2), (Multistep("v", 2), 3 / 4), (Multistep("velocity", 3, True), 7 / 8)]
)
def test_step_doubling_estimates_the_error(solver, factor):
    # The docstring's 1 - 2^-k, sample by sample, on a Gaussian.
    exact, x = gaussian.Exact(FLOW, normal(draws((4,), 0), spd(4, 3))), draws((12, 4), 5)
    want, far = endpoint(exact.data, x), []
    for n in (20, 80):
        route = Route(solver, grids.flow(FLOW.schedule, n))
        share = discretisation(exact, route, x) / off(exact, route, x, want)
        far.append(float((share - factor).abs().max()))
    assert far[1] < max(0.6 * far[0], 0.01)
    assert far[1] < 0.02


def test_the_estimate_of_a_fitted_route_is_its_distance_to_the_default_of_twice_the_calls():
    exact, _, fresh, *_ = problem(41)
    route, fine = tuned(41, 8), default(FLOW, 16)
    want = off(exact, route, fresh, run(exact, fine.sampler, fine.grid, fresh))
    assert torch.allclose(discretisation(exact, route, fresh), want, rtol=1e-12)
    with pytest.raises(GridError, match="draws noise"):
        discretisation(exact, Route(gaussian.DDPM(), fine.grid), fresh)
    assert discretisation(exact, route, fresh[:3].to(F64)).shape == (3,)
