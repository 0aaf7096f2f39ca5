"""Each kind of column: standard normal coordinates, exact values back, and words when a cell is not what its column was."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr, ndtri

from undrift.codecs.cells import lattice
from undrift.codecs.columns import Category, Date, Number, column_from_config
from undrift.codecs.kinds import guessed
from undrift.codecs.scores import Quantiles
from undrift.errors import DataError, LabelError


def through(column, series, seed=0):
    """The column's cells encoded (as float32, which is what a state is) and decoded."""
    cells = column.parse(series)
    spread = np.random.default_rng(seed).uniform(size=len(cells))
    return column.decode(column.encode(cells, spread).astype(np.float32).astype(np.float64))


def test_rare_values_have_their_mid_rank():
    values = np.array([3.0, -1.0, 10.0, 4.0])
    assert np.allclose(ndtr(Quantiles.of(values).scores(values)), [0.375, 0.125, 0.875, 0.625])


def test_a_spike_owns_its_interval():
    """Half of the cells are 0: their scores fill (F(0-), F(0)), and all of that interval decodes to 0 exactly."""
    cells = np.concatenate([np.linspace(-3, -1, 30), np.zeros(60), np.linspace(1, 2, 30)])
    knots = Quantiles.of(cells)
    u = ndtr(knots.scores(np.zeros(3), np.array([0.0, 0.5, 1.0])))
    assert np.allclose(u, [0.255, 0.5, 0.745])  # the interval is (1/4, 3/4), a hundredth of it left free at both ends
    assert (knots.cells(ndtri(np.linspace(0.2501, 0.7499, 99))) == 0).all()
    assert (knots.cells(ndtri(np.array([0.2499, 0.2, 0.7501]))) != 0).all()


@pytest.mark.parametrize("draw", ["exponential", "cauchy", "poisson", "capped"])
def test_scores_of_any_column_are_standard_normal(draw):
    rng = np.random.default_rng(0)
    made = {
        "exponential": rng.exponential(size=5000),
        "cauchy": rng.standard_cauchy(size=5000),
        "poisson": rng.poisson(2.0, size=5000).astype(float),
        "capped": np.minimum(rng.normal(size=5000), 0.3),
    }[draw]
    z = Quantiles.of(made).scores(made, rng.uniform(size=5000))
    u = np.sort(ndtr(z))
    # Kolmogorov's distance of 5000 uniform spreads stays below 1.95 / sqrt(5000) with probability 0.999.
    assert np.abs(u - (np.arange(5000) + 0.5) / 5000).max() < 1.95 / math.sqrt(5000)
    assert abs(z.std() - 1) < 0.03


def test_between_knots_scores_are_linear_and_invert():
    values = np.random.default_rng(1).normal(size=20000) ** 3
    knots = Quantiles.of(values)
    assert len(knots.values) <= 1000
    assert np.abs(knots.cells(knots.scores(values)) - values).max() < 1e-9
    a, b = knots.values[100], knots.values[101]
    scores = knots.scores(np.array([a, (a + b) / 2, b]))
    assert scores[1] == pytest.approx((scores[0] + scores[2]) / 2, abs=1e-12)


def test_beyond_the_range_scores_go_on_along_its_chord_and_values_stop():
    knots = Quantiles.of(np.linspace(0, 8, 1000) ** 2)
    low, high = knots.scores(np.array([0.0, 64.0]))
    assert low == pytest.approx(ndtri(0.0005))
    slope = (high - low) / 64
    assert np.allclose(knots.scores(np.array([64.0 + 16, -4.0])), [high + 16 * slope, low - 4 * slope])
    assert knots.cells(np.array([-9.0, 9.0])).tolist() == [0.0, 64.0]


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        ([3.0, 9.0, 6.0], (0, 3, 3)),
        ([0.5, 1.5, 4.5], (1, 10, 5)),
        ([0.25, 0.75, 0.5], (2, 25, 25)),
        ([0.1, 0.7, 1e3], (1, 3, 1)),
        ([math.pi, 1.0], (None, 1, 0)),
        ([-7.0], (0, 1, -7)),
    ],
)
def test_values_on_a_lattice_come_back_on_it(cells, found):
    assert lattice(np.array(cells)) == found


def test_new_values_lie_on_the_lattice_of_the_old_ones():
    prices = np.random.default_rng(0).integers(0, 40000, 3000) * 0.25 + 0.1
    column = Number.of("price", "float64", prices)
    made = column.decode(np.random.default_rng(1).normal(size=(500, 1))).to_numpy()
    steps = (made - 0.1) / 0.25
    assert np.abs(steps - steps.round()).max() < 1e-6
    assert made.min() >= prices.min()
    assert made.max() <= prices.max()
    assert len(set(made) - set(prices)) > 10  # and are not only the old ones


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=2, max_size=60))
@settings(max_examples=40, deadline=None)
def test_numbers_round_trip(values):
    series = pd.Series(np.array(values) + 0.0, dtype="float64")
    if series.nunique() < 2:
        return
    back = through(Number.of("v", "float64", series.to_numpy()), series)
    gaps = np.abs(np.subtract.outer(series.to_numpy(), series.to_numpy())).max()
    assert np.abs(back - series).max() <= 1e-5 * gaps
    repeated = series[series.duplicated(keep=False)]
    assert (back[repeated.index] == repeated).all()


@given(st.lists(st.one_of(st.none(), st.integers(-50000, 50000)), min_size=2, max_size=60))
@settings(max_examples=40, deadline=None)
def test_whole_numbers_and_empty_cells_round_trip_exactly(values):
    if len({v for v in values if v is not None}) < 2:
        return
    series = pd.Series(values, dtype="Int64")
    column = guessed(series, "v", "integer")
    pd.testing.assert_series_equal(through(column, series), series)
    assert column.width == 1 + (None in values)


def test_an_empty_number_sits_at_its_median_and_is_marked():
    column = Number.of("v", "float64", np.array([1.0, np.nan, 3.0, 2.5]))
    x = column.encode(np.array([np.nan, 2.5]), np.full(2, 0.5))
    assert x[0].tolist() == [0.0, 1.0]
    assert x[1, 1] == -1.0
    assert np.isnan(column.values(np.array([[0.3, 0.01]]))[0])
    assert column.values(np.array([[0.3, -0.01]]))[0] > 1


@pytest.mark.parametrize("levels", [2, 3, 40])
def test_levels_are_two_apart_whatever_their_number(levels):
    rng = np.random.default_rng(levels)
    cells = np.concatenate([np.arange(levels), rng.integers(0, levels, 500) ** 2 // levels]).astype(float)
    names = tuple(f"l{i:02d}" for i in range(levels))
    column = Category("c", "object", names, tuple(np.bincount(cells.astype(int)).tolist()))
    x = column.encode(cells, np.zeros(len(cells)))
    assert x.shape == (len(cells), 1 if levels == 2 else levels)
    apart = np.linalg.norm(x[0] - x[1])
    assert apart == pytest.approx(2.0)
    if levels > 2:
        assert np.abs(x.mean(0)).max() < 1e-12  # centred
    assert column.decode(x + rng.uniform(-0.6, 0.6, x.shape)).tolist() == [names[int(c)] for c in cells]


def test_empty_texts_are_a_level_of_their_own():
    series = pd.Series(["a", "?", "b", None, "", "a"], dtype=object)
    column = guessed(series, "c")
    assert column.levels == ("a", "b")
    assert column.counts == (2, 1, 3)
    assert column.empty == 0.5
    assert column.parse(series).tolist() == [0, 2, 1, 2, 2, 0]
    assert [None if pd.isna(v) else v for v in through(column, series)] == ["a", None, "b", None, None, "a"]


@pytest.mark.parametrize(
    "series",
    [
        pd.Series([True, False, True]),
        pd.Series([True, None, False], dtype="boolean"),
        pd.Series([True, None, False], dtype=object),
        pd.Series(pd.Categorical(["lo", "hi", None], categories=["lo", "mid", "hi"], ordered=True)),
        pd.Series(pd.Categorical([3, 1, 3], categories=[3, 1])),
        pd.Series(["x", "y", None], dtype="str"),
        pd.Series(["x", "y", "x"], dtype="string"),
    ],
    ids=lambda series: str(series.dtype),
)
def test_columns_of_levels_keep_type_order_and_empty_cells(series):
    pd.testing.assert_series_equal(through(guessed(series, "c"), series), series)


DATES = pd.to_datetime(pd.Series(["2024-02-29", "1969-12-31", "2024-03-01"]))


@pytest.mark.parametrize(
    "series",
    [
        DATES,
        DATES.astype("datetime64[s]"),
        pd.Series([pd.Timestamp("2024-01-01 10:00:01.000007"), pd.NaT, pd.Timestamp("2024-01-02")]).astype("datetime64[us]"),
        DATES.dt.tz_localize("Europe/Berlin"),
        DATES.dt.strftime("%d.%m.%Y"),
        DATES.dt.strftime("%Y-%m-%d %H:%M:%S").astype(object),
    ],
    ids=["ns", "s", "us", "zone", "german", "text"],
)
def test_dates_come_back_as_they_came(series):
    column = guessed(series, "day")
    assert isinstance(column, Date)
    pd.testing.assert_series_equal(through(column, series), series)
    assert column_from_config(json.loads(json.dumps(column.config()))) == column


def test_dates_are_iso_text_in_the_configuration():
    config = guessed(DATES, "day").config()
    assert config["number"]["quantiles"]["values"] == ["1969-12-31", "2024-02-29", "2024-03-01"]


def test_what_is_asked_is_a_score_or_an_index():
    number = Number.of("v", "float64", np.arange(101.0))
    assert number.asked([50, None, np.float64(50)])[[0, 2]] == pytest.approx(0.0)
    assert math.isnan(number.asked([None])[0])
    assert number.asked([100.0])[0] < number.asked([120.0])[0] < number.asked([140.0])[0]
    level = guessed(pd.Series(["a", "b", "c", None] * 2, dtype=object), "c")
    assert level.asked(["c", None, float("nan")])[0] == 2
    assert np.isnan(level.asked([None])).all()
    day = guessed(DATES, "day")
    assert day.asked(["2024-02-29"])[0] == day.condition(day.parse(DATES))[0]
    assert day.asked([pd.Timestamp("2024-02-29")])[0] == day.asked(["2024-02-29"])[0]
    here = DATES.dt.tz_localize("Europe/Berlin")
    there = guessed(here, "day")
    assert there.asked(list(here)) == pytest.approx(there.condition(there.parse(here)))  # moments, not clocks on a wall
    assert there.asked(["2024-02-29"]) == there.asked([pd.Timestamp("2024-02-29", tz="Europe/Berlin")])  # its own zone
    assert there.asked(["2024-02-29"]) < there.asked([pd.Timestamp("2024-02-29", tz="UTC")])


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        (Number.of("v", "float64", np.arange(9.0)), "many", "'v' is a column of numbers, and 'many' was asked"),
        (Number.of("v", "float64", np.arange(9.0)), math.inf, "finite"),
        (guessed(DATES, "day"), "soon", "'day' is a column of dates, and 'soon' was asked"),
        (
            guessed(pd.Series(["rose", "tulip"] * 3), "c"),
            "tulp",
            "unknown level 'tulp' of 'c'.*'rose', 'tulip'; did you mean 'tulip'",
        ),
    ],
)
def test_what_cannot_be_asked_is_said(column, value, message):
    with pytest.raises(LabelError, match=message):
        column.asked([value])


@pytest.mark.parametrize(
    ("learned", "later", "error", "message"),
    [
        ([1.5, 2.5, 3.0], [1.0, None], DataError, "column 'c' has an empty cell in row 2, and had none"),
        (["a", "b", "a"], ["a", None], DataError, "column 'c' has an empty cell in row 2, and had none"),
        (["aa", "bb", "aa"], ["aa", "ba"], LabelError, "unknown level 'ba' in row 2 of column 'c'"),
        ([1.5, 2.5, 3.0], [1.0, "x"], DataError, "row 2 holds 'x'"),
        ([1.5, 2.5, 3.0], [1.0, math.inf], DataError, "infinity in row 2"),
        (["2024-01-01", "2024-01-05"], ["2024-01-01", "soon"], DataError, "holds 'soon' in row 2"),
    ],
)
def test_cells_that_do_not_fit_are_named(learned, later, error, message):
    with pytest.raises(error, match=message):
        guessed(pd.Series(learned), "c").parse(pd.Series(later, dtype=object))
