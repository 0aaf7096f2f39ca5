"""The variational bound lies below the log likelihood, and the gap closes like 1 / steps, on Gaussian data."""

import math

import pytest
import torch

from undrift import gaussian, grids, schedules
from undrift.core import Covariance, Shared
from undrift.errors import GridError
from undrift.laws import Normal

F = torch.float64
VARIANCES = torch.tensor([[0.5, 2.0]], dtype=F)
DATA = Normal(torch.tensor([[0.3, -0.7]], dtype=F), Covariance.diagonal(VARIANCES))
N = 20_000


def gap(path: gaussian.Path, steps: int) -> float:
    """Mean log likelihood minus mean bound over N data, nats."""
    rng = Shared(0)
    x_0 = DATA.mean + VARIANCES.sqrt() * rng.normal((N, 2), dtype=F)
    grid = grids.log_snr(path.schedule, steps, 1.0, 1e-3)
    return float((DATA.log_prob(x_0) - gaussian.elbo(gaussian.Exact(path, DATA), x_0, grid, rng)).mean())


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.Cosine(), schedules.EDM(20.0)])
def test_bound_lies_below_and_closes_with_steps(schedule):
    # The standard error of the mean is below .012 nats at every number of steps (measured over seeds), so .05 is four of them.
    gaps = [gap(gaussian.Path(schedule), steps) for steps in (2, 8, 64, 256)]
    assert all(g > -0.05 for g in gaps)
    assert gaps[0] > gaps[1] > gaps[2]
    assert 3 < gaps[2] / gaps[3] < 5.5  # the gap of the chain is of order 1 in the step: four times the steps, a quarter


def test_a_wrong_denoiser_lowers_the_bound():
    path = gaussian.Path(schedules.VP())
    grid, rng = grids.log_snr(path.schedule, 64, 1.0, 1e-3), Shared(1)
    x_0 = DATA.mean + VARIANCES.sqrt() * rng.normal((N, 2), dtype=F)
    wrong = gaussian.Exact(path, Normal(DATA.mean + 0.5, DATA.cov))
    bounds = [float(gaussian.elbo(gaussian.Exact(path, law), x_0, grid, Shared(2)).mean()) for law in (DATA, wrong.data)]
    # The chain then samples a Gaussian with another mean, whose cross-entropy is larger by delta^T C^-1 delta / 2.
    assert bounds[0] - bounds[1] == pytest.approx(float(0.5 * (0.25 / VARIANCES).sum()), abs=0.1)


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.EDM(1.0)])
def test_terms_of_one_step_by_hand(schedule):
    """One step from t = 1 to s, one dimension, a `Point` answer: prior (.32 nats on EDM(1)), one KL, decoder."""
    path, s, x_0 = gaussian.Path(schedule), 0.4, torch.full((200_000, 1), 0.8, dtype=F)
    truth = gaussian.Exact(
        path, Normal(torch.tensor([[0.5]], dtype=F), Covariance.isotropic(torch.full((1,), 1e-16, dtype=F), 1))
    )
    t, u = torch.tensor(1.0, dtype=F), torch.tensor(s, dtype=F)
    alpha, sigma = float(path.schedule.alpha(t)), float(path.schedule.sigma(t))
    prior = alpha**2 * 0.64 / (2 * sigma**2)
    kept, guess = (path.reverse(torch.zeros(1, 1, dtype=F), p, t, u) for p in (point(0.8), point(0.5)))
    kl = float((kept.mean - guess.mean).square() / (2 * kept.variance))
    noise = float(path.schedule.sigma(u) / path.schedule.alpha(u))
    decoder = 0.5 + math.log(noise) + 0.5 * math.log(2 * math.pi)
    bound = gaussian.elbo(truth, x_0, grids.of_times([1.0, s]), Shared(0))
    # the decoder's chi-square has standard deviation .71, so 200,000 draws leave .0016; five of them
    assert float(bound.mean()) == pytest.approx(-prior - kl - decoder, abs=0.008)


def point(value: float):
    from undrift.laws import Point

    return Point(torch.full((1, 1), value, dtype=F))


@pytest.mark.parametrize("times", [(1.0, 0.0), (0.9, 0.1), (0.1, 1.0)])
def test_other_grids_are_refused(times):
    x_0 = torch.zeros(2, 2, dtype=F)
    with pytest.raises(GridError, match="from t = 1 down to a time > 0"):
        gaussian.elbo(gaussian.Exact(gaussian.Path(schedules.VP()), DATA), x_0, grids.of_times(times), Shared(0))
