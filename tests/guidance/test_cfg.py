"""Classifier-free guidance on exact conditional laws: what the scale does is known in closed form."""

import pytest
import torch

from undrift import gaussian, guidance, schedules
from undrift.core import Covariance
from undrift.errors import ShapeError
from undrift.laws import Categorical, Mixture, Point
from undrift.networks import MLP

F = torch.float64


@pytest.fixture
def model() -> gaussian.ExactConditional:
    means = torch.tensor([[-2.0, 0.5], [0.0, 1.0], [2.0, -1.0]], dtype=F)
    mixture = Mixture.of(torch.tensor([0.3, 0.3, 0.4], dtype=F), means, Covariance.isotropic(torch.ones(3, dtype=F), 2))
    law = gaussian.LabelledMixture(mixture, torch.tensor([0, 1, 2]))
    return gaussian.ExactConditional(gaussian.Path(schedules.VP()), law, nothing=3)


X = torch.tensor([[0.3, -1.0], [1.5, 0.2], [-0.7, 0.9]], dtype=F)
T = torch.tensor(0.4, dtype=F)
COND = torch.tensor([2, 0, 1])


@pytest.mark.parametrize(("scale", "cond"), [(1.0, COND), (0.0, torch.full((3,), 3))])
def test_scale_one_is_conditional_and_zero_unconditional(model, scale, cond):
    torch.testing.assert_close(guidance.cfg(model, COND, scale)(X, T).mean, model.given(cond)(X, T).mean, rtol=0, atol=0)


@pytest.mark.parametrize("scale", [-1.0, 0.5, 2.0, 7.5])
def test_guided_score_is_the_surveys_formula(model, scale):
    """Survey, eq. 17 with eta = w - 1: (1 + eta) s(x, y) - eta s(x, nothing), per sample and for per-sample times."""
    eta = scale - 1
    for t in (T, torch.tensor([0.2, 0.5, 0.9], dtype=F)):
        asked, silent = (gaussian.score(model.given(c), X, t) for c in (COND, torch.full((3,), 3)))
        wanted = (1 + eta) * asked - eta * silent
        torch.testing.assert_close(gaussian.score(guidance.cfg(model, COND, scale), X, t), wanted, rtol=1e-12, atol=1e-12)


def test_guided_score_of_an_isotropic_mixture_in_closed_form(model):
    """Wu et al. 2024: s = -(x - alpha mu_y) + eta alpha (mu_y - sum_k q_k mu_k) for unit covariances on a VP path."""
    eta, schedule = 1.5, schedules.VP()
    alpha, law = schedule.alpha(T), model.law(torch.full((3,), 3))
    means, weights = law.means[0], law.log_weights[0]
    q = torch.softmax(weights - 0.5 * (X[:, None] - alpha * means).square().sum(-1), -1)
    wanted = -(X - alpha * means[COND]) + eta * alpha * (means[COND] - q @ means)
    torch.testing.assert_close(gaussian.score(guidance.cfg(model, COND, 1 + eta), X, T), wanted, rtol=1e-10, atol=1e-10)


def test_one_doubled_call_of_the_network():
    calls = []
    net = MLP(2, width=16, classes=3)
    torch.nn.init.normal_(net.state_dict(keep_vars=True)[list(net.state_dict())[-1]], std=1.0)
    net.register_forward_hook(lambda module, inputs, output: calls.append(len(output)))
    model = gaussian.NetDenoiser(net.double(), gaussian.Path(schedules.EDM()), "edm")
    guidance.cfg(model, COND, 3.0)(X, T)
    assert calls == [6]
    guidance.cfg(model, COND, 1.0)(X, T)
    assert calls == [6, 3]


def test_wrong_batch_is_named(model):
    with pytest.raises(ShapeError, match="2 conditions for a batch of 3; give one per sample"):
        guidance.cfg(model, COND[:2], 2.0)(X, T)


def test_symbols_are_guided_in_their_log_probabilities():
    asked, silent = (Categorical(torch.log_softmax(torch.randn(4, 2, 3, dtype=F), -1)) for _ in range(2))
    guided = asked.extrapolate(silent, 2.0).probs
    wanted = asked.probs.square() / silent.probs
    torch.testing.assert_close(guided, wanted / wanted.sum(-1, keepdim=True))


def test_a_guided_mean_is_a_point(model):
    assert type(guidance.cfg(model, COND, 2.0)(X, T)) is Point


def test_symbols_that_cannot_be_stay_impossible():
    """On a masked path the clean end is never the mask; guidance must not turn -inf - -inf into NaN."""
    asked = Categorical.from_probabilities(torch.tensor([[[0.2, 0.8, 0.0]]], dtype=F))
    silent = Categorical.from_probabilities(torch.tensor([[[0.5, 0.5, 0.0]]], dtype=F))
    guided = asked.extrapolate(silent, 2.0).probs
    torch.testing.assert_close(guided, torch.tensor([[[0.04, 0.64, 0.0]]], dtype=F) / 0.68)


def test_a_scale_needs_the_right_number_of_conditions_at_one_and_zero_too():
    net = MLP(2, width=16, classes=3).double()
    model = gaussian.NetDenoiser(net, gaussian.Path(schedules.EDM()), "edm")
    for scale in (0.0, 1.0):
        with pytest.raises(ShapeError, match="2 conditions were given for a batch of 3"):
            guidance.cfg(model, COND[:2], scale)(X, T)


def test_a_model_moved_to_another_clock_is_still_guided(model):
    """VP moved to EDM: at equal log-SNR the guided mean is the same for x and x / alpha, whatever the scale."""
    edm = gaussian.Path(schedules.EDM())
    t = edm.schedule.time(model.path.schedule.log_snr(T))
    there = guidance.cfg(model.on(edm), COND, 2.5)
    wanted = guidance.cfg(model, COND, 2.5)(X, T).mean
    torch.testing.assert_close(there(X / model.path.schedule.alpha(T), t).mean, wanted, rtol=1e-10, atol=1e-10)
