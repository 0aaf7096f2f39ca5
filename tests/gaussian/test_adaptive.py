"""The adaptive solver: error against tolerance, samples alone, what it cost, what it refuses."""

import math

import numpy as np
import pytest
import torch
from torch import nn

import oracles
from oracles import SCHEDULES, at_noise, draws, flow, mixture, relative, run, time
from undrift import gaussian, grids
from undrift.errors import GridError, NonFiniteError
from undrift.laws import Point

GMM = mixture(2, "full", k=3, seed=5)
HIGH = 3.0
START = HIGH * draws((6, 2), 11)


def endpoint(clock: str, solver, end: float = 0.0, x=START):
    """The end, divided by alpha, at noise level `end`, from noise level HIGH."""
    schedule = SCHEDULES[clock]
    start, stop = at_noise(schedule, HIGH), at_noise(schedule, end) if end else 0.0
    grid = grids.of_times([start, stop])
    state = float(schedule.alpha(time(start))) * x
    return run(gaussian.Exact(gaussian.Path(schedule), GMM), solver, grid, state) / float(schedule.alpha(time(stop)))


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "edm"])
def test_error_follows_the_tolerance(clock):
    # Proportional to it: one order of the tolerance an order of the error, within a factor 2 a decade over three decades; and
    # a small multiple of it (10 allows for the growth of errors along the flow). The reference ends at noise 1e-5, where x
    # differs from its limit by noise^2 / 2.
    want = flow(GMM, START, HIGH, 1e-5)
    tolerances = [1e-3, 1e-4, 1e-5, 1e-6]
    errors = [float((endpoint(clock, gaussian.Adaptive(tol, 0.0)) - want).square().mean(1).sqrt().max()) for tol in tolerances]
    assert all(error < 10 * tol for error, tol in zip(errors, tolerances, strict=True))
    assert abs(math.log10(errors[0] / errors[-1]) - 3) < 3 * math.log10(2)


def test_relative_tolerance_is_a_share_of_the_state():
    want = flow(GMM, START, HIGH, 1e-5)
    for tolerance in (1e-4, 1e-6):
        assert relative(endpoint("edm", gaussian.Adaptive(0.0, tolerance)), want) < 10 * tolerance


@pytest.mark.parametrize("with_rows", [True, False])
def test_a_sample_never_depends_on_its_neighbours(with_rows):
    spent = []
    path = gaussian.Path(SCHEDULES["vp"])
    exact = gaussian.Exact(path, GMM)
    denoiser = exact if with_rows else oracles.MeanOnly(exact)
    solver, grid = gaussian.Adaptive(1e-4, 0.0, report=spent.append), grids.of_times([1.0, 0.4, 0.0])
    x = torch.cat([draws((4, 2), 1), 6 * draws((2, 2), 2)])
    together = run(denoiser, solver, grid, x)
    steps = spent[-1].evaluations
    assert len(set(steps.tolist())) > 1  # or the test says nothing
    for b in range(6):
        assert relative(run(denoiser, solver, grid, x[b : b + 1])[0], together[b]) < 1e-10  # step lengths follow rounding
        assert int(spent[-1].evaluations[0]) == int(steps[b])


def test_what_was_spent_is_what_was_called():
    class Watching(oracles.Counted):
        samples = 0

        def rows(self, which):
            self.samples += len(which)
            return self

    spent, counted = [], Watching(gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), GMM))
    solver, grid = gaussian.Adaptive(1e-4, report=spent.append), grids.uniform(None, 3)
    run(counted, solver, grid, 5 * draws((5, 2), 1))
    assert len(spent) == 3
    assert (counted.calls, counted.samples) == (spent[-1].calls, int(spent[-1].evaluations.sum()))
    assert counted.calls >= solver.calls(grid)
    # An accepted step costs three evaluations, a rejected one two: its first answer is kept.
    assert ((spent[-1].evaluations - 2 * spent[-1].rejected) % 3 == 0).all()


def test_encoding_comes_back():
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES["linear_flow"]), GMM)
    solver, grid, x = gaussian.Adaptive(1e-7, 0.0), grids.of_times([1.0, 0.5, 0.05]), draws((4, 2), 3)
    assert relative(run(denoiser, solver, grid, run(denoiser, solver, grid.flipped(), x)), x) < 1e-5
    with pytest.raises(GridError, match="starts above t = 0"):
        solver.plan(denoiser.path, grids.of_times([0.0, 0.5]))


class Labelled(nn.Module):
    """Answers with its condition: a point mass each."""

    def forward(self, x, noise, cond):
        """The condition."""
        return cond


def test_conditions_follow_their_samples():
    # Every sample has a point mass of its own and needs another number of steps; a mix-up of rows would swap the points.
    cond = draws((5, 2), 9) * torch.tensor([[0.0], [1.0], [5.0], [30.0], [0.1]], dtype=torch.float64)
    denoiser = gaussian.NetDenoiser(Labelled(), gaussian.Path(SCHEDULES["vp"]), "x0").given(cond)
    got = run(denoiser, gaussian.Adaptive(1e-6), grids.uniform(None, 2), draws((5, 2), 1))
    assert relative(got, cond) < 1e-12  # z - x0 is constant on a point mass: exact at any step


class Rough:
    """A denoiser without a slope: it jumps with the state."""

    def __init__(self, value):
        self.path, self.value = gaussian.Path(SCHEDULES["vp"]), value

    def __call__(self, x, t):
        return Point(self.value(x))


def test_a_tolerance_that_cannot_be_met_names_the_time_and_the_cure():
    rough, x = Rough(lambda x: torch.sign(torch.sin(1e6 * x))), draws((3, 2), 1)
    with pytest.raises(
        GridError, match=r"sample \d, in step 1 from t = 1 to 0, at t = 0\.\d+: .*atol = 1e-08.*raise the tol.*Heun"
    ):
        run(rough, gaussian.Adaptive(1e-8, 0.0, max_calls=200), grids.of_times([1.0, 0.0]), x)
    with pytest.raises(GridError, match=r"atol = 1e-09.*torch.float32.*float64 state"):
        run(rough, gaussian.Adaptive(1e-9, 0.0), grids.of_times([1.0, 0.0]), x.float())


def test_an_answer_that_is_not_finite_is_named():
    bad = Rough(lambda x: torch.where(torch.arange(3)[:, None] == 1, torch.nan, x))
    with pytest.raises(NonFiniteError, match=r"sample 1, in step 1 .*training range"):
        run(bad, gaussian.Adaptive(), grids.of_times([1.0, 0.0]), draws((3, 2), 1))


def test_few_rejections():
    # The PI rule on a smooth flow: at a tight tolerance at most one step in ten is made again.
    spent = []
    endpoint("vp", gaussian.Adaptive(1e-7, 0.0, report=spent.append))
    accepted = (spent[-1].evaluations - 2 * spent[-1].rejected) / 3
    assert np.all((spent[-1].rejected / accepted).numpy() < 0.1)
