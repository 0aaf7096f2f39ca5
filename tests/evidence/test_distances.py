"""Oracles: translations, Gaussians and one-dimensional transport in closed form or by brute force."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from undrift.errors import DataError
from undrift.evidence import frechet, sliced_w2

F64 = torch.float64


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.mark.parametrize("dimension", [2, 5, 64])
def test_sliced_w2_of_a_shift(dimension):
    # y = x + delta: W2 along theta is |theta.delta|, and E (theta.delta)^2 = |delta|^2 / d over the sphere. The
    # variance of (theta.delta)^2 is 2 (d - 1) / (d^2 (d + 2)) |delta|^4, so with 4096 directions the squared distance
    # is within 5 standard errors (normal approximation: false alarm below 1e-6).
    x, delta = randn(50, dimension, seed=0), randn(dimension, seed=1)
    n = 4096
    got = sliced_w2(x, x + delta, projections=n, seed=3) ** 2
    want = float(delta.square().sum()) / dimension
    spread = float(delta.square().sum()) * math.sqrt(2 * (dimension - 1) / (dimension**2 * (dimension + 2)) / n)
    assert abs(got - want) < 5 * spread
    assert got != want  # it is an estimate over directions


@pytest.mark.parametrize("scale", [0.5, 1.0, 2.0])
def test_sliced_w2_of_two_gaussians(scale):
    # N(0, I) against N(0, s^2 I): along every direction W2 = |1 - s|. With N points a side the bias of W2^2 on a line
    # is (1 + s^2) O(log log N / N) (Bobkov and Ledoux 2019); measured on 40 draws at s = 1: 3.7, standard
    # deviation 1.8, in units of (1 + s^2) / N, so 10 leaves 3.5 of them. The cross term has standard deviation
    # |1 - s| sqrt((1 + s^2) / N): 5 of them.
    n = 20_000
    got = sliced_w2(randn(n, 3, seed=0), scale * randn(n, 3, seed=1), projections=64) ** 2
    bias, spread = (1 + scale**2) * 10 / n, abs(1 - scale) * math.sqrt((1 + scale**2) / n)
    assert (1 - scale) ** 2 - 5 * spread <= got <= (1 - scale) ** 2 + bias + 5 * spread


@pytest.mark.parametrize(("n", "m"), [(1, 7), (3, 5), (4, 6), (6, 4), (12, 8), (9, 9)])
def test_one_dimension_unequal_sizes(n, m):
    # In one dimension every direction is +1 or -1: the answer is exact W2. Two independent oracles: repeat each point
    # to a common size and pair in order; and the transport linear program.
    x, y = randn(n, 1, seed=n), 2 * randn(m, 1, seed=m + 100) + 1
    got = sliced_w2(x, y, projections=3)
    common = math.lcm(n, m)
    a = x.flatten().sort().values.repeat_interleave(common // n)
    b = y.flatten().sort().values.repeat_interleave(common // m)
    assert got == pytest.approx(float((a - b).square().mean().sqrt()), rel=1e-12)

    cost = (x - y.T).square().numpy().ravel()
    marginals = np.zeros((n + m, n * m))
    for i in range(n):
        marginals[i, i * m : (i + 1) * m] = 1
    for j in range(m):
        marginals[n + j, j::m] = 1
    mass = np.concatenate([np.full(n, 1 / n), np.full(m, 1 / m)])
    assert got**2 == pytest.approx(optimize.linprog(cost, A_eq=marginals, b_eq=mass).fun, rel=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 6), st.integers(1, 6), st.sampled_from([(1,), (3,), (2, 2)]), st.integers(0, 2**31))
def test_sliced_w2_is_a_distance(n, m, event, seed):
    x, y, z = randn(n, *event, seed=seed), randn(m, *event, seed=seed + 1), randn(4, *event, seed=seed + 2)

    def d(a, b):
        return sliced_w2(a, b, projections=16)

    assert d(x, x.flip(0)) == 0  # equal as multisets
    assert d(x, x.repeat_interleave(3, 0)) == pytest.approx(0, abs=1e-12)  # and as laws
    assert d(x, y) == pytest.approx(d(y, x), rel=1e-12)
    assert d(x, z) <= d(x, y) + d(y, z) + 1e-12
    assert d(3 * x, 3 * y) == pytest.approx(3 * d(x, y), rel=1e-12)
    assert d(x + 1, y + 1) == pytest.approx(d(x, y), rel=1e-10)


def test_directions_follow_the_seed_and_leave_the_global_state_alone(monkeypatch):
    x, y = randn(5, 4, seed=0), randn(6, 4, seed=1)
    before = torch.get_rng_state()
    assert sliced_w2(x, y, seed=1) == sliced_w2(x, y, seed=1) != sliced_w2(x, y, seed=2)
    assert torch.equal(before, torch.get_rng_state())
    whole = sliced_w2(x, y)
    monkeypatch.setattr("undrift.evidence.distances._ENTRIES", 30)  # chunks of two directions
    assert sliced_w2(x, y) == pytest.approx(whole, rel=1e-12)
    with pytest.raises(DataError, match="at least one direction"):
        sliced_w2(x, y, projections=0)


def exactly(mean, cov, n, seed):
    """N points whose sample mean and unbiased covariance are exactly these."""
    x = randn(n, len(mean), seed=seed)
    x = x - x.mean(0)
    whiten = torch.linalg.inv(torch.linalg.cholesky(x.T @ x / (n - 1)))
    return x @ whiten.T @ torch.linalg.cholesky(cov).T + mean


def test_frechet_of_diagonal_covariances():
    # N(m, diag a) and N(k, diag b): |m - k|^2 + sum (sqrt a - sqrt b)^2.
    m, k = torch.tensor([1.0, -2, 0.5], dtype=F64), torch.tensor([0.0, 1, 0.5], dtype=F64)
    a, b = torch.tensor([0.5, 2, 4], dtype=F64), torch.tensor([3.0, 2, 0.1], dtype=F64)
    want = (m - k).square().sum() + (a.sqrt() - b.sqrt()).square().sum()
    got = frechet(exactly(m, a.diag(), 40, 0), exactly(k, b.diag(), 33, 1))
    assert got == pytest.approx(float(want), rel=1e-10)


def test_frechet_of_full_covariances():
    # Not commuting. Oracle: the trace of the square root through the eigenvalues of C_x C_y, which is similar to
    # C_x^{1/2} C_y C_x^{1/2}; a different route from the one in the code.
    mix = [randn(5, 5, seed=s) for s in (2, 3)]
    covs = [c @ c.T + 0.1 * torch.eye(5, dtype=F64) for c in mix]
    assert (covs[0] @ covs[1] - covs[1] @ covs[0]).norm() > 1
    means = randn(2, 5, seed=4)
    overlap = np.sqrt(np.linalg.eigvals((covs[0] @ covs[1]).numpy()).real).sum()
    want = float((means[0] - means[1]).square().sum() + covs[0].trace() + covs[1].trace()) - 2 * overlap
    x, y = exactly(means[0], covs[0], 50, 5), exactly(means[1], covs[1], 20, 6)
    assert frechet(x, y) == pytest.approx(want, rel=1e-9)
    assert frechet(y, x) == pytest.approx(want, rel=1e-9)
    # Commuting: with one set of eigenvectors it is |m - k|^2 + |C_x^{1/2} - C_y^{1/2}|_F^2.
    q = torch.linalg.qr(mix[0]).Q
    a, b = torch.arange(1.0, 6, dtype=F64), torch.tensor([2.0, 0.1, 3, 1, 9], dtype=F64)
    x, y = exactly(means[0], q @ a.diag() @ q.T, 30, 7), exactly(means[0], q @ b.diag() @ q.T, 30, 8)
    assert frechet(x, y) == pytest.approx(float((a.sqrt() - b.sqrt()).square().sum()), rel=1e-9)


def test_frechet_of_rank_deficient_features():
    # Fewer points than features, and features that never move: nothing to square-root, so the accuracy stays.
    x = torch.cat([randn(4, 9, seed=0), torch.zeros(4, 2, dtype=F64)], 1)
    assert frechet(x, x) == pytest.approx(0, abs=1e-12)
    assert frechet(x, x + 2) == pytest.approx(4 * 11, rel=1e-12)
    assert frechet(x, 3 * x - 2 * x.mean(0)) == pytest.approx(4 * float(x.var(0).sum()), rel=1e-10)
    with pytest.raises(DataError, match="at least 2"):
        frechet(x[:1], x)
