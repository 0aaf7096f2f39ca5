"""Langevin dynamics, plain and annealed.

Certified: the paper's update on any clock; the chain on a Gaussian in closed form (P14); the decay of the divergence; plain
Langevin keeps the weights of far modes and annealing finds them (P9); the ends of a grid.
"""

import math

import pytest
import torch

from oracles import (
    F64,
    SCHEDULES,
    Counted,
    Fixed,
    MeanOnly,
    at_noise,
    dense_score,
    draws,
    gaussian_kl,
    mixture,
    moments,
    normal,
    propagate,
    relative,
    run,
    slopes,
    spd,
    time,
)
from undrift import gaussian, grids, schedules
from undrift.core import Covariance, Shared
from undrift.errors import GridError, ScheduleError
from undrift.gaussian import Langevin, langevin
from undrift.laws import Mixture

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)
LEVELS = (3.0, 1.0, 0.4)  # sigma / alpha


@pytest.mark.parametrize("clock", ["edm", "vp", "cosine", "linear_flow", "custom"])
def test_annealing_is_algorithm_1_on_every_clock(clock):
    # Song and Ermon 2019, algorithm 1, in y = x / alpha with sigma_i = r_i and the score from the oracle's density: two steps
    # at each level but the first, eps = size r_L^2. Rounding only.
    schedule, size, noise = SCHEDULES[clock], 0.3, [draws((4, 2), k) for k in range(4)]
    y = start = 3 * draws((4, 2), 9)
    eps, z = size * LEVELS[-1] ** 2, iter(noise)
    for level in LEVELS[1:]:
        a = eps * level**2 / LEVELS[-1] ** 2
        for _ in range(2):
            y = y + a / 2 * dense_score(GMM, 1.0, level, y) + math.sqrt(a) * next(z)
    times = [at_noise(schedule, level) for level in LEVELS]
    head, tail = (float(schedule.alpha(time(t))) for t in (times[0], times[-1]))
    denoiser = gaussian.Exact(gaussian.Path(schedule), GMM)
    got = run(denoiser, Langevin(2, size), grids.of_times(times), head * start, Fixed(*noise)) / tail
    assert relative(got, y) < 1e-9


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
@pytest.mark.parametrize("level", [0.3, 2.0])
def test_chain_on_a_gaussian_is_its_closed_form(clock, level):
    # P14. With q = 1 - a / (2 v) an eigendirection's mean is m + q^k (m_0 - m), and its variance v' + q^2k (v_0 - v'), with
    # v' = v / (1 - a / (4 v)). Moments are propagated through the chain itself: rounding only.
    schedule, size, steps = SCHEDULES[clock], 0.7, 6
    t = time(at_noise(schedule, level))
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), DATA))
    target = denoiser.inner.marginal(t)
    values, basis = torch.linalg.eigh(target.cov.dense()[0])
    start, spread, a = time([1.5, 0.2]), time([0.4, 3.0]), size * float(schedule.sigma(t)) ** 2
    q, rest = 1 - a / (2 * values), values / (1 - a / (4 * values))
    mean = target.mean[0] + basis @ (q**steps * (basis.mT @ (start - target.mean[0])))
    cov = basis @ torch.diag(rest + q ** (2 * steps) * (spread - rest)) @ basis.mT
    got = moments(
        lambda x, rng: langevin(denoiser, x, t, steps=steps, size=size, rng=rng), start, basis @ torch.diag(spread) @ basis.mT
    )
    assert relative(got[0], mean) < 1e-12
    assert relative(got[1], cov) < 1e-12


def test_divergence_falls_as_the_log_sobolev_inequality_says():
    # P14. dX = 1/2 grad log p du + dW: the chain's divergence after u tends, at order 1 in the step, to the closed one (mean
    # exp(-u / 2v), variance v + exp(-u / v) (v_0 - v)), which is below exp(-rho u) KL_0 with rho = 1 / max v.
    schedule, level = schedules.EDM(), 0.5
    t, duration = time(at_noise(schedule, level)), 0.6
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), DATA))
    target = denoiser.inner.marginal(t)
    values, basis = torch.linalg.eigh(target.cov.dense()[0])
    start, spread = target.mean[0] + basis @ time([1.0, -2.0]), basis @ torch.diag(time([0.2, 5.0])) @ basis.mT

    def divergence(mean, cov):  # from the target, in the coordinates that make it N(0, I)
        whiten = torch.diag(values.rsqrt()) @ basis.mT
        return gaussian_kl(whiten @ (mean - target.mean[0]), whiten @ cov @ whiten.mT)

    mean = target.mean[0] + basis @ ((-duration / (2 * values)).exp() * time([1.0, -2.0]))
    cov = basis @ torch.diag(values + (-duration / values).exp() * (time([0.2, 5.0]) - values)) @ basis.mT
    limit, first = divergence(mean, cov), divergence(start, spread)
    assert limit <= math.exp(-duration / float(values.max())) * first
    errors = []
    for steps in (40, 80, 160):
        size = duration / steps / level**2  # alpha = 1: sigma = level
        chain = moments(lambda x, rng, k=steps, a=size: langevin(denoiser, x, t, steps=k, size=a, rng=rng), start, spread)
        errors.append(abs(divergence(*chain) - limit))
    assert abs(slopes(errors)[-1] - 1) < 0.1  # next order at 160 steps
    assert errors[-1] < 0.02 * limit


FAR = Mixture.of(time([0.8, 0.2]), time([[5.0, 5.0], [-5.0, -5.0]]), Covariance.isotropic(time([1.0, 1.0]), 2))


def share(x) -> float:
    """Of the first component."""
    return float((x.sum(1) > 0).double().mean())


def test_plain_langevin_keeps_the_weights_it_started_with():
    # P9. Started half and half between modes 14 apart, 400 steps at low noise: no crossing to be seen, so exactly as before up
    # to points that start between the modes.
    schedule = schedules.EDM()
    t = time(at_noise(schedule, 0.5))
    x = torch.cat([4 + draws((1000, 2), 1), -4 + draws((1000, 2), 2)])
    after = langevin(gaussian.Exact(gaussian.Path(schedule), FAR), x, t, steps=400, size=0.2, rng=Shared(3))
    assert abs(share(after) - share(x)) < 0.005
    assert abs(share(after) - 0.8) > 0.25


def test_annealed_langevin_finds_the_weights():
    # P9: .8 within .03, of which .019 is three standard errors of 4000 samples.
    schedule = schedules.EDM()
    high, low = at_noise(schedule, 30.0), at_noise(schedule, 0.5)
    x = float(schedule.sigma(time(high))) * draws((4000, 2), 1)
    denoiser = gaussian.Exact(gaussian.Path(schedule), FAR)
    after = run(denoiser, Langevin(30, 0.2), grids.log_snr(schedule, 40, high, low), x, Shared(2))
    assert abs(share(after) - 0.8) < 0.03


def test_walks_keep_the_bias_of_their_step():
    # Why `order` is 0. Annealed so slowly that the chain rests at each level, a Gaussian of variance v at the last level comes
    # out with v / (1 - a / (4 v)), a = size sigma^2, however fine the grid is; half the size halves the bias.
    schedule, variance, level = schedules.EDM(), 0.05, 0.3
    denoiser = MeanOnly(gaussian.Exact(gaussian.Path(schedule), normal(time([0.4]), time([[variance]]))))
    excess = []
    for size in (0.4, 0.2):
        for levels in (10, 20):
            grid = grids.log_snr(schedule, levels, at_noise(schedule, 1.0), at_noise(schedule, level))
            _, cov = propagate(denoiser, Langevin(50, size), grid, time([0.0]), time([[1.0]]))
            v = variance + level**2
            assert math.isclose(float(cov), v / (1 - size * level**2 / (4 * v)), rel_tol=5e-3)  # what is left of annealing
        excess.append(float(cov) - v)
    assert 1.8 < excess[0] / excess[1] < 2.3


def test_onto_data_is_one_denoising_and_an_early_stop_is_not():
    schedule = schedules.VP()
    counted = Counted(MeanOnly(gaussian.Exact(gaussian.Path(schedule), GMM)))
    solver, x = Langevin(3, 0.2), draws((4, 2), 1)
    onto, stop = grids.of_times([0.5, 0.2, 0.0]), grids.of_times([0.5, 0.2])
    before = run(counted, solver, stop, x, Shared(1))
    assert counted.calls == solver.calls(stop) == 3
    after = run(counted, solver, onto, x, Shared(1))
    assert counted.calls - 3 == solver.calls(onto) == 4
    assert torch.equal(after, counted(before, time(0.2)).mean)


@pytest.mark.parametrize("clock", ["cosine", "linear_flow", "trigonometric"])
def test_a_start_without_signal_is_the_prior_at_the_next_level(clock):
    # From alpha = 0 the state is carried as noise: N(0, sigma_1^2) becomes the path's own prior at s, then walks.
    path, s = gaussian.Path(SCHEDULES[clock]), 0.8
    denoiser = MeanOnly(gaussian.Exact(path, DATA))
    eye = torch.eye(2, dtype=F64)
    prior = path.prior(torch.zeros(1, 2, dtype=F64), s).covariance()[0]
    got = propagate(
        denoiser, Langevin(2, 0.2), grids.of_times([1.0, s]), time([0.0, 0.0]), path.schedule.sigma(time(1.0)) ** 2 * eye
    )
    want = moments(lambda x, rng: langevin(denoiser, x, time(s), steps=2, size=0.2, rng=rng), time([0.0, 0.0]), prior)
    assert relative(got[0], want[0]) < 1e-12
    assert relative(got[1], want[1]) < 1e-12


def test_errors_teach_the_cure():
    path = gaussian.Path(schedules.VP())
    denoiser, x = gaussian.Exact(path, DATA), draws((2, 2), 0)
    with pytest.raises(GridError, match="at least one"):
        Langevin(0)
    for size in (0.0, 4.0, math.nan):
        with pytest.raises(GridError, match=r"\(0, 4\), beyond which it diverges"):
            Langevin(5, size)
    with pytest.raises(GridError, match="a random solver runs from noise to data"):
        Langevin().plan(path, grids.of_times([0.2, 0.5]))
    with pytest.raises(ScheduleError, match="early stop"):
        langevin(denoiser, x, time(0.0), steps=1, size=0.2, rng=Shared(0))
    with pytest.raises(GridError, match=r"\(0, 4\)"):
        langevin(denoiser, x, time(0.5), steps=1, size=5.0, rng=Shared(0))
