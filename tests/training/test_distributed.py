"""Two processes do what one does, and say so where they cannot."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import undrift as ud
from training.toy import Toy, draw, finish, start, started
from undrift.training import Settings, gathered, is_main, my_rows

PLAN = Settings(steps=30, precision="float32", warmup=5)
TOY = {"settings": PLAN, "dropout": 0.0}


def test_two_processes_learn_what_one_does_and_a_change_of_their_number_is_refused(tmp_path):
    """The same global batches, times, noise and silence; sums in another order: rounding, grown by 30 steps of Adam."""
    assert finish(start(tmp_path, TOY, 2)) == [0, 0]
    first, second = (load_file(str(tmp_path / f"final.{rank}.safetensors")) for rank in (0, 1))
    assert all(first[k].equal(second[k]) for k in first)
    one = Toy(**TOY)
    reports = list(one.train())
    assert max(float((first[k] - v).abs().max()) for k, v in one.weights().items()) < 1e-3
    import json

    kept = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    for line, report in zip(kept, reports, strict=True):
        assert abs(line["loss"] - report.loss) < 1e-4 * report.loss
        assert line["counts"] == list(report.levels.counts)
    assert finish(start(tmp_path, TOY, 1)) == [1]
    said = (tmp_path / "error.0").read_text()
    assert said.startswith("CheckpointError")
    assert "written by 2 process(es), and 1 run now" in said


def test_a_batch_that_cannot_be_shared_is_refused(tmp_path):
    assert finish(start(tmp_path, {"settings": Settings(steps=3, batch=7, precision="float32")}, 2)) == [1, 1]
    assert "batch=7 cannot be shared by 2 processes" in (tmp_path / "error.0").read_text()


@pytest.mark.parametrize(("n", "size"), [(21, 2), (20, 3), (5, 5)])
def test_rows_are_shared_out_once(n, size, monkeypatch):
    assert (my_rows(n), is_main()) == (list(range(n)), True)
    rows = []
    for rank in range(size):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", str(size))
        rows += my_rows(n)
        assert len(my_rows(n)) in (n // size, n // size + 1)
        assert is_main() == (rank == 0)
    assert sorted(rows) == list(range(n))
    assert my_rows(2) == [1]  # the last process is one too many, or the second: the last row in either case


def test_alone_nothing_is_sent():
    part = torch.randn(3, 2)
    assert gathered(part, 3) is part


def test_two_processes_sample_what_one_does(tmp_path):
    """The same noise bit for bit, in order; samples within rounding of smaller batches. One sample for two processes, too."""
    x = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    model = ud.fit(
        x, out=tmp_path / "run", training={"steps": 3, "precision": "float32"}, network={"width": 16}, progress=False
    )
    for n in (7, 1):
        meeting = str(tmp_path / f"meeting{n}")
        assert finish(started(draw, [(str(tmp_path / "run"), n, rank, 2, meeting) for rank in (0, 1)])) == [0, 0]
        for rank in (0, 1):
            drawn = load_file(str(tmp_path / "run" / f"drawn.{n}.{rank}.safetensors"))
            assert torch.equal(drawn["noise"], model.noise(n, 3))
            torch.testing.assert_close(drawn["states"], model.states(n, steps=4, seed=3), rtol=1e-5, atol=1e-5)
