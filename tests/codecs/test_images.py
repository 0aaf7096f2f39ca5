"""Images survive the round trip, and what cannot be read is refused with its cure."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undrift.codecs import CODECS, Codec, Images, flipped
from undrift.errors import DataError

SHAPES = st.sampled_from([(3, 4, 5), (2, 3, 3, 1), (2, 2, 5, 3), (4, 1, 1, 2)])


@settings(max_examples=60, deadline=None)
@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.uint8, shape)))
def test_bytes_round_trip_exactly(images):
    images.flat[0], images.flat[-1] = 0, 255
    codec = Images.guess(images)
    back = codec.decode(codec.encode(images))
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(back, images)


@settings(max_examples=60, deadline=None)
@given(SHAPES.flatmap(lambda shape: hnp.arrays(np.float32, shape, elements=st.floats(-50, 50, width=32))))
def test_numbers_round_trip_within_float32(images):
    images.flat[0], images.flat[-1] = -50.5, 50.25
    codec = Images.guess(images)
    # the state is float32 in [-1, 1]: half a unit in the last place of 1, times the half range
    np.testing.assert_allclose(codec.decode(codec.encode(images)), images, atol=4 * 2**-24 * 51)


def test_state_is_channels_first_in_minus_one_to_one():
    images = np.arange(24, dtype=np.int64).reshape(2, 2, 3, 2)
    x = Images.guess(images).encode(images)
    assert x.shape == (2, 2, 2, 3)
    assert x.dtype == torch.float32
    np.testing.assert_allclose(x.numpy(), images.transpose(0, 3, 1, 2) * (2 / 23) - 1, atol=1e-6)


def test_decoding_clips_and_rounds_to_the_levels_of_the_data():
    codec = Images.guess(np.array([[[0, 16]], [[3, 5]]]))
    assert codec.levels == 17
    out = codec.decode(torch.tensor([[[[-1.7, 0.03]]], [[[0.9, 4.0]]]]))
    np.testing.assert_array_equal(out, [[[0, 8]], [[15, 16]]])


def test_configuration_round_trips():
    codec = Images.guess(np.random.default_rng(0).normal(size=(4, 5, 6, 3)))
    assert Images.from_config(codec.config()) == codec


BAD = np.ones((5, 2, 2))
BAD[3, 0, 1] = np.nan


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (BAD, r"1 of 5 images hold NaN or infinity \(first: image 3\); drop or repair"),
        (np.ones((4, 4)), r"\(N, H, W\) or \(N, H, W, C\).*one image alone is images\[None\]"),
        (np.zeros((1, 4, 4)), "N >= 2"),
        (np.full((3, 2, 2), 7.0), "every pixel of the images is 7"),
        (np.full((3, 2, 2), "a"), "give numbers"),
    ],
)
def test_unreadable_images_are_named(images, message):
    with pytest.raises(DataError, match=message):
        Images.guess(images)


def test_foreign_images_are_refused():
    codec = Images.guess(np.array([[[0, 16]], [[3, 5]]]))
    with pytest.raises(DataError, match="fitted on \\(1, 2\\); resize"):
        codec.encode(np.zeros((1, 2, 2)))
    with pytest.raises(DataError, match=r"values from 0 to 20.*bring them to that range"):
        codec.encode(np.array([[[0, 20]]]))


@settings(max_examples=60, deadline=None)
@given(
    SHAPES.flatmap(lambda shape: hnp.arrays(np.uint16, shape)),
    st.sampled_from([np.uint16, np.int32, np.int64, np.float64, np.float32]),
)
def test_sixteen_bits_round_trip_exactly_in_their_type(images, dtype):
    images.flat[0], images.flat[-1] = 0, 65535
    images = images.astype(dtype)
    codec = Images.from_config(json.loads(json.dumps(Images.guess(images).config())))
    assert codec.levels == 65536
    back = codec.decode(codec.encode(images))
    assert back.dtype == dtype
    np.testing.assert_array_equal(back, images)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.bool_])
def test_the_state_is_the_formula_in_float64_rounded_once_or_twice(dtype):
    rng = np.random.default_rng(0)
    images = (
        rng.integers(0, 2, (7, 5, 4, 3)).astype(bool) if dtype is np.bool_ else rng.integers(0, 250, (7, 5, 4, 3)).astype(dtype)
    )
    codec = Images.guess(images)
    wanted = 2 * (images.astype(np.float64) - codec.low) / (codec.high - codec.low) - 1
    # a rounding of the factor and one of the product, each half a unit in the last place of 1
    np.testing.assert_allclose(codec.encode(images).numpy(), wanted.transpose(0, 3, 1, 2), atol=2 * 2**-24, rtol=0)


@pytest.mark.parametrize(("greatest", "high"), [(100, 255), (255, 255), (256, 511), (4000, 4095), (4096, 8191), (65535, 65535)])
def test_sixteen_bit_images_are_scaled_by_the_depth_that_they_use(greatest, high):
    codec = Images.guess(np.array([[[3, 5]], [[greatest, 4]]], dtype=np.uint16))
    assert (codec.low, codec.high, codec.levels) == (0, high, high + 1)


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([0.1, 0.7], (0, 1)),
        ([-0.5, 0.9], (-1, 1)),
        ([0.1, 0.2], (0.1, 0.2)),
        ([-0.1, 0.2], (-0.1, 0.2)),
        ([0.1, 1.5], (0.1, 1.5)),
    ],
)
def test_fractions_have_their_usual_range(values, wanted):
    codec = Images.guess(np.array(values).reshape(2, 1, 1))
    assert (codec.low, codec.high) == wanted


def test_a_value_beyond_the_sample_is_named_later():
    codec = Images.guess(np.array([[[0, 16]], [[3, 5]]]), rows=np.array([0, 9]))
    with pytest.raises(DataError, match=r"values from 0 to 20 \(first outside: image 1\).*fitted on \[0, 16\]"):
        codec.encode(np.array([[[0, 1]], [[20, 3]]]))
    with pytest.raises(DataError, match=r"values from 0 to 300 .*fitted on \[0, 255\]"):
        Images.guess(np.array([[[0, 16]], [[3, 5]]], dtype=np.uint8)).encode(np.array([[[0, 300]]]))


def test_errors_name_the_rows_of_the_source():
    with pytest.raises(DataError, match="first: image 70"):
        Images.guess(BAD, rows=np.array([0, 20, 50, 70, 99]))


def test_read_only_and_turned_images_are_read():
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    images.flags.writeable = False
    codec = Images.guess(images)
    np.testing.assert_array_equal(codec.decode(codec.encode(images[:, ::-1])), images[:, ::-1])
    np.testing.assert_array_equal(codec.decode(codec.encode(images)), images)


def test_each_image_is_mirrored_with_probability_one_half_as_the_generator_says():
    images = np.arange(4000 * 6, dtype=np.int64).reshape(4000, 2, 3)
    out = flipped(images, np.random.default_rng(0))
    np.testing.assert_array_equal(out, flipped(images, np.random.default_rng(0)))
    mirrored = (out == images[:, :, ::-1]).all((1, 2))
    assert (mirrored | (out == images).all((1, 2))).all()
    assert abs(mirrored.mean() - 0.5) < 4.9 * 0.5 / 4000**0.5  # false alarm 1e-6
    colour = np.stack([images, images + 1], -1)
    np.testing.assert_array_equal(flipped(colour, np.random.default_rng(0))[..., 0], out)


def test_the_schema_is_said():
    codec = Images.guess(np.array([[[0, 16]], [[3, 5]]], dtype=np.uint8))
    assert codec.describe() == [("images", "1 x 2 pixels, 1 channel"), ("values", "0 to 255, 256 levels, uint8")]


@pytest.mark.parametrize("name", CODECS)
def test_every_codec_conforms(name):
    records = synthetic(name)
    codec = CODECS[name].guess(records)
    assert isinstance(codec, Codec)
    again = CODECS[name].from_config(json.loads(json.dumps(codec.config())))
    x = again.encode(records)
    assert x.dtype == torch.float32
    assert x.shape == (len(records), *again.event_shape)
    assert x.square().mean() < 10  # scaled: what a network can take
    back = again.decode(x)
    if isinstance(records, pd.DataFrame):  # numbers pass through scores, levels are exact
        pd.testing.assert_frame_equal(back, records, check_exact=False, rtol=1e-5, atol=1e-5)
    else:
        assert back.dtype == records.dtype
        np.testing.assert_allclose(back, records, atol=1e-6, rtol=0)
    assert all(isinstance(text, str) for line in codec.describe() for text in line)
    with pytest.raises(DataError, match=r"image 3|record 3|row 4"):
        codec.encode(damaged(records))


def synthetic(name):
    rng = np.random.default_rng(0)
    if name == "Images":
        return rng.uniform(size=(20, 4, 5, 3)).astype(np.float32)
    if name == "Arrays":
        return rng.normal(size=(20, 4))
    return pd.DataFrame({"size": rng.normal(5, 2, 200), "rooms": rng.integers(1, 6, 200), "town": rng.choice(["a", "b"], 200)})


def damaged(records):
    """Row 3 holds infinity."""
    records = records.copy()
    if isinstance(records, pd.DataFrame):
        records.loc[3, "size"] = np.inf
    else:
        records[3].flat[0] = np.inf
    return records


def test_the_jacobian_is_that_of_encoding():
    for low, high, shape in ((0.0, 255.0, (2, 3)), (-1.0, 1.0, (2, 3, 4)), (10.0, 14.0, (1, 5, 2))):
        codec = Images(shape, low, high)
        at = np.full((1, *shape), low)
        slope = (codec.encode(at + 1.0).double() - codec.encode(at).double()).log().sum()
        assert codec.log_jacobian() == pytest.approx(float(slope), abs=1e-4)
