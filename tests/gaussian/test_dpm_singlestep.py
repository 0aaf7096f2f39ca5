"""DPM-Solver-2 and -3, DPM-Solver++(2S): the papers' lines, written out."""

import math

import pytest

from oracles import SCHEDULES, draws, mixture, relative, run, time
from undrift import gaussian, grids

GMM = mixture(2, "full", k=3, seed=5)
STEPS = [(0.9, 0.6), (0.6, 0.59), (0.5, 0.05)]


class Known:
    """The numbers of a step in the papers' letters."""

    def __init__(self, clock: str, t: float, s: float):
        self.schedule = SCHEDULES[clock]
        self.denoiser = gaussian.Exact(gaussian.Path(self.schedule), GMM)
        self.start, self.end = (0.5 * float(self.schedule.log_snr(time(u))) for u in (t, s))
        self.h = self.end - self.start

    def at(self, r: float):
        """(time, alpha, sigma) at lambda_t + r h."""
        u = self.schedule.time(2 * time(self.start + r * self.h))
        return u, float(self.schedule.alpha(u)), float(self.schedule.sigma(u))

    def eps(self, x, r: float):
        """Noise prediction."""
        u, alpha, sigma = self.at(r)
        return (x - alpha * self.denoiser(x, u).mean) / sigma


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "custom"])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_dpm_solver_2_matches_algorithm_1(t, s, clock):
    k, x = Known(clock, t, s), draws((4, 2), 2)
    (_, a0, _), (_, a1, s1), (_, a2, s2) = k.at(0), k.at(0.5), k.at(1)
    u = a1 / a0 * x - s1 * (math.exp(k.h / 2) - 1) * k.eps(x, 0)
    want = a2 / a0 * x - s2 * (math.exp(k.h) - 1) * k.eps(u, 0.5)
    assert relative(run(k.denoiser, gaussian.DPMSolverSingle(2, "eps"), grids.of_times([t, s]), x), want) < 1e-10


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "custom"])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_dpm_solver_3_matches_algorithm_2(t, s, clock):
    k, x, r1, r2 = Known(clock, t, s), draws((4, 2), 2), 1 / 3, 2 / 3
    (_, a0, _), (_, a1, s1), (_, a2, s2), (_, a3, s3) = (k.at(r) for r in (0, r1, r2, 1))
    e0 = k.eps(x, 0)
    u1 = a1 / a0 * x - s1 * math.expm1(r1 * k.h) * e0
    d1 = k.eps(u1, r1) - e0
    u2 = a2 / a0 * x - s2 * math.expm1(r2 * k.h) * e0 - s2 * r2 / r1 * (math.expm1(r2 * k.h) / (r2 * k.h) - 1) * d1
    d2 = k.eps(u2, r2) - e0
    want = a3 / a0 * x - s3 * math.expm1(k.h) * e0 - s3 / r2 * (math.expm1(k.h) / k.h - 1) * d2
    # The paper's (e^h - 1) / h - 1 cancels for the small step; so does its noise, near t = 0.
    assert relative(run(k.denoiser, gaussian.DPMSolverSingle(3, "eps"), grids.of_times([t, s]), x), want) < 1e-9


@pytest.mark.parametrize("clock", ["vp", "linear_flow", "custom"])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_dpm_solver_pp_2s_matches_algorithm_1(t, s, clock):
    k, x = Known(clock, t, s), draws((4, 2), 2)
    (_, _, s0), (middle, a1, s1), (_, a2, s2) = k.at(0), k.at(0.5), k.at(1)
    first = k.denoiser(x, time(t)).mean
    u = s1 / s0 * x - a1 * (math.exp(-k.h / 2) - 1) * first
    second = k.denoiser(u, middle).mean
    slope = (1 - 1 / (2 * 0.5)) * first + 1 / (2 * 0.5) * second  # r_1 = 1/2
    want = s2 / s0 * x - a2 * (math.exp(-k.h) - 1) * slope
    assert relative(run(k.denoiser, gaussian.DPMSolverSingle(2, "x0"), grids.of_times([t, s]), x), want) < 1e-10


@pytest.mark.parametrize(("order", "method"), [(2, "midpoint"), (3, "ralston3")])
@pytest.mark.parametrize("quantity", ["eps", "x0"])
def test_infinite_steps_are_runge_kuttas_in_the_flow_clock(order, method, quantity):
    path = gaussian.Path(SCHEDULES["cosine"])
    for t, s in ((1.0, 0.8), (0.1, 0.0), (1.0, 0.0)):
        grid, x = grids.of_times([t, s]), draws((4, 2), 2)
        one, other = (
            run(gaussian.Exact(path, GMM), solver, grid, x)
            for solver in (gaussian.DPMSolverSingle(order, quantity), gaussian.ExplicitRungeKutta(method, "flow"))
        )
        assert relative(one, other) < 1e-13
