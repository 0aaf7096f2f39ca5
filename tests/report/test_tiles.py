"""Tiles hold the records: the PNG inside the page is read back."""

import base64
import io

import numpy as np
import pytest
from PIL import Image

from undrift.errors import DataError
from undrift.report import tiles


def pixels(address):
    head, text = address.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text))))


def test_forms():
    assert tiles.form("images", (8, 8)) == "picture"
    expected = {(): "points", (2,): "points", (3,): "signal", (3, 200): "signal", (8, 8): "picture", (7, 90): "picture",
                (2, 7): "picture", (4, 4, 4): "slices", (2, 4, 4, 4): "slices"}  # fmt: skip
    assert {shape: tiles.form("arrays", shape) for shape in expected} == expected


@pytest.mark.parametrize("channels", [(), (3,)])
def test_the_picture_is_found_again(channels):
    records = np.random.default_rng(0).integers(0, 256, (2, 5, 7, *channels)).astype(np.uint8)
    found = tiles.tiles(records, "images", tiles.limits(records), "sample")
    for tile, record in zip(found, records, strict=True):
        np.testing.assert_array_equal(pixels(tile.images[0]), record)


def test_floats_lie_between_their_limits():
    record = np.array([[[-1.0, 0.0], [1.0, np.nan]]])
    (tile,) = tiles.tiles(record, "images", tiles.limits(record), "sample")
    np.testing.assert_array_equal(pixels(tile.images[0]), [[0, 128], [255, 0]])


def test_large_pictures_are_averaged_down():
    record = np.kron(np.random.default_rng(0).integers(0, 256, (1, 50, 50)), np.ones((1, 4, 4))).astype(np.uint8)
    (tile,) = tiles.tiles(record, "images", (0.0, 255.0), "sample", pixels=2500)
    np.testing.assert_array_equal(pixels(tile.images[0]), record[0, ::4, ::4])


def test_slices_are_central():
    volume = np.arange(4 * 6 * 8, dtype=float).reshape(1, 4, 6, 8)
    (tile,) = tiles.tiles(volume, "arrays", (0.0, 255.0), "sample")
    for found, wanted in zip(tile.images, (volume[0, 2], volume[0, :, 3], volume[0, :, :, 4]), strict=True):
        np.testing.assert_array_equal(pixels(found), wanted)
    (first,) = tiles.tiles(volume, "arrays", (0.0, 255.0), "sample", only_first=True)
    assert first.images == tile.images[:1]


def test_what_is_no_picture_is_refused():
    with pytest.raises(DataError, match="channels last"):
        tiles.tiles(np.zeros((2, 3, 8, 8)), "images", (0.0, 1.0), "sample")
    with pytest.raises(DataError, match="DataFrame"):
        tiles.columns(np.zeros(3))
