"""Certifies `guidance.robust`: the worst case against closed forms, against other laws in the ball, and sampled by steering.

float64, no Monte Carlo but fixed designs.
"""

import math

import pytest
import torch
from scipy.optimize import minimize_scalar

from oracles import F64, SCHEDULES, draws, line, normal, propagate, relative, spd, time
from undrift import Ancestral, gaussian, grids
from undrift.errors import PotentialError
from undrift.guidance import Likelihood, Linear, Reward, condition, twist
from undrift.guidance.robust import worst_case
from undrift.laws import Empirical, Point
from undrift.operators import Matrix

MEAN, COV, THETA = draws((3,), 0), spd(3, 1), draws((1, 3), 2)
DATA = normal(MEAN, COV)
SPREAD = float((THETA @ COV @ THETA.mT).sqrt())
DRAWS = draws((40, 3), 3)


def loss(x):
    return x.square().sum(1).sqrt() + x[:, 0].sin()


@pytest.mark.parametrize("radius", [1e-6, 0.1, 1.0, 50.0])
@pytest.mark.parametrize("unit", [1e-6, 1.0, 1e6])
def test_gaussian_and_linear_is_the_closed_form(radius, unit):
    """theta.mu + sqrt(2 rho theta.Sigma theta), lambda = sqrt(theta.Sigma theta / (2 rho)), whatever the loss's unit, to 1e-10.

    lambda is a ratio of the KL's root, whose rounding is of the size of 1e-16 / radius; hence 1e-9 for it at the smallest one.
    """
    worst = worst_case(Linear(unit * THETA), radius, DATA)
    gain = math.sqrt(2 * radius) * SPREAD
    assert worst.value == pytest.approx(unit * (float(THETA[0] @ MEAN) + gain), rel=1e-10)
    assert worst.temperature == pytest.approx(unit * SPREAD / math.sqrt(2 * radius), rel=1e-9)
    assert worst.divergence == pytest.approx(radius, rel=1e-9)
    assert worst.effective_size == math.inf
    torch.testing.assert_close(worst.law.mean[0], MEAN + COV @ THETA[0] * math.sqrt(2 * radius) / SPREAD, rtol=1e-9, atol=1e-10)


def test_the_dual_is_attained_on_a_mixture():
    """Against scipy's minimum of lambda rho + lambda log E exp(loss / lambda), written out for two Gaussians."""
    weights, means, variances, c, radius = [0.3, 0.7], [-1.0, 0.5], [0.4, 0.1], -1.3, 0.7
    worst = worst_case(Linear(time([[c]])), radius, line(weights, means, variances))

    def dual(log_lambda):
        scale = math.exp(log_lambda)
        s = c / scale
        mgf = sum(w * math.exp(s * m + 0.5 * s * s * v) for w, m, v in zip(weights, means, variances, strict=True))
        return scale * (radius + math.log(mgf))

    best = minimize_scalar(dual, bounds=(-6, 6), method="bounded", options={"xatol": 1e-10})
    assert worst.value == pytest.approx(best.fun, abs=1e-12)
    assert math.log(worst.temperature) == pytest.approx(best.x, abs=1e-6)  # a minimum's place is known to half the digits


@pytest.mark.parametrize("radius", [0.01, 0.3, 2.0])
def test_no_law_in_the_ball_is_worse(radius):
    """Q* has the radius and the value it claims; 2000 random reweightings, scaled onto the ball, are no worse."""
    worst = worst_case(loss, radius, DRAWS)
    q, values = worst.law.log_weights[0].exp(), loss(DRAWS)
    assert float((q * (q * 40).log()).sum()) == pytest.approx(radius, rel=1e-10)
    assert worst.divergence == pytest.approx(radius, rel=1e-10)
    assert float(q @ values) == pytest.approx(worst.value, abs=1e-12)
    torch.testing.assert_close(q, torch.softmax(values / worst.temperature, 0), rtol=1e-9, atol=1e-15)
    torch.testing.assert_close(worst.potential(DRAWS), values / worst.temperature)
    assert worst.effective_size == pytest.approx(1 / float(q.square().sum()))
    dual = worst.temperature * (radius + float(torch.logsumexp(values / worst.temperature, 0)) - math.log(40))
    assert dual == pytest.approx(worst.value, abs=1e-10)
    for other in torch.softmax(2 * draws((2000, 40), 4), 1):
        low, high = 0.0, 1.0  # the largest share of `other` that stays in the ball
        for _ in range(30):
            share = 0.5 * (low + high)
            mix = share * other + (1 - share) / 40
            low, high = (share, high) if float((mix * (mix * 40).log()).sum()) <= radius else (low, share)
        assert float((low * other + (1 - low) / 40) @ values) < worst.value


def test_more_and_more_shift_costs_more_and_trusts_fewer_draws():
    found = [worst_case(loss, radius, DRAWS) for radius in (1e-8, 0.1, 1.0, 3.0, 3.6)]
    values, sizes = [w.value for w in found], [w.effective_size for w in found]
    assert values == sorted(values)
    assert sizes == sorted(sizes, reverse=True)
    assert values[0] == pytest.approx(float(loss(DRAWS).mean()), abs=1e-3)
    assert sizes[0] == pytest.approx(40, rel=1e-3)
    assert sizes[-1] < 1.1
    assert values[-1] < float(loss(DRAWS).max())


def test_draws_may_have_weights_and_any_loss_may_be_a_potential():
    """Each draw twice is each draw with twice the weight; a draw of no weight is none, however large its loss."""
    weights = torch.arange(1, 4, dtype=F64) / 6
    atoms = DRAWS[:3]
    twice = worst_case(Reward(loss), 0.2, torch.cat([atoms[:1], atoms[1:2], atoms[1:2], atoms[2:], atoms[2:], atoms[2:]]))
    weighted = worst_case(loss, 0.2, Empirical.of(atoms, weights))
    assert weighted.value == pytest.approx(twice.value, abs=1e-12)
    unseen = Empirical.of(torch.cat([atoms, 100 * DRAWS[3:4]]), torch.cat([weights, torch.zeros(1, dtype=F64)]))
    assert worst_case(loss, 0.2, unseen).value == pytest.approx(weighted.value, abs=1e-12)
    linear = worst_case(Linear(THETA), 0.2, DRAWS)
    assert linear.value == pytest.approx(worst_case(lambda x: x @ THETA[0], 0.2, DRAWS).value, abs=1e-12)


@pytest.mark.parametrize("steer", [condition, twist])
def test_steering_by_the_potential_draws_the_worst_case(steer):
    """The steered model is the worst law's own: by Bayes' rule at any step count, moments propagated; by gradient its mean."""
    worst, path = worst_case(Linear(THETA), 0.5, DATA), gaussian.Path(SCHEDULES["linear_flow"])
    model, x, t = gaussian.Exact(path, DATA), draws((4, 3), 5), time(0.6)
    steered = steer(model, worst.potential)
    shifted = MEAN + COV @ THETA[0] / SPREAD  # sqrt(2 rho) = 1
    torch.testing.assert_close(steered(x, t).mean, gaussian.Exact(path, normal(shifted, COV))(x, t).mean, rtol=1e-9, atol=1e-10)
    if steer is condition:
        for steps in (1, 5):
            grid = grids.uniform(None, steps)
            mean, cov = propagate(steered, Ancestral(), grid, torch.zeros(3, dtype=F64), torch.eye(3, dtype=F64))
            assert relative(mean, shifted) < 1e-9
            assert relative(cov, COV) < 1e-9
        assert float(THETA[0] @ shifted) == pytest.approx(worst.value, abs=1e-10)


def test_the_worst_case_of_draws_steers_their_own_model():
    path = gaussian.Path(SCHEDULES["vp"])
    worst = worst_case(loss, 0.5, DRAWS)
    steered = condition(gaussian.Exact(path, Empirical.of(DRAWS)), worst.potential)
    x, t = draws((4, 3), 5), time([0.1, 0.3, 0.6, 1.0])
    want = gaussian.Exact(path, worst.law)(x, t).log_weights
    torch.testing.assert_close(steered(x, t).log_weights, want, rtol=1e-9, atol=1e-10)


REFUSED = {
    "radius 0": (lambda: worst_case(loss, 0.0, DRAWS), "positive number of nats"),
    "radius below 0": (lambda: worst_case(loss, -1.0, DRAWS), "positive number of nats"),
    "radius NaN": (lambda: worst_case(loss, math.nan, DRAWS), "positive number of nats"),
    "radius infinite": (lambda: worst_case(loss, math.inf, DRAWS), "positive number of nats"),
    "beyond all draws": (lambda: worst_case(loss, 3.7, DRAWS), "all mass on the worst one at 3.689"),
    "two worst draws": (lambda: worst_case(lambda x: (x[:, 0] > 1e9) * 1.0 + (torch.arange(40) < 2), 3.0, DRAWS), "at 2.996"),
    "NaN": (lambda: worst_case(lambda x: torch.where(x[:, 0] > 0, torch.nan, 1.0), 0.1, DRAWS), "NaN or infinite at"),
    "infinite": (lambda: worst_case(lambda x: 1 / (x[:, 0] * 0), 0.1, DRAWS), "at 40 of 40 draws"),
    "shape": (lambda: worst_case(lambda x: x, 0.1, DRAWS), "one number each"),
    "a mean over the batch": (lambda: worst_case(lambda x: x.mean(), 0.1, DRAWS), "never over the batch"),
    "no draws": (lambda: worst_case(loss, 0.1, DRAWS[:0]), "n >= 1"),
    "a constant": (lambda: worst_case(lambda x: torch.ones(40), 0.1, DRAWS), "same everywhere"),
    "no direction": (lambda: worst_case(Linear(0 * THETA), 0.1, DATA), "same everywhere"),
    "no spread": (lambda: worst_case(Linear(THETA), 0.1, Point(MEAN[None])), "same everywhere"),
    "direction NaN": (lambda: worst_case(Linear(THETA * torch.nan), 0.1, DATA), "direction of a linear loss"),
    "not linear": (lambda: worst_case(loss, 0.1, DATA), "give draws"),
    "a likelihood": (lambda: worst_case(Likelihood(Matrix(THETA), time([[0.0]]), time([1.0])), 0.1, DATA), "give draws"),
    "two laws": (lambda: worst_case(Linear(THETA), 0.1, Point(DRAWS[:2])), "one by one"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_has_no_worst_case_is_refused(what):
    ask, message = REFUSED[what]
    with pytest.raises(PotentialError, match=message):
        ask()
