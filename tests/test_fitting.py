"""Runs: what is held out stays out, a recipe repeats its run bit for bit, a kill costs nothing, and bad input is named."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import undrift as ud
from undrift import records
from undrift.errors import CheckpointError, DataError, LabelError

ROOT = Path(__file__).resolve().parents[1]
RNG = np.random.Generator(np.random.Philox(3))
VECTORS = RNG.normal(size=(700, 3)) @ RNG.normal(size=(3, 3)) + 5.0
TINY = {
    "training": {"steps": 30, "batch": 32, "precision": "float32"},
    "network": {"width": 16, "blocks": 1},
    "progress": False,
}


def weights(model):
    return torch.cat([p.flatten() for p in model.net.state_dict().values()])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "vectors.npy"
    np.save(path, VECTORS)
    return path


@pytest.fixture(scope="module")
def run(file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "vectors"
    return folder, ud.fit(file, out=folder, seed=1, **TINY)


def test_a_run_holds_everything(run):
    folder, model = run
    assert {"recipe.json", "model.safetensors", "metrics.jsonl", "state"} <= {f.name for f in folder.iterdir()}
    assert model.recipe.measured["steps"] == 30
    assert json.loads((folder / "recipe.json").read_text())["data"]["held_out"] == 100
    torch.testing.assert_close(weights(ud.load(folder)), weights(model), rtol=0, atol=0)


def test_a_recipe_repeats_its_run_bit_for_bit(run):
    folder, model = run
    again = ud.fit(folder / "recipe.json", progress=False)
    assert torch.equal(weights(again), weights(model))
    assert (folder.with_name("vectors-again") / "model.safetensors").exists()


def test_streamed_data_train_the_same_weights(file, run, monkeypatch):
    monkeypatch.setattr(records, "IN_MEMORY", 0)
    torch.testing.assert_close(weights(ud.fit(file, seed=1, **TINY)), weights(run[1]), rtol=1e-5, atol=1e-6)


def test_held_out_rows_are_never_trained_on(file):
    held = records.held_out_rows(700, 100, seed=4)
    spoiled = VECTORS.copy()
    spoiled[held] = VECTORS[0]  # whatever stands there, the weights are the same
    network = {k: v for k, v in TINY.items() if k != "training"}
    codec = ud.fit(VECTORS, seed=4, training={"steps": 1}, **network)
    plain = {k: v for k, v in TINY.items() if k != "network"}
    first = ud.fit(VECTORS, seed=4, start=codec, **plain)
    other = ud.fit(spoiled, seed=4, start=codec, **plain)
    assert torch.equal(weights(first), weights(other))


def test_fine_tuning_starts_from_the_weights(run, file):
    folder, model = run
    still = ud.fit(file, start=folder, training={"steps": 1, "learning_rate": 0.0}, progress=False)
    torch.testing.assert_close(weights(still), weights(model))
    assert still.recipe.start == str(folder)


def test_minutes_become_steps_in_the_recipe(file, tmp_path):
    model = ud.fit(file, minutes=0.02, out=tmp_path / "timed", network=TINY["network"], progress=False)
    training = json.loads((tmp_path / "timed" / "recipe.json").read_text())["training"]
    assert training["steps"] == model.recipe.measured["steps"] > 10
    assert training["minutes"] is None
    assert training["precision"] in ("float32", "bfloat16")


def test_a_killed_run_goes_on_to_the_same_end(file, run, tmp_path):
    command = [sys.executable, "-m", "undrift", "fit"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    options = ["--set", "training.steps=1500", "--set", "training.batch=32", "--set", "network.width=16"]
    options += ["--set", "network.blocks=1", "--set", "training.precision=float32", "--set", "training.snapshot=0.2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    subprocess.run([*command, file, "--out", whole, *options], env=environment, check=True, capture_output=True, timeout=120)
    first = subprocess.Popen([*command, file, "--out", killed, *options], env=environment, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (killed / "state" / "snapshot.safetensors").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert not (killed / "model.safetensors").exists()
    with pytest.raises(CheckpointError, match=r"go on with it by `undrift fit|go on with `undrift fit"):
        ud.load(killed)
    done = subprocess.run(
        [*command, killed / "recipe.json", "--json"], env=environment, capture_output=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert torch.equal(weights(ud.load(killed)), weights(ud.load(whole)))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"reading": {"knds": {}}}, DataError, "did you mean 'kinds'"),
        ({"device": "cudda"}, DataError, "device 'cudda' is not here"),
        ({"held_out": -0.1}, DataError, "held_out=-0.1 must lie in"),
        ({"training": {"learnin_rate": 1}}, DataError, "did you mean 'learning_rate'"),
        ({"minutes": 1, "training": {"steps": 3}}, DataError, "not both"),
        ({"held_out": 1.0}, DataError, "held_out=1 must lie in"),
        ({"condition": "price"}, DataError, "is no table"),
    ],
)
def test_bad_options_are_named_before_training(file, options, error, message):
    with pytest.raises(error, match=message):
        ud.fit(file, progress=False, **options)


def test_a_run_is_never_overwritten(file, run):
    with pytest.raises(DataError, match="holds a finished run; choose another folder"):
        ud.fit(file, out=run[0], **TINY)


def test_changed_data_are_refused(run, tmp_path):
    folder = run[0]
    other = tmp_path / "other.npy"
    np.save(other, VECTORS[:600])
    with pytest.raises(DataError, match="is not what this run was fitted on"):
        ud.repeat(folder / "recipe.json", data=other, out=tmp_path / "x")


def test_records_in_memory_are_asked_for_again(tmp_path):
    ud.fit(VECTORS, out=tmp_path / "a", **TINY)
    with pytest.raises(DataError, match="give them again: data="):
        ud.repeat(tmp_path / "a" / "recipe.json")
    again = ud.repeat(tmp_path / "a" / "recipe.json", data=VECTORS, progress=False)
    assert torch.equal(weights(again), weights(ud.load(tmp_path / "a")))


def test_a_condition_that_the_table_does_not_have(tmp_path):
    import pandas as pd

    frame = pd.DataFrame({"dose": VECTORS[:, 0], "weight": VECTORS[:, 1]})
    with pytest.raises(LabelError, match="did you mean 'weight'"):
        ud.fit(frame, condition="wieght", **TINY)
    model = ud.fit(frame, condition="weight", **TINY)
    with pytest.raises(LabelError, match="dose"):
        model.sample(2, where={"dose": 1.0})
    assert model.sample(3, where={"weight": [4.0, 5.0, 6.0]}, steps=3)["weight"].tolist() == [4.0, 5.0, 6.0]


def test_samples_start_where_they_are_told(run):
    model = run[1]
    torch.testing.assert_close(model.states(4, start=model.noise(4, seed=9), steps=5, seed=9), model.states(4, steps=5, seed=9))
    some = model.states(4, start=model.noise(4, seed=9), steps=5, seed=9, rows=[1, 3])
    torch.testing.assert_close(some, model.states(4, steps=5, seed=9)[[1, 3]])
    like = VECTORS[:4]
    near, far = (np.abs(model.sample(4, like=like, strength=s, steps=20) - like).mean() for s in (0.1, 1.0))
    assert near < 0.2 * far
    np.testing.assert_allclose(model.sample(6, rows=[1, 4], steps=5), model.sample(6, steps=5)[[1, 4]], rtol=1e-4)
    stops = model.trace(4, steps=5, seed=9, stops=3)
    assert [stop.noise for stop in stops] == sorted((stop.noise for stop in stops), reverse=True)
    np.testing.assert_allclose(stops[-1].records, model.sample(4, steps=5, seed=9), rtol=1e-5)


def test_a_recipe_takes_no_options(run):
    with pytest.raises(DataError, match="a recipe says minutes, seed already"):
        ud.fit(run[0] / "recipe.json", minutes=5, seed=7)
    with pytest.raises(DataError, match="the run to start from says network already"):
        ud.fit(VECTORS, start=run[0], **TINY)


def test_a_share_that_is_asked_for_is_kept(tmp_path):
    assert ud.fit(VECTORS[:50], held_out=0.5, **TINY).recipe.data.held_out == 25
    assert ud.fit(VECTORS[:50], **TINY).recipe.data.held_out == 0
    assert ud.fit(VECTORS[:600], **TINY).recipe.data.held_out == 100


def test_a_child_is_not_shown_what_its_parent_was_not(run, file):
    child = ud.fit(file, start=run[0], training={"steps": 2}, seed=99, progress=False)
    assert (child.recipe.data.split, child.recipe.data.held_out, child.recipe.seed) == (1, 100, 99)


def test_a_kill_between_the_two_files_of_a_model_loses_nothing(run, tmp_path):
    folder = run[1].save(tmp_path / "run")
    before = run[1].recipe.model_copy(update={"measured": {}})
    (folder / "recipe.json").write_bytes(before.to_json())
    assert torch.equal(weights(ud.load(folder)), weights(run[1]))


def test_streaming_holds_little(file, monkeypatch):
    monkeypatch.setattr(records, "MEASURED", 1200)
    opened = ud.codecs.open_data(file)
    assert len(records.example_of(records.feed_of(opened, opened.codec, None, np.array([3])), opened.codec)) == 256
