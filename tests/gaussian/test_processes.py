"""The processes themselves: forward laws, the Ornstein-Uhlenbeck clock, reverse SDEs, Fokker-Planck.

Certified: P1, P3, P4, P6, P12 and P13's score identity. Moments are propagated; one Kolmogorov-Smirnov test stands for what
moments cannot see.
"""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import kstest, norm

from oracles import (
    F64,
    SCHEDULES,
    MeanOnly,
    at_noise,
    dense_score,
    draws,
    gaussian_kl,
    line,
    mixture,
    normal,
    propagate,
    relative,
    run,
    spd,
    time,
)
from undrift import gaussian, grids, schedules
from undrift.core import Shared

DATA = normal(time([0.7, -0.4]), spd(2, 3, 0.3, 1.8))

every_schedule = pytest.mark.parametrize("clock", SCHEDULES)


@every_schedule
def test_forward_law_solves_the_forward_sde(clock):
    # dX = f X dt + g dW: mean' = f mean, var' = 2 f var + g^2, integrated from the drift and diffusion at 1e-10, against
    # the closed alpha and sigma by which `corrupt` and `marginal` state the law.
    schedule, path = SCHEDULES[clock], gaussian.Path(SCHEDULES[clock])
    s, t = 0.02, 0.9
    x = draws((2, 3), 1)
    law = path.corrupt(x, time(s), time(t))

    def slope(u, y):
        f, g2 = float(schedule.f(time(u))), float(schedule.g2(time(u)))
        return [f * y[0], 2 * f * y[1] + g2]

    scale, variance = solve_ivp(slope, (s, t), [1.0, 0.0], method="DOP853", rtol=1e-11, atol=1e-13).y[:, -1]
    assert relative(law.mean, scale * x) < 1e-8
    assert relative(law.variance, torch.full((2, 3), variance, dtype=F64)) < 1e-8


@every_schedule
def test_forward_law_from_data_is_alpha_and_sigma(clock):
    schedule, x = SCHEDULES[clock], draws((2, 3), 1)
    for t in (0.01, 0.5, 1.0):
        law = gaussian.Path(schedule).corrupt(x, time(0.0), time(t))
        assert relative(law.mean + 1e-300, schedule.alpha(time(t)) * x + 1e-300) < 1e-14
        assert relative(law.variance, schedule.sigma(time(t)).square().expand(2, 3)) < 1e-12
        marginal = gaussian.Exact(gaussian.Path(schedule), DATA).marginal(time(t))
        alpha, sigma = float(schedule.alpha(time(t))), float(schedule.sigma(time(t)))
        assert relative(marginal.mean + 1e-300, alpha * DATA.mean + 1e-300) < 1e-14
        assert relative(marginal.cov.dense()[0], alpha**2 * DATA.covariance()[0] + sigma**2 * torch.eye(2, dtype=F64)) < 1e-12


def divergence(schedule, t: float) -> float:
    """KL of the rescaled state X_t / sqrt(alpha^2 + sigma^2) from N(0, I), nats."""
    law = gaussian.Exact(gaussian.Path(schedule), DATA).marginal(time(t))
    power = float(schedule.alpha(time(t)) ** 2 + schedule.sigma(time(t)) ** 2)
    return gaussian_kl(law.mean[0] / math.sqrt(power), law.cov.dense()[0] / power)


@every_schedule
def test_divergence_falls_exponentially_in_the_ou_clock(clock):
    # KL(P_T || N) <= e^-tau KL(P_0 || N) with tau = log(1 + sigma^2 / alpha^2): on every clock.
    schedule, first = SCHEDULES[clock], gaussian_kl(DATA.mean[0], DATA.covariance()[0])
    for level in (0.05, 0.3, 1.0, 3.0, 6.0):
        t = at_noise(schedule, level)
        assert divergence(schedule, t) <= math.exp(-float(schedule.ou_time(time(t)))) * first * (1 + 1e-9)


def test_the_other_clock_breaks_the_bound():
    # The trap: -2 log alpha is the OU clock of VP alone. On sub-VP it overstates the time, and the bound fails.
    schedule, first = schedules.SubVP(), gaussian_kl(DATA.mean[0], DATA.covariance()[0])
    excess = [divergence(schedule, t) / (float(schedule.alpha(time(t))) ** 2 * first) for t in np.linspace(0.05, 0.6, 12)]
    assert max(excess) > 1.05
    vp = schedules.VP()
    for t in (0.1, 0.4, 0.8):
        tau = float(vp.ou_time(time(t)))
        assert math.isclose(tau, -2 * math.log(float(vp.alpha(time(t)))), rel_tol=1e-9)


@pytest.mark.parametrize("other", ["ve", "edm"])
def test_scores_agree_under_the_change_of_variables(other):
    # x_VE = x_VP / alpha at sigma_VE = sigma / alpha: score_VE = alpha score_VP (chain rule), 1e-10.
    law, vp, ve = mixture(3, "full", 3, 2), schedules.VP(), SCHEDULES[other]
    for level in (0.02, 0.4, 4.0):
        t, u = time(at_noise(vp, level)), time(at_noise(ve, level))
        x, alpha = draws((5, 3), 1), float(vp.alpha(t))
        one = gaussian.score(gaussian.Exact(gaussian.Path(vp), law), x, t)
        assert relative(gaussian.score(gaussian.Exact(gaussian.Path(ve), law), x / alpha, u), alpha * one) < 1e-10


SDES = {
    f"{name}-{level:g}": (solver, level)
    for name, solver in (("euler_maruyama", gaussian.EulerMaruyama), ("exponential", gaussian.ExponentialIntegrator))
    for level in (0.0, 0.5, 1.0, 2.0)
}


@pytest.mark.parametrize("clock", ["vp", "subvp", "edm", "custom"])
@pytest.mark.parametrize("name", SDES)
def test_every_reverse_sde_has_the_same_marginals(name, clock):
    # P4, P6 on a Gaussian: the error of mean and covariance is O(step), so Richardson's 2 e(2n) - e(n) removes it: what is
    # left is O(step^2), under 1e-3 at 300 steps, where a wrong factor anywhere leaves a constant.
    make, level = SDES[name]
    schedule = SCHEDULES[clock]
    exact = gaussian.Exact(gaussian.Path(schedule), DATA)
    high, low = at_noise(schedule, 3.0), at_noise(schedule, 0.3)
    start, end = exact.marginal(time(high)), exact.marginal(time(low))
    runs = [
        propagate(MeanOnly(exact), make(level), grids.log_snr(schedule, n, high, low), start.mean[0], start.cov.dense()[0])
        for n in (75, 150)
    ]
    mean, cov = (2 * fine - coarse for coarse, fine in zip(*runs, strict=True))
    assert relative(mean, end.mean[0]) < 1e-3
    assert relative(cov, end.cov.dense()[0]) < 1e-3


@pytest.mark.parametrize("name", SDES)
def test_reverse_sdes_reach_a_mixture(name):
    # P6 where moments do not suffice: 8000 samples of a 1-D mixture at t = .02, Kolmogorov-Smirnov against the exact
    # marginal. 1e-5 per case, so a false alarm once in 12,500 runs of the eight. The bias of 150 steps is below a third of
    # the critical distance .026.
    make, level = SDES[name]
    law, schedule, rows = line([0.3, 0.7], [-1.5, 1.0], [0.1, 0.2]), schedules.VP(), 8000
    exact = gaussian.Exact(gaussian.Path(schedule), law)
    start = exact.marginal(time(1.0)).expand(rows).sample(Shared(11))
    grid = grids.log_snr(schedule, 150, 1.0, 0.02)
    x = run(exact, make(level), grid, start, Shared(int(10 * level) + 1))[:, 0].numpy()
    alpha, sigma = float(schedule.alpha(time(0.02))), float(schedule.sigma(time(0.02)))

    def cdf(v):
        parts = zip([0.3, 0.7], [-1.5, 1.0], [0.1, 0.2], strict=True)
        return sum(w * norm.cdf(v, alpha * m, math.sqrt(alpha**2 * c + sigma**2)) for w, m, c in parts)

    assert kstest(x, cdf).pvalue > 1e-5


def residuals(clock: str, d: int, level: float) -> tuple[float, float]:
    """Relative residuals of Fokker-Planck and of the continuity equation, divided by p, at points where the data are.

    d log p/dt = -d f - f x.s + g^2/2 (div s + |s|^2), and = -div v - v.s with v = f x - g^2/2 s: time derivative and
    divergence by autodiff of the marginal density, the second with the library's own `score`.
    """
    schedule, law = SCHEDULES[clock], mixture(d, "full", 3, 5)
    exact = gaussian.Exact(gaussian.Path(schedule), law)
    t = time(at_noise(schedule, level)).requires_grad_()
    f, g2 = float(schedule.f(t.detach())), float(schedule.g2(t.detach()))
    alpha, sigma = float(schedule.alpha(t.detach())), float(schedule.sigma(t.detach()))
    x = alpha * law.expand(6).sample(Shared(2)) + sigma * draws((6, d), 3)
    x.requires_grad_()
    rate = torch.stack([torch.autograd.grad(exact.marginal(t).log_prob(x)[i], t)[0] for i in range(6)])
    s = torch.autograd.grad(exact.marginal(t.detach()).log_prob(x).sum(), x, create_graph=True)[0]
    div = sum(torch.autograd.grad(s[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(d))
    fokker = -d * f - f * (x * s).sum(1) + 0.5 * g2 * (div + s.square().sum(1))
    own = gaussian.score(exact, x, t.detach())
    v = f * x - 0.5 * g2 * own
    spread = sum(torch.autograd.grad(v[:, j].sum(), x, retain_graph=True)[0][:, j] for j in range(d))
    flow = -spread - (v * own).sum(1)
    return relative(fokker.detach(), rate), relative(flow.detach(), rate)


@every_schedule
@pytest.mark.parametrize("d", [1, 2])
def test_fokker_planck_and_continuity_hold(clock, d):
    # P12 asks 1e-4; autodiff leaves rounding alone, so 1e-8.
    for level in (0.1, 1.0, 4.0):
        fokker, flow = residuals(clock, d, level)
        assert fokker < 1e-8
        assert flow < 1e-8


def test_stochastic_localisation_is_the_same_process():
    # P13: Y_u = u X + sqrt(u) z is the OU state at s = log(1 + 1/u): X_s = Y_u / sqrt(u (1 + u)). So its posterior mean is
    # the denoiser's, and the score follows by the chain rule.
    law, vp = mixture(2, "full", 3, 2), schedules.VP()
    exact = gaussian.Exact(gaussian.Path(vp), law)
    for u in (0.1, 1.0, 20.0):
        y = u * draws((5, 2), 1) + math.sqrt(u) * draws((5, 2), 2)
        state, t = y / math.sqrt(u * (1 + u)), time(at_noise(vp, 1 / math.sqrt(u)))
        assert math.isclose(-2 * math.log(float(vp.alpha(t))), math.log1p(1 / u), rel_tol=1e-9)
        tweedie = y / u + dense_score(law, 1.0, 1 / math.sqrt(u), y / u) / u  # E[X | Y], from the oracle
        assert relative(exact(state, t).mean, tweedie) < 1e-9
