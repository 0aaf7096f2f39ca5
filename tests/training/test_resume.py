"""Killed at any moment and gone on with, a run ends as if nothing had happened, bit for bit."""

import json
import os
import random
import signal
import time
from types import SimpleNamespace

import pytest
from safetensors.torch import load_file

from training.toy import Toy, finish, kill, start
from undrift.training import Metrics, Settings
from undrift.training.snapshot import load

PLAN = Settings(steps=100, precision="float32", warmup=20, snapshot=0.02)
TOY = {"settings": PLAN, "pause": 0.004}


def lines(folder):
    """Reports without what depends on the clock."""
    kept = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "rate", "note")} for line in kept]


def same(a, b, rank=0):
    """Whether two folders hold the same weights and reports."""
    one, two = (load_file(str(f / f"final.{rank}.safetensors")) for f in (a, b))
    return one.keys() == two.keys() and all(one[k].equal(two[k]) for k in one) and lines(a) == lines(b)


def killed(folder, toy, size, times, rng, longest=0.8):
    """Run, kill at a random moment after the first snapshot, go on; as often as told. Gives the steps that were kept."""
    steps = []
    for _ in range(times):
        before = load(folder / "state")
        workers = start(folder, toy, size)
        wait = time.monotonic() + 60
        while time.monotonic() < wait and all(w.is_alive() for w in workers):
            found = load(folder / "state")
            if found is not None and (before is None or found.step > before.step):
                break
            time.sleep(0.01)
        time.sleep(rng.uniform(0, longest))
        kill(workers)
        found = load(folder / "state")
        steps.append(found.step if found else 0)
    return steps


@pytest.mark.parametrize(("size", "times"), [(1, 3), (2, 1)])
def test_a_kill_changes_nothing(size, times, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    quick = {**TOY, "pause": 0.0}
    reference = start(whole, quick, size)
    steps = killed(cut, TOY, size, times, random.Random(size), longest=0.25)
    assert finish(reference) == [0] * size
    assert finish(start(cut, quick, size)) == [0] * size
    assert 0 < steps[0] < PLAN.steps
    for rank in range(size):
        assert same(whole, cut, rank)
    assert [line["step"] for line in lines(cut)] == list(range(10, 101, 10))


def test_metrics_drop_what_is_reported_again(tmp_path):
    def report(step, loss):
        return SimpleNamespace(step=step, loss=loss, seconds=1.0, rate=1.0, learning_rate=0.1, note="", levels=None)

    file = tmp_path / "metrics.jsonl"
    metrics = Metrics(file)
    for step in (10, 20, 30):
        metrics.add(report(step, 1.0))
    with file.open("a") as out:
        out.write('{"step": 40, "lo')  # cut short by a kill
    again = Metrics(file)
    again.add(report(30, 2.0))
    again.add(report(40, 2.0))
    got = [json.loads(line) for line in file.read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in got] == [(10, 1.0), (20, 1.0), (30, 2.0), (40, 2.0)]


def test_every_step_can_be_gone_on_from(tmp_path):
    """No timing: stop after each of the reports in turn, in one process."""
    plan = Settings(steps=25, precision="float32", warmup=5, batch=70)  # 300 rows: batches cross epochs

    def toy():
        return Toy(plan, every=5, classes=None, columns=(2, 0))

    whole = toy()
    expected = [p.loss for p in whole.train()]
    got = []
    for _ in range(5):
        loop = toy().train(tmp_path)
        report = next(loop)
        got.append(report.loss)
        loop.close()
    assert got == expected
    last = toy()
    list(last.train(tmp_path))
    assert all(whole.weights()[k].equal(v) for k, v in last.weights().items())


@pytest.mark.parametrize("steps", [3, 10, 17])
def test_a_stop_between_reports_changes_nothing(steps, tmp_path):
    """Sums of the running report go on as well: losses, and losses by noise level. At a report, and before it."""

    def toy():
        return Toy(Settings(steps=20, precision="float32", warmup=5))

    def told(reports):
        return [(p.step, p.loss, p.learning_rate, p.levels) for p in reports]

    whole, cut = toy(), toy()
    expected = told(whole.train())
    batch, left = cut.feed.batch, iter(range(1, 21))

    def stopping(rows):
        if next(left) == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(rows)

    cut.feed.batch = stopping
    got = []
    with pytest.raises(KeyboardInterrupt, match=f"stopped after step {steps} of 20"):
        got.extend(cut.train(tmp_path))  # keeps what came before the stop
    assert load(tmp_path).step == steps
    rest = toy()
    got += rest.train(tmp_path)
    assert told(got) == expected
    assert all(whole.weights()[k].equal(v) for k, v in rest.weights().items())
