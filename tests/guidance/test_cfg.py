"""Classifier-free guidance on exact conditional laws: what the scale does is known in closed form."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from undrift import discrete, gaussian, guidance, schedules
from undrift.core import Covariance
from undrift.errors import LabelError, LawError, ShapeError
from undrift.laws import Categorical, Empirical, Mixture, Point
from undrift.networks import MLP

F = torch.float64


def exact_model() -> gaussian.ExactConditional:
    means = torch.tensor([[-2.0, 0.5], [0.0, 1.0], [2.0, -1.0]], dtype=F)
    mixture = Mixture.of(torch.tensor([0.3, 0.3, 0.4], dtype=F), means, Covariance.isotropic(torch.ones(3, dtype=F), 2))
    law = gaussian.LabelledMixture(mixture, torch.tensor([0, 1, 2]))
    return gaussian.ExactConditional(gaussian.Path(schedules.VP()), law, nothing=3)


MODEL = exact_model()


@pytest.fixture
def model() -> gaussian.ExactConditional:
    return MODEL


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


def test_scales_per_sample(model):
    """Every row is what it would be alone under its own scale, at one time and at a time per sample."""
    scales = torch.tensor([0.5, 1.0, 4.0], dtype=F)
    for t in (T, torch.tensor([0.2, 0.5, 0.9], dtype=F)):
        got = guidance.cfg(model, COND, scales)(X, t).mean
        for i, scale in enumerate(scales.tolist()):
            alone = guidance.cfg(model, COND[i : i + 1], scale)(X[i : i + 1], t[i : i + 1] if t.ndim else t).mean
            torch.testing.assert_close(got[i : i + 1], alone, rtol=1e-13, atol=1e-13)


@dataclass(frozen=True)
class CountedModel:
    """A conditional model that notes the size of every call."""

    inner: Any
    sizes: list[int]

    @property
    def path(self):
        return self.inner.path

    def null(self, cond):
        return self.inner.null(cond)

    def given(self, cond):
        return Noted(self.inner.given(cond), self.sizes)


@dataclass(frozen=True)
class Noted:
    """A denoiser that notes the size of every call."""

    inner: Any
    sizes: list[int]

    @property
    def path(self):
        return self.inner.path

    def __call__(self, x_t, t):
        self.sizes.append(len(x_t))
        return self.inner(x_t, t)


@pytest.mark.parametrize(
    ("scale", "sizes"),
    [
        (1.0, [3, 3]),
        (0.0, [3, 3]),
        (2.0, [6, 6]),
        (torch.ones(3), [3, 3]),
        (torch.zeros(()), [3, 3]),
        (torch.tensor([1.0, 1.0, 2.0]), [6, 6]),
        (lambda t: 3.0 if float(t) > 0.5 else 1.0, [6, 3]),
        (lambda t: 2 * (t > 0.5), [6, 3]),
        (lambda t: torch.where(t > 0.5, 1.0, torch.tensor([0.0, 1.0, 2.0])), [3, 6]),
    ],
)
def test_calls_are_counted(model, scale, sizes):
    counted = CountedModel(model, [])
    denoiser = guidance.cfg(counted, COND, scale)
    for t in (0.9, 0.3):
        denoiser(X, torch.tensor(t, dtype=F))
    assert counted.sizes == sizes


def test_a_scale_of_time_is_asked_at_the_float64_time(model):
    """w(t) = 1 + t: every sample at its own time, and float32 times are not used as they come."""
    seen = []

    def scale(t):
        seen.append(t.dtype)
        return 1 + t

    times = torch.tensor([0.2, 0.5, 0.9], dtype=F)
    got = guidance.cfg(model, COND, scale)(X, times).mean
    wanted = guidance.cfg(model, COND, 1 + times)(X, times).mean
    torch.testing.assert_close(got, wanted, rtol=0, atol=0)
    guidance.cfg(model, COND, scale)(X, torch.tensor(0.4))
    assert seen == [F, F]


def test_away_contrasts_with_another_label(model):
    """Score s_y + (w - 1)(s_y - s_z) for a negative label z; scale 0 is then the model of z."""
    away = torch.tensor([0, 1, 2])
    for scale in (0.0, 1.0, 3.0):
        toward, other = (gaussian.score(model.given(c), X, T) for c in (COND, away))
        got = gaussian.score(guidance.cfg(model, COND, scale, away=away), X, T)
        torch.testing.assert_close(got, toward + (scale - 1) * (toward - other), rtol=1e-12, atol=1e-12)


def test_anything_but_a_label(model):
    """Away from z with nothing else asked, in closed form: unit covariances, s = -x + alpha (w Q mu - (w - 1) mu_z)."""
    scale, silent = 2.5, model.null(COND)
    alpha, law = schedules.VP().alpha(T), model.law(silent)
    means = law.means[0]
    q = torch.softmax(law.log_weights[0] - 0.5 * (X[:, None] - alpha * means).square().sum(-1), -1)
    wanted = -X + alpha * (scale * q @ means - (scale - 1) * means[COND])
    got = gaussian.score(guidance.cfg(model, silent, scale, away=COND), X, T)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)


@dataclass(frozen=True)
class Words:
    """Two laws over two-symbol events on a masked path, whole events or site by site; label 2 says nothing."""

    jointly: bool

    @property
    def path(self):
        return discrete.path.masked(3)

    def null(self, cond):
        return torch.full_like(cond, 2)

    def given(self, cond):
        atoms = discrete.exact.enumerate_events(3, 2)
        weights = torch.softmax(torch.from_numpy(np.random.default_rng(5).standard_normal((2, 9))), -1)
        law = torch.cat([weights, weights.mean(0, keepdim=True)])[cond]
        exact = discrete.exact.Exact(self.path, Empirical(law.log(), atoms))
        return exact if self.jointly else discrete.exact.Factorised(exact)


MASKED, AT = torch.tensor([[3, 3], [0, 3], [3, 2]]), torch.tensor([0.4, 0.5, 0.9], dtype=F)
WORDS = torch.tensor([0, 1, 1])


def test_whole_events_of_symbols_are_guided_jointly():
    """Guided weights of whole events are p_y^w p^(1 - w), normalised, among the events that explain the state."""
    model, scales = Words(True), torch.tensor([3.0, 0.5, -1.0], dtype=F)
    for scale in (2.0, scales):
        guided = guidance.cfg(model, WORDS, scale)(MASKED, AT)
        toward, silent = (model.given(c)(MASKED, AT).log_weights.exp() for c in (WORDS, model.null(WORDS)))
        power = scale if isinstance(scale, float) else scale[:, None]
        wanted = torch.where(silent > 0, toward**power * silent ** (1 - power), 0.0)
        torch.testing.assert_close(guided.log_weights.exp(), wanted / wanted.sum(-1, keepdim=True))
    with pytest.raises(LawError, match="over different events"):
        guided.extrapolate(Empirical(guided.log_weights, guided.atoms.flip(0)), 2.0)


def test_symbols_are_guided_site_by_site_through_the_whole_stack():
    model, scales = Words(False), torch.tensor([3.0, 0.5, -1.0], dtype=F)
    guided = guidance.cfg(model, WORDS, scales)(MASKED, AT).probs
    toward, silent = (model.given(c)(MASKED, AT).probs for c in (WORDS, model.null(WORDS)))
    power = scales[:, None, None]
    wanted = torch.where(silent > 0, toward**power * silent ** (1 - power), 0.0)
    torch.testing.assert_close(guided, wanted / wanted.sum(-1, keepdim=True))


def test_what_cannot_be_meant_is_refused(model):
    with pytest.raises(ShapeError, match="one of each per sample"):
        guidance.cfg(model, COND, 2.0, away=COND[:2])
    with pytest.raises(ShapeError, match="one number, or one per sample"):
        guidance.cfg(model, COND, torch.ones(3, 1))
    with pytest.raises(ShapeError, match="2 scales were given for a batch of 3"):
        guidance.cfg(model, COND, torch.tensor([1.0, 2.0]))(X, T)


def test_a_model_without_a_silent_label_may_be_asked_plainly_or_against_another():
    """Only the contrast with nothing needs the condition that says nothing."""

    class Mute(gaussian.ExactConditional):
        def null(self, cond):
            raise LabelError("none")

    mute = Mute(MODEL.path, MODEL.law, nothing=3)
    torch.testing.assert_close(guidance.cfg(mute, COND)(X, T).mean, MODEL.given(COND)(X, T).mean, rtol=0, atol=0)
    guidance.cfg(mute, COND, 2.0, away=COND)(X, T)
    with pytest.raises(LabelError):
        guidance.cfg(mute, COND, 2.0)(X, T)


@pytest.mark.parametrize("scale", [2.0, torch.tensor([0.5, 2.0, 3.0], dtype=F)])
@pytest.mark.parametrize("away", [None, torch.tensor([1, 1, 0])])
def test_rows_follow_their_samples(model, scale, away):
    # Rows in another order and twice: each keeps its label, what it is contrasted with, and its scale.
    which = torch.tensor([2, 0, 2])
    guided = guidance.cfg(model, COND, scale, away=away)
    torch.testing.assert_close(guided.rows(which)(X[which], T).mean, guided(X, T).mean[which], rtol=1e-12, atol=1e-12)
