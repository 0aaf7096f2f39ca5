"""Pictures show what they were given: the tiles are found again in the PNG."""

import numpy as np
import pytest
from matplotlib.image import imread

from undrift.report import class_grid, neighbours, noise_to_sample


def ink(file):
    """Share of dark pixels."""
    return float((imread(file)[..., :3].mean(-1) < 0.5).mean())


@pytest.mark.parametrize("channels", [(), (3,)])
def test_tiles_reach_the_paper(tmp_path, channels):
    """Tiles of the lowest value darken the sheet; those of the highest do not."""
    shape = (3, 4, 8, 8, *channels)
    low, high = np.zeros(shape), np.ones(shape)
    low[0, 0, 0, 0], high[0, 0, 0, 0] = 1, 0  # both values appear, so that the range is the same
    files = [class_grid(tiles, "abc", tmp_path / f"{i}.png", "title") for i, tiles in enumerate((low, high))]
    difference = ink(files[1]) - ink(files[0])
    assert difference < -0.3


def test_paths_and_neighbours_are_drawn(tmp_path):
    rng = np.random.default_rng(0)
    first = noise_to_sample(rng.random((5, 2, 8, 8)), [80, 7, 1, 0.1, 0], [0, 1], tmp_path / "a" / "path.png", "path")
    second = neighbours(rng.random((4, 8, 8)), rng.random((4, 8, 8)), rng.random(4), tmp_path / "n.png", "neighbours")
    assert ink(first) > 0.1
    assert ink(second) > 0.1
