"""Two processes do what one does, and say so where they cannot."""

from safetensors.torch import load_file

from training.toy import Toy, finish, start
from undrift.training import Settings

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
