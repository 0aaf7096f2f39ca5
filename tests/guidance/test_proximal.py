"""Proximal guidance against Kalman algebra; universal guidance against classifier guidance; a quantised look by particles."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, draws, line, mixture, normal, spd, time
from undrift import gaussian, grids, guidance, smc
from undrift.core import Shared, pad
from undrift.errors import LawError, PotentialError
from undrift.guidance import Linear, Reward
from undrift.guidance.proximal import proximal
from undrift.inverse import gaussian_likelihood

MEAN, COV, LOOK, Y, NOISE = draws((4,), 0), spd(4, 1), draws((2, 4), 2), draws((2,), 3), 0.8
LIKELIHOOD, X = gaussian_likelihood(Y, LOOK, NOISE), 2 * draws((3, 4), 4)
DATA = normal(MEAN, COV)


@pytest.mark.parametrize("clock", ["vp", "edm", "custom", "cosine"])
@pytest.mark.parametrize("t", [time(0.3), time([0.1, 0.6, 1.0])])
def test_the_limit_of_many_steps_is_the_isotropic_kalman_update(clock, t):
    """Dense: m + v A^T (v A A^T + R)^{-1} (y - A m), v = s^2 sigma^2 / (alpha^2 s^2 + sigma^2); 3000 steps, to 1e-9."""
    path = gaussian.Path(SCHEDULES[clock])
    model, q = gaussian.Exact(path, DATA), path.schedule
    got = proximal(model, LIKELIHOOD, data_std=0.9, steps=3000, rate=0.08)(X, t).mean
    m, v = model(X, t).mean, pad(0.81 * q.sigma(t) ** 2 / (0.81 * q.alpha(t) ** 2 + q.sigma(t) ** 2), X)
    seen = v[..., None] * (LOOK @ LOOK.mT) + NOISE**2 * torch.eye(2, dtype=F64)
    want = m + v * (torch.linalg.solve(seen, (Y - m @ LOOK.mT)[..., None])[..., 0] @ LOOK)
    torch.testing.assert_close(got, want, atol=1e-9, rtol=0)
    closed = guidance.condition(guidance.second_order(model, guidance.isotropic(0.9)), LIKELIHOOD)
    torch.testing.assert_close(closed(X, t).mean, want, atol=1e-10, rtol=0)


def test_one_step_is_the_gradient_at_the_mean():
    """K = 1, rate 1: m + v grad r(m), what MPGD and the exponential tilt of a white law do; a linear reward needs one step."""
    model, t = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA), time(0.5)
    q = model.path.schedule
    m, v = model(X, t).mean, 0.81 * q.sigma(t) ** 2 / (0.81 * q.alpha(t) ** 2 + q.sigma(t) ** 2)
    got = proximal(model, LIKELIHOOD, data_std=0.9, steps=1, rate=1.0)(X, t).mean
    torch.testing.assert_close(got, m + v * (Y - m @ LOOK.mT) @ LOOK / NOISE**2, atol=1e-12, rtol=0)
    g = Linear(draws((1, 4), 5))
    for steps in (1, 4):
        got = proximal(model, g, data_std=0.9, steps=steps, rate=1.0)(X, t).mean
        torch.testing.assert_close(got, m + v * g.direction, atol=1e-12, rtol=0)


def test_no_gradient_passes_through_the_network():
    """A denoiser that refuses to be differentiated will do, under no_grad too; if a caller tracks x_t the answer follows it."""
    law = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA)

    def deaf(x, t):
        assert not torch.is_grad_enabled()
        return law(x, t)

    model = type("Deaf", (), {"path": law.path, "__call__": lambda self, x, t: deaf(x, t)})()
    with torch.no_grad():
        got = proximal(model, LIKELIHOOD, data_std=0.9, steps=3, rate=0.1)(X, time(0.5)).mean
    assert not got.requires_grad
    guide = proximal(law, LIKELIHOOD, data_std=0.9, steps=3, rate=0.1)
    torch.testing.assert_close(got, guide(X, time(0.5)).mean, atol=0, rtol=0)
    x = X.clone().requires_grad_()
    (slope,) = torch.autograd.grad(guide(x, time(0.5)).mean.sum(), x)
    bumped = [guide(X + e * torch.eye(4, dtype=F64)[0], time(0.5)).mean.sum(1) for e in (1e-4, -1e-4)]
    torch.testing.assert_close(slope[:, 0], (bumped[0] - bumped[1]) / 2e-4, atol=1e-8, rtol=0)  # affine: rounding only


def test_rewards_that_are_not_quadratic_reach_the_mode():
    """r(x) = -|x|^3 summed: the climb ends where v grad r = x - m."""
    model, t = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA), time(0.5)
    q = model.path.schedule
    v = 0.81 * q.sigma(t) ** 2 / (0.81 * q.alpha(t) ** 2 + q.sigma(t) ** 2)
    x = proximal(model, Reward(lambda x: -x.abs().pow(3).sum(1)), data_std=0.9, steps=500, rate=0.1)(X, t).mean
    torch.testing.assert_close(x - model(X, t).mean, -3 * v * x * x.abs(), atol=1e-10, rtol=0)


@pytest.mark.parametrize(
    ("make", "match", "error"),
    [
        (lambda m: proximal(m, LIKELIHOOD, data_std=1.0, steps=0, rate=0.1), "steps >= 1", PotentialError),
        (lambda m: proximal(m, LIKELIHOOD, data_std=1.0, steps=1, rate=0.0), "rate > 0", PotentialError),
        (lambda m: proximal(m, LIKELIHOOD, data_std=math.nan, steps=1, rate=0.1), "data_std > 0", PotentialError),
        (lambda m: at(m, Reward(lambda x: x)), "one number each", PotentialError),
        (lambda m: at(m, Reward(lambda x: x.detach().round().sum(1))), "particles", PotentialError),
        (lambda m: at(m, replace(LIKELIHOOD, y=LIKELIHOOD.y * math.nan)), "NaN in the measurement", PotentialError),
        (lambda m: at(m, replace(LIKELIHOOD, variance=0 * LIKELIHOOD.variance)), "noise", LawError),
    ],
)
def test_bad_input_is_refused_before_the_first_call(make, match, error):
    model = Counted(gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA))
    with pytest.raises(error, match=match):
        make(model)(X, time(0.5))
    assert model.calls == 0


def at(model, potential):
    return proximal(model, potential, data_std=1.0, steps=1, rate=0.1)


def test_a_good_guide_tries_its_reward_once():
    tries = []
    reward = Reward(lambda x: (tries.append(1), -x.square().sum(1))[1])
    guide = at(Counted(gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), DATA)), reward)
    for _ in range(3):
        guide(X, time(0.5))
    assert len(tries) == 4  # one gradient a call, and one try
    assert guide.denoiser.calls == 3


# ---------------------------------------------------------------- universal guidance (forward)


@dataclass(frozen=True)
class Exponential:
    """log E[exp f(X_0) | x_t] of two linear f under Gaussian data, by dense algebra: the noisy classifier of f."""

    path: Any
    directions: torch.Tensor

    def __call__(self, x_t, t):
        a, v = self.path.schedule.alpha(t), self.path.schedule.sigma(t) ** 2
        gain = a * COV @ torch.linalg.inv(a**2 * COV + v * torch.eye(4, dtype=F64))
        mean, left = MEAN + (x_t - a * MEAN) @ gain.mT, COV - a * gain @ COV
        return mean @ self.directions.mT + 0.5 * ((self.directions @ left) * self.directions).sum(1)


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
def test_universal_guidance_is_classifier_guidance_for_linear_log_likelihoods(clock):
    """F = log c(y | x_0) linear, exact mean: lifting at the mean loses a constant alone, so both steer alike, to rounding."""
    path, t, label = gaussian.Path(SCHEDULES[clock]), time(0.4), torch.tensor([0, 1, 1])
    model, directions = gaussian.Exact(path, DATA), draws((2, 4), 6)
    want = guidance.classifier_guidance(model, Exponential(path, directions), label)(X, t).mean
    f = Reward(lambda x: (x * directions[label]).sum(1))
    got = guidance.twist(guidance.second_order(model, "zero"), f)(X, t).mean
    torch.testing.assert_close(got, want, atol=1e-9, rtol=0)
    torch.testing.assert_close(guidance.twist(model, guidance.at_mean(f))(X, t).mean, want, atol=1e-9, rtol=0)


def test_universal_guidance_is_not_classifier_guidance_for_others():
    """F of a softmax of two labelled Gaussians: the exact noisy classifier differs from the clean one at the mean."""
    law = gaussian.LabelledMixture(mixture(2, k=2), torch.tensor([0, 1]))
    path, x, t, label = gaussian.Path(SCHEDULES["vp"]), draws((3, 2), 7), time(0.5), torch.tensor([0, 1, 1])
    model = gaussian.Exact(path, law.mixture)
    clean = Reward(lambda x_0: law.mixture.posterior(x_0, time(1.0), time(0.0)).log_weights.gather(1, label[:, None])[:, 0])
    exact = guidance.classifier_guidance(model, guidance.ExactClassifier(path, law), label)(x, t).mean
    universal = guidance.twist(guidance.second_order(model, "zero"), clean)(x, t).mean
    assert float((exact - universal).abs().max()) > 0.02


# ---------------------------------------------------------------- a quantised look


@pytest.mark.parametrize("y", [-1.0, 0.0, 2.0])
def test_particles_match_the_grid_posterior_of_a_quantised_look(y):
    """20 bins of the cell y = round(x_0), 40000 weighed particles.

    For 12000 independent draws (the effective size is more) the expected distance is at most sqrt(20 / 12000) / 2 = .021, so
    .05 is passed with probability below exp(-2 * 12000 * .029^2) = 2e-9 (bounded differences); the seed is fixed.
    """
    data = line([0.3, 0.5, 0.2], [-1.2, 0.4, 1.9], [0.3, 0.5, 0.2])
    model = gaussian.Exact(gaussian.Path(SCHEDULES["cosine"]), data)
    cell = Reward(lambda x: torch.where((x[:, 0] - y).abs() <= 0.5, 0.0, -torch.inf).to(x))
    steered = guidance.weigh(model, guidance.monte_carlo(cell, 16, floor=-4.0))
    run = smc(steered, grids.uniform(None, 12), event=(1,), particles=40000, rng=Shared(0), dtype=F64)
    assert float(run.sizes[-1]) > 12000
    edges = torch.linspace(y - 0.5, y + 0.5, 21, dtype=F64)
    below = sum(
        w * torch.special.ndtr((edges - m) / v**0.5) for w, m, v in [(0.3, -1.2, 0.3), (0.5, 0.4, 0.5), (0.2, 1.9, 0.2)]
    )
    mass = below[1:] - below[:-1]
    bins = ((run.x[0, :, 0] - edges[0]) / 0.05).floor().long()
    weights = run.log_weights[0].exp()
    inside = weights > 0
    got = torch.zeros(20, dtype=F64).index_add(0, bins[inside], weights[inside])
    assert float(0.5 * (got - mass / mass.sum()).abs().sum()) < 0.05
    assert float(run.log_evidence[0].exp() / mass.sum()) == pytest.approx(1, abs=0.05)  # standard error below .01
