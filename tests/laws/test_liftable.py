"""Certifies that laws can be lifted under: evidence, observe, log_mgf, tilt, moved, and the same for any reward where finite.

Truth is dense linear algebra in float64 for Gaussians, one component at a time for mixtures, enumeration for atoms and symbols.
"""

import itertools
import math

import pytest
import torch

from oracles import COVARIANCES, F64, covariance, draws, hermite
from undrift.core import CG, Covariance
from undrift.errors import LawError
from undrift.inverse import gaussian_likelihood, measurement
from undrift.laws import Categorical, Empirical, Implicit, Liftable, Mixture, Normal, Point
from undrift.operators import Matrix

D, M, B = 6, 3, 4
EVENT = (2, 3)
ALGEBRA = {"rtol": 1e-9, "atol": 1e-10}  # condition numbers below 1e4, matrices of 6 numbers
LOOK = Matrix(draws((M, D), 0), EVENT)
NOISES = {"same": torch.tensor([0.4], dtype=F64), "own": 0.1 + draws((M,), 1).square()}
every_noise = pytest.mark.parametrize("noise", NOISES)
every_batch = pytest.mark.parametrize(("rows", "shared"), [(1, True), (B, True), (B, False)])
every_covariance = pytest.mark.parametrize("kind", COVARIANCES)
one_normal_or_many = pytest.mark.parametrize(
    ("rows", "shared", "own"),
    [(1, True, False), (1, True, True), *itertools.product([B], [True, False], [True, False])],
)


def gaussian(kind: str, rows: int, shared: bool) -> Normal:
    return Normal(draws((rows, *EVENT), 2), covariance(kind, 1 if shared else rows, D, seed=3))


def mixture(kind: str, rows: int, shared: bool, k: int = 3) -> Mixture:
    lead = 1 if shared else rows
    flat = covariance(kind, lead * k, D, seed=4)
    basis = None if flat.basis is None else flat.basis.reshape(lead, k, D, -1)
    cov = Covariance(flat.values.reshape(lead, k, -1), flat.tail.reshape(lead, k, 1), basis, D)
    return Mixture(torch.log_softmax(draws((rows, k), 5), -1), draws((rows, k, *EVENT), 6), cov)


def components(law: Mixture, row: int) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """(log weight, mean (d,), covariance (d, d)) of one row's components."""
    dense = law.cov.dense()
    dense = dense[row if dense.shape[0] > 1 else 0]
    return [(law.log_weights[row, k], law.means[row, k].flatten(), dense[k]) for k in range(law.log_weights.shape[1])]


def seen(mean, cov, y, r):
    """(log evidence, mean and covariance given y) of one Gaussian by a general solver."""
    a = LOOK.matrix
    s = a @ cov @ a.mT + torch.diag(r.expand(M))
    gain = torch.linalg.solve(s, a @ cov).mT
    log_z = torch.distributions.MultivariateNormal(a @ mean, s).log_prob(y)
    return log_z, mean + gain @ (y - a @ mean), cov - gain @ a @ cov


def test_every_law_of_numbers_is_liftable():
    implicit = Implicit(draws((1, *EVENT), 0), lambda v: v, CG())
    for law in (Point(draws((1, *EVENT), 0)), gaussian("full", 1, True), mixture("full", 1, True), implicit):
        assert isinstance(law, Liftable)
    assert isinstance(Empirical.of(draws((2, *EVENT), 0)), Liftable)


@every_covariance
@one_normal_or_many
@every_noise
def test_a_gaussian_sees_by_kalman(kind, rows, shared, noise, own):
    law, y, r = gaussian(kind, rows, shared), draws((B if own else 1, M), 7), NOISES[noise]
    n = max(rows, y.shape[0])
    log_z, left = law.evidence(LOOK, y, r), law.observe(LOOK, y, r)
    assert log_z.shape == (n,)
    assert left.mean.shape == (n, *EVENT)
    for i in range(n):
        row, cov = min(i, rows - 1), law.cov.dense()
        want = seen(law.mean[row].flatten(), cov[min(row, len(cov) - 1)], y[min(i, len(y) - 1)], r)
        torch.testing.assert_close(log_z[i], want[0], **ALGEBRA)
        torch.testing.assert_close(left.mean[i].flatten(), want[1], **ALGEBRA)
        torch.testing.assert_close(left.cov.dense()[min(row, len(cov) - 1)], want[2], **ALGEBRA)


@every_covariance
@every_batch
@every_noise
@pytest.mark.parametrize("own_y", [True, False])
def test_a_mixture_sees_component_by_component(kind, rows, shared, noise, own_y):
    law, y, r = mixture(kind, rows, shared), draws((B if own_y else 1, M), 7), NOISES[noise]
    n = max(rows, y.shape[0])
    log_z, left = law.evidence(LOOK, y, r), law.observe(LOOK, y, r)
    assert log_z.shape == (n,)
    for i in range(n):
        parts = components(law, min(i, rows - 1))
        wants = [(w, *seen(m, c, y[min(i, len(y) - 1)], r)) for w, m, c in parts]
        joint = torch.stack([w + z for w, z, _, _ in wants])
        torch.testing.assert_close(log_z[i], joint.logsumexp(0), **ALGEBRA)
        torch.testing.assert_close(left.log_weights[i], joint.log_softmax(0), **ALGEBRA)
        dense = left.cov.dense()
        for k, (_, _, mean, cov) in enumerate(wants):
            torch.testing.assert_close(left.means[i, k].flatten(), mean, **ALGEBRA)
            torch.testing.assert_close(dense[min(i, len(dense) - 1), k], cov, **ALGEBRA)


@every_covariance
@one_normal_or_many
def test_a_gaussian_leans_by_its_covariance(kind, rows, shared, own):
    law, g = gaussian(kind, rows, shared), draws((B if own else 1, *EVENT), 8)
    n = max(rows, g.shape[0])
    value, leaned = law.log_mgf(g), law.tilt(g)
    assert value.shape == (n,)
    assert leaned.mean.shape == (n, *EVENT)
    for i in range(n):
        row, cov, flat = min(i, rows - 1), law.cov.dense(), g[min(i, len(g) - 1)].flatten()
        c, m = cov[min(row, len(cov) - 1)], law.mean[row].flatten()
        torch.testing.assert_close(value[i], flat @ m + 0.5 * flat @ c @ flat, **ALGEBRA)
        torch.testing.assert_close(leaned.mean[i].flatten(), m + c @ flat, **ALGEBRA)
    torch.testing.assert_close(leaned.cov.dense(), law.cov.dense(), rtol=0, atol=0)


@every_covariance
@every_batch
@pytest.mark.parametrize("own_g", [True, False])
def test_a_mixture_leans_component_by_component(kind, rows, shared, own_g):
    law, g = mixture(kind, rows, shared), draws((B if own_g else 1, *EVENT), 8)
    n = max(rows, g.shape[0])
    value, leaned = law.log_mgf(g), law.tilt(g)
    assert value.shape == (n,)
    for i in range(n):
        flat = g[min(i, len(g) - 1)].flatten()
        parts = components(law, min(i, rows - 1))
        joint = torch.stack([w + flat @ m + 0.5 * flat @ c @ flat for w, m, c in parts])
        torch.testing.assert_close(value[i], joint.logsumexp(0), **ALGEBRA)
        torch.testing.assert_close(leaned.log_weights[i], joint.log_softmax(0), **ALGEBRA)
        for k, (_, m, c) in enumerate(parts):
            torch.testing.assert_close(leaned.means[i, k].flatten(), m + c @ flat, **ALGEBRA)


def test_evidence_and_mgf_are_integrals():
    """On the line by Gauss-Hermite with 200 nodes a component: shares no formula with the code."""
    law = Mixture.of(
        torch.tensor([0.3, 0.7], dtype=F64),
        torch.tensor([[-1.0], [0.5]], dtype=F64),
        Covariance.isotropic(torch.tensor([0.2, 0.6], dtype=F64), 1),
    )
    nodes, weights = hermite(200)
    x = law.means[0] + law.cov.values[0].sqrt() * nodes  # (2, 200)
    mass = torch.tensor([0.3, 0.7], dtype=F64)[:, None] * weights
    a, y, v, g = 1.7, 0.8, 0.3, 0.9
    likelihood = torch.exp(-0.5 * (y - a * x).square() / v) / math.sqrt(2 * math.pi * v)
    look, r = Matrix(torch.tensor([[a]], dtype=F64)), torch.tensor([v], dtype=F64)
    measured = torch.tensor([[y]], dtype=F64)
    z = (mass * likelihood).sum()
    torch.testing.assert_close(law.evidence(look, measured, r)[0], z.log(), rtol=1e-10, atol=0)
    left = law.observe(look, measured, r)
    torch.testing.assert_close(left.mean[0, 0], (mass * likelihood * x).sum() / z, rtol=1e-10, atol=0)
    tilt = torch.exp(g * x)
    direction = torch.tensor([[g]], dtype=F64)
    torch.testing.assert_close(law.log_mgf(direction)[0], (mass * tilt).sum().log(), rtol=1e-12, atol=0)
    torch.testing.assert_close(
        law.tilt(direction).mean[0, 0], (mass * tilt * x).sum() / (mass * tilt).sum(), rtol=1e-12, atol=0
    )


@every_noise
@pytest.mark.parametrize("rows", [1, B])
def test_a_point_has_the_likelihood_and_nothing_to_learn(noise, rows):
    law, y, r = Point(draws((rows, *EVENT), 2)), draws((B, M), 7), NOISES[noise]
    want = torch.distributions.Normal(law.value.flatten(1) @ LOOK.matrix.mT, r.sqrt()).log_prob(y).sum(1)
    torch.testing.assert_close(law.evidence(LOOK, y, r), want, **ALGEBRA)
    assert law.observe(LOOK, y, r) is law
    g = draws((B, *EVENT), 8)
    torch.testing.assert_close(law.log_mgf(g), (g * law.value).sum((1, 2)), **ALGEBRA)
    assert law.tilt(g) is law
    torch.testing.assert_close(law.log_mean_exp(lambda x: x.sum((1, 2))), law.value.sum((1, 2)), rtol=0, atol=0)
    assert law.reweight(lambda x: x.sum((1, 2))) is law


@every_noise
@pytest.mark.parametrize("rows", [1, B])
def test_atoms_weigh_what_they_explain(noise, rows):
    atoms, y, r = draws((5, *EVENT), 2), draws((B, M), 7), NOISES[noise]
    law = Empirical(torch.log_softmax(draws((rows, 5), 3), -1), atoms)
    g = draws((B, *EVENT), 8)
    for i in range(B):
        prior = law.log_weights[min(i, rows - 1)]
        fit = torch.stack([torch.distributions.Normal(LOOK.matrix @ x.flatten(), r.sqrt()).log_prob(y[i]).sum() for x in atoms])
        torch.testing.assert_close(law.evidence(LOOK, y, r)[i], (prior + fit).logsumexp(0), **ALGEBRA)
        torch.testing.assert_close(law.observe(LOOK, y, r).log_weights[i], (prior + fit).log_softmax(0), **ALGEBRA)
        lean = torch.stack([(g[i] * x).sum() for x in atoms])
        torch.testing.assert_close(law.log_mgf(g)[i], (prior + lean).logsumexp(0), **ALGEBRA)
        torch.testing.assert_close(law.tilt(g).log_weights[i], (prior + lean).log_softmax(0), **ALGEBRA)

    def reward(x):
        return -x.flatten(1).square().sum(1)

    value = torch.stack([-x.square().sum() for x in atoms])
    torch.testing.assert_close(law.log_mean_exp(reward), (law.log_weights + value).logsumexp(1), **ALGEBRA)
    torch.testing.assert_close(law.reweight(reward).log_weights, (law.log_weights + value).log_softmax(1), **ALGEBRA)


def test_looks_in_turn_are_one_look_together():
    """Observing twice is observing the stack, and the evidences multiply: the chain rule, on a mixture."""
    law, y, r = mixture("full", B, True), draws((B, M), 7), NOISES["own"]
    first, rest = Matrix(LOOK.values[:1], EVENT), Matrix(LOOK.values[1:], EVENT)
    half = law.observe(first, y[:, :1], r[:1])
    both = half.observe(rest, y[:, 1:], r[1:])
    want = law.observe(LOOK, y, r)
    torch.testing.assert_close(both.log_weights, want.log_weights, **ALGEBRA)
    torch.testing.assert_close(both.means, want.means, **ALGEBRA)
    torch.testing.assert_close(both.cov.dense(), want.cov.dense(), **ALGEBRA)
    chain = law.evidence(first, y[:, :1], r[:1]) + half.evidence(rest, y[:, 1:], r[1:])
    torch.testing.assert_close(chain, law.evidence(LOOK, y, r), **ALGEBRA)


@pytest.mark.parametrize("event", [(), (2,), (2, 2)])
def test_symbols_are_written_out_whole(event):
    """Every sequence once, with the product of its probabilities; rewards by enumeration in Python."""
    law = Categorical(torch.log_softmax(draws((2, *event, 3), 0), -1))
    joint = law.joint()
    sites = math.prod(event)
    assert joint.atoms.shape == (3**sites, *event)
    got = {tuple(a.flatten().tolist()): joint.log_weights[:, n] for n, a in enumerate(joint.atoms)}
    flat = law.log_probs.reshape(2, sites, 3)
    for sequence in itertools.product(range(3), repeat=sites):
        want = sum(flat[:, i, k] for i, k in enumerate(sequence))
        torch.testing.assert_close(got[sequence], want, **ALGEBRA)

    def reward(x):
        return x.reshape(len(x), -1).double().sum(1).sin()

    total = torch.stack([w + math.sin(sum(s)) for s, w in got.items()]).logsumexp(0)
    torch.testing.assert_close(law.log_mean_exp(reward), total, **ALGEBRA)
    after = law.reweight(reward)
    torch.testing.assert_close(after.log_weights, joint.log_weights + reward(joint.atoms) - total[:, None], **ALGEBRA)


def test_too_many_sequences_are_refused():
    with pytest.raises(LawError, match=r"4 symbols at 9 sites make 262144 events.*smc"):
        Categorical(torch.zeros(1, 9, 4, dtype=F64).log_softmax(-1)).joint()


@pytest.mark.parametrize("law", [gaussian("full", 1, True), mixture("full", 1, True), Implicit(draws((1, 2), 0), abs, CG())])
def test_rewards_without_a_closed_form_say_what_to_do(law):
    with pytest.raises(LawError, match=r"at_mean.*monte_carlo.*smc"):
        law.log_mean_exp(lambda x: x)
    with pytest.raises(LawError, match=r"twist.*smc"):
        law.reweight(lambda x: x)


@pytest.mark.parametrize("law", [Point(draws((1, *EVENT), 0)), Empirical.of(draws((2, *EVENT), 0))])
def test_noiseless_looks_at_known_values_are_refused(law):
    with pytest.raises(LawError, match=r"noiseless look.*second_order"):
        law.evidence(LOOK, draws((1, M), 0), torch.zeros(1, dtype=F64))


@every_covariance
def test_moved_laws_are_the_same_elsewhere(kind):
    shift, x = draws((B, *EVENT), 9), draws((B, *EVENT), 10)
    for law in (gaussian(kind, B, True), mixture(kind, B, True), mixture(kind, B, False)):
        moved = law.moved(shift)
        torch.testing.assert_close(moved.mean, law.mean + shift, **ALGEBRA)
        torch.testing.assert_close(moved.variance, law.variance, **ALGEBRA)
        if kind != "flat":
            torch.testing.assert_close(moved.log_prob(x + shift), law.log_prob(x), **ALGEBRA)
    torch.testing.assert_close(Point(x).moved(shift).value, x + shift, rtol=0, atol=0)


def test_every_part_has_a_gradient_in_the_mean():
    """Potentials steer by these: the gradient of the evidence is A^T S^-1 (y - A m), of the mgf it is g; by hand."""
    mean, cov, y, r = draws((1, D), 2), covariance("full", 1, D, seed=3), draws((1, M), 7), NOISES["own"]
    m = mean.clone().requires_grad_()
    look = Matrix(LOOK.values)
    (got,) = torch.autograd.grad(Normal(m, cov).evidence(look, y, r).sum(), m)
    a = look.matrix
    s = a @ cov.dense()[0] @ a.mT + torch.diag(r)
    torch.testing.assert_close(got, torch.linalg.solve(s, (y - mean @ a.mT)[0])[None] @ a, **ALGEBRA)


def test_atoms_that_nothing_wants_are_told():
    law = Empirical.of(draws((4, 2), 1))
    with pytest.raises(LawError, match="loosen it"):
        law.reweight(lambda x: torch.full(x.shape[:1], -torch.inf, dtype=F64))


def test_rewards_with_data_per_row_meet_every_atom():
    # Four atoms and four rows: atom i must not be compared with row i alone. Against the closed likelihood of the same look.
    law, y = Empirical.of(draws((4, 2), 1)), draws((4, 1), 2)
    bent = measurement(y, lambda x: x[:, 1:], 0.3, event=(2,))
    straight = gaussian_likelihood(y, torch.tensor([[0.0, 1.0]], dtype=F64), 0.3)
    torch.testing.assert_close(bent.lift(law), straight.lift(law), **ALGEBRA)
    torch.testing.assert_close(bent.absorb(law).log_weights, straight.absorb(law).log_weights, **ALGEBRA)
    few = measurement(y[:3], lambda x: x[:, 1:], 0.3, event=(2,))
    torch.testing.assert_close(few.lift(law), straight.lift(law)[:3], **ALGEBRA)
