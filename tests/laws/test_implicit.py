"""Certifies `laws.Implicit`, a Gaussian known by products, against the dense formulas of the matrix it hides. float64."""

import math

import pytest
import torch

from oracles import F64, draws, spd
from undrift.core import CG, Covariance, Shared
from undrift.errors import LawError
from undrift.laws import Affine, Implicit, Normal, Point
from undrift.operators import Matrix

D, M, B = 6, 3, 4
EVENT = (2, 3)
ALGEBRA = {"rtol": 1e-9, "atol": 1e-10}  # M products solve exactly; condition numbers below 1e3
C = torch.stack([spd(D, 20 + i) for i in range(B)])
LOOK = Matrix(draws((M, D), 0), EVENT)
A = LOOK.matrix
R = 0.1 + draws((M,), 1).square()
MEAN, Y = draws((B, *EVENT), 2), draws((B, M), 3)
S = A @ C @ A.mT + torch.diag(R)
EXACTLY = CG(iterations=M, tolerance=0.0)


def product(v):
    return torch.einsum("bij,bj->bi", C, v.flatten(1)).reshape(v.shape)


def law(mean=MEAN, solver=EXACTLY) -> Implicit:
    return Implicit(mean, product, solver)


DENSE = Normal(MEAN, Covariance.full(C))


def test_evidence_lacks_the_determinant_and_nothing_else():
    """The dense log evidence, with log det R in place of log det S."""
    want = DENSE.evidence(LOOK, Y, R) + 0.5 * torch.linalg.slogdet(S)[1] - 0.5 * R.log().sum()
    torch.testing.assert_close(law().evidence(LOOK, Y, R), want, **ALGEBRA)
    one = torch.tensor([0.3], dtype=F64)
    s = A @ C @ A.mT + 0.3 * torch.eye(M, dtype=F64)
    want = DENSE.evidence(LOOK, Y, one) + 0.5 * torch.linalg.slogdet(s)[1] - 0.5 * M * math.log(0.3)
    torch.testing.assert_close(law().evidence(LOOK, Y, one), want, **ALGEBRA)


def test_without_covariance_it_is_a_point():
    """Where C = 0, at t = 0, nothing is missing: h_0 = r with its constant."""
    flat = Implicit(MEAN, torch.zeros_like, CG())
    torch.testing.assert_close(flat.evidence(LOOK, Y, R), Point(MEAN).evidence(LOOK, Y, R), **ALGEBRA)


def test_a_noiseless_look_has_its_quadratic_alone():
    s = A @ C @ A.mT
    residual = Y - LOOK(MEAN)
    want = -0.5 * (residual * torch.linalg.solve(s, residual)).sum(1)
    torch.testing.assert_close(law().evidence(LOOK, Y, torch.zeros(1, dtype=F64)), want, **ALGEBRA)


def dense_evidence(mean):
    """With S held."""
    residual = Y - mean.flatten(1) @ A.mT
    return -0.5 * (residual * torch.linalg.solve(S, residual)).sum(1)


def test_gradients_of_the_evidence_are_those_of_the_dense_formula():
    """First and second derivatives in the mean, S held; weights per row, so that a summed shortcut would show."""
    w, u = draws((B,), 4), draws((B, *EVENT), 5)
    results = []
    for function in (lambda m: law(m).evidence(LOOK, Y, R), dense_evidence):
        mean = MEAN.clone().requires_grad_()
        (first,) = torch.autograd.grad((w * function(mean)).sum(), mean, create_graph=True)
        (second,) = torch.autograd.grad((first * u).sum(), mean)
        results.append((first.detach(), second))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, **ALGEBRA)


def test_gradients_pass_torchs_own_check():
    """Finite differences, in the mean and (for the double backward) in the upstream weight too."""
    small = MEAN[:2].clone().requires_grad_()
    c = C[:2]

    def evidence(mean):
        held = Implicit(mean, lambda v: torch.einsum("bij,bj->bi", c, v.flatten(1)).reshape(v.shape), EXACTLY)
        return held.evidence(LOOK, Y[:2], R)

    assert torch.autograd.gradcheck(evidence, (small,))
    assert torch.autograd.gradgradcheck(evidence, (small,))

    def observe(mean):
        held = Implicit(mean, lambda v: torch.einsum("bij,bj->bi", c, v.flatten(1)).reshape(v.shape), EXACTLY)
        return held.observe(LOOK, Y[:2], R).mean

    assert torch.autograd.gradcheck(observe, (small,))
    assert torch.autograd.gradgradcheck(observe, (small,))


def test_observing_is_the_kalman_update():
    left, want = law().observe(LOOK, Y, R), DENSE.observe(LOOK, Y, R)
    torch.testing.assert_close(left.mean, want.mean, **ALGEBRA)
    v = draws((B, *EVENT), 6)
    got = left.product(v).flatten(1)
    torch.testing.assert_close(got, torch.einsum("bij,bj->bi", want.cov.dense(), v.flatten(1)), **ALGEBRA)


def test_the_observed_means_gradient_is_that_of_the_dense_formula():
    """D mean / d m = I - C A^T S^-1 A: not symmetric, so that a transpose in the wrong place shows."""
    u = draws((B, *EVENT), 7)
    mean = MEAN.clone().requires_grad_()
    (got,) = torch.autograd.grad((law(mean).observe(LOOK, Y, R).mean * u).sum(), mean)
    jacobian = torch.eye(D, dtype=F64) - C @ A.mT @ torch.linalg.solve(S, A)
    torch.testing.assert_close(got.flatten(1), torch.einsum("bij,bi->bj", jacobian, u.flatten(1)), **ALGEBRA)


def test_looks_in_turn_are_one_look_together():
    first, rest = Matrix(A[:1], EVENT), Matrix(A[1:], EVENT)
    both = law().observe(first, Y[:, :1], R[:1]).observe(rest, Y[:, 1:], R[1:])
    torch.testing.assert_close(both.mean, DENSE.observe(LOOK, Y, R).mean, **ALGEBRA)


@pytest.mark.parametrize("rows", [1, B])
def test_leaning(rows):
    g = draws((rows, *EVENT), 8)
    torch.testing.assert_close(law().log_mgf(g), DENSE.log_mgf(g), **ALGEBRA)
    torch.testing.assert_close(law().tilt(g).mean, DENSE.tilt(g).mean, **ALGEBRA)


def test_no_more_products_than_measurements():
    spent = []

    def counted(v):
        spent.append(1)
        return product(v)

    mean = MEAN.clone().requires_grad_()
    held = Implicit(mean, counted, EXACTLY)
    value = held.evidence(LOOK, Y, R)
    assert len(spent) == M
    torch.autograd.grad(value.sum(), mean)
    assert len(spent) == M  # value and gradient share one solve


def test_it_moves_and_steps_like_a_point():
    kernel = Affine(torch.tensor(0.5, dtype=F64), draws((B, *EVENT), 9), torch.tensor(0.2, dtype=F64))
    x = draws((B, *EVENT), 10)
    torch.testing.assert_close(law().through(kernel).log_prob(x), Point(MEAN).through(kernel).log_prob(x), rtol=0, atol=0)
    torch.testing.assert_close(law().moved(x).mean, MEAN + x, rtol=0, atol=0)
    assert law().moved(x).product is product
    rows = law().rows(slice(1, 3))
    assert isinstance(rows, Point)
    torch.testing.assert_close(rows.mean, MEAN[1:3], rtol=0, atol=0)


def test_a_spread_is_what_a_step_back_sees_and_nothing_else():
    """With `spread` it steps like an isotropic Gaussian; evidence, observe and the rest have the products as before."""
    kernel = Affine(torch.tensor(0.5, dtype=F64), draws((B, *EVENT), 9), torch.tensor(0.2, dtype=F64))
    spread, x = 0.1 + draws((B,), 12).square(), draws((B, *EVENT), 10)
    broad = Implicit(MEAN, product, EXACTLY, spread)
    want = Normal(MEAN, Covariance.isotropic(spread, D))
    torch.testing.assert_close(broad.through(kernel).log_prob(x), want.through(kernel).log_prob(x), **ALGEBRA)
    index = torch.tensor([2, 0, 0])
    torch.testing.assert_close(broad.rows(index).log_prob(x[:3]), want.rows(index).log_prob(x[:3]), **ALGEBRA)
    torch.testing.assert_close(broad.evidence(LOOK, Y, R), law().evidence(LOOK, Y, R), **ALGEBRA)
    torch.testing.assert_close(broad.observe(LOOK, Y, R).mean, law().observe(LOOK, Y, R).mean, **ALGEBRA)
    moved = broad.moved(x)
    torch.testing.assert_close(moved.rows(index).log_prob(x[:3]), want.moved(x).rows(index).log_prob(x[:3]), **ALGEBRA)


def test_it_cannot_be_drawn_from():
    with pytest.raises(LawError, match="square root"):
        law().sample(Shared(0))
