"""Explicit Runge-Kutta: the clocks by finite differences, the tableaux by their order conditions, steps by hand."""

import math

import pytest
import torch

from oracles import F64, SCHEDULES, Fixed, at_noise, draws, flow, mixture, normal, relative, run, slopes, spd, time
from undrift import gaussian, grids, schedules
from undrift.errors import GridError
from undrift.gaussian.solvers.runge_kutta import TABLEAUX
from undrift.gaussian.solvers.stages import CLOCKS

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))
GMM = mixture(2, "full", k=3, seed=5)


def gaussian_flow(schedule, t: float, s: float, x):
    """x_s = alpha_s m + root(v_s / v_t) (x_t - alpha_t m) per eigendirection of the data's covariance."""
    values, basis = torch.linalg.eigh(DATA.covariance()[0])
    (a_t, a_s), (s_t, s_s) = ([float(f(time(u))) for u in (t, s)] for f in (schedule.alpha, schedule.sigma))
    ratio = ((a_s**2 * values + s_s**2) / (a_t**2 * values + s_t**2)).sqrt()
    return a_s * DATA.mean + ((x - a_t * DATA.mean) @ basis * ratio) @ basis.mT


@pytest.mark.parametrize("clock", ["vp", "edm", "cosine", "custom"])
@pytest.mark.parametrize("name", CLOCKS)
def test_every_clock_turns_the_flow_into_its_quantity(name, clock):
    # d(x / n) / dtau = p x + r D along an exact flow, by central differences: relative error ~ h^2.
    schedule, row, t, h = SCHEDULES[clock], CLOCKS[name], 0.4, 1e-5
    x = draws((4, 2), 1)
    sides = [gaussian_flow(schedule, t, u, x) for u in (t + h, t - h)]
    pairs = [(schedule.alpha(time(u)), schedule.sigma(time(u))) for u in (t + h, t - h, t)]
    (up, down), taus = (x_u / row.norm(*p) for x_u, p in zip(sides, pairs, strict=False)), [row.tau(*p) for p in pairs]
    p, r = row.parts(*pairs[2])
    clean = gaussian.Exact(gaussian.Path(schedule), DATA)(x, time(t)).mean
    assert relative((up - down) / (taus[0] - taus[1]), p * x + r * clean) < 1e-6
    assert relative(row.noise(taus[2]), pairs[2][1] / pairs[2][0]) < 1e-12


@pytest.mark.parametrize("name", TABLEAUX)
def test_tableaux_meet_their_order_conditions(name):
    # Kutta's conditions to order 4, by sums over the tableau; the first one that fails gives the order.
    method = TABLEAUX[name]
    k = len(method.c)
    a, b, c = torch.zeros(k, k, dtype=F64), time(method.b), time(method.c)
    for i, row in enumerate(method.a):
        a[i + 1, : len(row)] = time(row)
    assert torch.allclose(a.sum(1), c, atol=1e-15)
    conditions = {
        1: [(b.sum(), 1)],
        2: [(b @ c, 1 / 2)],
        3: [(b @ c**2, 1 / 3), (b @ a @ c, 1 / 6)],
        4: [(b @ c**3, 1 / 4), ((b * c) @ a @ c, 1 / 8), (b @ a @ c**2, 1 / 12), (b @ a @ a @ c, 1 / 24)],
    }
    met = [all(abs(float(got) - want) < 1e-14 for got, want in row) for row in conditions.values()]
    assert met == [p <= method.order for p in conditions]


def test_midpoint_in_the_noise_clock_is_edms():
    # Karras et al. 2022, appendix C, alpha = 1/2 on sigma(t) = 80 t: half an Euler step, then a whole one with that slope.
    grid = grids.karras(schedules.EDM(), 8)
    denoiser = gaussian.Exact(gaussian.Path(schedules.EDM()), GMM)
    x = start = 80 * draws((4, 2), 2)
    for t, s in grid.pairs():
        middle = 0.5 * (t + s)
        half = x + 80 * (middle - t) * (x - denoiser(x, time(t)).mean) / (80 * t)
        x = x + 80 * (s - t) * (half - denoiser(half, time(middle)).mean) / (80 * middle)
    assert relative(run(denoiser, gaussian.ExplicitRungeKutta("midpoint", "noise"), grid, start), x) < 1e-11


@pytest.mark.parametrize(("name", "s"), [("rk4", 0.2), ("ralston3", 0.0)])
def test_a_step_in_the_angle_is_the_textbooks(name, s):
    # dy / dtheta = y cot(theta) - D / sin(theta) on the trigonometric path, whose angle is pi t / 2 and whose norm is 1.
    schedule, method = schedules.Trigonometric(), TABLEAUX[name]
    denoiser, x, t = gaussian.Exact(gaussian.Path(schedule), GMM), draws((4, 2), 2), 0.7
    h, found = 0.5 * math.pi * (s - t), []
    for c, row in zip(method.c, ((), *method.a), strict=True):
        u, y = t + c * (s - t), x + h * sum(w * k for w, k in zip(row, found, strict=True))
        found.append(y / math.tan(0.5 * math.pi * u) - denoiser(y, time(u)).mean / math.sin(0.5 * math.pi * u))
    want = x + h * sum(w * k for w, k in zip(method.b, found, strict=True))
    solver = gaussian.ExplicitRungeKutta(name, "angle")
    assert relative(run(denoiser, solver, grids.of_times([t, s]), x), want) < 1e-12


@pytest.mark.parametrize("clock", ["flow", "angle", "noise"])
@pytest.mark.parametrize("name", ["midpoint", "heun3", "rk4"])
def test_full_order_onto_the_data(name, clock):
    # Equal steps in the flow clock from noise level 3 onto sigma = 0, where the data have a smooth density.
    path, solver, start = gaussian.Path(schedules.LinearFlow()), gaussian.ExplicitRungeKutta(name, clock), draws((6, 2), 11)
    end = flow(GMM, 3 * start, 3.0, 1e-5)  # x / alpha there differs from its limit by noise^2 / 2
    errors = [
        float((run(gaussian.Exact(path, GMM), solver, grids.uniform(None, n, 0.75), 0.75 * start) - end).norm())
        for n in (10, 20, 40)
    ]
    assert slopes(errors)[-1] > solver.order - 0.25
    assert errors[-1] < 2e-2 / 4**solver.order


@pytest.mark.parametrize("name", ["flow", "noise", "signal"])
def test_midpoint_gains_an_order_on_gaussian_data(name):
    # There y = x / n is the root of a quadratic in tau, and the midpoint rule's error of third order cancels.
    schedule, x = schedules.VP(), draws((5, 2), 12)
    denoiser, start, end = gaussian.Exact(gaussian.Path(schedule), DATA), at_noise(schedule, 3.0), at_noise(schedule, 0.3)
    want = gaussian_flow(schedule, start, end, x)
    solver = gaussian.ExplicitRungeKutta("midpoint", name)
    errors = [float((run(denoiser, solver, grids.log_snr(schedule, n, start, end), x) - want).norm()) for n in (40, 80)]
    assert abs(slopes(errors)[0] - 3) < 0.25


def test_encoding_from_no_noise_is_refused():
    path = gaussian.Path(schedules.VP())
    for clock in CLOCKS:
        with pytest.raises(GridError, match="starts above t = 0"):
            gaussian.ExplicitRungeKutta(clock=clock).plan(path, grids.uniform(None, 3).flipped())


def test_no_noise_is_drawn_and_no_state_kept():
    solver = gaussian.ExplicitRungeKutta()
    assert solver.init(draws((1, 2), 0)) is None
    run(gaussian.Exact(gaussian.Path(schedules.VP()), DATA), solver, grids.uniform(None, 2), draws((1, 2), 0), Fixed())
