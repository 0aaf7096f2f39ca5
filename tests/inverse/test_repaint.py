"""RePaint: exact moments by one unit impulse per noise number; no Monte Carlo. What is shared: test_ddrm.py."""

import math

import pytest
import torch

from oracles import F64, SCHEDULES, Impulse, at_noise, draws, mixture, normal, run, spd, time
from undrift import gaussian, grids, operators
from undrift.core import PerSample
from undrift.errors import PotentialError
from undrift.inverse.repaint import RePaint
from undrift.simulate import Ancestral

KNOWN, Y, MEAN = torch.tensor([False, True, False]), draws((1, 1), 1), draws((3,), 2)
MASK, VARIANCE = operators.Mask(KNOWN), time([0.3, 0.7, 1.5])
PATH = gaussian.Path(SCHEDULES["trigonometric"])


def moments(cov, sampler, grid, mean=MEAN, path=PATH):
    """Exact mean and covariance of what it draws, the prior's draw included."""
    rows, rng = 1 + 3 * (1 + 3 * sampler.calls(grid)), Impulse(1, 3)
    start = path.prior(torch.empty(rows, 3, dtype=F64)).sample(rng)
    x = run(gaussian.Exact(path, normal(mean, cov)), sampler, grid, start, rng)
    return x[0], (x[1:] - x[0]).mT @ (x[1:] - x[0])


@pytest.mark.parametrize(("rounds", "jump"), [(1, 1), (3, 1), (2, 3), (2, 2)])
def test_independent_coordinates_are_exact(rounds, jump):
    """What is known is y, and what is unknown keeps its own law, after any number of rounds; any turned basis too."""
    turn = torch.linalg.qr(draws((3, 3), 9))[0]
    for basis in (torch.eye(3, dtype=F64), turn):
        look = operators.Matrix(2.0 * basis[:, 1][None])
        cov = basis @ torch.diag(VARIANCE) @ basis.mT
        mean, got = moments(cov, RePaint(look, 2.0 * Y, rounds=rounds, jump=jump), grids.uniform(None, 5), basis @ MEAN)
        torch.testing.assert_close(basis.mT @ mean, torch.where(KNOWN, Y[0], MEAN), atol=1e-12, rtol=0)
        torch.testing.assert_close(basis.mT @ got @ basis, torch.diag(torch.where(KNOWN, 0.0, VARIANCE)), atol=1e-12, rtol=0)


@pytest.mark.parametrize("noise", [0.2, 1.0])
@pytest.mark.parametrize("above", [1.0, 1.3])
def test_noisy_independent_coordinates_are_exact_if_the_grid_stops_at_their_level(noise, above):
    """Replaced last at the level l: x_0 given N(y, l^2 - noise^2) seen at l. At l = noise it is the posterior."""
    level = above * noise
    times = [1.0, at_noise(PATH.schedule, 3.0), at_noise(PATH.schedule, level * (1 + 1e-12)), at_noise(PATH.schedule, 0.1), 0.0]
    mean, cov = moments(torch.diag(VARIANCE), RePaint(MASK, Y, noise), grids.of_times(times))
    gain = 0.7 / (0.7 + level**2)
    want = torch.where(KNOWN, MEAN + gain * (Y[0] - MEAN), MEAN)
    spread = torch.where(KNOWN, 0.7 * (1 - gain) + gain**2 * (level**2 - noise**2), VARIANCE)
    torch.testing.assert_close(mean, want, atol=1e-9, rtol=0)
    torch.testing.assert_close(cov, torch.diag(spread), atol=1e-9, rtol=0)
    if above == 1.0:
        assert float(cov[1, 1]) == pytest.approx(1 / (1 / 0.7 + 1 / noise**2), abs=1e-9)


def conditional(cov):
    rest = ~KNOWN
    return MEAN[rest] + cov[rest][:, KNOWN] @ torch.linalg.solve(cov[KNOWN][:, KNOWN], Y[0] - MEAN[KNOWN])


def test_resampling_lessens_the_bias_on_dependent_coordinates():
    """Replacement alone is biased (exact conditional by block algebra); each fourfold number of rounds brings it nearer."""
    cov, grid = spd(3, 3), grids.uniform(None, 4)
    want = conditional(cov)
    bias = [float((moments(cov, RePaint(MASK, Y, rounds=r), grid)[0][~KNOWN] - want).abs().max()) for r in (1, 4, 16)]
    assert bias[0] > 1.5 * bias[1] > 2.25 * bias[2]


def test_rounds_below_the_noise_forget_the_measurement():
    """Noise .5 on an independent coordinate: one round leaves no more than the prior's variance .7 allows; four leave more."""
    grid = grids.of_times([1.0, at_noise(PATH.schedule, 0.5 * (1 + 1e-12)), at_noise(PATH.schedule, 0.3), 0.0])
    posterior = 1 / (1 / 0.7 + 4)
    once, often = (float(moments(torch.diag(VARIANCE), RePaint(MASK, Y, 0.5, rounds=r), grid)[1][1, 1]) for r in (1, 4))
    assert once == pytest.approx(posterior, abs=1e-9)
    assert posterior + 0.05 < often < 0.7


def test_more_steps_do_not_remove_the_bias():
    cov = spd(3, 3)
    bias = [
        float((moments(cov, RePaint(MASK, Y), grids.uniform(None, n))[0][~KNOWN] - conditional(cov)).norm())
        for n in (32, 64, 128)
    ]
    assert bias[2] > 0.9 * bias[1] > 0.8 * bias[0] > 0.02


@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow", "custom"])
def test_without_noise_it_ends_on_the_measurement(clock):
    """On a law that is not Gaussian, for a matrix, on every clock."""
    path, a, y = gaussian.Path(SCHEDULES[clock]), draws((2, 4), 5), draws((1, 2), 6)
    sampler = RePaint(operators.Matrix(a), y, rounds=2, jump=3)
    x = run(
        gaussian.Exact(path, mixture(4, seed=1)), sampler, grids.karras(path.schedule, 7), draws((3, 4), 1), PerSample(3, 3)
    )
    torch.testing.assert_close(x @ a.mT, y.expand(3, 2), atol=1e-12, rtol=0)


def test_a_useless_measurement_leaves_the_ancestral_sampler():
    """Noise above every level but the infinite one: nothing is replaced, nothing more is drawn."""
    x, grid, denoiser = draws((4, 3), 1), grids.uniform(None, 6), gaussian.Exact(PATH, mixture(3, seed=2))
    got = run(denoiser, RePaint(MASK, Y, 1e9), grid, x, PerSample(3, 4))
    torch.testing.assert_close(got, run(denoiser, Ancestral(), grid, x, PerSample(3, 4)), atol=0, rtol=0)


def test_blocks_are_made_again_from_where_they_began():
    """The times at which the denoiser is asked: jump 2, two rounds, three steps; the last block has one step."""
    asked = []

    class Noting:
        path, inner = PATH, gaussian.Exact(PATH, normal(MEAN, spd(3, 3)))

        def __call__(self, x_t, t):
            asked.append(float(t))
            return self.inner(x_t, t)

    sampler, grid = RePaint(MASK, Y, rounds=2, jump=2), grids.of_times([1.0, 0.7, 0.4, 0.0])
    run(Noting(), sampler, grid, draws((2, 3), 1), PerSample(0, 2))
    assert asked == [1.0, 0.7, 1.0, 0.7, 0.4, 0.4]
    assert sampler.calls(grid) == len(asked)


def test_settings_outside_their_range_are_refused():
    for setting in ({"rounds": 0}, {"jump": 0}):
        with pytest.raises(PotentialError, match="jump >= 1 steps rounds >= 1 times"):
            RePaint(MASK, Y, **setting)
    assert not math.isnan(RePaint(MASK, Y).order)
