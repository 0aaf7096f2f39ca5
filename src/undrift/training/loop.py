"""The training loop: a generator that yields its progress, so that bars, logs and stops need no hooks.

    go on from the snapshot, if there is one
    repeat:  report, if due  ->  stop, if done  ->  step  ->  snapshot, if due

A snapshot holds the state after a step and before its report, so a run that is killed at any moment and gone on with reports
and ends as if nothing had happened, bit for bit, with the same number of processes. No step waits for the device: whether the
loss is finite is looked at in reports and snapshots, and if it is not, the last good state is put back and the steps since are
done again, watched, to name the cause (`diagnosis`).

SIGINT and SIGTERM let the step finish, save a snapshot and raise KeyboardInterrupt; a second one stops at once.

Checked by: tests/training/test_loop.py, tests/training/test_resume.py, tests/training/test_distributed.py
"""

import math
import signal
import threading
import time
from collections.abc import Generator, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from undrift.errors import CheckpointError, DataError, NonFiniteError
from undrift.gaussian import TimeLaw
from undrift.protocols import Objective
from undrift.training.diagnosis import StepRecord, explain
from undrift.training.ema import Ema
from undrift.training.feed import Batch, Feed, batches, row_batches
from undrift.training.group import Group
from undrift.training.levels import LevelReport, Levels
from undrift.training.settings import Settings
from undrift.training.snapshot import NAME, Snapshot, Writer, load, matched
from undrift.training.step import Trainer

__all__ = ["Progress", "train"]

_MEET = 1.0
"""Seconds between two meetings, in which processes agree on stopping and saving."""


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        step: steps done.
        steps: steps in all.
        loss: mean loss of the steps since the last report, in the objective's unit.
        rate: steps per second since the start, or since it was gone on with.
        seconds_left: estimate.
        learning_rate: of the last step.
        seconds: spent so far, over all goings-on.
        note: what people should be told, or "".
        levels: losses by noise level since the last report.
    """

    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float
    learning_rate: float = 0.0
    seconds: float = 0.0
    note: str = ""
    levels: LevelReport | None = None


def train(
    model: Any,
    net: nn.Module,
    ema: Ema,
    feed: Feed,
    *,
    objective: Objective,
    times: TimeLaw,
    settings: Settings,
    seed: int,
    device: torch.device | str = "cpu",
    state: Path | None = None,
    digest: str = "",
    every: int = 50,
    levels: Levels | None = None,
) -> Iterator[Progress]:
    """Train `net` inside `model`, averaging its weights into `ema`.

    Args:
        model: a denoiser that holds `net`; with conditions, a conditional model.
        net: the network, trained in place and left on the device in evaluation mode.
        ema: the moving average, updated in place.
        feed: batches.
        objective: loss per sample.
        times: law of training times.
        settings: how; resolved, see `rehearse`.
        seed: of order, times, noise, silence and dropout.
        device: where to train; with several processes, its kind.
        state: folder of the snapshot, which is gone on with if it is there; None keeps none on disk.
        digest: of what the run is besides settings and seed; a snapshot of another one is refused.
        every: steps between reports; they are counted from the end, so the last one is about `every` whole steps, and the first
            one about fewer where the budget is no multiple of them.
        levels: where losses by noise level are summed, or None.

    Yields:
        Progress every `every` steps, counted back from the last one. A run that was finished yields its last report again.

    Raises:
        NonFiniteError: the loss or a weight became NaN or infinite; names step and cause. The last good state is on disk.
        DataError: no data, settings that are not resolved, or a batch that the processes do not divide.
        CheckpointError: the snapshot is damaged, or of another run; says what differs.
        OutOfMemory: memory is used up by a single sample, or in one of several processes.
        KeyboardInterrupt: SIGINT or SIGTERM; a snapshot was saved.

    Checked by: tests/training/test_loop.py, tests/training/test_resume.py
    """
    if not settings.resolved:
        raise DataError("the budget is in minutes or the precision is open; settings = rehearse(...) turns them into numbers")
    if len(feed) == 0:
        raise DataError("there is nothing to train on: the data have no rows")
    group = Group.join(device)
    trainer = Trainer(model, net, ema, objective=objective, times=times, settings=settings, seed=seed, group=group)
    run = _Run(trainer, feed, state, digest, every, levels)
    try:
        yield from run.all()
    finally:
        run.close()


class _Run:
    """The state of a training: trainer, sums since the last report, clocks, the last good snapshot."""

    def __init__(self, trainer: Trainer, feed: Feed, state: Path | None, digest: str, every: int, levels: Levels | None):
        self.trainer, self.feed, self.every, self.levels = trainer, feed, every, levels
        self.settings, self.group = trainer.settings, trainer.group
        self.steps = self.settings.steps or 0
        self.step, self.since, self.before = 0, 0, 0.0
        double = torch.float32 if self.group.device.type == "mps" else torch.float64
        self.loss = torch.zeros((), dtype=double, device=self.group.device)
        told = {k: v for k, v in asdict(self.settings).items() if k not in ("minutes", "snapshot", "accumulate")}
        self.identity = {
            "digest": digest,
            "seed": trainer.seed,
            "rows": len(feed),
            "every": every,
            "processes": self.group.size,
            **told,
        }
        self.writer = Writer(state) if state is not None and self.group.rank == 0 else None
        self.notes: list[str] = []
        self.data: Iterator[Batch] = iter(())
        self.stop = _Stop()
        self._resume(state)
        self.first, self.start = self.step, time.perf_counter()
        self.saved, self.meeting = self.start, self.step + 1
        self.good = self.snapshot()

    def all(self) -> Iterator[Progress]:
        """Every report."""
        self.trainer.net.train()
        self.data = self._batches(self.step)
        while True:
            if self.since and self.due():
                report = self.report()
                if self.step == self.steps:
                    yield report
                    return
                try:
                    yield report
                except GeneratorExit:  # whoever reads has had enough: nothing that was learned is lost
                    if self.group.size == 1:
                        self.save()
                    raise
            with self.stop:
                while True:
                    self.one()
                    if self.due():
                        break
            if self.step == self.steps:
                self.save()

    def due(self) -> bool:
        """Whether a report is due: counted from the end, so that what is said last is no single step's chance."""
        return (self.steps - self.step) % self.every == 0

    def one(self) -> None:
        """A step, and a snapshot if it is due."""
        record = self.trainer.step(self.step, next(self.data), self.levels)
        self.loss += record.losses.mean()
        self.step, self.since = self.step + 1, self.since + 1
        if self.step < self.meeting:
            return
        now = time.perf_counter()
        stopped = self.group.any(self.stop.asked)
        due = self.group.first(now - self.saved >= self.settings.snapshot)
        if self.group.size > 1:  # alone, every step is a meeting; together, a meeting costs messages and is held once a second
            pace = (now - self.start) / (self.step - self.first)
            self.meeting = self.step + self.group.first(max(1, min(self.step - self.first, int(_MEET / pace))))
        if stopped or due:
            self.save()
        if stopped:
            told = (
                f"; {self.writer.complaint() or f'saved in {self.writer.file}, the same call goes on'}" if self.writer else ""
            )
            raise KeyboardInterrupt(f"training stopped after step {self.step} of {self.steps}{told}")

    def report(self) -> Progress:
        """What happened since the last report; the one place that waits for the device."""
        mean = float(self.group.summed(self.loss)) / (max(1, self.since) * self.group.size)
        if not math.isfinite(mean):
            self.fail(f"the loss became {mean}")
        table = None
        if self.levels is not None:
            for mine in (self.levels.sums, self.levels.counts):
                mine.copy_(self.group.summed(mine.to(self.group.device)))
            table = self.levels.take()
        spent = time.perf_counter() - self.start
        rate = (self.step - self.first) / max(spent, 1e-9)
        self.loss.zero_()
        self.since = 0
        if self.writer is not None:
            self.notes.append(self.writer.complaint())
        note = "; ".join(n for n in [self.trainer.note, *self.notes] if n)
        self.trainer.note, self.notes = "", []
        left = (self.steps - self.step) / rate if rate else math.inf if self.step < self.steps else 0.0
        last = self.settings.rate(self.step - 1)
        return Progress(self.step, self.steps, mean, rate, left, last, self.before + spent, note, table)

    def snapshot(self) -> Snapshot:
        """The present state, copied; a collective call."""
        tensors = self.trainer.state()
        tensors["sums.loss"] = self.group.gathered(self.loss).cpu().clone()
        if self.levels is not None:
            sums = torch.stack([self.levels.sums, self.levels.counts]).to(self.group.device)
            tensors["sums.levels"] = self.group.gathered(sums).cpu().clone()
        epoch, offset = divmod(self.step * self.settings.batch, len(self.feed))
        facts = {
            "since": self.since,
            "accumulate": self.trainer.accumulate,
            "averaged": self.trainer.ema.step,
            "seconds": self.before + time.perf_counter() - self.start,
            "epoch": epoch,
            "offset": offset,
        }
        return Snapshot(self.step, tensors, facts, self.identity)

    def save(self) -> None:
        """Take a snapshot and begin to write it.

        Raises:
            NonFiniteError: it holds NaN or infinity; the previous one stands.
        """
        taken = self.snapshot()
        if not taken.finite:
            self.fail("the loss or a weight became NaN or infinite")
        self.good = taken
        if self.writer is not None:
            self.writer.start(taken)
            if self.stop.asked or self.step == self.steps:
                self.writer.wait()
        self.saved = time.perf_counter()

    def fail(self, said: str) -> None:
        """Go back to the last good state, find out what went wrong, and say it."""
        first, last = self.good.step, self.step
        self._restore(self.good)  # puts the step back, too
        if self.group.size > 1:
            why = "train with one process to have the step and its cause named, or lower the learning rate"
            said = f"{said} between steps {first} and {last}; {why}"
        else:
            data = self._batches(first)
            said = explain(lambda number: self._again(number, data), first, last, self.trainer.net)
            self._restore(self.good)
        if self.writer is not None:
            self.writer.start(self.good)
            self.writer.wait()
            said += f" The state after step {first}, the last good one, is in {self.writer.file}."
        raise NonFiniteError(said)

    def close(self) -> None:
        """End the threads."""
        if isinstance(self.data, Generator):
            self.data.close()
        if self.writer is not None:
            self.writer.wait()
        self.trainer.close()

    def _again(self, number: int, data: Iterator[Batch]) -> StepRecord:
        return self.trainer.step(number, next(data))

    def _batches(self, step: int) -> Iterator[Batch]:
        rows = row_batches(self.feed, self.settings.batch, self.trainer.seed, step)
        return batches(self.feed, (self.trainer.mine(some) for some in rows))

    def _resume(self, state: Path | None) -> None:
        """Go on from the snapshot of the first process, which sends it to the others."""
        found: Snapshot | None = None
        told: str | None = None
        if state is not None and self.group.rank == 0:
            try:
                found = load(state)
                if found is not None:
                    matched(found, self.identity, state / NAME)
            except CheckpointError as error:
                told = str(error)
        told = self.group.first(told)
        if told is not None:
            raise CheckpointError(told)
        found = self.group.first(found)
        if found is None:
            if self.group.size > 1:  # whatever their seeds, processes begin alike
                for value in (*self.trainer.net.state_dict().values(), *self.trainer.ema.net.state_dict().values()):
                    self.group.share(value)
            return
        try:
            self._restore(found)
        except (KeyError, RuntimeError) as error:
            raise CheckpointError(
                f"the snapshot in {state} does not fit this network ({error}); delete it to train from the start"
            ) from error
        self.before = float(found.facts["seconds"])

    def _restore(self, snapshot: Snapshot) -> None:
        self.trainer.restore(snapshot.tensors)
        self.trainer.ema.step, self.trainer.accumulate = snapshot.facts["averaged"], snapshot.facts["accumulate"]
        self.step, self.since = snapshot.step, snapshot.facts["since"]
        self.loss.copy_(snapshot.tensors["sums.loss"][self.group.rank])
        if self.levels is not None and "sums.levels" in snapshot.tensors:
            sums, counts = snapshot.tensors["sums.levels"][self.group.rank]
            self.levels.sums.copy_(sums)
            self.levels.counts.copy_(counts)


class _Stop:
    """Listens for SIGINT and SIGTERM while the loop computes; the reader of reports has the usual handlers."""

    def __init__(self) -> None:
        self.asked = False
        self._kept: dict[int, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._kept = {s: signal.signal(s, self._hear) for s in (signal.SIGINT, signal.SIGTERM)}

    def __exit__(self, *_: object) -> None:
        while self._kept:
            which, handler = self._kept.popitem()
            signal.signal(which, handler)

    def _hear(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt("stopped at once, at the second signal; the last snapshot stands")
        self.asked = True
