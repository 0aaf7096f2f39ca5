"""Conditional laws: noise x alone, keep y; the exact law given y is generated, moments and all.

Certified: P15 for a joint Gaussian at five observations, and for mixtures whose components carry labels.
"""

import pytest
import torch

from oracles import F64, dense_log_prob, dense_score, draws, mixture, normal, propagate, relative, spd, time
from undrift import gaussian, grids, schedules
from undrift.core import Covariance
from undrift.errors import LabelError
from undrift.laws import Mixture
from undrift.simulate import Ancestral

D, K = 2, 3
JOINT = gaussian.JointGaussian(draws((D + K,), 1), spd(D + K, 2, 0.1, 3.0), D)
LOOKS = 2 * draws((5, K), 3)


def by_precision(y):
    """Mean and covariance of x given y through the precision matrix: another formula than the library's."""
    precision = torch.linalg.inv(JOINT.covariance)
    cov = torch.linalg.inv(precision[:D, :D])
    return JOINT.mean[:D] - cov @ precision[:D, D:] @ (y - JOINT.mean[D:]), cov


def test_law_given_y():
    law = JOINT(LOOKS)
    for i, y in enumerate(LOOKS):
        mean, cov = by_precision(y)
        assert relative(law.mean[i], mean) < 1e-11
        assert relative(law.covariance()[0], cov) < 1e-11


@pytest.mark.parametrize("steps", [1, 2, 5, 200])
@pytest.mark.parametrize("look", range(5))
def test_generated_law_given_y_is_exact(look, steps):
    # From the prior itself (Cosine ends at alpha = 0, so the prior is exact) to the data, by exact moment propagation.
    model = gaussian.ExactConditional(gaussian.Path(schedules.Cosine()), JOINT, nothing=0.0)
    denoiser = model.given(LOOKS[look : look + 1])
    start = torch.zeros(D, dtype=F64), torch.eye(D, dtype=F64)
    mean, cov = propagate(denoiser, Ancestral(), grids.uniform(None, steps), *start)
    want_mean, want_cov = by_precision(LOOKS[look])
    assert relative(mean, want_mean) < 1e-10
    assert relative(cov, want_cov) < 1e-10


def test_score_given_y_is_the_gradient_of_the_joint():
    # grad_x log p_t(x | y) = grad_x log p_t(x, y): corrupting x alone scales and adds noise in the block of x only.
    path, t = gaussian.Path(schedules.VP()), time(0.4)
    alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
    scale = torch.cat([alpha.expand(D), torch.ones(K, dtype=F64)])
    cov = scale[:, None] * JOINT.covariance * scale + torch.diag(
        torch.cat([sigma.square().expand(D), torch.zeros(K, dtype=F64)])
    )
    x = draws((5, D), 4)
    score = -torch.linalg.solve(cov, (torch.cat([x, LOOKS], 1) - scale * JOINT.mean).mT).mT[:, :D]
    got = gaussian.score(gaussian.ExactConditional(path, JOINT, 0.0).given(LOOKS), x, t)
    assert relative(got, score) < 1e-11


LABELS = torch.tensor([0, 1, 0, 2])
MIXTURE = mixture(2, "full", 4, seed=3)
LABELLED = gaussian.LabelledMixture(MIXTURE, LABELS)


def part(label):
    """The components of a label, renormalised by hand."""
    keep = (label == LABELS) if label < 3 else torch.ones(4, dtype=torch.bool)
    weights = MIXTURE.log_weights[0, keep].exp()
    return Mixture.of(weights / weights.sum(), MIXTURE.means[0, keep], Covariance.full(MIXTURE.cov.dense()[0, keep]))


@pytest.mark.parametrize("label", [0, 1, 2, 3])
def test_law_given_a_label_is_its_components_renormalised(label):
    path, t, x = gaussian.Path(schedules.VP()), time(0.3), 2 * draws((6, 2), 5)
    alpha, sigma = float(path.schedule.alpha(t)), float(path.schedule.sigma(t))
    model = gaussian.ExactConditional(path, LABELLED, nothing=LABELLED.classes)
    denoiser = model.given(torch.full((6,), label))
    assert relative(gaussian.score(denoiser, x, t), dense_score(part(label), alpha, sigma, x)) < 1e-9
    assert relative(denoiser.marginal(t).log_prob(x), dense_log_prob(part(label), alpha, sigma, x)) < 1e-10


def test_saying_nothing_is_the_unconditional_law():
    path, t, x = gaussian.Path(schedules.VP()), time(0.3), draws((6, 2), 5)
    model = gaussian.ExactConditional(path, LABELLED, nothing=LABELLED.classes)
    cond = torch.tensor([0, 1, 2, 0, 1, 2])
    plain = gaussian.Exact(path, MIXTURE)(x, t).mean
    assert relative(model.given(model.null(cond))(x, t).mean, plain) < 1e-13
    assert relative(model.given(cond)(x, t).mean, plain) > 0.1


def test_bayes_rule_of_scores():
    # grad log p_t(x | c) = grad log p_t(x) + grad log P(c | x_t), the classifier from the oracle's two densities.
    path, t = gaussian.Path(schedules.Cosine()), time(0.5)
    alpha, sigma = float(path.schedule.alpha(t)), float(path.schedule.sigma(t))
    x = draws((6, 2), 5).requires_grad_()
    evidence = dense_log_prob(part(0), alpha, sigma, x) - dense_log_prob(MIXTURE, alpha, sigma, x)
    gradient = torch.autograd.grad(evidence.sum(), x)[0]
    x = x.detach()
    conditional = gaussian.Exact(path, LABELLED(torch.zeros(6, dtype=torch.long)))
    total = gaussian.score(gaussian.Exact(path, MIXTURE), x, t) + gradient
    assert relative(gaussian.score(conditional, x, t), total) < 1e-10


@pytest.mark.parametrize("steps", [1, 5, 50])
def test_generated_law_given_a_label_is_exact(steps):
    # Label 1 has one component, so its law is Gaussian and its moments propagate exactly.
    law = LABELLED(torch.tensor([1]))
    denoiser = gaussian.Exact(gaussian.Path(schedules.LinearFlow()), law)
    start = torch.zeros(2, dtype=F64), torch.eye(2, dtype=F64)
    mean, cov = propagate(denoiser, Ancestral(), grids.uniform(None, steps), *start)
    assert relative(mean, MIXTURE.means[0, 1]) < 1e-10
    assert relative(cov, MIXTURE.cov.dense()[0, 1]) < 1e-10


@pytest.mark.parametrize("label", [-1, 4])
def test_unknown_labels_are_refused_with_those_that_exist(label):
    with pytest.raises(LabelError, match="from 0 to 2, and 3 says nothing"):
        LABELLED(torch.tensor([0, label]))


def test_conditions_keep_to_their_rows():
    path, t, x = gaussian.Path(schedules.VP()), time(0.3), draws((5, D), 5)
    together = gaussian.ExactConditional(path, JOINT, 0.0).given(LOOKS)(x, t).mean
    for i in range(5):
        mean, cov = by_precision(LOOKS[i])
        assert relative(together[i : i + 1], gaussian.Exact(path, normal(mean, cov))(x[i : i + 1], t).mean) < 1e-11
