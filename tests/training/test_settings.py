"""Settings are plain numbers of the right kind, or are refused by name, value and cure."""

import dataclasses
import json

import numpy as np
import pytest

from undrift.errors import DataError
from undrift.training import Settings

WHOLE = ["steps", "epochs", "batch", "warmup", "accumulate"]
SWITCHES = ["flips", "compile", "checkpoint"]
NUMBERS = ["minutes", "learning_rate", "decay", "weight_decay", "clip", "label_dropout", "average", "snapshot"]


def given(name, value):
    return Settings(**({} if name in ("minutes", "steps") else {"steps": 1}) | {name: value})


def test_every_setting_is_checked_here():
    assert {f.name for f in dataclasses.fields(Settings)} == {*WHOLE, *SWITCHES, *NUMBERS, "precision"}


def refused(name, value, wanted):
    with pytest.raises(DataError) as caught:
        given(name, value)
    said = str(caught.value)
    assert name in said
    assert wanted in said
    assert repr(value) in said


@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize("value", [2.5, "abc", "16", True, False, float("nan"), float("inf"), [1], 1j])
def test_counts_are_whole_numbers(name, value):
    refused(name, value, "must be a whole number")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["abc", "1", True, [1], 1j])
def test_numbers_are_numbers(name, value):
    refused(name, value, "must be a number")


@pytest.mark.parametrize("name", SWITCHES)
@pytest.mark.parametrize("value", ["maybe", "true", 1, 0, 1.0, None])
def test_switches_are_on_or_off(name, value):
    refused(name, value, "must be True or False")


@pytest.mark.parametrize("value", [None, 16, True, "half"])
def test_a_precision_is_one_of_three(value):
    refused("precision", value, "float32, bfloat16")


@pytest.mark.parametrize("name", [n for n in WHOLE + NUMBERS if n not in ("minutes", "steps", "epochs")])
def test_only_budgets_may_be_open(name):
    refused(name, None, "number")


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_are_finite(name, value):
    with pytest.raises(DataError, match=f"{name} must lie in"):
        given(name, value)


@pytest.mark.parametrize("name", [*WHOLE, *NUMBERS])
def test_ranges_have_two_ends(name):
    for value in (-2, 2) if name in ("decay", "label_dropout") else (-2,):
        with pytest.raises(DataError, match=f"{name} must lie in"):
            given(name, value)


@pytest.mark.parametrize("value", [1, 1.0, np.int64(1), np.float32(1.0), np.float64(1.0)])
@pytest.mark.parametrize("name", [*WHOLE, *NUMBERS])
def test_any_number_is_kept_as_a_plain_one(name, value):
    plan = given(name, value)
    kept = getattr(plan, name)
    assert kept == 1
    assert type(kept) is (int if name in WHOLE else float)
    assert plan == given(name, 1)
    json.dumps(dataclasses.asdict(plan))
