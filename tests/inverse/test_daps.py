"""DAPS by exact moments: exact where theory says so, and its bias elsewhere against a recursion written by hand."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, Fixed, Impulse, MeanOnly, draws, normal, run, spd, time
from undrift import gaussian, grids
from undrift.bridge import Path as BridgePath
from undrift.core import PerSample, Shared
from undrift.errors import FamilyError, GridError, LawError, PotentialError
from undrift.guidance import Linear, Reward, condition
from undrift.inverse import gaussian_likelihood
from undrift.inverse.daps import DAPS, Closed, Langevin
from undrift.laws import Normal, Point
from undrift.protocols import Sampler
from undrift.schedules import BrownianBridge
from undrift.simulate import sample

MEAN, COV, LOOK, Y, NOISE = draws((4,), 0), spd(4, 1), draws((2, 4), 2), draws((2,), 3), 0.3
EYE = torch.eye(4, dtype=F64)
LIKELIHOOD = gaussian_likelihood(Y, LOOK, NOISE)


def posterior(mean, cov):
    """(mean, covariance) of N(mean, cov) given y, by information algebra."""
    left = torch.linalg.inv(torch.linalg.inv(cov) + LOOK.mT @ LOOK / NOISE**2)
    return left @ (torch.linalg.solve(cov, mean) + LOOK.mT @ Y / NOISE**2), left


def moments(model, sampler, grid, std, drawn):
    """Exact (mean, covariance) of the result from N(0, std^2 I) where every step is affine: a unit impulse per noise number."""
    x = torch.zeros(1 + 4 + 4 * drawn, 4, dtype=F64)
    x[1:5] = std * EYE
    x = run(model, sampler, grid, x, Impulse(5, 4))
    return x[0], (x[1:] - x[0]).mT @ (x[1:] - x[0])


@pytest.mark.parametrize("steps", [1, 2, 7])
@pytest.mark.parametrize("clock", ["cosine", "trigonometric", "linear_flow"])
def test_it_is_exact_on_white_data(clock, steps):
    """White data, the spread of white data, a path that forgets the data at t = 1: the posterior after any number of steps."""
    path = gaussian.Path(SCHEDULES[clock])
    model = MeanOnly(gaussian.Exact(path, normal(MEAN, 0.49 * EYE)))
    got = moments(model, DAPS(LIKELIHOOD, Closed(), data_std=0.7), grids.uniform(None, steps), 1.0, 2 * steps - 1)
    for value, want in zip(got, posterior(MEAN, 0.49 * EYE), strict=True):
        torch.testing.assert_close(value, want, atol=1e-11, rtol=0)


def recursion(clock, grid, std, draw):
    """The method by dense matrices: x_0 given x_t, x_s given x_0. `draw` maps (mean, cov) of the guess to those of x_0."""
    q = SCHEDULES[clock]
    mean, cov = 0 * MEAN, std**2 * EYE
    for i, (t, s) in enumerate(grid.pairs()):
        a, v, b, w = (float(f(time(u))) for u in (t, s) for f in (q.alpha, lambda u: q.sigma(u) ** 2))
        gain = a * COV @ torch.linalg.inv(a**2 * COV + v * EYE)
        clean, spread = draw(MEAN + gain @ (mean - a * MEAN), gain @ cov @ gain.mT, math.sqrt(v) / a, i)
        mean, cov = b * clean, b**2 * spread + w * EYE
    return mean, cov


def exactly(mean, cov, r, i):
    gain = r**2 * LOOK.mT @ torch.linalg.inv(r**2 * LOOK @ LOOK.mT + NOISE**2 * torch.eye(2, dtype=F64))
    keep = EYE - gain @ LOOK
    return keep @ mean + gain @ Y, keep @ cov @ keep.mT + r**2 * keep


def edm(steps):
    """From noise 10 to .01 and onto the data, on the EDM clock."""
    q = SCHEDULES["edm"]
    return grids.karras(q, steps, float(q.time(time(-2 * math.log(10.0)))), sigma_min=0.01)


MODEL = gaussian.Exact(gaussian.Path(SCHEDULES["edm"]), normal(MEAN, COV))


def test_its_bias_on_a_gaussian_is_known():
    """The sampler is the recursion, and its bias is on record (posterior: mean of norm 1.5, variances .03 to .96).

    At 20, 100 and 400 steps one call errs by .13, .05, .015 in the mean and .40, .07, .02 in the covariance, order 1; a flow
    of 5 calls stays above .4 in the covariance.
    """
    truth, errors = posterior(MEAN, COV), []
    for steps in (20, 100, 400):
        want = recursion("edm", edm(steps), 10.0, exactly)
        if steps < 400:
            got = moments(MODEL, DAPS(LIKELIHOOD, Closed()), edm(steps), 10.0, 2 * steps - 1)
            for value, expected in zip(got, want, strict=True):
                torch.testing.assert_close(value, expected, atol=1e-9, rtol=0)
        errors.append([float((a - b).abs().max()) for a, b in zip(want, truth, strict=True)])
    (m_20, c_20), (m_100, c_100), (m_400, c_400) = errors
    assert 0.1 < m_20 < 0.2
    assert 0.3 < c_20 < 0.5
    assert m_100 < 0.06
    assert c_100 < 0.08
    assert DAPS(LIKELIHOOD, Closed()).order == 1
    assert math.log(c_100 / c_400) / math.log(4) == pytest.approx(1, abs=0.25)
    assert math.log(m_100 / m_400) / math.log(4) == pytest.approx(1, abs=0.25)
    flow = DAPS(LIKELIHOOD, Closed(), ode_calls=5)
    assert flow.order == 0
    assert float((moments(MODEL, flow, edm(100), 10.0, 199)[1] - truth[1]).abs().max()) > 0.4


@pytest.mark.parametrize("calls", [1, 2, 5])
def test_a_low_level_is_a_langevin_step(calls):
    """Noise level u = 1e-3, no fresh noise: the move over u^2 is c_k grad log p + grad r, up to O(u^2), below 1e-2."""
    q, u, x = SCHEDULES["edm"], 1e-3, draws((3, 4), 5)
    start = float(q.time(time(-2 * math.log(u))))
    ladder = [
        float(q.sigma(time(t))) for t in (grids.karras(q, calls, start) if calls > 1 else grids.of_times([start, 0.0])).times
    ]
    share = sum(a * (a - b) for a, b in pairwise(ladder)) / u**2
    assert calls > 1 or share == pytest.approx(1)
    model, grid = Counted(MODEL), grids.of_times([start, 0.9 * start])
    got = (run(model, DAPS(LIKELIHOOD, Closed(), ode_calls=calls), grid, x, Fixed(*torch.zeros(2, 3, 4, dtype=F64))) - x) / u**2
    want = -share * torch.linalg.solve(COV, (x - MEAN).mT).mT + (Y - x @ LOOK.mT) @ LOOK / NOISE**2
    assert model.calls == calls == DAPS(LIKELIHOOD, Closed(), ode_calls=calls).calls(grid)
    torch.testing.assert_close(got, want, atol=1e-2, rtol=0)


def test_langevin_is_its_own_recursion():
    """Unadjusted steps on the quadratic by dense matrices, step sizes falling linearly to the floor; to rounding."""
    inner, grid = Langevin(6, 1e-3, 0.1), grids.karras(SCHEDULES["edm"], 5, 0.4, sigma_min=0.1)

    def unadjusted(mean, cov, r, i):
        eta = 1e-3 * (1 - 0.9 * i / 5)
        pull = EYE - eta * (EYE / r**2 + LOOK.mT @ LOOK / NOISE**2)
        x, root = mean, EYE  # x = root guess + shift, and fresh noise
        fresh = torch.zeros(4, 4, dtype=F64)
        for _ in range(6):
            x = pull @ x + eta * (mean / r**2 + LOOK.mT @ Y / NOISE**2)
            root = pull @ root + eta / r**2 * EYE
            fresh = pull @ fresh @ pull.mT + 2 * eta * EYE
        return x, root @ cov @ root.mT + fresh

    got = moments(MODEL, DAPS(LIKELIHOOD, inner), grid, 2.0, 7 * 5 - 1)
    for value, want in zip(got, recursion("edm", grid, 2.0, unadjusted), strict=True):
        torch.testing.assert_close(value, want, atol=1e-11, rtol=0)


def test_many_langevin_steps_are_the_closed_draw():
    """2000 steps of eta = 1e-4 at one level: mean exact, covariance within eta |precision| / 2 of it (unadjusted, relative)."""
    grid = grids.of_times([0.3, 0.0])
    x = draws((2, 4), 6)
    zeros = torch.zeros(2000, 2, 4, dtype=F64)
    long = run(MODEL, DAPS(LIKELIHOOD, Langevin(2000, 1e-3, 1.0)), grid, x, Fixed(*zeros))
    torch.testing.assert_close(long, run(MODEL, DAPS(LIKELIHOOD, Closed()), grid, x, Fixed(*zeros[:1])), atol=1e-6, rtol=0)


def test_it_takes_guided_denoisers_and_closed_rewards():
    """White data tilted by a guide, seen by DAPS: the posterior of the tilted data; a linear reward does as much."""
    path, direction = gaussian.Path(SCHEDULES["cosine"]), Linear(draws((1, 4), 7))
    model = gaussian.Exact(path, normal(MEAN, 0.49 * EYE))
    grid, want = grids.uniform(None, 3), posterior(MEAN + 0.49 * direction.direction[0], 0.49 * EYE)
    for denoiser, potential in ((condition(model, direction), LIKELIHOOD), (model, LIKELIHOOD & direction)):
        got = moments(denoiser, DAPS(potential, Closed(), data_std=0.7), grid, 1.0, 5)
        for value, expected in zip(got, want, strict=True):
            torch.testing.assert_close(value, expected, atol=1e-11, rtol=0)


def test_a_sample_does_not_know_its_neighbours():
    """Per-sample streams and one measurement per sample: rows of a batch are those drawn alone, within rounding."""
    y, grid = draws((3, 2), 8), edm(4)
    for inner in (Closed(), Langevin(3, 1e-4)):
        prior = Normal(torch.zeros(3, 4, dtype=F64), normal(MEAN, 100 * EYE).cov)
        whole = sample(MODEL, DAPS(gaussian_likelihood(y, LOOK, NOISE), inner), grid, (3, 4), seed=1, dtype=F64, prior=prior)
        for i in range(3):
            alone, rng = DAPS(gaussian_likelihood(y[i], LOOK, NOISE), inner), PerSample(1, [i])
            one = run(MODEL, alone, grid, normal(0 * MEAN, 100 * EYE).sample(rng), rng)
            torch.testing.assert_close(one, whole[i : i + 1], atol=1e-10, rtol=0)


def refused(sampler, match, error=PotentialError, model=MODEL, grid=None):
    counted = Counted(model)
    with pytest.raises(error, match=match):
        run(counted, sampler(), grid or edm(5), draws((3, 4), 1), Shared(0))
    assert counted.calls == 0


def test_bad_input_is_refused_before_the_first_call():
    assert isinstance(DAPS(LIKELIHOOD, Closed()), Sampler)
    broken = replace(LIKELIHOOD, y=LIKELIHOOD.y * math.nan)
    fine = Langevin(2, 1e-5)
    refused(lambda: DAPS(broken, Closed()), "NaN in the measurement")
    refused(lambda: DAPS(broken, fine), "NaN in the measurement")
    refused(lambda: DAPS(Reward(lambda x: x.sum(1)), Closed()), "Langevin")
    refused(lambda: DAPS(Reward(lambda x: x), fine), "one number each")
    refused(lambda: DAPS(Reward(lambda x: x.round().detach().sum(1)), fine), "particles")
    refused(lambda: DAPS(replace(LIKELIHOOD, variance=0 * LIKELIHOOD.variance), fine), "noise", LawError)
    refused(lambda: DAPS(LIKELIHOOD, Langevin(0, 1e-5)), "steps >= 1")
    refused(lambda: DAPS(LIKELIHOOD, Langevin(1, -1.0)), "rate > 0")
    refused(lambda: DAPS(LIKELIHOOD, Langevin(1, 1.0, 0.0)), "floor")
    refused(lambda: DAPS(LIKELIHOOD, Langevin(1, 1.0, 1.0)), "diverges")
    refused(lambda: DAPS(LIKELIHOOD, Closed(), data_std=0.0), "data_std > 0")
    refused(lambda: DAPS(LIKELIHOOD, Closed(), ode_calls=0), "ode_calls >= 1")
    refused(lambda: DAPS(LIKELIHOOD, Closed()), "falls|fall", GridError, grid=edm(5).flipped())
    start = gaussian.Exact(gaussian.Path(SCHEDULES["cosine"]), normal(MEAN, COV))
    refused(lambda: DAPS(LIKELIHOOD, Closed()), "data_std", GridError, start, grids.uniform(None, 3))
    bridge = BridgePath(BrownianBridge(0.8), Point(torch.zeros(1, 4, dtype=F64)))
    with pytest.raises(FamilyError):
        DAPS(LIKELIHOOD, Closed()).plan(bridge, edm(3))
