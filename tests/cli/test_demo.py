"""The demo end to end, with seconds of training: two runs, evidence, reports; and what it says when it cannot write."""

import json
import subprocess
import sys

import pytest


def undrift(*arguments):
    command = [sys.executable, "-m", "undrift", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=220, check=False)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, undrift("demo", "--seconds", 4, "--out", folder, "--json")


def test_demo_leaves_two_models_with_evidence_and_report(demo):
    folder, done = demo
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    for name in ("digits", "tumours"):
        assert printed[name] == json.loads((folder / name / "evidence.json").read_text())
        assert {"model.safetensors", "recipe.json", "metrics.jsonl"} <= {f.name for f in (folder / name).iterdir()}
    assert "judge agreement" in (folder / "digits" / "report.html").read_text()
    assert "worst perimeter" in (folder / "tumours" / "report.html").read_text()


def test_every_figure_stands_beside_its_floor(demo):
    figures = {f["name"]: f for f in json.loads(demo[1].stdout)["digits"]["figures"]}
    assert {"sliced W2", "Frechet", "judge agreement", "memorised fraction"} <= figures.keys()
    assert figures["judge agreement"]["floor"] > 0.95  # the judge, on real digits that it has not seen
    assert figures["sliced W2"]["value"] > figures["sliced W2"]["floor"] > 0


def test_an_unwritable_folder_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = undrift("demo", "--seconds", 1, "--out", blocked, "--json")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert str(blocked) in done.stderr
    assert blocked.read_text() == "not a folder"
