"""DiffPIR against the paper's objective, by dense linear algebra and exact propagation of moments."""

import math

import pytest
import torch

from oracles import F64, SCHEDULES, Fixed, MeanOnly, draws, normal, propagate, run, spd, time
from undrift import gaussian, grids, operators
from undrift.errors import PotentialError
from undrift.inverse.ddrm import DDRM
from undrift.inverse.diffpir import DiffPIR

D, A, Y = 4, draws((2, 4), 5), draws((1, 2), 6)
LOOK, MEAN, COV = operators.Matrix(A), draws((4,), 2), spd(4, 3)
EYE = torch.eye(4, dtype=F64)


def exact(clock, cov=COV):
    return gaussian.Exact(gaussian.Path(SCHEDULES[clock]), normal(MEAN, cov))


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "edm", "custom"])
@pytest.mark.parametrize(("lambda_", "zeta"), [(1.0, 1.0), (0.3, 0.0), (7.0, 0.4)])
def test_the_data_step_minimises_the_papers_objective(clock, lambda_, zeta):
    """One step by the normal equations of eq. 12 and the re-noising of eq. 14."""
    denoiser, noise, t, s = exact(clock), 0.3, 0.6, 0.45
    alpha_t, sigma_t, alpha_s, sigma_s = (
        f(time(u)) for u in (t, s) for f in (denoiser.path.schedule.alpha, denoiser.path.schedule.sigma)
    )
    x, z = draws((3, D), 1), draws((3, D), 2)
    guess = denoiser(x, time(t)).mean
    trust = lambda_ * (alpha_t / sigma_t) ** 2
    clean = torch.linalg.solve(A.mT @ A / noise**2 + trust * EYE, (Y @ A / noise**2 + trust * guess).mT).mT
    old = (x - alpha_t * clean) / sigma_t
    want = alpha_s * clean + sigma_s * (math.sqrt(1 - zeta) * old + math.sqrt(zeta) * z)
    got = run(denoiser, DiffPIR(LOOK, Y, noise, lambda_, zeta), grids.of_times([t, s]), x, Fixed(z))
    torch.testing.assert_close(got, want, atol=1e-11, rtol=1e-11)  # the normal equations lose digits at sigma = 40


def test_at_pure_noise_the_measurement_is_all():
    """alpha_1 = 0: the minimiser holds A x = y."""
    z = draws((2, D), 3)
    got = run(exact("trigonometric"), DiffPIR(LOOK, Y, 0.3), grids.of_times([1.0, 0.5]), draws((2, D), 1), Fixed(z))
    schedule = SCHEDULES["trigonometric"]
    clean = (got - schedule.sigma(time(0.5)) * z) / schedule.alpha(time(0.5))
    torch.testing.assert_close(clean @ A.mT, Y.expand(2, 2), atol=1e-12, rtol=0)


def test_a_useless_measurement_leaves_the_unguided_sampler():
    x, grid = draws((3, D), 1), grids.uniform(None, 6)
    got = run(exact("vp"), DiffPIR(LOOK, Y, 1e9, zeta=0.0), grid, x)
    torch.testing.assert_close(got, run(exact("vp"), gaussian.DDIM(), grid, x), atol=1e-10, rtol=0)


@pytest.mark.parametrize("zeta", [0.3, 1.0])
def test_off_the_row_space_it_is_ddrm(zeta):
    """Independent coordinates, one unseen: its moments are DDRM's with eta^2 = zeta, whose limits are tested there."""
    cov, look = torch.diag(time([0.3, 0.7, 1.5, 1.1])), operators.Mask(torch.tensor([True, False, False, True]))
    path = gaussian.Path(SCHEDULES["edm"])
    grid, start = grids.log_snr(path.schedule, 12), (0 * MEAN, float(path.schedule.sigma(time(1.0))) ** 2 * EYE)
    ends = [
        propagate(MeanOnly(exact("edm", cov)), sampler, grid, *start)
        for sampler in (DiffPIR(look, Y, 0.3, zeta=zeta), DDRM(look, Y, 0.3, eta=math.sqrt(zeta)))
    ]
    for i in (1, 2):
        assert float(ends[0][0][i]) == pytest.approx(float(ends[1][0][i]), abs=1e-10)
        assert float(ends[0][1][i, i]) == pytest.approx(float(ends[1][1][i, i]), abs=1e-10)


def scalar(steps, zeta, lambda_=1.0):
    """Moments of one seen coordinate, N(0, 1) prior, noise .5, y = 1: the posterior is N(.8, .2)."""
    path = gaussian.Path(SCHEDULES["edm"])
    denoiser = MeanOnly(gaussian.Exact(path, normal(time([0.0]), time([[1.0]]))))
    sampler = DiffPIR(operators.Mask(torch.tensor([True])), time([[1.0]]), 0.5, lambda_, zeta)
    sigma = float(path.schedule.sigma(time(1.0)))
    mean, cov = propagate(denoiser, sampler, grids.log_snr(path.schedule, steps), time([0.0]), time([[sigma**2]]))
    return float(mean), float(cov)


def test_its_bias_on_one_coordinate_is_on_record():
    """Posterior N(.8, .2). lambda = 1: the mean overshoots towards y, and the variance falls short, to a half."""
    for steps in (20, 100, 1000):
        mean, cov = scalar(steps, 1.0)
        assert mean - 0.8 == pytest.approx(BIAS[steps][0], abs=1e-3)
        assert cov - 0.2 == pytest.approx(BIAS[steps][1], abs=1e-3)


BIAS = {20: (0.0343, -0.1289), 100: (0.0069, -0.1067), 1000: (0.0007, -0.1007)}


@pytest.mark.parametrize("zeta", [0.5, 1.0])
def test_renewal_finds_the_mean_and_a_share_of_the_covariance(zeta):
    """Dependent coordinates against the exact posterior; the share is (1 + sqrt(1 - zeta)) / 2, up to O(1 / steps)."""
    path, noise = gaussian.Path(SCHEDULES["edm"]), 0.3
    gain = torch.linalg.solve(A @ COV @ A.mT + noise**2 * torch.eye(2, dtype=F64), A @ COV).mT
    want, left = MEAN + (Y - MEAN @ A.mT)[0] @ gain.mT, COV - gain @ A @ COV
    start = 0 * MEAN, float(path.schedule.sigma(time(1.0))) ** 2 * EYE
    grid = grids.log_snr(path.schedule, 2000)
    mean, cov = propagate(MeanOnly(exact("edm")), DiffPIR(LOOK, Y, noise, zeta=zeta), grid, *start)
    torch.testing.assert_close(mean, want, atol=6e-3, rtol=0)
    torch.testing.assert_close(cov, 0.5 * (1 + math.sqrt(1 - zeta)) * left, atol=1e-2, rtol=0)


def test_without_noise_it_is_refused():
    with pytest.raises(PotentialError, match="use DDNM or RePaint"):
        DiffPIR(LOOK, Y, 0.0)
    with pytest.raises(PotentialError, match="there is none"):
        DiffPIR(LOOK, Y)
    for setting in ({"lambda_": 0.0}, {"lambda_": math.nan}, {"lambda_": math.inf}, {"zeta": 1.5}, {"zeta": -0.1}):
        with pytest.raises(PotentialError, match="lambda_ > 0 and zeta"):
            DiffPIR(LOOK, Y, 0.1, **setting)
    assert (DiffPIR(LOOK, Y, 0.1, zeta=0.0).order, DiffPIR(LOOK, Y, 0.1).order) == (1, 0)
