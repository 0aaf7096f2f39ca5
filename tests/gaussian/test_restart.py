"""Restart: its closed form on a Gaussian, the error that it forgets and an ODE keeps, where it restarts, its refusals.

Weak order 2 is measured with every other solver's in test_solvers.py.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from oracles import (
    F64,
    SCHEDULES,
    Counted,
    Fixed,
    MeanOnly,
    at_noise,
    draws,
    mixture,
    normal,
    propagate,
    relative,
    run,
    spd,
    time,
)
from undrift import gaussian, grids, schedules
from undrift.core import PerSample
from undrift.errors import GridError
from undrift.gaussian import Heun, Restart
from undrift.laws import Point

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)


@pytest.mark.parametrize("clock", ["edm", "vp", "cosine", "custom"])
def test_restart_is_the_papers_loop(clock):
    # Xu et al. 2023, algorithm 1, in y = x / alpha: run to t_min, then K times add noise of variance r_max^2 - r_min^2 and run
    # the stretch again; here from level 2 to level .5 of the grid's own.
    schedule, levels = SCHEDULES[clock], (4.0, 2.0, 1.0, 0.5, 0.2)
    times = [at_noise(schedule, level) for level in levels]
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    x, noise = draws((4, 2), 1), [draws((4, 2), 2), draws((4, 2), 3)]
    head, low, high = (float(schedule.alpha(time(times[i]))) for i in (0, 3, 1))
    y = run(denoiser, Heun(), grids.of_times(times[:4]), head * x) / low
    for z in noise:
        y = y + math.sqrt(2.0**2 - 0.5**2) * z
        y = run(denoiser, Heun(), grids.of_times(times[1:4]), high * y) / low
    want = run(denoiser, Heun(), grids.of_times(times[3:]), low * y)
    got = run(denoiser, Restart(((0.25, 0.75, 2),)), grids.of_times(times), head * x, Fixed(*noise))
    assert relative(got, want) < 1e-10


@pytest.mark.parametrize("clock", ["edm", "vp"])
@pytest.mark.parametrize("repeats", [1, 3])
def test_restart_forgets_what_an_ode_keeps(clock, repeats):
    # A wrong start on the line. With k = (c + r_min^2) / (c + r_max^2), a restart takes an error e of the mean to sqrt(k) e,
    # and of the variance to k e, both of y: closed form, up to Heun's O(h^2) at 150 steps. The ODE alone keeps both, scaled.
    schedule, c, n = SCHEDULES[clock], 0.4, 150
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), normal(time([0.3]), time([[c]]))))
    grid = grids.log_snr(schedule, n, at_noise(schedule, 4.0), at_noise(schedule, 0.1))
    solver = Restart(((0.4, 0.8, repeats),))
    noise = [math.exp(-0.5 * float(schedule.log_snr(time(u)))) for u in grid.times]
    first, low, high, last = noise[0], noise[120], noise[60], noise[-1]
    head, tail = (float(schedule.alpha(time(u))) for u in (grid.times[0], grid.times[-1]))
    off, excess = 1.0, 2.0  # of mean and variance of y at the start

    def arrive(sampler):
        mean, cov = propagate(denoiser, sampler, grid, head * time([0.3 + off]), head**2 * time([[c + first**2 + excess]]))
        return float(mean) / tail - 0.3, float(cov) / tail**2 - (c + last**2)

    shrink = (c + low**2) / (c + high**2)
    kept = (c + last**2) / (c + first**2)  # what the flow does to an error of the variance on the whole way
    for sampler, forgotten in ((Heun(), 1.0), (solver, shrink**repeats)):
        mean, variance = arrive(sampler)
        assert mean == pytest.approx(math.sqrt(kept * forgotten) * off, abs=1e-3)
        assert variance == pytest.approx(kept * forgotten * excess, abs=1e-3)
    assert shrink < 0.4


@dataclass(frozen=True)
class Biased:
    """A denoiser whose answer is off by a constant at high noise: the error of a network, which no step size removes."""

    inner: MeanOnly
    above: float

    @property
    def path(self):
        """The inner path."""
        return self.inner.path

    def __call__(self, x_t, t):
        """The mean, and the error where sigma / alpha is above the bound."""
        error = 0.4 if float(self.path.schedule.log_snr(t)) < -2 * math.log(self.above) else 0.0
        return Point(self.inner(x_t, t).mean + error)


def test_restart_forgives_a_network_what_more_steps_do_not():
    # The claim in use, at equal calls: the mean's error made at noise > 2.5 is carried down by Heun however fine its grid, and
    # shrinks by sqrt(k), k = (c + .06^2) / (c + 1.9^2), in one restart from 1.9 to .06; a fifth above that for coarse steps.
    schedule, c = schedules.EDM(), 0.3
    denoiser = Biased(MeanOnly(gaussian.Exact(gaussian.Path(schedule), normal(time([0.0]), time([[c]])))), 2.5)

    def error(sampler, steps):
        grid = grids.karras(schedule, steps)
        return abs(float(propagate(denoiser, sampler, grid, time([0.0]), time([[80.0**2]]))[0])), sampler.calls(grid)

    (kept, calls), (left, same) = error(Heun(), 23), error(Restart(((0.5, 0.78, 1),)), 18)
    assert calls == same == 45
    assert kept > 0.03
    assert left < 1.2 * math.sqrt((c + 0.06**2) / (c + 1.9**2)) * kept


def test_an_exact_score_gains_more_from_a_finer_grid():
    # The docstring's other half: nothing to forgive, so at equal calls Heun's finer grid has the smaller error of the variance.
    schedule, c, end = schedules.EDM(), 0.3, 0.02
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), normal(time([0.0]), time([[c]]))))

    def error(sampler, steps):
        grid = grids.karras(schedule, steps, 1.0, at_noise(schedule, end))
        variance = propagate(denoiser, sampler, grid, time([0.0]), time([[80.0**2]]))[1]
        return abs(float(variance) - c - end**2), sampler.calls(grid)

    (fine, calls), (again, same) = error(Heun(), 22), error(Restart(), 18)
    assert calls == same == 44
    assert fine < 0.8 * again


def test_default_interval_is_the_papers_for_cifar():
    # Karras et al.'s 18 steps: from .30 to .06, to the rounding of the grid.
    grid = grids.karras(schedules.EDM(), 18)
    ((start, end, repeats),) = Restart().stretches(grid)
    assert repeats == 2
    assert 80 * grid.times[start] == pytest.approx(0.30, abs=0.01)
    assert 80 * grid.times[end] == pytest.approx(0.06, abs=0.005)


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("end", [0.0, 0.01])
def test_every_grid_gets_the_calls_announced_and_never_asks_about_data(steps, end):
    # Two intervals, one reaching the very end: it stops above t = 0, holds a step at least, and vanishes only where a grid
    # goes to t = 0 in one step.
    solver = Restart(((0.2, 0.5, 1), (0.9, 1.0, 3)))
    grid = grids.uniform(None, steps, 1.0, end)

    class Watched(Counted):
        def __call__(self, x_t, t):
            assert float(t) > 0
            assert float(t) in grid.times
            return super().__call__(x_t, t)

    watched = Watched(MeanOnly(gaussian.Exact(gaussian.Path(SCHEDULES["cosine"]), DATA)))
    x = run(watched, solver, grid, draws((3, 2), 1), PerSample(0, 3))
    assert torch.isfinite(x).all()
    assert watched.calls == solver.calls(grid)
    assert (solver.calls(grid) > Heun().calls(grid)) == (steps > 1 or end > 0)


@pytest.mark.parametrize("clock", ["cosine", "linear_flow"])
def test_up_to_pure_noise(clock):
    # From alpha = 0: the way up forgets everything, so the start no longer matters.
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM)
    solver, grid = Restart(((0.0, 0.5, 1),)), grids.uniform(None, 6)
    one, other = (run(denoiser, solver, grid, draws((2, 2), k), Fixed(draws((2, 2), 5))) for k in (1, 2))
    assert relative(one, other) < 1e-12
    assert one.dtype == F64


def test_errors_teach_the_cure():
    for interval in ((0.8, 0.6, 1), (0.5, 0.5, 1), (-0.1, 0.5, 1), (0.5, 1.2, 1), (12.0, 14.0, 1)):
        with pytest.raises(GridError, match="swap them, or divide step indices"):
            Restart((interval,))
    with pytest.raises(GridError, match="at least one restart"):
        Restart(((0.5, 0.8, 0),))
    with pytest.raises(GridError, match=r"use Heun\(\)"):
        Restart(())
    with pytest.raises(GridError, match=r"a random solver runs from noise to data; encode with Heun\(\)"):
        Restart().plan(gaussian.Path(schedules.VP()), grids.uniform(None, 5, 0.9, 0.1).flipped())
