"""What tuning found, kept and asked: as few calls as a tolerance takes, and every way its file can be wrong."""

import json

import pytest

from undrift import gaussian, grids, schedules
from undrift.errors import CheckpointError, GridError
from undrift.gaussian.tune import Error
from undrift.routes import NAME, Routes

GRID = grids.flow(schedules.EDM(), 2)
FITTED = gaussian.Tuned(
    gaussian.Fitted(GRID, ((0.5, 0.5), (0.0, -0.25, 1.25))),
    GRID,
    Error(2, 0.1, 0.2),
    Error(2, 0.3, 0.4),
    (Error(6, 0.04, 0.05),),
    9,
)
USUAL = gaussian.Tuned(
    gaussian.Multistep("velocity", 3, corrector=True), GRID, Error(2, 0.3, 0.4), Error(2, 0.3, 0.4), (Error(6, 0.04, 0.05),), 9
)


@pytest.mark.parametrize("route", [FITTED, USUAL])
def test_routes_are_kept_whole(route, tmp_path):
    routes = Routes({(2, 1.0): route, (2, 3.0): USUAL})
    routes.save(tmp_path, "digest")
    assert Routes.load(tmp_path, "digest") == routes
    Routes().save(tmp_path, "digest")  # a model without routes leaves none of the last one's
    assert Routes.load(tmp_path, "digest") == {}


def test_as_few_calls_as_a_tolerance_takes():
    routes = Routes({(2, 1.0): FITTED})
    assert routes.fewest(0.1, 1.0) == 2  # the tuned route, not the default's .3
    assert routes.fewest(0.05, 1.0) == 6
    with pytest.raises(GridError, match=r"the least is 0.04, at 6 calls.*tune\(calls=12\)"):
        routes.fewest(0.01, 1.0)
    with pytest.raises(GridError, match="scale=3"):
        routes.fewest(0.1, 3.0)


def test_a_damaged_or_foreign_file_is_named(tmp_path):
    Routes({(2, 1.0): FITTED}).save(tmp_path, "digest")
    with pytest.raises(CheckpointError, match="another model"):
        Routes.load(tmp_path, "other")
    saved = json.loads((tmp_path / NAME).read_text())
    saved["routes"][0]["rows"].pop()
    for text in ("{", "{}", json.dumps(saved)):
        (tmp_path / NAME).write_text(text)
        with pytest.raises(CheckpointError, match=r"damaged .*; delete it, and tune again"):
            Routes.load(tmp_path, "digest")


def test_people_can_read_what_was_measured():
    assert str(FITTED).splitlines()[-1].split() == ["2", "0.1", "0.2", "tuned"]
