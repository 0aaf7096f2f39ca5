"""Planted copies are counted exactly; fresh draws give the quantile, by exchangeability."""

import math

import pytest
import torch

from undrift.errors import DataError, NonFiniteError, ShapeError
from undrift.evidence import expected_fraction, memorised_fraction, nearest


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_nearest_equals_brute_force(monkeypatch):
    x, reference = randn(37, 2, 3, seed=0) + 100, randn(23, 2, 3, seed=1) + 100  # an offset, to provoke cancellation
    gaps = (x.double()[:, None] - reference.double()[None]).flatten(2).norm(dim=2)
    distance, index = nearest(x, reference)
    assert torch.equal(index, gaps.argmin(1))
    assert torch.allclose(distance, gaps.min(1).values, rtol=1e-12, atol=0)
    monkeypatch.setattr("undrift.evidence.memorisation._ENTRIES", 50)  # chunks of two rows
    assert torch.equal(nearest(x, reference)[1], index)
    copies, which = nearest(reference.flip(0), reference)
    assert torch.equal(copies, torch.zeros(23, dtype=torch.float64))
    assert torch.equal(which, torch.arange(22, -1, -1))


@pytest.mark.parametrize("copied", [0, 1, 30, 200])
def test_planted_copies_are_counted_exactly(copied):
    # Samples far away are never counted, copies always: the fraction is exact.
    train, held_out = randn(300, 4, seed=0), randn(200, 4, seed=1)
    samples = torch.cat([train[:copied], randn(200 - copied, 4, seed=2) + 50])
    assert memorised_fraction(samples, train, held_out) == copied / 200
    # A copy counts even where the held-out set touches the training set (threshold zero).
    touching = torch.cat([train[:5], held_out])
    assert memorised_fraction(samples, train, touching) == copied / 200


@pytest.mark.parametrize(("quantile", "dimension"), [(0.01, 1), (0.01, 8), (0.1, 8), (0.5, 64)])
def test_fresh_samples_give_the_quantile(quantile, dimension):
    # Given `train`, the fresh distances fall below the k-th of M held-out ones in Beta-binomial number: mean
    # p = k / (M + 1), variance of the share p (1 - p) (1 / N + 1 / (M + 2)) within a factor 1 + 1 / M. Within 5
    # standard deviations; skewness at p = 0.01, M = 3000 (30 expected) leaves a false alarm below 1e-4.
    train, held_out, fresh = (randn(n, dimension, seed=s) for s, n in enumerate((500, 3000, 3000)))
    want = expected_fraction(3000, quantile)
    spread = math.sqrt(want * (1 - want) * (1 / 3000 + 1 / 3002))
    assert abs(memorised_fraction(fresh, train, held_out, quantile) - want) < 5 * spread
    # The held-out set itself meets its own threshold with exactly k of its points.
    assert memorised_fraction(held_out, train, held_out, quantile) == pytest.approx(want * 3001 / 3000, rel=1e-12)


def test_the_expectation_is_the_order_statistic():
    # Exchangeability on M + 1 = 5 points: leave each out in turn; the share of those within the k-th of the rest is
    # k / 5.
    train, points = torch.zeros(1, 1), torch.tensor([[0.3], [1.1], [0.2], [5.0], [2.0]])
    for quantile, rank in ((0.2, 1), (0.4, 2), (0.5, 2), (0.79, 3), (0.8, 4)):
        hits = [memorised_fraction(points[i : i + 1], train, points[torch.arange(5) != i], quantile) for i in range(5)]
        assert sum(hits) / 5 == expected_fraction(4, quantile) == rank / 5
    assert expected_fraction(899) == 0.01
    assert expected_fraction(99) == 0.01
    assert expected_fraction(99, 0.29) == 0.29  # 0.29 * 100 is 28.999999999999996 in floating point


def test_noise_around_training_points_is_memorised():
    train, held_out = randn(400, 16, seed=0), randn(400, 16, seed=1)
    assert memorised_fraction(train + 0.01 * randn(400, 16, seed=2), train, held_out) == 1


def test_errors_say_the_cure():
    x = randn(200, 3, seed=0)
    with pytest.raises(DataError, match=r"at least 99 held-out points.*quantile of at least 0\.0101"):
        memorised_fraction(x, x, x[:98])
    assert memorised_fraction(x, x, x[:99]) == 1
    for quantile in (0.0, 1.0, -0.1, float("nan")):
        with pytest.raises(DataError, match="strictly between 0 and 1"):
            memorised_fraction(x, x, x, quantile)
    with pytest.raises(ShapeError, match="samples"):
        memorised_fraction(x[:, :2], x, x)
    with pytest.raises(ShapeError, match="held_out"):
        memorised_fraction(x, x, x[:, :2])
    with pytest.raises(NonFiniteError, match="samples"):
        memorised_fraction(x * float("nan"), x, x)
