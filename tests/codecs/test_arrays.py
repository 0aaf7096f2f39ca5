"""Arrays of any shape and type survive the round trip, standardised a channel at a time."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undrift.codecs import Arrays
from undrift.errors import DataError

RNG = np.random.default_rng(0)
DTYPES = st.sampled_from([np.uint8, np.int8, np.int16, np.uint16, np.int32, np.float16, np.float32, np.float64, np.bool_])


@st.composite
def arrays(draw):
    """(records, channels): any shape and type, at least one value unlike the others."""
    kind = np.dtype(draw(DTYPES))
    shape = draw(hnp.array_shapes(min_dims=1, max_dims=4, min_side=1, max_side=4))
    n = draw(st.integers(2, 5))
    elements = {"b": None, "f": st.floats(-1000, 1000, width=16)}.get(
        kind.kind, st.integers(0 if kind.kind == "u" else -100, 127) if kind.kind in "iu" else None
    )
    records = draw(hnp.arrays(kind, (n, *shape[: draw(st.integers(0, len(shape)))]), elements=elements))
    records.reshape(n, -1)[0, 0] = 0 if kind.kind == "b" else 12
    records.reshape(n, -1)[-1, 0] = 1 if kind.kind == "b" else 113
    return records, draw(st.sampled_from([None, "first", "last"])) if records.ndim > 1 else None


@settings(max_examples=200, deadline=None)
@given(arrays())
def test_any_shape_and_type_round_trips(given_):
    records, channels = given_
    codec = Arrays.guess(records, channels)
    codec = Arrays.from_config(json.loads(json.dumps(codec.config())))
    x = codec.encode(records)
    assert x.shape == (len(records), *codec.event_shape)
    assert x.dtype == torch.float32
    back = codec.decode(x)
    assert back.dtype == records.dtype
    # float32 in standard deviations of at most 1000, at most a few from the mean; float16 rounds once more
    tolerance = 0 if records.dtype.kind in "iub" else 1e-3
    np.testing.assert_allclose(back.astype(float), records.astype(float), atol=tolerance, rtol=1e-3 * (tolerance > 0))


@pytest.mark.parametrize(
    ("shape", "channels", "event", "scales"),
    [
        ((), None, (1,), 1),
        ((5,), None, (5,), 5),
        ((5,), "first", (1, 5), 1),
        ((5,), "last", (1, 5), 1),
        ((4, 5), None, (1, 4, 5), 1),
        ((2, 4, 5), None, (1, 2, 4, 5), 1),
        ((2, 5), "first", (2, 5), 2),
        ((5, 2), "last", (2, 5), 2),
        ((2, 3, 4, 5), "first", (2, 3, 4, 5), 2),
        ((3, 4, 5, 2), "last", (2, 3, 4, 5), 2),
    ],
)
def test_the_table_of_shapes(shape, channels, event, scales):
    records = RNG.normal(size=(6, *shape))
    codec = Arrays.guess(records, channels)
    assert codec.event_shape == event
    assert len(codec.mean) == len(codec.std) == scales
    x = codec.encode(records)
    assert x.shape == (6, *event)
    wanted = records if channels != "last" or len(shape) < 2 else np.moveaxis(records, -1, 1)
    wanted = wanted.reshape(6, *event)
    axes = tuple(i for i in range(wanted.ndim) if i != 1) if scales > 1 else None
    wanted = (wanted - wanted.mean(axes, keepdims=True)) / wanted.std(axes, keepdims=True)
    np.testing.assert_allclose(x.numpy(), wanted, atol=1e-6)


def test_coordinates_of_different_units_are_scaled_apart():
    records = RNG.normal([1e6, -3], [1e3, 1e-3], size=(500, 2))
    x = Arrays.guess(records).encode(records).double()
    torch.testing.assert_close(x.mean(0), torch.zeros(2).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(x.std(0, correction=0), torch.ones(2).double(), atol=1e-6, rtol=0)


def test_measuring_in_parts_is_measuring_the_whole(monkeypatch):
    monkeypatch.setattr("undrift.codecs.arrays.CHUNK", 7)
    records = RNG.normal(1e4, 2, size=(101, 3))  # an offset that one pass of squares in float32 would lose
    codec = Arrays.guess(records)
    np.testing.assert_allclose(codec.mean, records.mean(0), rtol=1e-12)
    np.testing.assert_allclose(codec.std, records.std(0), rtol=1e-9)


def test_a_constant_coordinate_is_kept_whatever_the_model_says():
    records = np.stack([RNG.normal(size=50), np.full(50, 7.1)], 1)
    codec = Arrays.guess(records)
    assert (codec.encode(records)[:, 1] == 0).all()
    assert (codec.decode(torch.randn(20, 2))[:, 1] == 7.1).all()
    assert ("constant", "1 of 2 channels or coordinates never change and are kept as they are") in codec.describe()


def test_whole_numbers_are_rounded_and_stay_in_the_range_of_their_coordinate():
    records = np.array([[0, -5], [10, 5], [4, 1]], dtype=np.int16)
    back = Arrays.guess(records).decode(torch.tensor([[9.0, 0.02], [-9.0, -9.0]]))
    assert back.dtype == np.int16
    np.testing.assert_array_equal(back, [[10, 0], [0, -5]])


@pytest.mark.parametrize(
    ("records", "channels", "message"),
    [
        (
            np.array([[0.0, 1.0], [np.nan, 1], [2, 3], [np.inf, 4]]),
            None,
            r"2 of 4 records hold NaN or infinity \(first: record 1\)",
        ),
        (np.ones((4, 3)), None, "all 4 records are equal; there is nothing to learn"),
        (np.ones((1, 3)), None, "N >= 2"),
        (np.ones((3, 0)), None, "nothing empty"),
        (np.array([["a"], ["b"]]), None, "give numbers, integer or floating"),
        (np.array([[1j], [2]]), None, "stack real and imaginary part as two channels"),
        (np.array([0, 2**60]), None, "beyond 2\\^53.*subtract an offset"),
        (np.zeros((3, 2)), "middle", "channels='middle' is not understood.*'first', 'last' or None"),
        (np.arange(3), "first", r"records of shape \(\) have no channels"),
    ],
)
def test_what_cannot_be_learned_from_is_refused(records, channels, message):
    with pytest.raises(DataError, match=message):
        Arrays.guess(records, channels)


def test_foreign_records_are_refused_with_their_row():
    codec = Arrays.guess(RNG.normal(size=(9, 4)))
    with pytest.raises(DataError, match=r"shape \(5,\) each, this model was fitted on \(4,\)"):
        codec.encode(np.zeros((2, 5)))
    bad = np.zeros((6, 4))
    bad[4, 2] = np.nan
    with pytest.raises(DataError, match=r"1 of 6 records hold NaN or infinity \(first: record 4\)"):
        codec.encode(bad)


def test_errors_name_the_rows_of_the_source():
    bad = np.zeros((3, 4))
    bad[2] = np.nan
    with pytest.raises(DataError, match="first: record 90"):
        Arrays.guess(bad, rows=np.array([0, 45, 90]))


def test_what_was_decided_is_said():
    lines = dict(Arrays.guess(RNG.normal(size=(9, 2, 7)), "first").describe())
    assert lines["arrays"] == "2 x 7, float64"
    assert "7 places and 2 channel(s)" in lines["read as"]


@pytest.mark.parametrize(("shape", "channels"), [((), None), ((3,), None), ((4, 5), None), ((2, 3), "first"), ((3, 2), "last")])
def test_the_jacobian_is_that_of_encoding(shape, channels):
    records = np.random.default_rng(0).normal(3, 7, (6, *shape)) * np.linspace(0.5, 2, max(1, shape[-1] if shape else 1))
    codec = Arrays.guess(records, channels)
    # The map is affine and diagonal: its slope along each number, by a difference of encodings.
    step = codec.encode(records[:1] + 1.0).double() - codec.encode(records[:1]).double()
    assert codec.log_jacobian() == pytest.approx(float(step.log().sum()), abs=1e-4)


def test_records_with_a_constant_have_no_density():
    records = np.random.default_rng(0).normal(size=(5, 3))
    records[:, 2] = 4.0
    with pytest.raises(DataError, match=r"coordinate 2 never changes \(1 of 3 are constant\)"):
        Arrays.guess(records).log_jacobian()
