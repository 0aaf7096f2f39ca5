"""Stochastic localisation (P13): its drift, its moments, the map to the Ornstein-Uhlenbeck process, a mixture's weights."""

import math

import pytest
import torch

from oracles import (
    F64,
    SCHEDULES,
    Fixed,
    MeanOnly,
    at_noise,
    dense_score,
    draws,
    line,
    mixture,
    moments,
    normal,
    relative,
    run,
    slopes,
    spd,
    time,
)
from undrift import gaussian, grids, schedules
from undrift.core import Shared
from undrift.errors import TimeError
from undrift.gaussian import Localisation

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)


def last(walk):
    """The last state of a walk."""
    *_, (_, y) = walk
    return y


@pytest.mark.parametrize("clock", SCHEDULES)
def test_mean_is_the_posterior_mean_of_the_observation(clock):
    # E[X | u X + sqrt(u) z = y] by Tweedie for y / u = X + z / sqrt(u), with the oracle's score: the same on every clock.
    process = Localisation(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM))
    for u in (0.1, 1.0, 30.0):
        y = u * draws((5, 2), 1) + math.sqrt(u) * draws((5, 2), 2)
        want = y / u + dense_score(GMM, 1.0, 1 / math.sqrt(u), y / u) / u
        assert relative(process.mean(y, u), want) < 1e-9


@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow"])
def test_score_identity_under_the_map(clock):
    # P13: X_s = Y / sqrt(u (1 + u)) is the OU state at s = log(1 + 1/u), alpha = e^(-s/2), sigma^2 = 1 - e^-s; 1e-10.
    process = Localisation(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM))
    for u in (0.05, 1.0, 20.0):
        s, y = math.log1p(1 / u), u * draws((5, 2), 1) + math.sqrt(u) * draws((5, 2), 2)
        want = dense_score(GMM, math.exp(-s / 2), math.sqrt(-math.expm1(-s)), process.as_ou(y, u))
        assert relative(process.ou_score(y, u), want) < 1e-10


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
def test_an_euler_step_is_the_ancestral_step(clock):
    # With x = alpha y / u and the same noise, DDPM with the posterior variance: to rounding, on a whole grid.
    schedule = SCHEDULES[clock]
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), GMM))
    process = Localisation(denoiser)
    grid = grids.log_snr(schedule, 6, at_noise(schedule, 3.0), at_noise(schedule, 0.3))
    times, x = process.times(grid), float(schedule.sigma(time(grid.times[0]))) * draws((4, 2), 1)
    alpha = schedule.alpha(time(grid.times))
    noise = [draws((4, 2), 10 + i) for i in range(6)]
    want = run(denoiser, gaussian.DDPM(), grid, x, Fixed(*noise))
    y = last(process.run(x * float(times[0] / alpha[0]), times, Fixed(*noise)))
    assert relative(y * float(alpha[-1] / times[-1]), want) < 1e-10


def test_moments_on_a_gaussian_tend_to_the_closed_form():
    # Y_u = u X + W_u: mean u m, covariance u^2 C + u I. Propagated through the chain itself, error of order 1 in the step.
    process = Localisation(MeanOnly(gaussian.Exact(gaussian.Path(schedules.EDM()), DATA)))
    first, end, eye = 0.1, 10.0, torch.eye(2, dtype=F64)
    mean, cov = DATA.mean[0], DATA.cov.dense()[0]
    errors = []
    for steps in (80, 160, 320):
        times = torch.logspace(math.log10(first), math.log10(end), steps + 1, dtype=F64)
        got = moments(lambda y, rng, u=times: last(process.run(y, u, rng)), first * mean, first**2 * cov + first * eye)
        assert relative(got[0], end * mean) < 1e-10  # the mean is a martingale's, exact at any step
        errors.append(relative(got[1], end**2 * cov + end * eye))
    assert abs(slopes(errors)[-1] - 1) < 0.1
    assert errors[-1] < 0.01


def test_posterior_mean_is_a_martingale():
    # Eldan: E m_u(Y_u) = E X at every u.
    process = Localisation(gaussian.Exact(gaussian.Path(schedules.EDM()), GMM))
    x, z = GMM.expand(20000).sample(Shared(1)), draws((20000, 2), 2)
    truth = GMM.mean[0]
    for u in (0.2, 2.0, 20.0):
        m = process.mean(u * x + math.sqrt(u) * z, u)
        assert bool(((m.mean(0) - truth).abs() < 5 * m.std(0) / math.sqrt(20000)).all())  # once in a million, four numbers


@pytest.mark.parametrize("clock", ["linear_flow", "edm"])
def test_a_mixture_is_found(clock):
    # P13: mean, variance and weight of Y_T / T at T = 400, 20000 walks of 150 steps. Tolerances: 4 standard errors, and for the
    # variance 3% of step bias (order 1, above).
    law = line([0.3, 0.7], [-2.0, 1.0], [0.1, 0.2])
    process, n, end = Localisation(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), law)), 20000, 400.0
    first = 0.0 if clock == "linear_flow" else 1e-3
    times = torch.cat([time([first]), torch.logspace(-2, math.log10(end), 150, dtype=F64)])
    y = process.start(torch.empty(n, 1, dtype=F64), first, Shared(1))
    x = last(process.run(y, times, Shared(2)))[:, 0] / end
    mean = 0.3 * -2 + 0.7
    variance = 0.3 * (0.1 + 4) + 0.7 * (0.2 + 1) - mean**2 + 1 / end
    assert abs(float(x.mean()) - mean) < 4 * math.sqrt(variance / n)
    assert abs(float(x.var()) / variance - 1) < 0.03 + 4 * math.sqrt(2 / n)
    # Both components meet the threshold -.8 with under 1e-4 of their mass.
    assert abs(float((x < -0.8).double().mean()) - 0.3) < 4 * math.sqrt(0.21 / n) + 1e-4


def test_nothing_given_is_changed():
    process = Localisation(gaussian.Exact(gaussian.Path(schedules.EDM()), GMM))
    y = draws((3, 2), 1)
    kept = y.clone()
    stops = [(u, state, state.clone()) for u, state in process.run(y, time([0.1, 0.5, 2.0]), Shared(0))]
    assert torch.equal(y, kept)
    assert [u for u, _, _ in stops] == [0.1, 0.5, 2.0]
    assert all(torch.equal(now, then) for _, now, then in stops)


def test_errors_teach_the_cure():
    process = Localisation(gaussian.Exact(gaussian.Path(schedules.EDM()), GMM))
    y = draws((2, 2), 0)
    for u in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(TimeError, match="ends at alpha = 0 to start from u = 0"):
            process.mean(y, u)
    with pytest.raises(TimeError, match="strictly rising"):
        next(process.run(y, time([1.0, 0.5]), Shared(0)))
    for grid in (grids.uniform(None, 3), grids.uniform(None, 3, 0.9, 0.1).flipped()):
        with pytest.raises(TimeError, match="end just above"):
            process.times(grid)
