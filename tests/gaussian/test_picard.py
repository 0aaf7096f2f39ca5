"""Picard sweeps: DDIM's own states, in fewer calls; every sample alone."""

import pytest
import torch
from torch import nn

import oracles
from oracles import SCHEDULES, draws, mixture, relative, run, time
from undrift import gaussian, grids
from undrift.core import Covariance
from undrift.errors import ShapeError
from undrift.laws import Normal

GMM = mixture(2, "full", k=3, seed=5)
PATH = gaussian.Path(SCHEDULES["linear_flow"])
EXACT = gaussian.Exact(PATH, GMM)


@pytest.mark.parametrize("window", [1, 5, 40, 100])
@pytest.mark.parametrize("solver", [gaussian.DDIM(), gaussian.ExponentialIntegrator(0.0)])
def test_without_tolerance_every_state_is_the_solvers(solver, window):
    # From alpha = 0 onto sigma = 0 for DDIM; the exponential integrator needs a finite drift.
    grid = grids.uniform(None, 40) if isinstance(solver, gaussian.DDIM) else grids.uniform(None, 40, 0.95, 0.05)
    x = draws((4, 2), 1)
    stops = [
        [stop.x for stop in oracles.trajectory(EXACT, s, grid, x, rng=oracles.Fixed())]
        for s in (gaussian.Picard(solver, window, 0.0), solver)
    ]
    for one, other in zip(*stops, strict=True):
        assert relative(one, other) < 1e-12  # the same sums: rounding of batched products only


def test_first_states_are_exact_after_as_many_sweeps():
    # Window of one step: no guess is ever used, one sweep a step. Whatever the tolerance.
    swept, grid, x = [], grids.uniform(None, 12), draws((3, 2), 1)
    got = run(EXACT, gaussian.Picard(window=1, tolerance=9.0, report=swept.append), grid, x)
    assert relative(got, run(EXACT, gaussian.DDIM(), grid, x)) < 1e-12
    assert swept[0].sweeps == 12


def test_error_follows_the_tolerance_and_calls_are_saved():
    # Each known state may be off by about the tolerance; along 200 steps these shrink or grow with the flow (20 allows it).
    grid, x = grids.uniform(None, 200), draws((8, 2), 1)
    want = run(EXACT, gaussian.DDIM(), grid, x)
    for tolerance in (1e-2, 1e-3, 1e-5):
        swept = []
        counted = Counting(EXACT)
        got = run(counted, gaussian.Picard(window=50, tolerance=tolerance, report=swept.append), grid, x)
        assert float((got - want).square().mean(1).sqrt().max()) < 20 * tolerance
        assert counted.calls == swept[0].sweeps < 60  # a sweep is one call; DDIM makes 200
        assert counted.samples == int(swept[0].evaluations.sum())


class Counting(oracles.Counted):
    """Counts states as well as calls."""

    samples = 0

    def rows(self, which):
        """Itself: one law for all."""
        self.samples += len(which)
        return self


def test_a_sample_never_depends_on_its_neighbours():
    swept, grid = [], grids.uniform(None, 60)
    solver = gaussian.Picard(window=12, tolerance=1e-2, report=swept.append)
    x = torch.cat([draws((3, 2), 1), 9 * draws((2, 2), 2)])
    together = run(EXACT, solver, grid, x)
    cost = swept[-1].evaluations
    assert len(set(cost.tolist())) > 1  # or the test says nothing
    for b in range(5):
        assert relative(run(EXACT, solver, grid, x[b : b + 1])[0], together[b]) < 1e-12
        assert int(swept[-1].evaluations[0]) == int(cost[b])


class Labelled(nn.Module):
    """Answers with its condition, a little pulled to the state: never constant."""

    def forward(self, x, noise, cond):
        """Condition and state."""
        return cond + 0.1 * torch.tanh(x + noise[:, None])


def test_rows_follow_their_samples():
    cond, grid, x = draws((5, 2), 9), grids.uniform(None, 20), draws((5, 2), 1)
    laws = Normal(cond, Covariance.isotropic(torch.rand(5, dtype=torch.float64) + 0.1, 2))
    net = gaussian.NetDenoiser(Labelled().double(), PATH, "x0")
    models = [
        net.given(cond),
        net.given(cond[:1]),
        gaussian.Exact(PATH, laws),
        net.given(cond).on(gaussian.Path(SCHEDULES["vp"])),
    ]
    which = torch.tensor([3, 0, 0, 4])
    for model in models:
        t = time(0.4)
        assert relative(gaussian.rows(model, which)(x[which], t).mean, model(x, t).mean[which]) < 1e-14
        one, other = (run(model, solver, grid, x) for solver in (gaussian.Picard(tolerance=0.0), gaussian.DDIM()))
        assert relative(one, other) < 1e-12


def test_a_denoiser_without_rows_is_refused_with_the_cure():
    with pytest.raises(ShapeError, match=r"MeanOnly .*give it a method rows\(which\)"):
        run(oracles.MeanOnly(EXACT), gaussian.Picard(), grids.uniform(None, 4), draws((2, 2), 1))


def test_nothing_given_is_changed():
    x, grid, solver = draws((3, 2), 1), grids.uniform(None, 10), gaussian.Picard(window=4)
    kept, plan = x.clone(), solver.plan(PATH, grid)
    first = solver.step(EXACT, plan, 0, x, None, oracles.Fixed())
    second = solver.step(EXACT, plan, 1, first[0], first[1], oracles.Fixed())
    again = solver.step(EXACT, plan, 1, first[0], first[1], oracles.Fixed())
    assert torch.equal(second[0], again[0])
    assert torch.equal(x, kept)
