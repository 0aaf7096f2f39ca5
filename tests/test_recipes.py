"""Recipes round-trip through JSON and rebuild what they describe."""

import json

import pytest
import torch

from undrift import schedules
from undrift.codecs import Conditions
from undrift.errors import CheckpointError
from undrift.networks import MLP, UNet
from undrift.recipes import Recipe

NETS = [UNet(1, widths=(8, 16), blocks=1, columns=(3,)), MLP(4, width=16), UNet(2, spatial=1, widths=(8,))]


def recipe(net, schedule="EDM", head="edm", **changes):
    conditions = Conditions.of_labels("class", ["a", "b", "c"]).config() if net.columns else None
    return Recipe(
        **{
            "data": {"path": "flowers/", "digest": "d", "rows": 10, "held_out": 1},
            "codec": {"name": "Images", "config": {"shape": [8, 8], "low": 0, "high": 1}},
            "conditions": conditions,
            "network": {"name": type(net).__name__, "config": net.config()},
            "schedule": {"name": schedule},
            "head": head,
            "data_std": 0.7,
            "times": {"mean": -0.3, "std": 1.0},
            "training": {"steps": 3},
            "seed": 5,
            **changes,
        }
    )


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_json_round_trip_rebuilds_the_denoiser(net, schedule):
    first = recipe(net, schedule)
    again = Recipe.from_json(first.to_json())
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


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["undrift"], 1, "format 1, this version reads 2"),
        (["sead"], 3, "sead is unknown; did you mean 'seed'"),
        (["training", "learnin_rate"], 0.1, "'learnin_rate' is no training setting; did you mean 'learning_rate'"),
        (["training", "batch"], 0, "batch must lie in"),
        (["network", "confg"], {}, "network.confg is unknown; did you mean 'config'"),
        (["data_std"], "one", "data_std: Input should be a valid number"),
        (["times", "std"], 0, "times.std: Input should be greater than 0"),
        (["head"], None, "head is missing"),
        (["conditions"], None, r"conditions \[\] were given for a network of \[3\]"),
    ],
)
def test_a_wrong_key_is_named_with_the_one_that_was_meant(path, value, message):
    data = json.loads(recipe(NETS[0]).to_json())
    place = data
    for key in path[:-1]:
        place = place[key]
    if value is None and path != ["conditions"]:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    with pytest.raises(CheckpointError, match=f"^runs/x/recipe.json.*{message}"):
        Recipe.from_json(json.dumps(data), "runs/x/recipe.json")


def test_what_is_no_recipe_is_named():
    for content, message in ((b"\xff\xfe", "is not JSON"), (b"[1]", "not written by undrift"), (b'{"a": 1}', "not written by")):
        with pytest.raises(CheckpointError, match=message):
            Recipe.from_json(content)


def test_the_digest_is_of_the_run_and_not_of_what_it_measured():
    first = recipe(NETS[0])
    assert recipe(NETS[0], measured={"loss": 1.0}).digest() == first.digest()
    for change in ({"seed": 6}, {"data_std": 0.8}, {"training": {"steps": 4}}):
        assert recipe(NETS[0], **change).digest() != first.digest()
