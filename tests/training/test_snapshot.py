"""Snapshots hold everything, are refused where they do not belong, and a full disk costs one snapshot and no more."""

import errno

import pytest
import torch

from training.toy import Toy
from undrift.errors import CheckpointError
from undrift.training import Settings, snapshot
from undrift.training.snapshot import NAME, Snapshot, Writer, load

QUICK = {"steps": 30, "precision": "float32", "warmup": 5}


def test_a_file_gives_back_what_it_was_given(tmp_path):
    tensors = {
        "net.a": torch.randn(3, 4),
        "adam.step.a": torch.tensor(5.0),
        "sums.loss": torch.tensor([0.1], dtype=torch.float64),
    }
    given = Snapshot(17, tensors, {"since": 3, "seconds": 0.1 + 0.2}, {"digest": "x"})
    writer = Writer(tmp_path / "state")
    assert load(tmp_path / "state") is None
    writer.start(given)
    writer.wait()
    back = load(tmp_path / "state")
    assert (back.step, back.facts, back.identity) == (17, given.facts, given.identity)
    assert all(torch.equal(back.tensors[k], v) and back.tensors[k].dtype == v.dtype for k, v in tensors.items())


@pytest.mark.parametrize("name", ["net.a", "adam.exp_avg.a", "adam.exp_avg_sq.a", "sums.loss"])
def test_a_state_that_is_not_finite_is_known(name):
    names = ["net.a", "adam.exp_avg.a", "adam.exp_avg_sq.a", "sums.loss"]
    tensors = {n: torch.zeros(3) for n in names} | {"net.buffer": torch.tensor([torch.inf])}
    assert Snapshot(1, tensors, {}, {}).finite
    tensors[name][1] = torch.nan
    assert not Snapshot(1, tensors, {}, {}).finite


def run(folder, settings=None, **kwargs):
    toy = Toy(Settings(**{**QUICK, **(settings or {})}), **{k: v for k, v in kwargs.items() if k != "digest"})
    reports = list(toy.train(folder, digest=kwargs.get("digest", "toy")))
    return toy, reports


@pytest.mark.parametrize(("change", "message"), [
    ({"settings": {"learning_rate": 1e-2}}, "learning_rate: 0.006 there, 0.01 here"),
    ({"settings": {"steps": 40}}, "steps: 30 there, 40 here"),
    ({"seed": 8}, "seed: 7 there, 8 here"),
    ({"digest": "other"}, "digest: toy there, other here"),
    ({"width": 16}, "does not fit this network"),
])  # fmt: skip
def test_a_snapshot_of_another_run_is_refused(change, message, tmp_path):
    run(tmp_path)
    with pytest.raises(CheckpointError, match=message):
        run(tmp_path, **change)


@pytest.mark.parametrize("content", [b"", b"no snapshot at all", None])
def test_a_damaged_snapshot_is_refused(content, tmp_path):
    run(tmp_path)
    file = tmp_path / NAME
    file.write_bytes(file.read_bytes()[:2000] if content is None else content)
    with pytest.raises(CheckpointError, match=r"damaged or foreign .* delete it"):
        run(tmp_path)


def test_a_finished_run_reports_its_end_again(tmp_path):
    toy, reports = run(tmp_path)
    again, rest = run(tmp_path)
    assert [p.step for p in rest] == [30]
    assert (rest[0].loss, rest[0].levels) == (reports[-1].loss, reports[-1].levels)
    assert all(torch.equal(toy.weights()[k], v) for k, v in again.weights().items())


def test_a_full_disk_costs_a_snapshot_and_no_more(tmp_path, monkeypatch):
    def full(file, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    toy = Toy(Settings(**QUICK, snapshot=0.0))
    loop = toy.train(tmp_path)
    next(loop)
    loop_write, good = snapshot.write, load(tmp_path)
    monkeypatch.setattr(snapshot, "write", full)
    told = next(loop)
    assert "No space left" in told.note
    assert "snapshot.safetensors" in told.note
    assert good.step <= load(tmp_path).step <= 11
    monkeypatch.setattr(snapshot, "write", loop_write)
    assert [p.note for p in loop] == [""]
    assert load(tmp_path).step == 30
    plain, _ = run(None)
    assert all(torch.equal(plain.weights()[k], v) for k, v in toy.weights().items())
