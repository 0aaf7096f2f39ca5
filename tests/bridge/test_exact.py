"""Exact bridge denoisers against quadrature, dense Gaussian conditioning and enumeration; exact samplers end exactly."""

import math

import pytest
import torch

from oracles import F64, draws, line, normal, propagate, spd, time
from undrift import Ancestral, bridge, grids
from undrift.errors import LawError
from undrift.laws import Empirical, Point
from undrift.schedules import BrownianBridge

SCHEDULE = BrownianBridge(0.6)
STEPS = [1, 2, 5, 200]
TIMES = [time(0.7), time([0.1, 0.5, 0.95])]


@pytest.mark.parametrize("t", TIMES)
def test_pinned_posterior_is_bayes_by_quadrature(t):
    """A mixture on the line; the trapezoid rule on a smooth density that dies at both ends is exact to rounding."""
    data = line([0.3, 0.7], [-1.0, 0.8], [0.3, 0.1])
    x, x_1, atoms = draws((3, 1), 0), draws((3, 1), 1), torch.linspace(-8, 8, 8001, dtype=F64)
    law = bridge.Pinned(bridge.Path(SCHEDULE, Point(x_1)), data)(x, t)
    a, b, gamma = (f(t).expand(3)[:, None] for f in (SCHEDULE.a, SCHEDULE.b, SCHEDULE.gamma))
    weights = data.log_prob(atoms[:, None]) - 0.5 * ((x - a * atoms - b * x_1) / gamma).square()
    weights = torch.softmax(weights, -1)
    mean = (weights * atoms).sum(-1, keepdim=True)
    torch.testing.assert_close(law.mean, mean, atol=1e-10, rtol=0)
    torch.testing.assert_close(law.variance, (weights * (atoms - mean).square()).sum(-1, keepdim=True), atol=1e-10, rtol=0)


def test_pinned_posterior_of_points_is_bayes_by_enumeration():
    atoms, x, x_1, t = draws((5, 2), 0), draws((3, 2), 1), draws((3, 2), 2), time([0.2, 0.6, 0.9])
    prior = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.25], dtype=F64)
    law = bridge.Pinned(bridge.Path(SCHEDULE, Point(x_1)), Empirical.of(atoms, prior))(x, t)
    for i in range(3):
        residual = x[i] - SCHEDULE.a(t[i]) * atoms - SCHEDULE.b(t[i]) * x_1[i]
        weights = prior * torch.exp(-0.5 * residual.square().sum(-1) / SCHEDULE.gamma(t[i]) ** 2)
        torch.testing.assert_close(law.log_weights[i].exp(), weights / weights.sum(), atol=1e-12, rtol=0)


def test_at_the_reference_end_the_pinned_posterior_is_the_prior():
    x_1 = draws((3, 1), 0)
    for data in (normal(draws((1,), 1), spd(1, 2)), line([0.3, 0.7], [-1.0, 0.8], [0.3, 0.1]), Empirical.of(draws((5, 1), 3))):
        law = bridge.Pinned(bridge.Path(SCHEDULE, Point(x_1)), data)(x_1, time(1.0))
        torch.testing.assert_close(law.mean, data.mean.expand(3, 1), atol=1e-12, rtol=0)
        torch.testing.assert_close(law.variance.expand(3, 1), data.variance.expand(3, 1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("t", [*TIMES, time(1.0)])
def test_gaussian_ends_are_dense_conditioning(t):
    """The joint Gaussian of (x_0, x_1, x_t), conditioned by block algebra."""
    d, x = 3, draws((3, 3), 0)
    m_0, m_1, c_0, c_1 = draws((d,), 1), draws((d,), 2), spd(d, 3), spd(d, 4)
    pair = bridge.GaussianEnds(bridge.Path(SCHEDULE, normal(m_1, c_1)), normal(m_0, c_0)).ends(x, t)
    eye, zero = torch.eye(d, dtype=F64), torch.zeros(d, d, dtype=F64)
    for i, time_i in enumerate(t.expand(3)):
        a, b, gamma = (f(time_i) for f in (SCHEDULE.a, SCHEDULE.b, SCHEDULE.gamma))
        look = torch.cat([a * eye, b * eye], 1)
        both = torch.cat([torch.cat([c_0, zero], 1), torch.cat([zero, c_1], 1)])
        seen = look @ both @ look.mT + gamma**2 * eye
        gain = both @ look.mT @ torch.linalg.inv(seen)
        mean = torch.cat([m_0, m_1]) + gain @ (x[i] - a * m_0 - b * m_1)
        cov = both - gain @ look @ both
        for law, part in ((pair.x_0, slice(0, d)), (pair.x_1, slice(d, None))):
            torch.testing.assert_close(law.mean[i], mean[part], atol=1e-12, rtol=0)
            torch.testing.assert_close(law.covariance().expand(3, d, d)[i], cov[part, part], atol=1e-12, rtol=0)


@pytest.mark.parametrize("event", [(1,), (2, 2)])
@pytest.mark.parametrize("t", TIMES)
def test_coupled_is_bayes_by_enumeration(t, event):
    x_0, x_1, x = draws((4, *event), 0), draws((4, *event), 1), draws((3, *event), 2)
    prior = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64)
    pair = bridge.Coupled(bridge.Path(SCHEDULE, Empirical.of(x_1, prior)), x_0, x_1, prior).ends(x, t)
    for i, time_i in enumerate(t.expand(3)):
        residual = (x[i] - SCHEDULE.a(time_i) * x_0 - SCHEDULE.b(time_i) * x_1).flatten(1)
        weights = prior * torch.exp(-0.5 * residual.square().sum(-1) / SCHEDULE.gamma(time_i) ** 2)
        for law, ends in ((pair.x_0, x_0), (pair.x_1, x_1)):
            torch.testing.assert_close(law.log_weights[i].exp(), weights / weights.sum(), atol=1e-12, rtol=0)
            assert torch.equal(law.atoms, ends)


def test_coupled_at_the_reference_end_is_the_conditional_coupling():
    """Two pairs end at the same x_1: at t = 1 they share the mass by their weights, and no other pair has any."""
    x_0, x_1 = draws((3, 2), 0), draws((3, 2), 1)[[0, 1, 0]]
    prior = torch.tensor([0.1, 0.6, 0.3], dtype=F64)
    law = bridge.Coupled(bridge.Path(SCHEDULE, Empirical.of(x_1, prior)), x_0, x_1, prior)(x_1, time(1.0))
    want = torch.tensor([[0.25, 0, 0.75], [0, 1, 0], [0.25, 0, 0.75]], dtype=F64)
    torch.testing.assert_close(law.log_weights.exp(), want, atol=1e-15, rtol=0)


def test_coupled_keeps_marginals_of_a_correlated_coupling():
    """p_s = integral of p_t times the step back, by the trapezoid rule, although the ends are far from independent."""
    x_0, x_1 = draws((4, 1), 0), draws((4, 1), 0) + 0.3 * draws((4, 1), 1)
    prior, t, s = torch.tensor([0.1, 0.2, 0.3, 0.4], dtype=F64), time(0.6), time(0.25)
    model = bridge.Coupled(bridge.Path(SCHEDULE, Empirical.of(x_1, prior)), x_0, x_1, prior)
    nodes = torch.linspace(-5, 5, 801, dtype=F64)[:, None]

    def density(u, x):
        means, gamma = SCHEDULE.a(u) * x_0 + SCHEDULE.b(u) * x_1, SCHEDULE.gamma(u)
        inside = torch.exp(-0.5 * ((x - means.mT) / gamma).square()) / (gamma * math.sqrt(2 * math.pi))
        return inside @ prior

    back = model.path.reverse(nodes, model(nodes, t), t, s)
    for x_s in (-1.0, 0.1, 0.9):
        target = torch.full_like(nodes, x_s)
        got = float((density(t, nodes) * back.log_prob(target).exp()).sum() * 10 / 800)
        assert got == pytest.approx(float(density(s, target)[0]), abs=1e-10)  # the trapezoid rule is spectral here


@pytest.mark.parametrize("steps", STEPS)
def test_exact_pinned_sampler_ends_in_the_data(steps):
    x_1, mean, cov = draws((1, 2), 0), draws((2,), 1), spd(2, 2)
    model = bridge.Pinned(bridge.Path(SCHEDULE, Point(x_1)), normal(mean, cov))
    got = propagate(model, Ancestral(), grids.uniform(None, steps), x_1[0], torch.zeros(2, 2, dtype=F64))
    for value, want in zip(got, (mean, cov), strict=True):
        torch.testing.assert_close(value, want, atol=1e-11, rtol=0)  # 200 steps of rounding


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("end", [0.0, 0.35])
def test_exact_sampler_between_gaussians_keeps_marginals(steps, end):
    m_0, m_1, c_0, c_1 = draws((2,), 1), draws((2,), 2), spd(2, 3), spd(2, 4)
    model = bridge.GaussianEnds(bridge.Path(SCHEDULE, normal(m_1, c_1)), normal(m_0, c_0))
    a, b, gamma = (float(f(time(end))) for f in (SCHEDULE.a, SCHEDULE.b, SCHEDULE.gamma))
    wanted = (a * m_0 + b * m_1, a**2 * c_0 + b**2 * c_1 + gamma**2 * torch.eye(2, dtype=F64))
    for value, want in zip(propagate(model, Ancestral(), grids.uniform(None, steps, 1.0, end), m_1, c_1), wanted, strict=True):
        torch.testing.assert_close(value, want, atol=1e-11, rtol=0)


def test_a_coupling_pairs_ends_of_one_shape():
    ends, weights = draws((3, 2), 0), torch.full((3,), 1 / 3, dtype=F64)
    with pytest.raises(LawError, match="one weight a pair"):
        bridge.Coupled(bridge.Path(SCHEDULE, Point(ends)), ends, ends[:2], weights)
    with pytest.raises(LawError, match="one weight a pair"):
        bridge.Coupled(bridge.Path(SCHEDULE, Point(ends)), ends, ends, weights[:2])
