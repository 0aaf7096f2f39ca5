"""Certifies `guidance.control`: the books of a control in closed form, the equation that its value solves, and what runs spend.

float64, no Monte Carlo: Gaussian moments, quadrature on the line, and exact propagation of moments.
"""

import math

import numpy as np
import pytest
import torch

from oracles import F64, SCHEDULES, Counted, Fixed, MeanOnly, dense_log_prob, draws, line, normal, propagate, slopes, spd, time
from undrift import discrete, gaussian, grids
from undrift.core import Covariance
from undrift.errors import FamilyError, PotentialError, TimeError
from undrift.guidance import Likelihood, Linear, second_order, twist
from undrift.guidance.control import control, hjb_residual, spend
from undrift.laws import Empirical, Mixture
from undrift.operators import Matrix

MEAN, COV = time([0.7, -0.4]), spd(2, 3, 0.3, 1.8)
DATA = normal(MEAN, COV)
G = time([[1.2, -0.5]])
A, Y, R = draws((1, 2), 2), time([[1.3]]), time([0.4])
SEEN = A @ COV @ A.mT + R
GAIN = COV @ A.mT / SEEN
REWARDS = {"linear": Linear(G), "quadratic": Likelihood(Matrix(A), Y, R)}
TILTED = {
    "linear": (MEAN + COV @ G[0], COV),
    "quadratic": (MEAN + GAIN[:, 0] * (Y - A @ MEAN)[0, 0], COV - GAIN @ A @ COV),
}
EYE = torch.eye(2, dtype=F64)
every_reward = pytest.mark.parametrize("reward", REWARDS)


def vp(data=DATA):
    return gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), data)


def legendre(low: float, high: float, nodes: int) -> tuple[torch.Tensor, torch.Tensor]:
    x, w = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(nodes))
    return low + (high - low) * (x + 1) / 2, w * (high - low) / 2


def kl(mean, cov, other_mean, other_cov) -> float:
    """KL between Gaussians, dense."""
    gap, inverse = mean - other_mean, torch.linalg.inv(other_cov)
    logdet = torch.linalg.slogdet(other_cov)[1] - torch.linalg.slogdet(cov)[1]
    return float(0.5 * ((inverse @ cov).trace() + gap @ inverse @ gap - len(mean) + logdet))


def noisy(mean, cov, t: float):
    """Moments of X_t."""
    schedule = SCHEDULES["vp"]
    alpha, sigma = float(schedule.alpha(time(t))), float(schedule.sigma(time(t)))
    return alpha * mean, alpha**2 * cov + sigma**2 * EYE


def mean_rate(controlled, mean, cov, t: float) -> float:
    """E |u|^2 / 2 over N(mean, cov), u affine: its slope from its values at three points."""
    u = controlled(torch.cat([mean[None], mean + EYE]), time(t))
    slope = u[1:] - u[0]
    return 0.5 * float(u[0] @ u[0] + (slope @ slope.mT @ cov).trace())


@every_reward
def test_the_books_balance_on_a_gaussian(reward):
    """KL(p_h || p) = E_h r - log Z = running cost + KL at the start, to 1e-10; Gauss-Legendre over t, 400 nodes."""
    potential, (mean, cov) = REWARDS[reward], TILTED[reward]
    controlled = control(vp(), potential)
    spent = sum(
        float(w) * mean_rate(controlled, *noisy(mean, cov, float(t)), float(t))
        for t, w in zip(*legendre(0, 1, 400), strict=True)
    )
    start = kl(*noisy(mean, cov, 1.0), *noisy(MEAN, COV, 1.0))
    total = kl(mean, cov, MEAN, COV)
    assert spent + start == pytest.approx(total, abs=1e-10)
    if reward == "linear":
        gain, evidence = float(G[0] @ mean), float(G[0] @ MEAN + 0.5 * G[0] @ COV @ G[0])
    else:
        off = A @ mean - Y[0]
        gain = float(-0.5 * (off.square() + A @ cov @ A.mT) / R - 0.5 * (2 * math.pi * R).log())
        evidence = float(-0.5 * (Y[0] - A @ MEAN).square() / SEEN - 0.5 * (2 * math.pi * SEEN).log())
    assert gain - evidence == pytest.approx(total, abs=1e-12)
    assert start < 1e-3 * total  # VP at t = 1: x_1 says next to nothing


def on_the_line():
    """A mixture, a linear reward, and the law it is tilted to, by hand."""
    weights, means, variances, g = [0.3, 0.7], [-1.1, 0.9], [0.2, 0.05], 1.5
    lean = [w * math.exp(g * m + 0.5 * g * g * v) for w, m, v in zip(weights, means, variances, strict=True)]
    moved = [m + g * v for m, v in zip(means, variances, strict=True)]
    data = line(weights, means, variances)
    return data, Linear(time([[g]])), line([w / sum(lean) for w in lean], moved, variances)


def test_the_books_balance_between_two_times_on_a_mixture():
    """E_h log h_s - E_h log h_t against the cost between, all by quadrature (240 x 60 nodes), to 1e-9."""
    data, reward, tilted = on_the_line()
    schedule, controlled = SCHEDULES["vp"], control(vp(data), reward)
    x, w = legendre(-7, 7, 240)
    x = x[:, None]

    def average(values, t):
        density = dense_log_prob(tilted, float(schedule.alpha(time(t))), float(schedule.sigma(time(t))), x).exp()
        return float((w * density * values).sum())

    s, t = 0.2, 0.8
    late, early = (average(controlled.log_h(x, time(u)), u) for u in (s, t))
    cost = sum(
        float(v) * average(controlled.rate(x, time(float(u))), float(u)) for u, v in zip(*legendre(s, t, 60), strict=True)
    )
    assert late - early == pytest.approx(cost, abs=1e-9)
    assert cost > 0.1


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
def test_the_control_is_the_difference_of_scores(clock):
    """U = g (score of the steered process - score of the other), both by autodiff of dense log densities."""
    schedule, (data, reward, tilted) = SCHEDULES[clock], on_the_line()
    x, t = draws((5, 1), 1), time(0.3)
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    y = x.clone().requires_grad_()
    gap = (dense_log_prob(tilted, alpha, sigma, y) - dense_log_prob(data, alpha, sigma, y)).sum()
    want = schedule.g2(t).sqrt() * torch.autograd.grad(gap, y)[0]
    controlled = control(gaussian.Exact(gaussian.Path(schedule), data), reward)
    torch.testing.assert_close(controlled(x, t), want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(controlled(x, t.repeat(5)), want, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(controlled.rate(x, t), 0.5 * want[:, 0].square(), rtol=1e-9, atol=1e-10)


LINES = {"normal": normal(time([0.4]), time([[0.6]])), "mixture": line([0.3, 0.7], [-1.1, 0.9], [0.2, 0.1])}
LINE_REWARDS = {"linear": Linear(time([[0.8]])), "quadratic": Likelihood(Matrix(time([[1.1]])), time([[0.5]]), time([0.3]))}


@pytest.mark.parametrize("clock", ["vp", "cosine", "linear_flow", "custom"])
@pytest.mark.parametrize("law", LINES)
@pytest.mark.parametrize("reward", LINE_REWARDS)
def test_exact_lifts_solve_the_equation(clock, law, reward):
    """On 41 points of [-3, 3] at three times: residual below 1e-6 nats per unit time, terms of order 1 to 100."""
    controlled = control(gaussian.Exact(gaussian.Path(SCHEDULES[clock]), LINES[law]), LINE_REWARDS[reward])
    x = torch.linspace(-3, 3, 41, dtype=F64)[:, None]
    for t in (0.3, 0.5, 0.8):
        assert float(hjb_residual(controlled, x, time(t)).abs().max()) < 1e-6
    assert float(controlled.rate(x, time(0.3)).max()) > 0.1  # there is something to balance


def test_the_equation_holds_in_the_plane_and_for_events_of_any_shape():
    x = draws((7, 2), 5)
    assert float(hjb_residual(control(vp(), REWARDS["quadratic"]), x, time(0.4)).abs().max()) < 1e-6
    squares = Covariance.isotropic(time([0.5, 0.8]), 4)
    data = Mixture.of(time([0.4, 0.6]), draws((2, 2, 2), 6), squares)
    controlled = control(vp(data), Linear(draws((1, 2, 2), 7)))
    assert float(hjb_residual(controlled, draws((3, 2, 2), 8), time(0.4)).abs().max()) < 1e-6


def test_a_wrong_lift_does_not():
    """Lifted at the mean alone, log h lacks c^2 P_t / 2: the residual is its rate, c^2 P'_t / 2, to 1e-6."""
    schedule, c, t = SCHEDULES["vp"], 0.8, time(0.4).requires_grad_()
    alpha2, sigma2 = schedule.alpha(t).square(), schedule.sigma(t).square()
    spread = 0.6 * sigma2 / (0.6 * alpha2 + sigma2)
    (rate,) = torch.autograd.grad(0.5 * c * c * spread, t)
    dps = control(MeanOnly(vp(LINES["normal"])), LINE_REWARDS["linear"])
    got = hjb_residual(dps, draws((5, 1), 0), time(0.4))
    torch.testing.assert_close(got, rate.expand(5), rtol=0, atol=1e-6)
    assert float(rate) > 0.1
    mended = control(second_order(MeanOnly(vp(LINES["normal"])), "full"), LINE_REWARDS["linear"])
    assert float(hjb_residual(mended, draws((5, 1), 0), time(0.4)).abs().max()) < 1e-6


def interior(steps: int) -> grids.Grid:
    return grids.uniform(None, steps, 0.9, 0.1)


@every_reward
@pytest.mark.parametrize("inner", [vp(), second_order(MeanOnly(vp()), "full")], ids=["exact", "mean and Jacobian"])
def test_controlled_samples_converge_to_the_tilted_law(reward, inner):
    """Euler-Maruyama on the controlled equation: weak order 1 within .25, mean and covariance propagated exactly."""
    tilted, steered = TILTED[reward], twist(inner, REWARDS[reward])
    means, covs = [], []
    for steps in (160, 320):
        mean, cov = propagate(steered, gaussian.EulerMaruyama(), interior(steps), *noisy(*tilted, 0.9))
        want = noisy(*tilted, 0.1)
        means.append(float((mean - want[0]).norm()))
        covs.append(float((cov - want[1]).norm()))
    assert slopes(means) == pytest.approx([1], abs=0.25)
    assert slopes(covs) == pytest.approx([1], abs=0.25)
    assert covs[-1] < 0.05


def test_what_a_run_spends_tends_to_the_closed_form():
    """A linear reward has a control without x, so every run spends the same: first order to c.K K^T c integrated."""
    nodes, weights = legendre(0.1, 0.9, 100)
    want = sum(
        float(w) * mean_rate(control(vp(), REWARDS["linear"]), MEAN, COV, float(t)) for t, w in zip(nodes, weights, strict=True)
    )
    errors = []
    for steps in (50, 100):
        noise = draws((steps, 3, 2), 0)
        model = Counted(vp())
        done = spend(
            control(model, REWARDS["linear"]), gaussian.EulerMaruyama(), interior(steps), draws((3, 2), 1), rng=Fixed(*noise)
        )
        assert model.calls == 2 * steps
        assert float((done.cost - done.cost[0]).abs().max()) < 1e-12
        errors.append(abs(float(done.cost[0]) - want))
    assert slopes(errors) == pytest.approx([1], abs=0.25)
    assert errors[-1] < 0.02 * want
    controlled, x = control(vp(), REWARDS["quadratic"]), draws((3, 2), 1)
    one = spend(controlled, gaussian.EulerMaruyama(), grids.of_times([0.9, 0.5]), x, rng=Fixed(draws((3, 2), 2)))
    torch.testing.assert_close(one.cost, 0.4 * controlled.rate(x, time(0.9)))  # paid where the step starts


def test_what_cannot_be_controlled_is_refused():
    with pytest.raises(FamilyError, match="TwistedLeaping"):
        control(discrete.Exact(discrete.uniform(3), Empirical.of(discrete.enumerate_events(3, 1))), REWARDS["linear"])
    controlled, x = control(vp(), REWARDS["linear"]), draws((2, 2), 0)
    for t in (0.0, 0.001, 1.0):
        with pytest.raises(TimeError, match="between the ends"):
            hjb_residual(controlled, x, time(t))
    with pytest.raises(PotentialError, match="step > 0"):
        hjb_residual(controlled, x, time(0.5), step=0.0)
    with pytest.raises(TimeError, match="fall"):
        spend(controlled, gaussian.DDIM(), grids.of_times([0.1, 0.9]), x, rng=Fixed())
