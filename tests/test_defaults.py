"""The default network of a grid: what it was found to be by experiment, and affordable for every shape."""

import math
from types import SimpleNamespace

import pytest
import torch

from undrift.defaults import defaults, grid_network
from undrift.networks.unet import AttentionBlock, UNet

SHAPES = [
    (1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (1, 3, 64, 64), (1, 64, 3, 64), (1, 200), (1, 5000), (2, 16, 16, 16),
    (1, 63, 63, 63), (1, 3), (1, 1, 1), (3, 1, 512), (1, 1, 1, 4096),
]  # fmt: skip


def places(event, level):
    """Positions at a level, where n becomes ceil(n/2)."""
    sizes = list(event[1:])
    for _ in range(level):
        sizes = [-(-n // 2) for n in sizes]
    return math.prod(sizes)


@pytest.mark.parametrize("event", SHAPES)
def test_attention_is_affordable(event):
    config = grid_network(event)
    levels = len(config["widths"])
    assert config["attention"] == [levels - 1]
    assert places(event, levels - 1) <= 512
    assert max(-(-n // 2 ** (levels - 1)) for n in event[1:]) in (range(4, 9) if max(event[1:]) >= 4 else range(1, 4))


@pytest.mark.parametrize(("event", "widths"), [
    ((1, 8, 8), [32, 64]), ((1, 28, 28), [32, 64, 128]), ((3, 32, 32), [32, 64, 128, 128]),
])  # fmt: skip
def test_pictures_have_the_network_of_the_benchmarks(event, widths):
    assert grid_network(event) == {
        "channels": event[0], "spatial": 2, "widths": widths, "blocks": 1, "attention": [len(widths) - 1]
    }  # fmt: skip


@pytest.mark.parametrize("event", [(1, 3, 64, 64), (1, 1, 1), (1, 5, 9), (1, 200)])
def test_the_network_attends_where_it_is_told_and_gives_a_grid_back(event):
    config = grid_network(event)
    net, seen = UNet(**config), []
    for block in net.modules():
        if isinstance(block, AttentionBlock):
            block.register_forward_pre_hook(lambda _, given: seen.append(math.prod(given[0].shape[2:])))
    with torch.no_grad():
        assert net(torch.randn(1, *event), torch.zeros(1)).shape == (1, *event)
    assert set(seen) == {places(event, len(config["widths"]) - 1)}


def test_vectors_that_are_asked_nothing_get_more_passes_and_no_dropout():
    table = SimpleNamespace(event_shape=(9,))
    free, asked = defaults(table, 900, ()), defaults(table, 900, (0, 3))
    assert (free.training["epochs"], asked.training["epochs"]) == (1500, 600)
    assert (free.network.config["dropout"], asked.network.config["dropout"]) == (0.0, 0.2)
    assert "columns" not in free.network.config
    assert asked.network.config["columns"] == [0, 3]
