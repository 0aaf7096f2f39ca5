"""DPS: its pull by hand, what zeta means on other clocks and units, and its refusals."""

import pytest
import torch

from oracles import F64, SCHEDULES, Fixed, draws, normal, relative, time
from oracles import spd as spd_of
from undrift import discrete, gaussian, grids
from undrift.errors import FamilyError, PotentialError, ShapeError
from undrift.inverse import DPS, gaussian_likelihood

MEAN, COV, A, Y = draws((4,), 1), spd_of(4, 2), draws((2, 4), 3), draws((2,), 4)
LOOK = gaussian_likelihood(Y, A, 0.3)


def one_step(sampler, path, law, x, t, s, z):
    grid = grids.of_times([t, s])
    return sampler.step(gaussian.Exact(path, law), sampler.plan(path, grid), 0, x, None, Fixed(z))[0]


@pytest.mark.parametrize("stochasticity", [0.0, 1.0])
def test_the_pull_is_the_gradient_of_the_norm(stochasticity):
    # Gaussian data: J is known densely, and grad |r| = -J^T A^T r / |r|; the rest of the step is DDIM's own.
    path, law, x = gaussian.Path(SCHEDULES["vp"]), normal(MEAN, COV), draws((3, 4), 5)
    t, s, z = 0.6, 0.4, draws((3, 4), 6)
    alpha, sigma, alpha_s, sigma_s = (float(f(time(u))) for u in (t, s) for f in (path.schedule.alpha, path.schedule.sigma))
    jacobian = alpha * COV @ torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(4, dtype=F64))
    mean = MEAN + (x - alpha * MEAN) @ jacobian.mT
    misfit = Y - mean @ A.mT
    gradient = -(misfit / misfit.norm(dim=1, keepdim=True)) @ A @ jacobian
    std, zeta = 1.7, 0.8
    unit = ((alpha**2 + sigma**2 / std**2) * (alpha_s**2 + sigma_s**2 / std**2)) ** 0.5
    plain = one_step(gaussian.DDIM(stochasticity), path, law, x, t, s, z)
    pulled = one_step(DPS(LOOK, std, zeta, stochasticity), path, law, x, t, s, z)
    assert relative(pulled - plain, -zeta * std * unit * gradient) < 1e-10


def test_zeta_means_the_same_in_every_unit_and_on_every_clock():
    # Data in another unit, and a state on a clock with the same noise levels: the result in data units does not change.
    path, x, grid = gaussian.Path(SCHEDULES["vp"]), draws((3, 4), 5), (0.6, 0.4)
    base = one_step(DPS(LOOK, 1.0, stochasticity=0.0), path, normal(MEAN, COV), x, *grid, x)
    base = base / path.schedule.alpha(time(grid[1]))
    edm = gaussian.Path(SCHEDULES["edm"])
    noises = [-2 * float((path.schedule.sigma(time(u)) / path.schedule.alpha(time(u))).log()) for u in grid]
    times = [float(edm.schedule.time(time(v))) for v in noises]
    moved = x / path.schedule.alpha(time(grid[0]))
    other = one_step(DPS(LOOK, 1.0, stochasticity=0.0), edm, normal(MEAN, COV), moved, *times, x)
    assert relative(other, base) < 1e-8
    # In another unit the same noise level is `unit` times larger.
    unit, look = 7.0, gaussian_likelihood(7.0 * Y, A, 0.3 * 7.0)
    wide = [float(edm.schedule.time(time(v) - 2 * time(unit).log())) for v in noises]
    big = one_step(DPS(look, unit, stochasticity=0.0), edm, normal(unit * MEAN, unit**2 * COV), unit * moved, *wide, x)
    assert relative(big / unit, base) < 1e-8


def test_a_sample_is_pulled_by_its_own_misfit():
    path, law, x, z = gaussian.Path(SCHEDULES["vp"]), normal(MEAN, COV), draws((3, 4), 5), draws((3, 4), 6)
    together = one_step(DPS(LOOK, 1.0), path, law, x, 0.6, 0.4, z)
    alone = torch.cat([one_step(DPS(LOOK, 1.0), path, law, x[i : i + 1], 0.6, 0.4, z[i : i + 1]) for i in range(3)])
    assert relative(together, alone) < 1e-13


def test_refusals():
    with pytest.raises(PotentialError, match="start with zeta = 1"):
        DPS(LOOK, 1.0, zeta=0.0)
    with pytest.raises(PotentialError, match="data_std"):
        DPS(LOOK, -1.0)
    with pytest.raises(ShapeError, match="one per sample"):
        DPS(LOOK, 1.0).init(draws((3, 5), 1))
    with pytest.raises(ShapeError, match="one per sample"):
        DPS(gaussian_likelihood(draws((2, 2), 1), A, 0.3), 1.0).init(draws((3, 4), 1))
    with pytest.raises(FamilyError, match="serves gaussian paths"):
        DPS(LOOK, 1.0).plan(discrete.masked(3), grids.uniform(None, 3))
