"""UniPC: the paper's lines, written out; phi functions; tiny steps."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from oracles import F64, SCHEDULES, at_noise, draws, mixture, relative, run, time
from undrift import gaussian, grids
from undrift.gaussian.solvers.phi import phi

GMM = mixture(2, "full", k=3, seed=5)


@pytest.mark.parametrize("z", [-30.0, -3.0, -1.0, -0.999, -1e-3, -1e-12, 0.0, 1e-9, 0.5, 1.0, 1.001, 5.0])
def test_phi_is_its_integral(z):
    for k in (1, 2, 3, 4):
        want, _ = quad(
            lambda u, k=k: math.exp((1 - u) * z) * u ** (k - 1) / math.factorial(k - 1), 0, 1, epsabs=0, epsrel=1e-13
        )
        assert math.isclose(float(phi(k, time(z))), want, rel_tol=1e-12)


def papers(denoiser, schedule, grid, x, order: int, kernel: str):
    """Zhao et al. 2023, algorithms 5 to 8 for the clean end: R a = phi(h) / B(h), with 1/2 for a single difference."""
    lam = [0.5 * float(schedule.log_snr(time(t))) for t in grid.times]
    alpha, sigma = ([float(f(time(t))) for t in grid.times] for f in (schedule.alpha, schedule.sigma))
    found = []

    def update(start, i, nodes):
        h = lam[i + 1] - lam[i]
        b_h = -h if kernel == "bh1" else math.exp(-h) - 1
        r = np.array([(lam[j] - lam[i]) / h for j in nodes])
        value = math.expm1(-h) / -h - 1
        right, factorial = [], 1.0
        for k in range(1, len(nodes) + 1):
            factorial *= k
            right.append(value * factorial / b_h)
            value = value / -h - 1 / (factorial * (k + 1))
        rho = [0.5] if len(nodes) == 1 else np.linalg.solve(np.stack([r**k for k in range(len(nodes))]), right) if nodes else []
        total = sigma[i + 1] / sigma[i] * start - alpha[i + 1] * math.expm1(-h) * found[i]
        return total - alpha[i + 1] * b_h * sum(p * (found[j] - found[i]) / q for p, j, q in zip(rho, nodes, r, strict=True))

    known = x
    for i in range(grid.steps):
        found.append(denoiser(x, time(grid.times[i])).mean)
        if i > 0:
            known = update(known, i - 1, [*range(i - 2, max(-1, i - 1 - order), -1), i])
        x = update(known, i, list(range(i - 1, max(-1, i - order), -1)))
    return x


@pytest.mark.parametrize("clock", ["vp", "custom"])
@pytest.mark.parametrize("kernel", ["bh1", "bh2"])
@pytest.mark.parametrize("order", [1, 2, 3])
def test_unipc_matches_the_papers_lines(order, kernel, clock):
    grid, x = grids.of_times([0.9, 0.75, 0.6, 0.45, 0.2, 0.1]), draws((4, 2), 2)
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), GMM)
    want = papers(denoiser, SCHEDULES[clock], grid, x, order, kernel)
    assert relative(run(denoiser, gaussian.UniPC(order, kernel), grid, x), want) < 1e-10  # the paper's phi cancels a little


def test_predictor_of_order_2_is_dpm_solver_pp_2m():
    # Up to the corrector, which acts from the second call on: the weights of D and D_prev are those of 2M.
    grid, path = grids.karras(SCHEDULES["vp"], 6), gaussian.Path(SCHEDULES["vp"])
    one = torch.tensor([row[4:] for row in gaussian.UniPC(2, "bh2").plan(path, grid).rows], dtype=F64)
    assert relative(one, torch.tensor(gaussian.DPMSolverPP(2).plan(path, grid).rows, dtype=F64)) < 1e-12


@pytest.mark.parametrize("h", [1e-3, 1e-6, 1e-8])
def test_tiny_steps_have_the_weights_of_adams(h):
    # h -> 0: Adams-Bashforth 23, -16, 5 over 12 and Adams-Moulton 9, 19, -5, 1 over 24, to O(h) and the rounding of lambda
    # (1e-16 / h); the formula's own cancellation would leave 1e-16 / h^3.
    schedule = SCHEDULES["edm"]
    grid = grids.of_times([at_noise(schedule, math.exp(-k * h)) for k in range(6)])
    row = gaussian.UniPC(3).plan(gaussian.Path(schedule), grid).rows[4]
    tolerance = 4 * h + 1e-14 / h
    assert np.allclose(np.array(row[1:5]) / h, np.array([9, 19, -5, 1]) / 24, atol=tolerance)
    assert np.allclose(np.array(row[6:]) / h, np.array([23, -16, 5]) / 12, atol=tolerance)


def test_the_last_state_is_not_corrected_and_no_call_is_added():
    path, x = gaussian.Path(SCHEDULES["vp"]), draws((3, 2), 4)
    one, other = (run(gaussian.Exact(path, GMM), s, grids.of_times([0.8, 0.5]), x) for s in (gaussian.UniPC(), gaussian.DDIM()))
    assert torch.allclose(one, other, rtol=1e-13)
