"""DDNM and DDNM+ against the paper's formulas by dense linear algebra; moments are propagated exactly: no Monte Carlo."""

import math

import pytest
import torch

from oracles import F64, SCHEDULES, Fixed, Impulse, MeanOnly, draws, normal, propagate, run, spd, time
from undrift import gaussian, grids, operators
from undrift.core import PerSample
from undrift.errors import PotentialError
from undrift.inverse.ddnm import DDNM
from undrift.laws import Point

D, A, Y = 4, draws((2, 4), 5), draws((1, 2), 6)
LOOK, MEAN, COV = operators.Matrix(A), draws((4,), 2), spd(4, 3)
PINV, EYE = torch.linalg.pinv(A), torch.eye(4, dtype=F64)


def exact(clock, cov=COV):
    return gaussian.Exact(gaussian.Path(SCHEDULES[clock]), normal(MEAN, cov))


@pytest.mark.parametrize("clock", ["vp", "trigonometric", "edm", "custom"])
@pytest.mark.parametrize("stochasticity", [0.0, 0.5, 1.0])
def test_without_noise_it_ends_on_the_measurement(clock, stochasticity):
    """And every step is the path's own from the projected mean: A^+ y + (I - A^+ A) x_0, the paper's eq. 13."""
    denoiser, grid, x = exact(clock), grids.karras(SCHEDULES[clock], 5), draws((3, D), 1)
    end = run(denoiser, DDNM(LOOK, Y, stochasticity=stochasticity), grid, x, PerSample(3, 3))
    torch.testing.assert_close(end @ A.mT, Y.expand(3, 2), atol=1e-12, rtol=0)

    class Projected:
        path = denoiser.path

        def __call__(self, x_t, t):
            return Point(Y @ PINV.mT + denoiser(x_t, t).mean @ (EYE - PINV @ A).mT)

    ddim = run(Projected(), gaussian.DDIM(stochasticity), grid, x, PerSample(3, 3))
    torch.testing.assert_close(end, ddim, atol=1e-11, rtol=0)


@pytest.mark.parametrize("noise", [0.01, 0.2, 0.7, 5.0])
def test_the_noise_of_a_step_is_the_paths_own(noise):
    """DDNM+: over z and the noise of the measurement, x_s given (x_0, x_t) has covariance omega^2 I (eq. 17-19)."""
    clock, t, s = "vp", 0.5, 0.42
    path = gaussian.Path(SCHEDULES[clock])
    _, _, variance = path.step_back(time(t), time(s), 1.0)
    basis = torch.linalg.svd(A, full_matrices=False)[2]
    x = draws((1, D), 1).repeat(1 + 2 + D, 1)
    y = Y.repeat(1 + 2 + D, 1)
    y[1:3] += noise * torch.eye(2, dtype=F64)
    end = run(MeanOnly(exact(clock)), DDNM(LOOK, y, noise), grids.of_times([t, s]), x, Impulse(3, D))
    spread = end[1:] - end[0]
    torch.testing.assert_close(spread.mT @ spread, variance * EYE, atol=1e-13, rtol=0)
    # What is drawn is what the paper draws: omega^2 - (a lambda tau)^2, floored at 0.
    b = float(path.step_back(time(t), time(s), 1.0)[0])
    tau = noise / torch.linalg.svdvals(A)
    drawn = (basis @ spread[2:].mT @ spread[2:] @ basis.mT).diagonal()
    torch.testing.assert_close(drawn, (variance - (b * tau).square()).clamp_min(0), atol=1e-13, rtol=0)


@pytest.mark.parametrize("noise", [0.01, 0.2, 5.0])
def test_the_correction_is_as_near_to_the_projection_as_the_noise_allows(noise):
    """Eq. 17 by dense algebra: x_0 - Sigma A^+ (A x_0 - y), lambda = min(1, omega / (a tau))."""
    t, s, x = 0.5, 0.42, draws((1, D), 1)
    denoiser = exact("vp")
    b, a, variance = denoiser.path.step_back(time(t), time(s), 1.0)
    values, basis = torch.linalg.svd(A, full_matrices=False)[1:]
    weight = (variance.sqrt() * values / (b * noise)).clamp_max(1.0)
    mean = denoiser(x, time(t)).mean
    mean = mean - (mean @ A.mT - Y) @ PINV.mT @ basis.mT @ torch.diag(weight) @ basis
    got = run(denoiser, DDNM(LOOK, Y, noise), grids.of_times([t, s]), x, Fixed(torch.zeros(1, D, dtype=F64)))
    torch.testing.assert_close(got, a * x + b * mean, atol=1e-13, rtol=0)


def test_little_noise_is_nearly_none():
    """Continuous in the noise but for the last step, which is the denoiser's own: compared just above t = 0."""
    grid = grids.uniform(None, 6, 1.0, 0.1)
    x = draws((3, D), 1)
    got, want = (run(exact("trigonometric"), DDNM(LOOK, Y, noise), grid, x, PerSample(3, 3)) for noise in (1e-9, 0.0))
    torch.testing.assert_close(got, want, atol=1e-8, rtol=0)


def test_a_useless_measurement_leaves_its_directions_without_noise():
    """Noise to infinity: the mean of the unguided sampler, and its noise off the row space alone."""
    denoiser, grid, x = exact("trigonometric"), grids.uniform(None, 6), draws((3, D), 1)
    got = run(denoiser, DDNM(LOOK, Y, 1e12), grid, x, PerSample(3, 3))
    rows = torch.linalg.svd(A)[2][:2]
    free, rng = x, PerSample(3, 3)
    for t, s in grid.pairs():
        b, a, variance = denoiser.path.step_back(time(t), time(s), 1.0)
        free = a * free + b * denoiser(free, time(t)).mean
        if s > 0:
            free = free + variance.sqrt() * rng.normal(x.shape, dtype=F64) @ (EYE - rows.mT @ rows)
    torch.testing.assert_close(got, free, atol=1e-10, rtol=0)


def biases(noise, stochasticity, steps, cov=COV):
    """Errors of mean and covariance against the exact posterior."""
    path = gaussian.Path(SCHEDULES["edm"])
    seen = A @ cov @ A.mT + noise**2 * torch.eye(2, dtype=F64)
    gain = torch.linalg.solve(seen, A @ cov).mT
    want = MEAN + (Y - MEAN @ A.mT)[0] @ gain.mT, cov - gain @ A @ cov
    sigma = float(path.schedule.sigma(time(1.0)))
    mean, got = propagate(
        MeanOnly(exact("edm", cov)),
        DDNM(LOOK, Y, noise, stochasticity),
        grids.log_snr(path.schedule, steps),
        torch.zeros(D, dtype=F64),
        sigma**2 * EYE,
    )
    return mean - want[0], got - want[1]


def test_aligned_noiseless_problems_converge_to_the_posterior():
    """A white prior is independent along any V; there the limit is exact, with weak order 1 in the covariance."""
    errors = [biases(0.0, 1.0, steps, 0.8 * EYE) for steps in (100, 200, 400)]
    sizes = [float(c.norm()) for _, c in errors]
    assert sizes[0] / sizes[1] == pytest.approx(2, rel=0.15)
    assert sizes[1] / sizes[2] == pytest.approx(2, rel=0.15)
    assert float(errors[-1][0].norm()) < 1e-2


def test_the_bias_on_dependent_coordinates_does_not_go_away():
    """Noiseless, full covariance: the error of the mean has a limit that is not 0; the mean errs towards the prior's."""
    few, many = (biases(0.0, 1.0, steps) for steps in (200, 400))
    assert float(many[0].norm()) == pytest.approx(float(few[0].norm()), rel=0.05)
    assert float(many[0].norm()) > 0.05


def test_settings_outside_their_range_are_refused():
    for value in (-0.1, 1.1, math.nan):
        with pytest.raises(PotentialError, match="stochasticity"):
            DDNM(LOOK, Y, stochasticity=value)
    with pytest.raises(PotentialError, match="a deterministic step has none"):
        DDNM(LOOK, Y, 0.1, stochasticity=0.0)
    assert DDNM(LOOK, Y).order == 1
