"""Score matching: the regression's minimiser is the score, and its forms differ by a constant.

Certified: L1, L3, and the weights. Expectations are sums over designs whose moments are exact, so nothing is estimated.
"""

import math

import pytest
import torch

from oracles import F64, SCHEDULES, Fixed, draws, hermite, line, normal, relative, spd, time
from undrift import gaussian, schedules
from undrift.core import PerSample, Shared
from undrift.errors import HeadError, ShapeError
from undrift.gaussian.objectives import corrupted, weight_between

DIM = 3
COV = spd(DIM, 3, 0.3, 1.8)


class Linear(torch.nn.Module):
    """x -> W x, with the input scale of the wrapper undone so that the denoiser sees W itself."""

    def __init__(self, weight, scale):
        super().__init__()
        self.weight, self.scale = weight, scale

    def forward(self, x, noise):
        return (x / self.scale) @ self.weight.mT


def design(cov):
    """Pairs (x_0, z) whose second moments are exactly those of N(0, cov) and N(0, I), uncorrelated: 4d points."""
    d = cov.shape[0]
    points = math.sqrt(2 * d) * torch.eye(2 * d, dtype=F64)
    points = torch.cat([points, -points])
    return points[:, :d] @ torch.linalg.cholesky(cov).mT, points[:, d:]


def linear(clock, t, head, weight):
    path = gaussian.Path(SCHEDULES[clock])
    alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
    return gaussian.NetDenoiser(Linear(weight, 1 / (alpha**2 + sigma**2).sqrt()), path, head, span=(0.0, 0.9))


@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow", "custom"])
@pytest.mark.parametrize("head", gaussian.HEADS)
def test_linear_score_on_a_gaussian_is_recovered(clock, head):
    # L3. The loss is quadratic in W, so one Newton step from 0 is its minimiser; whatever the head, the denoiser it makes
    # has the score -(alpha^2 C + sigma^2 I)^-1 x. 1e-9: the Hessian's conditioning; the row asks for 1e-3.
    t, (x_0, z) = time(0.3), design(COV)

    def loss(flat):
        denoiser = linear(clock, t, head, flat.reshape(DIM, DIM))
        return gaussian.Regression()(denoiser, x_0, t, Fixed(z)).mean()

    zero = torch.zeros(DIM * DIM, dtype=F64, requires_grad=True)
    gradient = torch.autograd.grad(loss(zero), zero)[0]
    hessian = torch.autograd.functional.hessian(loss, zero.detach())
    best = -torch.linalg.solve(hessian, gradient).reshape(DIM, DIM)
    x = torch.eye(DIM, dtype=F64)
    schedule = SCHEDULES[clock]
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    want = -torch.linalg.inv(alpha**2 * COV + sigma**2 * torch.eye(DIM, dtype=F64))
    # sigma = 24 on EDM: x_0 is a difference of numbers that much larger, squared by the Newton system
    assert relative(gaussian.score(linear(clock, t, head, best), x, t), want) < 1e-9 * max(1.0, sigma**2)


class Tanh(torch.nn.Module):
    """A small non-linear network."""

    def __init__(self, seed):
        super().__init__()
        self.first, self.second = draws((1, 8), seed), draws((8, 1), seed + 1)

    def forward(self, x, noise):
        return torch.tanh(x @ self.first + noise[:, None]) @ self.second


@pytest.mark.parametrize("clock", ["vp", "edm", "cosine"])
@pytest.mark.parametrize("head", gaussian.HEADS)
def test_denoising_and_explicit_differ_by_a_constant(head, clock):
    # Vincent 2011: E DSM - E ESM does not depend on the network, here non-linear, the data a mixture. Both expectations are
    # Gauss-Hermite sums of 60 x 60 nodes per component. The constant itself is E |s - s(x|x_0)|^2 = 1/sigma^2 - E s^2.
    law = line([0.3, 0.7], [-1.0, 0.8], [0.15, 0.3])
    schedule, t = SCHEDULES[clock], time(0.02 if clock == "edm" else 0.4)
    path = gaussian.Path(schedule)
    node, weight = hermite(60)
    x_0 = (law.means[0, :, 0, None] + law.cov.values[0] ** 0.5 * node)[..., None].expand(2, 60, 60).reshape(-1, 1)
    z = node.expand(2, 60, 60).reshape(-1, 1)
    joint = (law.log_weights[0].exp()[:, None, None] * weight[:, None] * weight).reshape(-1)
    truth = gaussian.Exact(path, law)
    gaps = []
    for seed in range(4):
        model = gaussian.NetDenoiser(Tanh(10 * seed), path, head, span=(0.0, 0.9))
        denoising = gaussian.Regression()(model, x_0, t, Fixed(z)) * weight_between(schedule, t, head, "score")
        explicit = gaussian.ExplicitScoreMatching(truth)(model, x_0, t, Fixed(z))
        gaps.append(float((joint * (denoising - explicit)).sum()))
    x_t = float(schedule.alpha(t)) * x_0 + float(schedule.sigma(t)) * z
    fisher = float((joint * gaussian.score(truth, x_t, t)[:, 0] ** 2).sum())
    constant = 1 / float(schedule.sigma(t)) ** 2 - fisher
    assert all(math.isclose(gap, constant, rel_tol=1e-6) for gap in gaps), (gaps, constant)


def test_explicit_loss_of_the_truth_is_zero():
    path, law = gaussian.Path(schedules.VP()), normal(draws((DIM,), 1), COV)
    truth = gaussian.Exact(path, law)
    loss = gaussian.ExplicitScoreMatching(truth)(truth, draws((4, DIM), 2), time([0.1, 0.2, 0.5, 1.0]), Shared(0))
    assert float(loss.abs().max()) == 0


def test_exact_denoiser_beats_any_other_in_its_own_loss():
    # The regression of `Exact.error` is E|X_0 - mean|^2: equal to the posterior variance, averaged; exact on the design.
    path, t = gaussian.Path(schedules.VP()), time(0.4)
    truth = gaussian.Exact(path, normal(torch.zeros(DIM, dtype=F64), COV))
    x_0, z = design(COV)
    loss = float(gaussian.Regression()(truth, x_0, t, Fixed(z)).mean())
    assert math.isclose(loss, float(truth(x_0[:1], t).covariance()[0].trace()) / DIM, rel_tol=1e-12)


@pytest.mark.parametrize("clock", SCHEDULES)
def test_weights_are_their_formulas(clock):
    schedule = SCHEDULES[clock]
    for value in (0.01, 0.4, 0.95):
        t, h = time(value), 1e-6
        alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
        up, down = time(value + h), time(value - h)
        drift = float(schedule.alpha(up).log() - schedule.alpha(down).log()) / (2 * h)
        diffusion = float(schedule.sigma(up) ** 2 - schedule.sigma(down) ** 2) / (2 * h) - 2 * drift * sigma**2
        want = {
            "unit": 1.0,
            "noise_variance": sigma**2,
            "snr": alpha**2 / sigma**2,
            "min_snr": min(alpha**2 / sigma**2, 5.0),
            "likelihood": diffusion,
        }
        assert set(want) == set(gaussian.WEIGHTS)
        for name, function in gaussian.WEIGHTS.items():  # 1e-6: the difference quotient of `likelihood`
            assert math.isclose(float(function(schedule, t)), want[name], rel_tol=1e-10 if name != "likelihood" else 1e-6)


@pytest.mark.parametrize("weight", gaussian.WEIGHTS)
def test_weight_multiplies_the_loss_of_each_sample(weight):
    path, t = gaussian.Path(schedules.VP()), time([0.1, 0.5, 0.9])
    model = gaussian.NetDenoiser(lambda x, noise: x.cos(), path, "v")
    batch = draws((3, 2, 2), 1)
    plain, weighted = (gaussian.Regression(w)(model, batch, t, Shared(3)) for w in ("unit", weight))
    assert relative(weighted, plain * gaussian.WEIGHTS[weight](path.schedule, t)) < 1e-14
    truth = gaussian.Exact(path, normal(torch.zeros(4, dtype=F64), spd(4, 1)))
    flat = gaussian.NetDenoiser(lambda x, noise: x.cos(), path, "v")
    one, other = (gaussian.ExplicitScoreMatching(truth, w)(flat, batch.flatten(1), t, Shared(3)) for w in ("unit", weight))
    assert relative(other, one * gaussian.WEIGHTS[weight](path.schedule, t)) < 1e-14


@pytest.mark.parametrize("other", gaussian.HEADS)
@pytest.mark.parametrize("head", gaussian.HEADS)
def test_weight_between_turns_one_loss_into_the_other(head, other):
    # One denoiser written in two heads: the same x_0 whatever the head, so the losses differ by the weight alone.
    path, t = gaussian.Path(schedules.Cosine()), time([0.05, 0.4, 0.8])
    batch, std = draws((3, 4), 1), 0.6
    guess = draws((3, 4), 2)

    def loss(name):
        row = gaussian.Head(name, path.schedule, std, (0.0, 0.9))
        x_t, _ = corrupted(path, batch, t, Shared(5))
        y = row.target(guess, x_t, t)
        model = gaussian.NetDenoiser(lambda x, noise: y, path, name, std, span=(0.0, 0.9))
        return gaussian.Regression()(model, batch, t, Shared(5))

    ratio = weight_between(path.schedule, t, head, other, std)
    assert relative(loss(head) * ratio, loss(other)) < 1e-10


def test_loss_is_per_sample_and_rows_do_not_meet():
    path, t = gaussian.Path(schedules.VP()), time([0.1, 0.5, 0.9, 0.2])
    model = gaussian.NetDenoiser(lambda x, noise: x.sin() + noise[:, None], path, "eps")
    batch = draws((4, 3), 1)
    loss = gaussian.Regression()(model, batch, t, PerSample(0, 4))
    assert loss.shape == (4,)
    for i in range(4):
        alone = gaussian.Regression()(model, batch[i : i + 1], t[i : i + 1], PerSample(0, [i]))
        assert relative(loss[i : i + 1], alone) < 1e-14
    jacobian = torch.autograd.functional.jacobian(lambda b: gaussian.Regression()(model, b, t, PerSample(0, 4)), batch)
    for i in range(4):
        jacobian[i, i] = 0
    assert float(jacobian.abs().max()) == 0


def test_simple_loss_is_ddpms():
    # Head eps, weight 1: mean over coordinates of |eps - eps_theta(sqrt(abar) x_0 + sqrt(1 - abar) eps)|^2.
    path, t, x_0, z = gaussian.Path(schedules.VP()), time(0.3), draws((5, 3), 1), draws((5, 3), 2)
    bar = math.exp(-(0.1 * 0.3 + 0.5 * 19.9 * 0.09))
    model = gaussian.NetDenoiser(lambda x, noise: x.cos(), path, "eps")
    want = (z - (math.sqrt(bar) * x_0 + math.sqrt(1 - bar) * z).cos()).square().mean(1)
    assert relative(gaussian.Regression()(model, x_0, t, Fixed(z)), want) < 1e-12


def test_unknown_weight_is_refused_with_the_list():
    with pytest.raises(HeadError, match="likelihood, min_snr"):
        gaussian.Regression("snr5")


def test_unknown_explicit_weight_is_refused_with_the_list():
    truth = gaussian.Exact(gaussian.Path(schedules.VP()), normal(torch.zeros(2, dtype=F64), spd(2, 1)))
    with pytest.raises(HeadError, match="likelihood, min_snr"):
        gaussian.ExplicitScoreMatching(truth, "snr5")


def test_times_of_another_batch_are_refused():
    model = gaussian.NetDenoiser(lambda x, noise: x, gaussian.Path(schedules.VP()), "v")
    with pytest.raises(ShapeError, match=r"one per sample, shape \(4,\)"):
        gaussian.Regression()(model, draws((4, 3), 0), time([0.1, 0.2]), Shared(0))


def test_no_target_without_noise():
    model = gaussian.NetDenoiser(lambda x, noise: x, gaussian.Path(schedules.VP()), "v")
    with pytest.raises(HeadError, match="early stop"):
        gaussian.Regression()(model, draws((4, 3), 0), time(0.0), Shared(0))


def test_conditional_regression_finds_the_conditional_score():
    # L13: with labels the minimiser is the score given the label. A table network (one constant per label) on a two-point
    # mixture learns the mean of each component, in head x0: the average of x_0 given the label.
    path, t = gaussian.Path(schedules.VP()), time(0.9)
    means = time([[-2.0], [3.0]])
    table = torch.zeros(2, dtype=F64, requires_grad=True)
    label = torch.tensor([0, 1, 0, 1])
    model = gaussian.NetDenoiser(lambda x, noise, cond: table[cond][:, None], path, "x0").given(label)
    batch = means[label] + time([[0.3], [0.2], [-0.3], [-0.2]])
    loss = gaussian.Regression()(model, batch, t, Shared(0)).mean()
    gradient = torch.autograd.grad(loss, table)[0]
    assert relative(-gradient, means[:, 0]) < 1e-12  # Hessian is the identity: -gradient at 0 is the minimiser
