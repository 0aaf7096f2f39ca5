"""Evidence of a run: unseen records only, every figure beside its yardsticks, and a page that shows them."""

import json

import numpy as np
import pandas as pd
import pytest

import undrift as ud
from undrift import evaluation, records
from undrift.errors import DataError
from undrift.report.build import report

RNG = np.random.Generator(np.random.Philox(5))
TINY = {
    "training": {"steps": 200, "batch": 64, "precision": "float32"},
    "network": {"width": 32, "blocks": 1},
    "progress": False,
}


@pytest.fixture(scope="module")
def frame():
    dose = RNG.normal(50.0, 10.0, 800)
    return pd.DataFrame({"dose": dose, "effect": 2 * dose + RNG.normal(size=800), "sex": RNG.choice(["f", "m"], 800)})


@pytest.fixture(scope="module")
def model(frame):
    return ud.fit(frame, seed=2, held_out=0.25, **TINY)


@pytest.fixture(scope="module")
def judged(model, frame):
    return ud.evaluate(model, frame, n=300, steps=15)


def test_held_out_records_are_those_that_training_never_saw(judged, frame):
    held = records.held_out_rows(800, 200, seed=2)
    assert sorted(judged.held_out.index) == held.tolist()
    assert not set(judged.train.index) & set(held)
    assert len(judged.train) == 600


def test_every_figure_stands_beside_floor_and_baseline(model, judged):
    figures = {f["name"]: f for f in judged.evidence["figures"]}
    assert {"sliced W2", "energy distance", "precision", "recall", "C2ST accuracy", "memorised fraction"} <= figures.keys()
    for name, figure in figures.items():
        assert figure["floor"] is not None, name
        assert figure["baseline"] is not None, name
    assert [c["name"] for c in judged.evidence["columns"]] == ["dose", "effect", "sex"]
    assert judged.evidence["cost"]["parameters"] == sum(p.numel() for p in model.net.parameters())
    assert judged.evidence["cost"]["training_steps"] == 200
    json.dumps(judged.evidence, allow_nan=False)


def test_the_page_holds_the_figures_and_the_schema(model, judged, tmp_path):
    page = report(model, judged, tmp_path / "run").read_text()
    assert "effect" in page
    assert "sliced W2" in page
    assert json.loads((tmp_path / "run" / "evidence.json").read_text()) == judged.evidence


def test_a_model_fitted_on_everything_cannot_be_judged(frame):
    with pytest.raises(DataError, match=r"0 of 800 records were kept.* fit with held_out=0\.12"):
        ud.evaluate(ud.fit(frame, held_out=0, **TINY), frame)
    with pytest.raises(DataError, match=r"25 of 50 records were kept.*or gather more"):
        ud.evaluate(ud.fit(frame[:50], held_out=0.5, **TINY), frame[:50])


@pytest.mark.parametrize("classes", [2, 3])
def test_a_page_for_few_classes(classes, tmp_path):
    images = RNG.integers(0, 255, (520, 4, 4), dtype=np.uint8)
    labels = np.arange(520) % classes
    small = {"training": {"steps": 3}, "network": {"widths": [16]}, "progress": False}
    model = ud.fit(images, labels, **small)
    judged = ud.evaluate(model, images, labels, n=40, steps=2)
    assert "From noise to sample" in report(model, judged, tmp_path / "run").read_text()


def test_other_records_are_refused(model, frame):
    with pytest.raises(DataError, match="is not what this run was fitted on"):
        ud.evaluate(model, frame.iloc[:700])


def test_only_so_many_records_are_looked_at(model, frame, monkeypatch):
    monkeypatch.setattr(evaluation, "MOST", 150)
    judged = ud.evaluate(model, frame, n=150, steps=3)
    assert (len(judged.train), len(judged.held_out)) == (150, 150)
