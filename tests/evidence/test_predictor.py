"""Usefulness and coverage on data whose right answers are known."""

import math

import numpy as np
import pytest

from undrift.errors import DataError, ShapeError
from undrift.evidence.predictor import coverage, predictor_score, shuffled_apart, usefulness


def line(n, seed, noise=0.5):
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, 2))
    return np.column_stack([x, 3 * x[:, 0] + noise * rng.normal(size=n)])


@pytest.mark.parametrize(("noise", "low", "high"), [(0.5, 0.03, 0.02), (2.0, 0.1, 0.06)])
def test_score_of_a_known_relation(noise, low, high):
    """R2 of the best predictor is 3 / (3 + noise^2); trees fit some noise, and 2000 records know R2 to 0.004 and to 0.017."""
    train, test = line(4000, 0, noise), line(2000, 1, noise)
    score = predictor_score(train[:, :2], train[:, 2], test[:, :2], test[:, 2], levels=False)
    best = 3 / (3 + noise**2)
    assert best - low < score < best + high


def test_auc_of_a_known_relation():
    """Levels that say nothing beside one that is right with probability 0.9: the AUC is 0.9."""
    rng = np.random.default_rng(0)
    y = rng.integers(0, 2, 4000).astype(float)
    x = np.stack([np.where(rng.random(4000) < 0.9, y, 1 - y), rng.integers(0, 3, 4000)], 1)
    score = predictor_score(x[:2000], y[:2000], x[2000:], y[2000:], levels=True, categories=[0, 1])
    assert score == pytest.approx(0.9, abs=0.03)
    three = np.repeat([0.0, 1.0, 2.0], 100)
    assert predictor_score(three[:, None], three, three[:, None], three, levels=True) == 1


def test_a_target_of_one_value_teaches_nothing():
    test = line(50, 0)
    flat = np.zeros(50)
    assert predictor_score(test[:, :2], flat, test[:, :2], test[:, 2], levels=False) == 0
    assert predictor_score(test[:, :2], flat, test[:, :2], test[:, 2] > 0, levels=True) == 0.5


def test_usefulness_orders_copies_and_shuffles():
    real, test = line(1500, 0), line(800, 1)
    real[::9, 2] = np.nan  # rows without a target are left out
    out = usefulness(real, line(3000, 2), test, 2, levels=False)
    assert out.name == "R2"
    assert abs(out.value - out.ceiling) < 0.03
    assert out.ceiling > 0.85
    assert out.baseline < 0.05
    noisy = usefulness(real, line(3000, 2, noise=8.0), test, 2, levels=False)
    assert noisy.value < out.value - 0.1
    assert noisy.ceiling == out.ceiling
    few = usefulness(real, line(40, 3), test, 2, levels=False)
    assert few.ceiling < 0.75  # of as few real records: one split at most, which explains 3/4


def test_shuffled_columns_keep_their_margins():
    table = line(500, 0)
    apart = shuffled_apart(table, np.random.default_rng(0))
    assert np.array_equal(np.sort(apart, 0), np.sort(table, 0))
    assert abs(np.corrcoef(apart.T)[0, 2]) < 0.2


@pytest.mark.parametrize(("count", "level"), [(19, 0.9), (39, 0.9), (9, 0.8), (100, 0.9)])
def test_coverage_of_an_exact_model_is_binomial(count, level):
    rng = np.random.default_rng(count)
    n = 20000
    scale = rng.uniform(0.1, 10, n)
    out = coverage(rng.normal(size=(n, count)) * scale[:, None], rng.normal(size=n) * scale, level)
    assert out.expected == pytest.approx(level, abs=1 / (count + 1))
    assert out.error == pytest.approx(math.sqrt(out.expected * (1 - out.expected) / n))
    assert abs(out.share - out.expected) < 4.5 * out.error  # false alarm below 1e-5


def test_coverage_by_hand():
    samples = np.tile(np.arange(1.0, 20.0), (4, 1))  # the interval leaves out nothing but its ends: [1, 19]
    out = coverage(samples, np.array([0.0, 1.0, 10.0, 18.5]))
    assert out.expected == pytest.approx(0.9)
    assert out.share == pytest.approx((0 + 0.5 + 1 + 1) / 4)
    assert out.width == 18
    assert out.floor == pytest.approx(np.quantile([0, 1, 10, 18.5], 0.95) - np.quantile([0, 1, 10, 18.5], 0.05))


def test_narrow_and_wide_intervals_are_told():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=2000)
    narrow, wide = (coverage(s * rng.normal(size=(2000, 39)), truth) for s in (0.5, 2.0))
    assert narrow.share < 0.7
    assert wide.share > 0.99
    assert narrow.width < wide.width / 3


def test_what_does_not_belong_together_is_refused():
    data = line(20, 0)
    with pytest.raises(ShapeError, match="x has 2 columns, test_x 1"):
        predictor_score(data[:, :2], data[:, 2], data[:, :1], data[:, 2], levels=False)
    with pytest.raises(DataError, match="all have the same value"):
        predictor_score(data[:, :2], data[:, 2], data[:, :2], np.zeros(20), levels=False)
    with pytest.raises(ShapeError, match=r"samples have shape \(3, 2\), truth \(2,\)"):
        coverage(np.zeros((3, 2)), np.zeros(2))
    with pytest.raises(DataError, match=r"18 samples are too few for an interval of 0.9; draw at least 19"):
        coverage(np.zeros((3, 18)), np.zeros(3))
    with pytest.raises(DataError, match="level=1 must lie"):
        coverage(np.zeros((3, 20)), np.zeros(3), 1.0)
