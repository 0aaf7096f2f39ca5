"""What may be asked for: encoded as a network reads it, written back as it was asked, hidden at the rates that are said."""

import json
import math

import numpy as np
import pandas as pd
import pytest
import torch

from undrift.codecs.conditions import Conditions, silenced
from undrift.codecs.table import Table
from undrift.errors import DataError, LabelError

FRAME = pd.DataFrame(
    {
        "price": [10.0, 20.0, np.nan, 30.0, 25.0, 12.5],
        "rooms": [1, 2, 3, 2, 2, 1],
        "town": ["Ulm", "Bonn", None, "Köln", "Ulm", "Bonn"],
        "sold": [True, False, True, True, False, False],
        "unit": ["EUR"] * 6,
    }
)
TABLE = Table.guess(FRAME)
ASKS = Conditions.of_table(TABLE, ["town", "price", "sold"])


def test_columns_are_what_networks_are_built_with():
    assert ASKS.columns == (4, 0, 2)  # three towns and an empty cell, a number, yes or no
    assert ASKS.names == ("town", "price", "sold")
    assert Conditions.of_table(TABLE, "rooms").columns == (0,)


def test_what_is_known_of_records_and_what_is_asked_agree():
    told = ASKS.of(FRAME)
    assert told.shape == (6, 3)
    assert told[:, 0].tolist() == [2, 0, 3, 1, 2, 0]
    assert math.isnan(told[2, 1])
    asked = ASKS.encode({"price": 20.0, "sold": [True, False]}, 2)
    assert asked[:, 1].tolist() == [float(told[1, 1])] * 2
    assert asked[:, 2].tolist() == [1, 0]
    assert asked[:, 0].isnan().all()
    rest = FRAME.loc[[0, 1, 3, 4, 5], ["price", "town", "sold"]]
    assert torch.equal(ASKS.encode(rest, 5), told[[0, 1, 3, 4, 5]])


def test_a_number_is_its_normal_score():
    numbers = pd.DataFrame({"v": np.linspace(-1, 1, 499)})
    asks = Conditions.of_table(Table.guess(numbers), "v")
    told = asks.of(numbers)[:, 0].double()
    assert torch.allclose(torch.special.ndtr(told), (torch.arange(499) + 0.5).double() / 499, atol=1e-6)
    beyond = asks.encode({"v": [1.0, 1.5, 2.0]}, 3)[:, 0]
    assert beyond[2] - beyond[1] == pytest.approx(float(beyond[1] - beyond[0]), rel=1e-5)
    assert beyond[1] > beyond[0]


def test_none_and_nan_ask_for_nothing():
    asked = ASKS.encode({"price": [None, 20.0, float("nan")], "town": ["Ulm", None, float("nan")]}, 3)
    assert asked.isnan().tolist() == [[False, True, True], [True, False, True], [True, True, True]]
    assert ASKS.encode({}, 2).isnan().all()


@pytest.mark.parametrize("labels", [["rose", "tulip", "rose"], np.array([3, 1, 3]), torch.tensor([5, 0, 5])])
def test_classes_are_one_condition(labels):
    asks = Conditions.of_labels("class", labels)
    assert asks.columns == (2,)
    assert asks.of(labels).tolist() == [[asks.asks[0].levels.index(v)] for v in np.asarray(labels).tolist()]
    first = np.asarray(labels).tolist()[0]
    assert torch.equal(asks.encode({"class": first}, 3), asks.of([first] * 3))
    images = np.zeros((3, 4, 4))
    assert asks.write(images, {"class": first}) is images


def test_what_was_asked_is_written_back_exactly():
    made = TABLE.decode(torch.zeros(3, *TABLE.event_shape))
    out = ASKS.write(made, {"price": [11.125, None, 400.0], "town": "Köln"})
    assert out["price"].tolist() == [11.125, made["price"][1], 400.0]
    assert out["town"].tolist() == ["Köln"] * 3
    assert (out.dtypes == made.dtypes).all()
    assert out["rooms"].equals(made["rooms"])
    part = ASKS.write(made.head(2), {"price": [1.5, 2.5, 3.5, 4.5]}, 4, [3, 1])
    assert part["price"].tolist() == [4.5, 2.5]


def test_a_whole_number_column_keeps_its_type_only_where_the_values_fit():
    asks = Conditions.of_table(TABLE, "rooms")
    made = TABLE.decode(torch.zeros(2, *TABLE.event_shape))
    assert asks.write(made, {"rooms": 4})["rooms"].dtype == np.int64
    assert asks.write(made, {"rooms": 4.0})["rooms"].tolist() == [4, 4]
    half = asks.write(made, {"rooms": [2.5, None]})["rooms"]
    assert half.tolist() == [2.5, made["rooms"][1]]


@pytest.mark.parametrize(
    ("where", "error", "message"),
    [
        (
            {"prize": 3},
            LabelError,
            r"unknown condition 'prize'; this model knows 'town', 'price', 'sold'; did you mean 'price'\?",
        ),
        ({"town": "Bon"}, LabelError, r"unknown level 'Bon' of 'town'; .*'Bonn', 'Köln', 'Ulm'; did you mean 'Bonn'"),
        ({"price": "dear"}, LabelError, "'price' is a column of numbers, and 'dear' was asked"),
        ({"price": [1.0, 2.0]}, DataError, "'price' has 2 values for 3 samples"),
        (["price"], LabelError, "give a mapping"),
    ],
)
def test_what_cannot_be_asked_is_said(where, error, message):
    with pytest.raises(error, match=message):
        ASKS.encode(where, 3)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["pryce"], "unknown column 'pryce'.*did you mean 'price'"),
        (["unit"], "column 'unit' cannot be asked for: it is left out"),
        (["town", "town"], "names a column twice"),
        ([], "no column was named"),
    ],
)
def test_what_cannot_become_a_condition_is_said(names, message):
    with pytest.raises(LabelError, match=message):
        Conditions.of_table(TABLE, names)


def test_records_without_the_column_are_refused():
    with pytest.raises(DataError, match="have no column 'town'"):
        ASKS.of(FRAME[["price", "sold"]])


@pytest.mark.parametrize("asks", [ASKS, Conditions.of_labels("class", ["a", "b"]), Conditions.of_labels("class", [2, 1])])
def test_configuration_round_trips(asks):
    assert Conditions.from_config(json.loads(json.dumps(asks.config()))) == asks
    assert [name for name, _ in asks.describe()] == [str(name) for name in asks.names]


@pytest.mark.parametrize(("count", "rate"), [(1, 0.1), (2, 0.0), (3, 0.25), (3, 1.0)])
def test_silence_has_the_rates_it_says(count, rate):
    n = 40000
    rng = torch.Generator().manual_seed(count)
    cond = torch.randn(n, count, generator=rng)
    out = silenced(cond, torch.rand(n, count + 2, generator=rng), rate)
    hidden = out.isnan()
    assert torch.equal(out[~hidden], cond[~hidden])
    subsets = 0.5 if count > 1 else 0.0

    def near(share, wanted):  # six standard errors: false alarm below 1e-8
        assert abs(float(share) - wanted) <= 6 * math.sqrt(max(wanted * (1 - wanted), 1e-12) / n)

    near((~hidden).all(1).float().mean(), (1 - rate) * (1 - subsets + subsets / 2**count))
    near(hidden.all(1).float().mean(), rate + (1 - rate) * subsets / 2**count)
    for column in range(count):
        near(hidden[:, column].float().mean(), rate + (1 - rate) * subsets / 2)
    if count > 1:  # entries of a subset are hidden independently
        near((hidden[:, 0] & hidden[:, 1]).float().mean(), rate + (1 - rate) * subsets / 4)


def test_silence_reads_its_uniforms_and_says_their_shape():
    cond = torch.tensor([[1.0, 2.0]])
    assert silenced(cond, torch.tensor([[0.2, 0.4, 0.4, 0.6]]), 0.2).isnan().tolist() == [[True, False]]
    assert silenced(cond, torch.tensor([[0.1, 0.9, 0.9, 0.9]]), 0.2).isnan().tolist() == [[True, True]]
    assert silenced(cond, torch.tensor([[0.3, 0.6, 0.1, 0.1]]), 0.2).isnan().tolist() == [[False, False]]
    with pytest.raises(DataError, match=r"take uniforms of \(1, 4\), got \(1, 3\)"):
        silenced(cond, torch.rand(1, 3), 0.1)
