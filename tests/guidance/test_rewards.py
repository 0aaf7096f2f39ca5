"""Certifies steering by rewards: the tilted law in closed form, lifts as martingales, look-ahead guidance and its subspace.

float64, no Monte Carlo: algebra, quadrature, enumeration (of symbols: tests/discrete/test_twist.py) and exact propagation of
moments.
"""

import math

import numpy as np
import pytest
import torch

from oracles import F64, SCHEDULES, MeanOnly, dense_log_prob, draws, line, normal, propagate, relative, run, spd, time
from undrift import Ancestral, gaussian, grids
from undrift.core import Shared
from undrift.guidance import All, Likelihood, Linear, Reward, condition, second_order, twist
from undrift.laws import Empirical
from undrift.operators import Matrix
from undrift.particles import smc

D, BETA = 3, 0.7
MEAN, COV, G = draws((D,), 0), spd(D, 1), draws((1, D), 2)
DATA = normal(MEAN, COV)
SHIFTED = MEAN + COV @ G[0] / BETA
CLOCKS = ["vp", "linear_flow", "custom"]
every_clock = pytest.mark.parametrize("clock", CLOCKS)


def exact(data, clock="vp"):
    return gaussian.Exact(gaussian.Path(SCHEDULES[clock]), data)


def wave(x):
    return x.flatten(1).sin().sum(1) - 0.3 * x.flatten(1).square().sum(1)


# The KL-regularised target p exp(r / beta).


@every_clock
def test_a_linear_reward_moves_a_gaussian_by_its_covariance(clock):
    """Sigma g / beta exactly (1e-10), by Bayes' rule, by gradient, and by gradient of a mean with its Jacobian."""
    reward = (1 / BETA) * Linear(G)
    model, x, t = exact(DATA, clock), draws((4, D), 3), time([0.2, 0.5, 0.7, 0.95])
    want = exact(normal(SHIFTED, COV), clock)(x, t).mean
    torch.testing.assert_close(condition(model, reward)(x, t).mean, want, rtol=0, atol=1e-10)
    torch.testing.assert_close(twist(model, reward)(x, t).mean, want, rtol=0, atol=1e-10)
    held = second_order(MeanOnly(model), "jacobian")
    torch.testing.assert_close(twist(held, reward)(x, t).mean, want, rtol=0, atol=1e-10)


@every_clock
@pytest.mark.parametrize("how", ["condition", "twist", "jacobian"])
def test_solvers_carry_the_whole_shift(clock, how):
    """The difference that steering makes to a run, step by step what it makes to the exact model of the tilted law (1e-10)."""
    reward = (1 / BETA) * Linear(G)
    model = exact(DATA, clock)
    steered = {
        "condition": condition(model, reward),
        "twist": twist(model, reward),
        "jacobian": twist(second_order(MeanOnly(model), "jacobian"), reward),
    }[how]
    truth, grid, x = exact(normal(SHIFTED, COV), clock), grids.uniform(None, 12, 0.97, 0.0), draws((3, D), 5)
    for solver in (gaussian.DDIM(), gaussian.Heun(), gaussian.DPMSolverPP(2)):
        got, want = (run(m, solver, grid, x) for m in (steered, truth))
        torch.testing.assert_close(got, want, rtol=0, atol=1e-10)


@every_clock
def test_ancestral_samples_have_the_tilted_law_at_any_step_count(clock):
    """Mean and covariance propagated exactly from the law at t = .97: MEAN + Sigma g / beta and Sigma, to 1e-10."""
    steered = condition(exact(DATA, clock), (1 / BETA) * Linear(G))
    start = exact(normal(SHIFTED, COV), clock).marginal(time(0.97))
    for steps in (1, 3, 20):
        mean, cov = propagate(steered, Ancestral(), grids.uniform(None, steps, 0.97, 0.0), start.mean[0], start.cov.dense()[0])
        assert relative(mean, SHIFTED) < 1e-10
        assert relative(cov, COV) < 1e-10


MIXTURE = ([0.3, 0.7], [-1.1, 0.9], [0.2, 0.05])
REWARDS = {
    "linear": Linear(time([[1.5]])),
    "quadratic": Likelihood(Matrix(time([[1.3]])), time([[0.4]]), time([0.3])),
    "both": All([Linear(time([[-0.8]])), Likelihood(Matrix(time([[1.3]])), time([[0.4]]), time([0.3]))]),
    "tempered": 0.5 * Likelihood(Matrix(time([[1.3]])), time([[0.4]]), time([0.3])),
}
NODES, WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(600))
NODES, WEIGHTS = 7 * NODES[:, None], 7 * WEIGHTS


@pytest.mark.parametrize("name", REWARDS)
def test_mixtures_are_tilted_exactly(name):
    """Density, mean, variance and evidence of the absorbed law against p e^r by quadrature: 600 nodes on [-7, 7], 1e-10."""
    law, reward = line(*MIXTURE), REWARDS[name]
    weight = WEIGHTS * (dense_log_prob(law, 1.0, 0.0, NODES) + reward(NODES)).exp()
    z = float(weight.sum())
    tilted = reward.absorb(law)
    torch.testing.assert_close(dense_log_prob(tilted, 1.0, 0.0, NODES).exp() * WEIGHTS, weight / z, rtol=0, atol=1e-11)
    mean = float((weight * NODES[:, 0]).sum()) / z
    assert float(tilted.mean) == pytest.approx(mean, abs=1e-10)
    assert float(tilted.variance) == pytest.approx(float((weight * (NODES[:, 0] - mean) ** 2).sum()) / z, abs=1e-10)
    assert float(reward.lift(law)) == pytest.approx(math.log(z), abs=1e-10)


def test_the_tilted_mixture_has_the_weights_and_means_of_the_formula():
    weights, means, variances = (time(v) for v in MIXTURE)
    tilted = REWARDS["linear"].absorb(line(*MIXTURE))
    want = weights * (1.5 * means + 0.5 * 1.5**2 * variances).exp()
    torch.testing.assert_close(tilted.log_weights[0].exp(), want / want.sum(), rtol=1e-12, atol=0)
    torch.testing.assert_close(tilted.means[0, :, 0], means + 1.5 * variances, rtol=1e-12, atol=0)


@every_clock
@pytest.mark.parametrize("name", REWARDS)
def test_steered_mixtures_are_the_tilted_laws_own_models(clock, name):
    """At every noise level, by Bayes' rule and by gradient: the denoiser of the law that the quadrature above certifies."""
    law, reward = line(*MIXTURE), REWARDS[name]
    x, t = 2 * draws((6, 1), 4), time([0.05, 0.2, 0.4, 0.6, 0.8, 0.95])
    want = exact(reward.absorb(law), clock)(x, t)
    got = condition(exact(law, clock), reward)(x, t)
    torch.testing.assert_close(got.mean, want.mean, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(got.variance, want.variance, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(twist(exact(law, clock), reward)(x, t).mean, want.mean, rtol=1e-8, atol=1e-9)


def test_a_quadratic_reward_is_a_likelihood():
    """-(x - a).Q (x - a) / (2 beta) by completing the square: Q = L L^T looks as L^T with noise beta, up to a constant."""
    q, a = spd(D, 7, 0.3, 1.5), draws((1, D), 8)
    look = torch.linalg.cholesky(q).mT
    reward = Likelihood(Matrix(look), a @ look.mT, time([BETA]))
    x = draws((5, D), 9)
    gap = reward(x) + 0.5 * torch.einsum("bi,ij,bj->b", x - a, q, x - a) / BETA
    torch.testing.assert_close(gap, gap[:1].expand(5), rtol=1e-12, atol=1e-12)
    precision = torch.linalg.inv(COV)
    cov = torch.linalg.inv(precision + q / BETA)
    mean = cov @ (precision @ MEAN + q @ a[0] / BETA)
    tilted = condition(exact(DATA), reward).potential.absorb(DATA)
    torch.testing.assert_close(tilted.mean[0], mean, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(tilted.cov.dense()[0], cov, rtol=1e-10, atol=1e-11)


def test_any_reward_reweights_finite_laws_exactly():
    atoms = draws((9, D), 10)
    p = torch.softmax(draws((9,), 11), 0)
    model, x, t = exact(Empirical.of(atoms, p)), draws((4, D), 12), time(0.4)
    want = p * (wave(atoms) / BETA).exp()
    steered = condition(model, (1 / BETA) * Reward(wave))
    truth = exact(Empirical.of(atoms, want / want.sum()))
    torch.testing.assert_close(steered(x, t).log_weights, truth(x, t).log_weights, rtol=1e-10, atol=1e-10)
    by_gradient = twist(model, (1 / BETA) * Reward(wave))(x, t).mean
    torch.testing.assert_close(by_gradient, truth(x, t).mean, rtol=1e-9, atol=1e-10)


def test_particles_under_the_exact_steered_law_all_weigh_the_same():
    """Q = k h_s / h_t, so no weight moves before the last step, which is the model's own: effective size N to 1e-9."""
    reward = (1 / BETA) * Linear(G)
    steered = condition(exact(DATA, "linear_flow"), reward)
    done = smc(steered, grids.uniform(None, 6), event=(D,), particles=50, rng=Shared(0), dtype=F64, threshold=0.0)
    torch.testing.assert_close(done.sizes[:-1, 0], torch.full((6,), 50.0, dtype=F64), rtol=0, atol=1e-9 * 50)
    want = float(G[0] @ MEAN / BETA + 0.5 * G[0] @ COV @ G[0] / BETA**2)
    assert float(reward.lift(DATA)) == pytest.approx(want, rel=1e-12)


# h_0 = e^r, and h is a martingale.


@pytest.mark.parametrize("name", [*REWARDS, "any"])
def test_at_no_noise_the_lift_is_the_reward(name):
    x, zero = draws((6, 1), 13), time(0.0)
    if name == "any":
        got, want = Reward(wave).lift(exact(Empirical.of(x))(x, zero)), wave(x)
    else:
        got, want = REWARDS[name].lift(exact(line(*MIXTURE))(x, zero)), REWARDS[name](x)
    torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


GAUSSIAN_REWARDS = {
    "linear": Linear(G),
    "quadratic": Likelihood(Matrix(draws((2, D), 14)), draws((1, 2), 15), time([0.3, 0.6])),
    "both": All([Linear(G), Likelihood(Matrix(draws((2, D), 14)), draws((1, 2), 15), time([0.3, 0.6]))]),
}


def quadratic_form(log_h, d):
    """(c, b, A) of a quadratic log h(x) = c + b.x + x.A x / 2, from its values."""
    eye, zero = torch.eye(d, dtype=F64), torch.zeros(1, d, dtype=F64)
    c = log_h(zero)
    plus, minus = log_h(eye), log_h(-eye)
    pairs = log_h((eye[:, None] + eye).reshape(-1, d)).reshape(d, d)
    return c[0], 0.5 * (plus - minus), pairs - plus[:, None] - plus + c


@every_clock
@pytest.mark.parametrize("name", GAUSSIAN_REWARDS)
def test_lifts_are_martingales_on_a_gaussian(clock, name):
    """E[h_s(X_s) | X_t] in closed form: a quadratic exponential under a Gaussian step back, against h_t (1e-9)."""
    model, reward = exact(DATA, clock), GAUSSIAN_REWARDS[name]
    t, s, x = time(0.8), time(0.3), draws((4, D), 16)
    c, b, a = quadratic_form(lambda y: reward.lift(model(y, s)), D)
    step = model.path.reverse(x, model(x, t), t, s)
    precision = torch.linalg.inv(step.cov.dense()[0])
    left = precision - a
    pull = step.mean @ precision + b
    got = c + 0.5 * (torch.einsum("bi,ij,bj->b", pull, torch.linalg.inv(left), pull))
    got = got - 0.5 * torch.einsum("bi,ij,bj->b", step.mean, precision, step.mean)
    got = got + 0.5 * (torch.linalg.slogdet(precision)[1] - torch.linalg.slogdet(left)[1])
    torch.testing.assert_close(got, reward.lift(model(x, t)), rtol=1e-9, atol=1e-9)


@every_clock
@pytest.mark.parametrize("name", REWARDS)
def test_lifts_are_martingales_on_a_mixture(clock, name):
    """E[h_s(X_s) | X_t] by quadrature over X_s, 600 nodes, against h_t (1e-9)."""
    model, reward = exact(line(*MIXTURE), clock), REWARDS[name]
    t, s, x = time(0.8), time(0.3), time([[-1.0], [0.2], [1.4]])
    h_s = reward.lift(model(NODES, s)).exp()
    for row in x:
        many = row.expand(len(NODES), 1)
        step = model.path.reverse(many, model(many, t), t, s)
        mass = WEIGHTS * step.log_prob(NODES).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-10)
        assert float((mass * h_s).sum()) == pytest.approx(float(reward.lift(model(row[None], t)).exp()), rel=1e-9)


def test_any_reward_is_a_martingale_on_a_finite_law():
    """Atoms on the line, any reward: E[h_s(X_s) | X_t] by quadrature (1e-9)."""
    atoms = draws((5, 1), 17)
    model, reward = exact(Empirical.of(atoms)), Reward(wave)
    t, s = time(0.8), time(0.3)
    h_s = reward.lift(model(NODES, s)).exp()
    for value in (-1.0, 0.2, 1.4):
        many = torch.full_like(NODES, value)
        step = model.path.reverse(many, model(many, t), t, s)
        mass = WEIGHTS * step.log_prob(NODES).exp()
        assert float(mass.sum()) == pytest.approx(1, abs=1e-10)
        assert float((mass * h_s).sum()) == pytest.approx(float(reward.lift(model(many[:1], t)).exp()[0]), rel=1e-9)


def test_a_lift_at_the_mean_is_no_martingale():
    """What the tests above would notice: DPS's lift misses E[h_s(X_s) | X_t] by more than a tenth."""
    model, reward = exact(line(*MIXTURE)), REWARDS["quadratic"]
    t, s, many = time(0.5), time(0.2), torch.full_like(NODES, 0.2)
    point = MeanOnly(model)
    step = model.path.reverse(many, model(many, t), t, s)
    got = float((WEIGHTS * step.log_prob(NODES).exp() * reward.lift(point(NODES, s)).exp()).sum())
    assert abs(got / float(reward.lift(point(many[:1], t)).exp()[0]) - 1) > 0.1


# Look-ahead gradient guidance: a rank-one likelihood.

BIG, SMALL, SIGMA = 32, 4, 0.5
BASIS = torch.linalg.qr(draws((BIG, SMALL), 20))[0]
TARGET = 2.5
LEAN = draws((1, BIG), 21) / math.sqrt(BIG) * 2  # g, with a part off the subspace
AHEAD = Likelihood(Matrix(LEAN), time([[TARGET]]), time([SIGMA**2]))
OFF = torch.eye(BIG, dtype=F64) - BASIS @ BASIS.mT


def flat(components: int):
    """Data on span(A): one Gaussian, or a mixture of them."""
    covs = torch.stack([spd(SMALL, 22 + i) for i in range(components)])
    weights = torch.arange(1, components + 1, dtype=F64)
    return gaussian.subspace(BASIS, weights / weights.sum(), draws((components, SMALL), 25), covs)


@every_clock
def test_look_ahead_guidance_has_the_papers_strength(clock):
    """G = -beta grad (y - g.E[x_0 | x_t])^2, beta = 1 / (2 (sigma^2 + g.Cov g)): equal gradients, exact on a Gaussian."""
    data = normal(MEAN, COV)
    model, g = exact(data, clock), G
    schedule, x = SCHEDULES[clock], draws((4, D), 26)
    t = time(0.6)
    alpha2, sigma2 = float(schedule.alpha(t)) ** 2, float(schedule.sigma(t)) ** 2
    cov = sigma2 * torch.linalg.inv(alpha2 * COV + sigma2 * torch.eye(D, dtype=F64)) @ COV
    beta = 1 / (2 * (SIGMA**2 + float(g @ cov @ g.mT)))
    y = x.clone().requires_grad_()
    miss = (TARGET - model(y, t).mean @ g[0]).square().sum()
    signal = -beta * torch.autograd.grad(miss, y)[0]
    want = model.path.tilt(model(x, t), signal, t).mean
    reward = Likelihood(Matrix(g), time([[TARGET]]), time([SIGMA**2]))
    torch.testing.assert_close(twist(model, reward)(x, t).mean, want, rtol=1e-10, atol=1e-11)
    held = second_order(MeanOnly(model), "jacobian")
    torch.testing.assert_close(twist(held, reward)(x, t).mean, want, rtol=1e-10, atol=1e-11)
    gain = COV @ g[0] / (SIGMA**2 + float(g @ COV @ g.mT))
    left = COV - torch.outer(gain, COV @ g[0])
    posterior = exact(normal(MEAN + gain * (TARGET - float(g[0] @ MEAN)), left), clock)
    torch.testing.assert_close(twist(model, reward)(x, t).mean, posterior(x, t).mean, rtol=1e-9, atol=1e-10)


def on_grid():
    return grids.uniform(None, 60, 0.97, 0.0)


@pytest.mark.parametrize("components", [1, 3])
@pytest.mark.parametrize("how", ["twist", "jacobian"])
def test_look_ahead_guidance_stays_in_the_subspace(components, how):
    """D = 32, d = 4: samples lie in span(A) to 1e-10 and move towards the target."""
    model = exact(flat(components))
    inner = model if how == "twist" else second_order(MeanOnly(model), "jacobian")
    x = draws((8, BIG), 27)
    plain = run(model, gaussian.DDIM(), on_grid(), x)
    done = run(twist(inner, AHEAD), gaussian.DDIM(), on_grid(), x)
    assert float((done @ OFF).abs().max()) < 1e-10
    assert abs(float((done @ LEAN[0]).mean()) - TARGET) < 0.6 * abs(float((plain @ LEAN[0]).mean()) - TARGET)


class Naive:
    """G added to the score as it is: g itself, at the look-ahead's strength."""

    def __init__(self, model):
        self.model, self.path = model, model.path

    def __call__(self, x_t, t):
        law = self.model(x_t, t)
        spread = float(law.covariance()[0] @ LEAN[0] @ LEAN[0])
        pull = (TARGET - law.mean @ LEAN[0]) / (SIGMA**2 + spread)
        return self.path.tilt(law, pull[:, None] * LEAN, t)


@pytest.mark.parametrize(("steps", "least"), [(10, 0.05), (60, 0.002)])
def test_naive_guidance_leaves_the_subspace(steps, least):
    """The same g added to the score: the clean end is off span(A) by (sigma^2 / alpha) |pull| |g off A|, and samples follow it.

    More than 0.8 of its length half-way. The exact score pulls back ever harder towards t = 0, so what is left shrinks with the
    last noise level that a grid asks at: 9 to 16 per cent after 10 steps, 0.3 to 0.7 after 60; the look-ahead's is below 1e-10.
    """
    model, x, t = exact(flat(1)), draws((8, BIG), 27), time(0.5)
    naive, schedule = Naive(model), model.path.schedule
    clean, law = naive(x, t).mean, model(x, t)
    pull = (TARGET - law.mean @ LEAN[0]) / (SIGMA**2 + float(law.covariance()[0] @ LEAN[0] @ LEAN[0]))
    want = float(schedule.sigma(t) ** 2 / schedule.alpha(t)) * pull[:, None] * (LEAN @ OFF)
    torch.testing.assert_close(clean @ OFF, want, rtol=1e-9, atol=1e-10)
    assert float(((clean @ OFF).norm(dim=1) / clean.norm(dim=1)).min()) > 0.8
    done = run(naive, gaussian.DDIM(), grids.uniform(None, steps, 0.97, 0.0), x)
    share = (done @ OFF).norm(dim=1) / done.norm(dim=1)
    assert float(share.min()) > least
