"""Images survive the round trip, and what cannot be read is refused with its cure."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from undrift.codecs import Images
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
