"""RED-diff on Gaussians: its mean follows an affine recursion, and rests at a point with a closed form."""

import math
from dataclasses import replace

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, Fixed, MeanOnly, draws, normal, run, spd, time
from undrift import gaussian, grids
from undrift.core import PerSample, Shared
from undrift.errors import GridError, LawError, PotentialError, ShapeError
from undrift.guidance import Linear, Reward, condition
from undrift.inverse import gaussian_likelihood
from undrift.inverse.reddiff import Adam, Descent, REDdiff, flat, precise
from undrift.protocols import Sampler

MEAN, COV, LOOK, Y, NOISE = draws((4,), 0), spd(4, 1), draws((2, 4), 2), draws((2,), 3), 0.8
EYE, START = torch.eye(4, dtype=F64), draws((1, 4), 4)
LIKELIHOOD = gaussian_likelihood(Y, LOOK, NOISE)
INFORMATION = LOOK.mT @ LOOK / NOISE**2


def levels(clock, grid):
    """(alpha, sigma) where each step starts."""
    q = SCHEDULES[clock]
    return [(float(q.alpha(time(t))), float(q.sigma(time(t)))) for t, _ in grid.pairs()]


def rest(pairs, strength, weight):
    """Where A^T R^{-1} (y - A mu) = strength mean[weight v (C + v)^{-1}] (mu - m)."""
    terms = [weight((s / a) ** 2) * (s / a) ** 2 * torch.linalg.inv(COV + (s / a) ** 2 * EYE) for a, s in pairs]
    prior = strength * torch.stack(terms).mean(0)
    return torch.linalg.solve(INFORMATION + prior, LOOK.mT @ Y / NOISE**2 + prior @ MEAN)


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
@pytest.mark.parametrize(("weight", "power"), [(flat, 0), (precise, 1)])
def test_descent_is_the_recursion_by_hand(clock, weight, power):
    """The paper's own form: eps residual times lambda w_t, w_t = sigma / alpha (flat), by dense algebra; to rounding."""
    q, grid = SCHEDULES[clock], grids.uniform(None, 8, 0.9, 0.1)
    model, z = gaussian.Exact(gaussian.Path(q), normal(MEAN, COV)), draws((8, 3, 4), 5)
    rate = 1e-3
    got = run(MeanOnly(model), REDdiff(LIKELIHOOD, Descent(rate), 0.7, START, weight), grid, draws((3, 4), 6), Fixed(*z))
    mu = START.expand(3, 4)
    for noise, (a, s) in zip(z, levels(clock, grid), strict=True):
        x = a * mu + s * noise
        eps = s * torch.linalg.solve(a**2 * COV + s**2 * EYE, (x - a * MEAN).mT).mT  # E[z | x]
        pull = 0.7 * (s / a) * (a / s) ** (2 * power) * (eps - noise)
        mu = mu - rate * (pull - (Y - mu @ LOOK.mT) @ LOOK / NOISE**2)
    torch.testing.assert_close(got, mu, atol=1e-10, rtol=1e-10)


def test_without_noise_a_single_level_rests_where_the_formula_says():
    """Noise held at 0 and a grid within 1e-9 of one level: the fixed point of the affine descent, to 1e-7."""
    q = SCHEDULES["vp"]
    grid = grids.uniform(None, 3000, 0.5, 0.5 - 1e-9)
    model = gaussian.Exact(gaussian.Path(q), normal(MEAN, COV))
    got = run(
        model,
        REDdiff(LIKELIHOOD, Descent(0.05), 0.7, START),
        grid,
        draws((1, 4), 6),
        Fixed(*torch.zeros(3000, 1, 4, dtype=F64)),
    )
    torch.testing.assert_close(got[0], rest(levels("vp", grid)[:1], 0.7, lambda v: 1.0), atol=1e-7, rtol=0)


class Silent(Shared):
    """No Gaussian noise; the levels are drawn."""

    def normal(self, shape, *, dtype, device="cpu"):
        return torch.zeros(shape, dtype=dtype)


def test_shuffled_descent_rests_where_the_formula_says():
    """Levels drawn per sample, 500 samples, 1500 steps of rate .05, the last 1000 averaged.

    The average is within five standard errors of the closed form (a false alarm of 6e-7 a coordinate), each below .0007.
    Were only the upper half of the levels drawn, it would be off by .02.
    """
    q, grid, total = SCHEDULES["vp"], grids.uniform(None, 6, 0.9, 0.1), 0
    model, sampler = (
        gaussian.Exact(gaussian.Path(q), normal(MEAN, COV)),
        REDdiff(LIKELIHOOD, Descent(0.05), 0.7, START, shuffled=True),
    )
    plan, x, rng = sampler.plan(model.path, grid), draws((500, 4), 6), Silent(0)
    state = sampler.init(x)
    for k in range(1500):
        x, state, _ = sampler.step(model, plan, k % 6, x, state, rng)
        total = total + (x if k >= 500 else 0) / 1000
    want = rest(levels("vp", grid), 0.7, lambda v: 1.0)
    error = float(total.std(0).max()) / math.sqrt(500)
    assert error < 0.0007
    torch.testing.assert_close(total.mean(0), want, atol=5 * error, rtol=0)
    assert float((rest(levels("vp", grid)[:3], 0.7, lambda v: 1.0) - want).abs().max()) > 0.02


def test_precise_weights_at_low_noise_find_the_posteriors_mode():
    """Omega = 1 / v at v = 1e-6, lambda = 1, noise held at 0: the Kalman mean, up to v / C = 1e-5; flat weights do not."""
    q = SCHEDULES["edm"]
    start = float(q.time(time(-2 * math.log(1e-3))))
    grid = grids.uniform(None, 3000, start, start * (1 - 1e-9))
    model, silence = gaussian.Exact(gaussian.Path(q), normal(MEAN, COV)), Fixed(*torch.zeros(3000, 1, 4, dtype=F64))
    sampler = REDdiff(LIKELIHOOD, Descent(0.05), 1.0, START, precise)
    want = torch.linalg.solve(INFORMATION + torch.linalg.inv(COV), LOOK.mT @ Y / NOISE**2 + torch.linalg.solve(COV, MEAN))
    torch.testing.assert_close(run(model, sampler, grid, 0 * START, silence)[0], want, atol=1e-4, rtol=0)
    other = rest(levels("vp", grids.uniform(None, 50)), 1.0, lambda v: 1.0)
    assert float((other - want).abs().max()) > 0.05


def test_adam_is_torchs_adam():
    """The same slopes, 30 steps, against torch.optim.Adam; to rounding."""
    slopes, adam = draws((30, 3, 4), 8), Adam(0.1)
    mu = draws((3, 4), 9)
    ours, state = mu, adam.init(mu)
    theirs = mu.clone().requires_grad_()
    judge = torch.optim.Adam([theirs], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    for g in slopes:
        move, state = adam.move(g, state)
        ours = ours + move
        theirs.grad = g.clone()
        judge.step()
    torch.testing.assert_close(ours, theirs.detach(), atol=1e-12, rtol=0)


def test_adam_descends_along_the_grid_to_a_mode_and_not_to_a_posterior():
    """From one start, 64 samples end within a third of the posterior's spread of each other, and away from the start."""
    q = SCHEDULES["vp"]
    model, grid = Counted(gaussian.Exact(gaussian.Path(q), normal(MEAN, COV))), grids.uniform(None, 400, 1.0, 0.02)
    sampler = REDdiff(LIKELIHOOD, Adam(0.03), 0.7, START)
    ends = run(model, sampler, grid, draws((64, 4), 6), Shared(0))
    assert model.calls == sampler.calls(grid) == 400
    spread = torch.linalg.inv(torch.linalg.inv(COV) + INFORMATION).diagonal().sum().sqrt()
    assert float(ends.var(0).sum().sqrt()) < float(spread) / 3
    assert float((ends - START).norm(dim=1).min()) > 0.3


def test_it_takes_guided_denoisers():
    """Data tilted by g: the rest moves as if the data had the mean m + C g."""
    q, g = SCHEDULES["vp"], Linear(draws((1, 4), 7))
    grid, silence = grids.uniform(None, 3000, 0.5, 0.5 - 1e-9), Fixed(*torch.zeros(3000, 1, 4, dtype=F64))
    model = gaussian.Exact(gaussian.Path(q), normal(MEAN, COV))
    moved = gaussian.Exact(gaussian.Path(q), normal(MEAN + COV @ g.direction[0], COV))
    sampler = REDdiff(LIKELIHOOD, Descent(0.05), 0.7, START)
    got = [run(m, sampler, grid, START, silence.replay()) for m in (condition(model, g), moved)]
    torch.testing.assert_close(got[0], got[1], atol=1e-10, rtol=0)


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_sample_does_not_know_its_neighbours(shuffled):
    model, grid = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), normal(MEAN, COV)), grids.uniform(None, 6)
    y, start, x = draws((3, 2), 8), draws((3, 4), 9), draws((3, 4), 10)

    def drawn(i):
        sampler = REDdiff(gaussian_likelihood(y[i], LOOK, NOISE), Adam(0.1), 0.5, start[i], shuffled=shuffled)
        return run(model, sampler, grid, x[i], PerSample(1, range(3)[i]))

    for i in range(3):
        torch.testing.assert_close(drawn(slice(i, i + 1)), drawn(slice(0, 3))[i : i + 1], atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    ("change", "match", "error"),
    [
        ({"potential": replace(LIKELIHOOD, y=LIKELIHOOD.y * math.nan)}, "NaN in the measurement", PotentialError),
        ({"potential": replace(LIKELIHOOD, variance=0 * LIKELIHOOD.variance)}, "noise", LawError),
        ({"potential": Reward(lambda x: x)}, "one number each", PotentialError),
        ({"potential": Reward(lambda x: x.detach().round().sum(1))}, "particles", PotentialError),
        ({"start": draws((2, 4), 0)}, "one start", ShapeError),
        ({"start": math.nan * START}, "start holds NaN", PotentialError),
        ({"strength": -1.0}, "strength is >= 0", PotentialError),
        ({"strength": math.nan}, "strength is >= 0", PotentialError),
        ({"weight": lambda v: 1 / (v * 0)}, "finite", GridError),
    ],
)
def test_bad_input_is_refused_before_the_first_call(change, match, error):
    model = Counted(gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), normal(MEAN, COV)))
    good = {"potential": LIKELIHOOD, "optimiser": Adam(0.1), "strength": 1.0, "start": START}
    assert isinstance(REDdiff(**good), Sampler)
    with pytest.raises(error, match=match):
        run(model, REDdiff(**good | change), grids.uniform(None, 5), draws((3, 4), 1), Shared(0))
    assert model.calls == 0


def test_bad_settings_of_optimisers_and_grids_are_refused():
    for make in (lambda: Adam(0.0), lambda: Descent(-1.0)):
        with pytest.raises(PotentialError, match="rate > 0"):
            make()
    with pytest.raises(PotentialError, match="memories"):
        Adam(0.1, beta2=1.0)
    with pytest.raises(GridError, match="fall"):
        REDdiff(LIKELIHOOD, Adam(0.1), 1.0, START).plan(
            gaussian.Path(SCHEDULES["vp"]), grids.uniform(None, 5, 1.0, 0.1).flipped()
        )
