"""Recipes round-trip through JSON and rebuild what they describe."""

import json

import pytest
import torch

from undrift import schedules
from undrift.errors import CheckpointError
from undrift.networks import MLP, UNet
from undrift.recipes import Recipe

NETS = [UNet(1, widths=(8, 16), blocks=1, classes=3), MLP(4, width=16), UNet(2, spatial=1, widths=(8,))]


def recipe(net, schedule="EDM", head="edm"):
    return Recipe(
        network=type(net).__name__, network_config=net.config(), schedule=schedule, schedule_config={}, head=head,
        data_std=0.7, codec={"shape": [8, 8], "low": 0, "high": 1}, training={"steps": 3}, seed=5,
        class_names=None if net.classes is None else ["a", 2, "c"],
    )  # fmt: skip


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_json_round_trip_rebuilds_the_denoiser(net, schedule):
    first = recipe(net, schedule)
    again = Recipe.from_json(json.loads(json.dumps(first.to_json())))
    assert again == first
    denoiser = again.build()
    assert denoiser.path.schedule == schedules.SCHEDULES[schedule]()
    assert denoiser.data_std == 0.7
    rebuilt = denoiser.modules()[0]
    rebuilt.load_state_dict(net.state_dict())
    for a, b in zip(rebuilt.parameters(), net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_head_that_its_schedule_cannot_serve_is_named():
    with pytest.raises(CheckpointError, match="head 'eps' does not fit its schedule"):
        recipe(NETS[0], "LinearFlow", "eps").build()
