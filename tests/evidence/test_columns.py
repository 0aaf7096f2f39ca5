"""Distances and relations of columns against their closed forms; a copy stands at the floor, what knows little above it."""

import json
import math

import numpy as np
import pytest

from undrift.errors import DataError, ShapeError
from undrift.evidence.columns import associations, compare_columns, total_variation, wasserstein

RNG = np.random.default_rng(0)


def test_wasserstein_of_a_shift_and_a_scale():
    y = RNG.normal(size=400)
    assert wasserstein(y + 0.3, y) == pytest.approx(0.3 / y.std())
    assert wasserstein(3 * y, y) == pytest.approx(2 * np.abs(y).mean() / y.std())
    assert wasserstein(y, y) == 0
    assert wasserstein(np.array([0.0, 1.0, 1.0]), np.array([0.0, 1.0])) == pytest.approx((2 / 3 - 1 / 2) / 0.5)  # by hand
    assert wasserstein(np.array([np.nan, 1.0]), np.array([1.0, np.nan, 1.0])) == 0
    assert math.isnan(wasserstein(np.array([np.nan]), y))


def test_total_variation_counts_empty_cells():
    x, y = np.array([0.0, 0.0, 1.0, np.nan]), np.array([0.0, 1.0, 1.0, 1.0])
    assert total_variation(x, y) == pytest.approx(0.5)
    assert total_variation(x, x[::-1]) == 0
    assert total_variation(np.array([0.0]), np.array([np.nan])) == 1


def test_relations_are_the_textbook_ones():
    from scipy.stats import contingency, spearmanr

    n = 500
    a = RNG.normal(size=n)
    b = np.round(a + RNG.normal(size=n), 1)  # with ties
    c = (a > 0.5).astype(float) + (a > -0.5)
    d = RNG.permutation(c)
    d[: n // 2] = c[: n // 2]
    table, levels = np.stack([a, b, c, d], 1), [False, False, True, True]
    out = associations(table, levels)
    assert out[0, 1] == pytest.approx(spearmanr(a, b).statistic)
    crossed = contingency.crosstab(c, d).count
    assert out[2, 3] == pytest.approx(contingency.association(crossed, method="cramer"))
    ranks = a.argsort().argsort()
    between = sum((c == k).sum() * (ranks[c == k].mean() - ranks.mean()) ** 2 for k in range(3))
    assert out[0, 2] == pytest.approx((between / ((ranks - ranks.mean()) ** 2).sum()) ** 0.5)
    assert np.array_equal(out, out.T)
    assert (np.diag(out) == 1).all()
    turned = [2, 0, 3, 1]  # in any order of columns
    assert associations(table[:, turned], [levels[i] for i in turned]) == pytest.approx(out[np.ix_(turned, turned)])


def test_cramers_v_is_one_where_one_column_tells_the_other():
    fine = np.repeat(np.arange(4.0), 5)
    table = np.stack([fine, fine // 2], 1)
    assert associations(table, [True, True])[0, 1] == pytest.approx(1)


def test_empty_and_constant_columns_are_related_to_nothing():
    table = np.stack([np.arange(6.0), np.ones(6), [0, np.nan, 1, np.nan, 2, 3]], 1)
    out = associations(table, [False, False, False])
    assert out[0, 1] == 0
    assert out[0, 2] == pytest.approx(1)


def tables(n=2000, seed=1):
    rng = np.random.default_rng(seed)
    a = rng.exponential(size=n)
    b = np.where(rng.random(n) < 0.2, np.nan, a + 0.3 * rng.normal(size=n))
    return np.stack([a, b, (a > 1) + (a > 2.0) * (rng.random(n) < 0.8)], 1).astype(float)


def test_copies_are_at_the_floor_and_baselines_above():
    names, levels = ["a", "b", "c"], [False, False, True]
    out = compare_columns(tables(4000), tables(2000, 2), names, levels, seed=3)
    assert out.matched == 2000
    for column in out.columns:
        assert column.distance < 2.5 * column.floor + 0.02  # two draws of one law
        assert column.baseline > 2 * column.floor
    assert out.columns[1].empty == pytest.approx(0.2, abs=0.04)
    assert out.columns[1].empty_generated == pytest.approx(0.2, abs=0.05)
    assert out.distance < 0.03
    assert out.floor < 0.03
    assert out.baseline > 0.5
    assert out.real[0, 1] > 0.8
    told = json.loads(json.dumps(out.to_json()))
    assert told["pairs"]["names"] == names
    assert told["columns"][0]["kind"] == "number"


def test_what_is_wrong_with_a_column_shows_in_its_figure_alone():
    real, made = tables(4000), tables(2000, 2)
    made[:, 0] *= 1.5
    good = compare_columns(real, tables(2000, 2), ["a", "b", "c"], [False, False, True])
    bad = compare_columns(real, made, ["a", "b", "c"], [False, False, True])
    assert bad.columns[0].distance > 0.4
    assert [c.distance for c in bad.columns[1:]] == [c.distance for c in good.columns[1:]]
    assert bad.distance == pytest.approx(good.distance)  # ranks do not see a scale


def test_what_does_not_belong_together_is_refused():
    with pytest.raises(ShapeError, match=r"real has shape \(10, 3\) and 2 columns are named"):
        compare_columns(tables(10), tables(10), ["a", "b"], [False, False])
    with pytest.raises(ShapeError, match="3 names and 2 kinds"):
        compare_columns(tables(10), tables(10), ["a", "b", "c"], [False, False])
    with pytest.raises(DataError, match="real holds 3 records"):
        compare_columns(tables(3), tables(10), ["a", "b", "c"], [False, False, True])
    with pytest.raises(DataError, match="infinity in column 1"):
        compare_columns(tables(10), tables(10) + np.array([0, np.inf, 0]), ["a", "b", "c"], [False, False, True])
