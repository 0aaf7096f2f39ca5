"""Classifier guidance against Bayes' rule on labelled mixtures, where everything is known."""

import pytest
import torch
from torch import nn

from oracles import SCHEDULES, Counted, covariance, draws, run, time
from undrift import discrete, gaussian, grids, guidance, schedules
from undrift.core import Covariance, Shared
from undrift.errors import FamilyError, LabelError, ScheduleError, ShapeError
from undrift.guidance.classifier import LabelEvidence, gradient
from undrift.laws import Affine, Mixture, Point
from undrift.protocols import Denoiser, Objective
from undrift.simulate import sample

F = torch.float64
# Two components share label 1; covariances are full and unequal, so that no formula for isotropic ones passes.
MIXTURE = Mixture.of(time([0.1, 0.2, 0.3, 0.4]), 1.5 * draws((4, 2), 0), covariance("full", 4, 2, 3))
LAW = gaussian.LabelledMixture(MIXTURE, torch.tensor([0, 1, 1, 2]))
X, LABEL = draws((4, 2), 1), torch.tensor([0, 1, 2, 1])
EVERY_CLOCK = pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow", "custom"])
TIMES = [time(0.4), time([0.1, 0.3, 0.6, 0.9])]


def models(clock: str):
    """The unconditional denoiser, the conditional model and the classifier of one law."""
    path = gaussian.Path(SCHEDULES[clock])
    conditional = gaussian.ExactConditional(path, LAW, nothing=3)
    return gaussian.Exact(path, MIXTURE), conditional, guidance.ExactClassifier(path, LAW)


@EVERY_CLOCK
def test_the_exact_classifier_is_bayes_rule_on_marginals(clock):
    """c_t(y | x) = P(y) p_t(x | y) / p_t(x), from the marginal densities of each class; they sum to 1."""
    _, conditional, classifier = models(clock)
    prior = torch.tensor([0.1, 0.5, 0.4], dtype=F).log()
    for t in (time(0.4), time(0.9)):
        alpha, variance = SCHEDULES[clock].alpha(t), SCHEDULES[clock].sigma(t).square()
        kernel = Affine(alpha, torch.zeros(4, 2, dtype=F), variance)
        inside = torch.stack([conditional.law(torch.full((4,), y)).through(kernel).log_prob(X) for y in range(3)], 1)
        joint = prior + inside
        torch.testing.assert_close(classifier(X, t), joint - joint.logsumexp(1, keepdim=True), rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(classifier(X, t).exp().sum(1), torch.ones(4, dtype=F))


@EVERY_CLOCK
@pytest.mark.parametrize("t", TIMES, ids=["one time", "a time each"])
def test_scale_one_is_the_exact_conditional_mean(clock, t):
    free, conditional, classifier = models(clock)
    got = guidance.classifier_guidance(free, classifier, LABEL)(X, t).mean
    torch.testing.assert_close(got, conditional.given(LABEL)(X, t).mean, rtol=1e-9, atol=1e-9)


@EVERY_CLOCK
def test_any_scale_is_the_surveys_score(clock):
    """Score s + (1 + eta) grad log c_t = (1 + eta) s_y - eta s: both guidances are one when exact."""
    free, conditional, classifier = models(clock)
    for scale in (0.0, 0.5, 3.0, -1.0, torch.tensor([0.0, 1.0, 2.0, 5.0], dtype=F), lambda t: 1 + t):
        got = guidance.classifier_guidance(free, classifier, LABEL, scale)(X, TIMES[1]).mean
        wanted = guidance.cfg(conditional, LABEL, scale)(X, TIMES[1]).mean
        torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)


def test_not_a_label_has_the_rest_of_the_probability():
    """A label and its absence sum to 1, also where c is 1 within rounding; and the gradient is that of log(1 - c)."""
    _, _, classifier = models("vp")
    is_it, is_not = LabelEvidence(classifier, LABEL), LabelEvidence(classifier, LABEL, True)
    for x in (X, 8 * MIXTURE.means[0]):
        for t in TIMES:
            torch.testing.assert_close(is_it(x, t).exp() + is_not(x, t).exp(), torch.ones(4, dtype=F), rtol=1e-14, atol=0)
            assert bool(torch.isfinite(is_not(x, t)).all())
    share = is_it(X, time(0.4)).exp()[:, None]
    wanted = -share / (1 - share) * gradient(is_it, X, time(0.4))
    torch.testing.assert_close(gradient(is_not, X, time(0.4)), wanted, rtol=1e-10, atol=1e-10)


def test_steering_away_is_the_exact_law_without_the_label():
    """Scale 1 and negate: the denoiser of the mixture without that label's components."""
    free, _, classifier = models("vp")
    got = guidance.classifier_guidance(free, classifier, LABEL, negate=True)(X, time(0.4)).mean
    for i, y in enumerate(LABEL):
        keep = LAW.labels != y
        weights = MIXTURE.log_weights[0, keep].exp()
        cov = Covariance(MIXTURE.cov.values[0, keep], MIXTURE.cov.tail[0, keep], MIXTURE.cov.basis[0, keep], 2)
        rest = Mixture.of(weights / weights.sum(), MIXTURE.means[0, keep], cov)
        wanted = gaussian.Exact(free.path, rest)(X[i : i + 1], time(0.4)).mean
        torch.testing.assert_close(got[i : i + 1], wanted, rtol=1e-9, atol=1e-9)


def test_samples_have_the_conditional_law():
    """Ancestral DDIM flow under guidance at scale 1 is the flow of the conditional: same start, same end."""
    free, conditional, classifier = models("vp")
    grid = grids.uniform(None, 12, 1.0, 0.01)
    got = run(guidance.classifier_guidance(free, classifier, LABEL), gaussian.DDIM(), grid, X)
    torch.testing.assert_close(got, run(conditional.given(LABEL), gaussian.DDIM(), grid, X), rtol=1e-8, atol=1e-8)


def test_it_works_without_gradients_and_can_be_nested():
    """Under no_grad the answer is cut off; a caller's own graph through x_t is kept and the Jacobian is that of the law."""
    free, conditional, classifier = models("vp")
    guided, t = guidance.classifier_guidance(free, classifier, LABEL), time(0.4)
    with torch.no_grad():
        cut = guided(X, t).mean
    assert not cut.requires_grad
    assert not X.requires_grad
    leaf = X.clone().requires_grad_()
    x = 2 * leaf  # no leaf: the graph behind the state must survive, and be walked
    v = draws((4, 2), 7)
    (got,) = torch.autograd.grad(guided(x, t).mean, leaf, v)
    other = X.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(conditional.given(LABEL)(2 * other, t).mean, other, v)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    with torch.no_grad():  # a state that requires a gradient, inside somebody's no_grad
        assert not guided(x, t).mean.requires_grad
    drawn = sample(guided, gaussian.DDIM(), grids.uniform(None, 4), (4, 2), seed=0, dtype=F)
    assert not drawn.requires_grad


def test_guides_nest_like_evidence_multiplies():
    """Two classifiers, one inside the other, add their gradients: the second is asked at the same x_t."""
    free, _, classifier = models("vp")
    inner = guidance.classifier_guidance(free, classifier, LABEL, 0.5)
    both = guidance.classifier_guidance(inner, classifier, LABEL, 1.5)(X, time(0.4)).mean
    torch.testing.assert_close(both, guidance.classifier_guidance(free, classifier, LABEL, 2.0)(X, time(0.4)).mean)


def test_scale_zero_asks_no_classifier():
    free, _, classifier = models("vp")
    counted = Counted(classifier)
    guidance.classifier_guidance(free, counted, LABEL, guidance.Interval(2.0, 0.5, 1.0))(X, time(0.4))
    assert counted.calls == 1  # 1 outside an interval is Bayes' rule, not silence
    guidance.classifier_guidance(free, counted, LABEL, lambda t: 0.0)(X, time(0.4))
    assert counted.calls == 1
    assert isinstance(guidance.classifier_guidance(free, counted, LABEL), Denoiser)


class Linear(nn.Module):
    """Logits quadratic in the input and free in the noise label: holds Bayes' rule for Gaussian classes at fixed noise."""

    def __init__(self, classes: int):
        super().__init__()
        self.table = nn.Parameter(torch.zeros(6, classes, dtype=F))
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []

    def forward(self, x, noise):
        self.seen.append((x.detach(), noise))
        features = [torch.ones_like(x[:, 0]), x[:, 0], x[:, 1], x[:, 0] ** 2, x[:, 1] ** 2, x[:, 0] * x[:, 1]]
        return torch.stack(features, 1) @ self.table


@EVERY_CLOCK
def test_a_network_is_told_unit_variance_and_the_noise_level(clock):
    """The input is x / sqrt(alpha^2 std^2 + sigma^2) and the label that of `NetDenoiser`: equal on every clock."""
    net, std = Linear(3), 1.7
    schedule = SCHEDULES[clock]
    t = schedule.time(time([3.0, 0.5, -1.0, -2.0]))
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    clean, z = draws((4, 2), 3), draws((4, 2), 4)
    guidance.NoisyClassifier(net, gaussian.Path(schedule), std)(alpha[:, None] * clean + sigma[:, None] * z, t)
    inputs, label = net.seen[0]
    level = (sigma / alpha)[:, None]
    torch.testing.assert_close(inputs, (clean + level * z) / (std**2 + level**2).sqrt(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(label, gaussian.noise_label(time([3.0, 0.5, -1.0, -2.0])), rtol=1e-9, atol=1e-9)
    one = guidance.NoisyClassifier(net, gaussian.Path(schedule), std)(X, t[0])
    torch.testing.assert_close(one, guidance.NoisyClassifier(net, gaussian.Path(schedule), std)(X, t[:1].expand(4)))


def test_training_by_cross_entropy_finds_bayes_rule():
    """At one noise level Bayes' rule of Gaussian classes is quadratic, so the fitted table must be it, within noise.

    n = 4000 draws, 6 numbers that matter: 2 n times the divergence from the truth is chi-squared of 6 degrees, and 0.006 is
    beyond its 1 - 1e-7 quantile.
    """
    mixture = Mixture.of(time([0.3, 0.7]), draws((2, 2), 5), covariance("full", 2, 2, 6))
    law = gaussian.LabelledMixture(mixture, torch.tensor([0, 1]))
    path, n, t = gaussian.Path(schedules.VP()), 4000, time(0.2)
    rng = Shared(1)
    labels = (rng.uniform((n,), dtype=F) > 0.3).long()
    data = law(labels).sample(rng)
    net = Linear(2)
    classifier, loss = guidance.NoisyClassifier(net, path, 1.0), guidance.CrossEntropy()
    assert isinstance(loss, Objective)
    optimiser = torch.optim.LBFGS(classifier.modules()[0].parameters(), max_iter=60, line_search_fn="strong_wolfe")

    def closure():
        optimiser.zero_grad()
        value = loss(classifier.given(labels), data, t, Shared(2)).mean()
        value.backward()
        return value

    optimiser.step(closure)
    per_sample = loss(classifier.given(labels), data, t, Shared(2))
    assert per_sample.shape == (n,)
    x_t = path.corrupt(data, time(0.0), t).sample(Shared(3))
    truth, found = guidance.ExactClassifier(path, law)(x_t, t), classifier(x_t, t).detach()
    assert float((truth.exp() * (truth - found)).sum(1).mean()) < 0.006
    free = gaussian.Exact(path, law.mixture)
    learned, exact, plain = (
        guidance.classifier_guidance(free, judge, labels, scale)(x_t, t).mean
        for judge, scale in ((classifier, 2.0), (guidance.ExactClassifier(path, law), 2.0), (classifier, 0.0))
    )
    # Of n = 4000 draws the fit knows a gradient to a few per cent; a wrong sign is off by 200 per cent, a factor 2 by 50.
    assert float((learned - exact).norm() / (exact - plain).norm()) < 0.2


def test_the_loss_is_the_negative_log_probability_in_nats():
    path = gaussian.Path(schedules.VP())
    evidence = LabelEvidence(guidance.ExactClassifier(path, LAW), LABEL)
    t, z = time([0.1, 0.3, 0.6, 0.9]), Shared(4).normal((4, 2), dtype=F)
    x_t = path.schedule.alpha(t)[:, None] * X + path.schedule.sigma(t)[:, None] * z
    wanted = -guidance.ExactClassifier(path, LAW)(x_t, t)[torch.arange(4), LABEL]
    torch.testing.assert_close(guidance.CrossEntropy()(evidence, X, t, Shared(4)), wanted)


def test_what_cannot_be_meant_is_refused():
    free, _, classifier = models("vp")
    with pytest.raises(FamilyError, match=r"NoisyClassifier\(net, denoiser.path"):
        guidance.classifier_guidance(free, models("edm")[2], LABEL)
    symbols = type("Symbols", (), {"path": discrete.path.masked(3), "__call__": lambda self, x, t: x})()
    with pytest.raises(FamilyError, match="guide symbols with cfg"):
        guidance.classifier_guidance(symbols, classifier, LABEL)
    with pytest.raises(LabelError, match="integers 0, 1"):
        guidance.classifier_guidance(free, classifier, LABEL.double())
    with pytest.raises(LabelError, match="labels 0 to 2, and was asked for 3"):
        guidance.classifier_guidance(free, classifier, torch.tensor([0, 1, 2, 3]))(X, time(0.4))
    with pytest.raises(ShapeError, match="2 labels for a batch of 4"):
        guidance.classifier_guidance(free, classifier, LABEL[:2])(X, time(0.4))
    linear, _, its = models("linear_flow")
    with pytest.raises(ScheduleError, match="just below t = 1"):
        guidance.classifier_guidance(linear, its, LABEL)(X, time(1.0))
    with pytest.raises(ShapeError, match="logits of shape"):
        guidance.NoisyClassifier(lambda x, noise: x[:, 0], free.path, 1.0)(X, time(0.4))


def test_a_guided_mean_is_a_point():
    free, _, classifier = models("vp")
    assert type(guidance.classifier_guidance(free, classifier, LABEL, 2.0)(X, time(0.4))) is Point
