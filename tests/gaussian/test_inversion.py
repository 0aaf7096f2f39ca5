"""Encoding, decoding, walking between encodings and editing, against closed forms."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm

from oracles import (
    F64,
    SCHEDULES,
    Counted,
    at_noise,
    draws,
    line,
    mixture,
    normal,
    relative,
    spd,
    time,
)
from undrift import gaussian, grids, schedules
from undrift.core import PerSample, Shared
from undrift.errors import GridError, ShapeError
from undrift.simulate import Ancestral

GMM = mixture(2, "full", k=3, seed=5)

every_clock = pytest.mark.parametrize("clock", SCHEDULES)


# ---------------------------------------------------------------- the grid


@every_clock
def test_the_grid_has_equal_steps_of_its_clock_and_both_ends(clock):
    path = gaussian.Path(SCHEDULES[clock])
    grid = gaussian.flow_grid(path, 20)
    assert grid.steps == 20
    assert grid.times[0] == 1
    r = (-0.5 * path.schedule.log_snr(time(grid.times))).exp()
    assert float(r[-1]) == pytest.approx(0.002, rel=1e-6)
    level = torch.where(r.isinf(), math.log(80.0), ((r + 0.002) / (1 + r / 80)).log())
    assert relative(level.diff(), level.diff().mean()) < 1e-6
    assert gaussian.flow_grid(path, 1).times == (1.0, grid.times[-1])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"steps": 0}, "at least one step"),
        ({"steps": 4, "sigma_min": 2.0, "sigma_max": 1.0}, "0 < sigma_min < sigma_max"),
        ({"steps": 4, "sigma_min": 3.0}, "never has noise of sigma_min = 3"),
    ],
)
def test_a_grid_that_cannot_be_is_refused(how, message):
    with pytest.raises(GridError, match=message):
        gaussian.flow_grid(gaussian.Path(schedules.EDM(2.0)), **how)


# ---------------------------------------------------------------- encode and decode


def test_on_the_line_encoding_is_the_monotone_transport():
    # One dimension: the flow keeps the order, so x_1 = Phi^-1(F(x_0)). The early stop leaves O(.002^2).
    weights, means, variances = [0.4, 0.6], [-1.0, 1.5], [0.2, 0.4]
    denoiser = gaussian.Exact(gaussian.Path(schedules.LinearFlow()), line(weights, means, variances))
    x = np.linspace(-2.5, 3.5, 25)
    share = sum(w * norm.cdf(x, m, math.sqrt(v)) for w, m, v in zip(weights, means, variances, strict=True))
    got = gaussian.encode(denoiser, torch.from_numpy(x)[:, None])
    assert float((got[:, 0] - torch.from_numpy(norm.ppf(share))).abs().max()) < 1e-4


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("clock", ["vp", "edm", "cosine", "custom"])
def test_round_trip(clock, d):
    # P5: 1e-4 on mixtures. 128 calls each way leave 9e-6 at worst.
    law = mixture(d, seed=5 if d == 2 else 6)
    denoiser = Counted(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), law))
    x_0 = law.expand(20).sample(Shared(0)).double()
    noise = gaussian.encode(denoiser, x_0)
    assert denoiser.calls == 128
    assert float((gaussian.decode(denoiser, noise) - x_0).abs().max()) < 1e-4


@pytest.mark.parametrize("sampler", [gaussian.Heun(), gaussian.DPMSolverPP(), gaussian.DDIM()])
@pytest.mark.parametrize("clock", ["vp", "edm"])
def test_other_deterministic_samplers_encode_alike(clock, sampler):
    path = gaussian.Path(SCHEDULES[clock])
    denoiser, x_0 = gaussian.Exact(path, GMM), GMM.expand(6).sample(Shared(0)).double()
    want = gaussian.encode(denoiser, x_0)
    errors = [relative(gaussian.encode(denoiser, x_0, sampler, gaussian.flow_grid(path, n)), want) for n in (50, 200)]
    assert errors[1] < errors[0] / 3.5**sampler.order  # four times the steps, 4 to its order, less what is left at 50 steps
    assert errors[1] < (0.05 if sampler.order == 1 else 0.005)


@pytest.mark.parametrize(
    ("sampler", "grid", "message"),
    [
        (gaussian.DDPM(), None, "a random solver runs from noise to data"),
        (gaussian.DDIM(), grids.uniform(None, 5), "encoding starts from a little noise"),
        (None, grids.uniform(None, 5, 1.0, 0.1).flipped(), "not its flip"),
    ],
)
def test_what_cannot_encode_is_refused_with_the_cure(sampler, grid, message):
    denoiser = gaussian.Exact(gaussian.Path(schedules.VP()), GMM)
    with pytest.raises(GridError, match=message):
        gaussian.encode(denoiser, draws((2, 2), 0), sampler, grid)


def test_a_random_sampler_cannot_decode():
    denoiser = gaussian.Exact(gaussian.Path(schedules.VP()), GMM)
    with pytest.raises(GridError, match="draws noise, and here it must not; use a deterministic one"):
        gaussian.decode(denoiser, draws((2, 2), 0), gaussian.DDPM())


def test_nothing_given_is_changed_and_neighbours_do_not_matter():
    denoiser, x_0 = gaussian.Exact(gaussian.Path(schedules.VP()), GMM), draws((5, 2), 1)
    kept = x_0.clone()
    noise = gaussian.encode(denoiser, x_0)
    assert torch.equal(x_0, kept)
    assert relative(noise[2:3], gaussian.encode(denoiser, x_0[2:3])) < 1e-12


# ---------------------------------------------------------------- walks


def test_slerp_walks_the_great_circle():
    a, b = draws((3, 5), 0), draws((3, 5), 1)
    b = b * (a.norm(dim=1) / b.norm(dim=1))[:, None]
    assert torch.allclose(gaussian.slerp(a, b, 0.0), a)
    assert torch.allclose(gaussian.slerp(a, b, 1.0), b)
    angle = torch.acos((a * b).sum(1) / a.norm(dim=1).square())
    for weight in (0.1, 0.5, 0.8):
        x = gaussian.slerp(a, b, weight)
        assert torch.allclose(x.norm(dim=1), a.norm(dim=1))  # on the sphere, at constant speed
        assert torch.allclose(torch.acos((a * x).sum(1) / a.norm(dim=1).square()), weight * angle)
    assert torch.allclose(gaussian.slerp(a, a, 0.3), a)
    assert torch.allclose(gaussian.slerp(a, 3 * a, 0.5), 2 * a)
    each = torch.stack([gaussian.slerp(a, b, w)[i] for i, w in enumerate((0.2, 0.5, 0.9))])
    assert torch.allclose(gaussian.slerp(a, b, time([0.2, 0.5, 0.9])), each)
    with pytest.raises(ShapeError, match="give two of one shape"):
        gaussian.slerp(a, b[:, :2], 0.5)


@pytest.mark.parametrize("weight", [0.0, 0.2, 0.5, 0.7])
def test_the_combination_of_independent_normals_is_normal(weight):
    # With the right angle the weights are cosine and sine: read off by unit inputs, their squares add to one. A fixed
    # combination of independent normals is normal, so mean and variance are all there is to check.
    one, zero = torch.ones(1, 1, dtype=F64), torch.zeros(1, 1, dtype=F64)
    first, second = (float(gaussian.slerp(x, y, weight, math.pi / 2)) for x, y in ((one, zero), (zero, one)))
    assert first**2 + second**2 == pytest.approx(1, abs=1e-12)
    assert (first, second) == pytest.approx((math.cos(weight * math.pi / 2), math.sin(weight * math.pi / 2)))
    a, b = draws((2000, 300), 0), draws((2000, 300), 1)
    right, own = gaussian.slerp(a, b, weight, math.pi / 2), gaussian.slerp(a, b, weight)
    assert float(right.var()) == pytest.approx(1, abs=0.01)  # of 600,000 numbers: .002
    # in 300 dimensions the measured angle is a right one within 1 / sqrt(300), and norms spread less than the prior's
    assert float(own.var()) == pytest.approx(1, abs=0.02)
    assert float(own.norm(dim=1).std()) <= 1.05 * float(right.norm(dim=1).std())


@pytest.mark.parametrize("clock", ["linear_flow", "edm"])
def test_interpolation_of_a_gaussian_is_a_walk_of_its_whitened_states(clock):
    # The flow of N(m, C) maps (C + r_0^2)^(-1/2) (x_0 - m) to the like at t = 1, linearly. On EDM the mean is 0 here.
    path, cov = gaussian.Path(SCHEDULES[clock]), spd(3, 2)
    mean = draws((3,), 1) if clock == "linear_flow" else torch.zeros(3, dtype=F64)
    values, basis = torch.linalg.eigh(cov)
    alpha, sigma = (float(f(time(1.0))) for f in (path.schedule.alpha, path.schedule.sigma))
    grow = ((alpha**2 * values + sigma**2) / (values + 0.002**2)).sqrt()
    up, down = basis @ torch.diag(grow) @ basis.mT, basis @ torch.diag(1 / grow) @ basis.mT
    a, b = draws((4, 3), 3), draws((4, 3), 4)
    got = gaussian.interpolate(gaussian.Exact(path, normal(mean, cov)), a, b, 5)
    assert got.shape == (4, 5, 3)
    for i in range(5):
        want = gaussian.slerp((a - mean) @ up, (b - mean) @ up, i / 4) @ down + mean
        assert float((got[:, i] - want).abs().max()) < 2e-4  # two errors of a round trip
    with pytest.raises(GridError, match="at least two places"):
        gaussian.interpolate(gaussian.Exact(path, normal(mean, cov)), a, b, 1)


# ---------------------------------------------------------------- editing


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
def test_an_edit_of_a_gaussian_by_hand(clock):
    # x_t ~ N(alpha x_0, sigma^2), then the flow x -> m + sqrt(c / (alpha^2 c + sigma^2)) (x - alpha m): a shrunken Gaussian.
    path, c, m, start = gaussian.Path(SCHEDULES[clock]), 0.5, 0.8, at_noise(SCHEDULES[clock], 1.0)
    denoiser = gaussian.Exact(path, normal(time([m]), time([[c]])))
    x_0 = torch.full((4000, 1), -0.6, dtype=F64)
    alpha, sigma = (float(f(time(start))) for f in (path.schedule.alpha, path.schedule.sigma))
    shrink = math.sqrt(c / (alpha**2 * c + sigma**2))
    grid = grids.log_snr(path.schedule, 40, start, at_noise(path.schedule, 0.002))
    got = gaussian.edit(denoiser, x_0, gaussian.Heun(), grid, Shared(0)) / float(path.schedule.alpha(time(grid.times[-1])))
    spread = shrink * sigma
    assert float(got.mean()) == pytest.approx(m + shrink * alpha * (-0.6 - m), abs=5 * spread / math.sqrt(4000))
    assert float(got.std()) == pytest.approx(spread, rel=5 / math.sqrt(8000))


def test_an_edit_keeps_the_law_of_the_data():
    # Data of the denoiser's law, noised and sampled back by an exact sampler: the law again, however few the steps.
    path = gaussian.Path(schedules.Cosine())
    law = line([0.4, 0.6], [-1.0, 1.5], [0.2, 0.4])
    x_0 = law.expand(6000).sample(Shared(1))
    got = gaussian.edit(gaussian.Exact(path, law), x_0, Ancestral(), grids.of_times([0.6, 0.3, 0.0]), PerSample(0, 6000))
    ordered = np.sort(got[:, 0].numpy())
    share = 0.4 * norm.cdf(ordered, -1.0, math.sqrt(0.2)) + 0.6 * norm.cdf(ordered, 1.5, math.sqrt(0.4))
    gap = np.abs(share - (np.arange(6000) + 0.5) / 6000).max()
    assert gap < 1.95 / math.sqrt(6000)  # Kolmogorov: false alarm 1e-3
    near = gaussian.edit(gaussian.Exact(path, law), x_0, Ancestral(), grids.of_times([0.01, 0.0]), PerSample(0, 6000))
    assert float((near - x_0).abs().mean()) < 0.1 * float((got - x_0).abs().mean())
