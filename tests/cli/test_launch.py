"""Several processes started by a launcher: one run, one file, one voice."""

import os
import subprocess
import sys

import numpy as np

import undrift as ud
from undrift.training import Settings


def launched(folder, *arguments):
    """`accelerate launch` with two processes; gives stdout and stderr."""
    launcher = [
        "--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
        "--main_process_port", "0",
    ]  # fmt: skip
    command = [sys.executable, "-m", "accelerate.commands.launch", *launcher, "-m", "undrift", *arguments, "--device", "cpu"]
    here = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **here}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=180)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_two_processes_fit_one_run_and_sample_what_one_would(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32))
    sets = ("training.steps=60", "training.precision=float32", "training.batch=16", "network.width=16", "network.blocks=1")
    said, drawn = launched(tmp_path, "fit", "x.npy", "--out", "run", *(word for s in sets for word in ("--set", s)))
    assert said.count("the run: run") == 1
    assert drawn.count("fit: 60/60") == 1
    run = tmp_path / "run"
    assert sorted(f.name for f in run.iterdir()) == ["metrics.jsonl", "model.safetensors", "recipe.json", "state"]
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 2  # after 50 and 60 steps
    said, drawn = launched(tmp_path, "sample", "run", "-n", "21", "--steps", "4")
    assert said == "21 samples of 4 network calls each: run/samples.npy\n"
    assert drawn.count("sample: ") == 2  # its first line and its last
    model = ud.load(run)
    assert model.recipe.settings() == Settings(**model.recipe.training)
    np.testing.assert_allclose(np.load(run / "samples.npy"), model.sample(21, steps=4), rtol=1e-5, atol=1e-5)
