"""Exact laws on the line against closed moments of Gaussians."""

import math

import pytest
import torch

from oracles import MeanOnly, draws, line, normal, propagate, run, time
from undrift import gaussian, grids, receipts, schedules
from undrift.core import Shared
from undrift.errors import GridError
from undrift.receipts.line import flow
from undrift.receipts.line import propagate as push

PATH = gaussian.Path(schedules.VP(4.0, 4.0))
GAUSSIAN = MeanOnly(gaussian.Exact(PATH, normal(time([1.5]), time([[0.4]]))))
START = time([0.0]), PATH.schedule.sigma(time(1.0)).square().reshape(1, 1)


@pytest.mark.parametrize("stochasticity", [0.5, 1.0, 1.5])
def test_a_gaussian_stays_the_gaussian_of_its_moments(stochasticity):
    """Every step is affine there, so mean and variance propagate exactly; the rest of the law follows from them."""
    solver, grid = gaussian.EulerMaruyama(stochasticity), grids.uniform(None, 30)
    got = push(GAUSSIAN, solver, grid, -8.0, 10.0)
    mean, cov = (float(v) for v in propagate(GAUSSIAN, solver, grid, *START))
    assert float(got.mass.sum()) == pytest.approx(1, abs=1e-9)  # 7 standard deviations a step
    assert got.mean_of(got.x) == pytest.approx(mean, abs=1e-9)
    assert got.mean_of((got.x - mean).square()) == pytest.approx(cov, abs=1e-9)
    assert got.entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e * cov), abs=1e-9)


def test_a_mixture_agrees_with_samples():
    """A law that is not Gaussian: mean cube and share of a side, 200 000 draws, five standard errors (false alarm 1e-6)."""
    denoiser = MeanOnly(gaussian.Exact(PATH, line([0.3, 0.7], [-1.5, 1.0], [0.3, 0.5])))
    solver, grid, n = gaussian.EulerMaruyama(), grids.uniform(None, 10), 200_000
    got = push(denoiser, solver, grid, -8.0, 8.0)
    x = run(denoiser, solver, grid, float(START[1].sqrt()) * draws((n, 1), 0), Shared(1))[:, 0]
    for values, drawn in ((got.x**3, x**3), (torch.sin(got.x), torch.sin(x))):
        assert abs(got.mean_of(values) - float(drawn.mean())) < 5 * float(drawn.std()) / math.sqrt(n)


def test_a_flow_of_quantiles_is_the_flow_of_the_law():
    """Affine again: x = mean + spread z at the same quantiles; the entropy within the half cells at the ends, log(n) / n."""
    solver, grid, n = gaussian.EulerMaruyama(0.0), grids.uniform(None, 30), 2000
    got = flow(GAUSSIAN, solver, grid, n)
    mean, cov = (float(v) for v in propagate(GAUSSIAN, solver, grid, *START))
    z = torch.special.ndtri((torch.arange(n, dtype=torch.float64) + 0.5) / n)
    torch.testing.assert_close(got.x, mean + math.sqrt(cov) * z, rtol=1e-10, atol=1e-10)
    assert got.entropy == pytest.approx(0.5 * math.log(2 * math.pi * math.e * cov), abs=math.log(n) / n)


def test_what_cannot_be_followed_is_refused():
    with pytest.raises(GridError, match="run deterministic solvers with `flow`"):
        push(GAUSSIAN, gaussian.EulerMaruyama(0.0), grids.uniform(None, 30), -8.0, 8.0)
    hard = receipts.three.Three().guided(1, 40.0)
    with pytest.raises(GridError, match="take more steps"):
        flow(hard, gaussian.EulerMaruyama(0.0), grids.uniform(None, 8), 50)
