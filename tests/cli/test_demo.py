"""The demo end to end, with seconds of training: files, evidence, and what it says when it cannot write."""

import json
import subprocess
import sys

import pytest


def undrift(*arguments, **kwargs):
    return subprocess.run(
        [sys.executable, "-m", "undrift", *map(str, arguments)], capture_output=True, text=True, timeout=200, **kwargs
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    return folder, undrift("demo", "--seconds", 5, "--out", folder, "--json")


def test_demo_leaves_a_model_pictures_and_evidence(demo):
    folder, done = demo
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert printed == json.loads((folder / "evidence.json").read_text())
    assert {f.name for f in folder.iterdir()} >= {
        "model.safetensors", "recipe.json", "samples.png", "path.png", "neighbours.png", "evidence.json"
    }  # fmt: skip


def test_every_figure_stands_beside_its_floor(demo):
    figures = {f["name"]: f for f in json.loads(demo[1].stdout)["figures"]}
    assert {"sliced W2", "Frechet", "judge agreement", "memorised fraction"} <= figures.keys()
    assert figures["judge agreement"]["floor"] > 0.95  # the judge, on real digits that it has not seen
    assert figures["sliced W2"]["value"] > figures["sliced W2"]["floor"] > 0


def test_an_unwritable_folder_is_one_line(tmp_path):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    done = undrift("demo", "--seconds", 1, "--out", blocked / "run", "--json")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "cannot write" in done.stderr
