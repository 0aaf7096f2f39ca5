"""The variational bound lies below the log likelihood, and the gap closes like 1 / steps, on Gaussian data."""

import math

import numpy as np
import pytest
import torch

from undrift import gaussian, grids, schedules
from undrift.core import Covariance, Shared
from undrift.errors import GridError
from undrift.laws import Normal, Point

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


def point(value: float) -> Point:
    return Point(torch.full((1, 1), value, dtype=F))


@pytest.mark.parametrize("schedule", [schedules.VP(), schedules.EDM(2.0)])
def test_the_sum_is_the_chains_own_by_brute_force(schedule):
    """P11, in one dimension: E_q log p(x_0, x_1..T) / q(x_1..T | x_0) over the joint law of all noisy states, no term by term.

    All of them are jointly Gaussian given x_0, and with an affine denoiser every log density of the chain is a quadratic form.
    """
    path, times, x_0, prior = gaussian.Path(schedule), [1.0, 0.7, 0.4, 0.2], 0.9, (0.4, 0.7)
    law = Normal(torch.tensor([[prior[0]]], dtype=F), Covariance.isotropic(torch.tensor([prior[1]], dtype=F), 1))
    alpha, sigma = (f(torch.tensor(times, dtype=F)).numpy() for f in (schedule.alpha, schedule.sigma))
    n = len(times)
    # X_t = alpha_t x_0 + alpha_t W(r_t^2) with a Brownian W, r = sigma / alpha: the covariance is that of the smaller r.
    noise = np.minimum.outer(sigma / alpha, sigma / alpha) ** 2
    cov = alpha[:, None] * alpha * noise
    mean = alpha * x_0

    def term(weights: np.ndarray, constant: float, variance: float) -> float:
        """E log N(constant + weights . x; 0, variance)."""
        square = (constant + weights @ mean) ** 2 + weights @ cov @ weights
        return float(-0.5 * (np.log(2 * np.pi * variance) + square / variance))

    unit = np.eye(n)
    total = term(unit[0], 0.0, sigma[0] ** 2)
    for i in range(n - 1):
        ratio = alpha[i] / alpha[i + 1]
        fresh = sigma[i] ** 2 - ratio**2 * sigma[i + 1] ** 2
        clean = alpha[i] * prior[1] / (alpha[i] ** 2 * prior[1] + sigma[i] ** 2)  # E[X_0 | x] = m + clean (x - alpha m)
        of_state, of_clean = ratio * sigma[i + 1] ** 2 / sigma[i] ** 2, alpha[i + 1] * fresh / sigma[i] ** 2
        weights = unit[i + 1] - (of_state + of_clean * clean) * unit[i]
        total += term(weights, -of_clean * (1 - clean * alpha[i]) * prior[0], sigma[i + 1] ** 2 * fresh / sigma[i] ** 2)
    total += term(-unit[-1] / alpha[-1], x_0, (sigma[-1] / alpha[-1]) ** 2)
    total += 0.5 * float(np.linalg.slogdet(2 * np.pi * np.e * cov)[1])  # minus E log q
    draws = gaussian.elbo(gaussian.Exact(path, law), torch.full((100_000, 1), x_0, dtype=F), grids.of_times(times), Shared(3))
    assert float(draws.mean()) == pytest.approx(total, abs=5 * float(draws.std()) / 100_000**0.5)


def test_terms_are_the_eps_loss_with_the_papers_weight():
    """Ho et al. 2020, eq. 12: beta^2 / (2 beta-tilde (1 - beta) (1 - bar)) |eps - eps_hat|^2, in their beta and alpha-bar."""
    path, grid, off = gaussian.Path(schedules.VP()), grids.of_times([1.0, 0.8, 0.5, 0.1]), 0.3
    bars = path.schedule.alpha(torch.tensor(grid.times, dtype=F)).square()
    beta = 1 - bars[:-1] / bars[1:]
    tilde = (1 - bars[1:]) / (1 - bars[:-1]) * beta
    want = float((beta.square() / (2 * tilde * (1 - beta) * (1 - bars[:-1]))).sum()) * 3 * off**2
    x_0 = torch.tensor([[0.3, -1.0, 2.0]], dtype=F)

    class Off:
        """Right but for `error` in eps: x_0 - sigma / alpha error."""

        def __init__(self, error: float):
            self.path, self.shift = path, error

        def __call__(self, x_t, t):
            return Point(x_0 - float(path.schedule.sigma(t) / path.schedule.alpha(t)) * self.shift)

        def error(self, x_0, x_t, t):
            return self(x_t, t).mean - x_0

    right, wrong = (gaussian.elbo(Off(error), x_0, grid, Shared(0)) for error in (0.0, off))
    assert float(right - wrong) == pytest.approx(want, rel=1e-10)


@pytest.mark.parametrize("times", [(1.0, 0.0), (0.9, 0.1), (0.1, 1.0)])
def test_other_grids_are_refused(times):
    x_0 = torch.zeros(2, 2, dtype=F)
    with pytest.raises(GridError, match="from t = 1 down to a time > 0"):
        gaussian.elbo(gaussian.Exact(gaussian.Path(schedules.VP()), DATA), x_0, grids.of_times(times), Shared(0))
