"""A rehearsal before the first step: minutes become steps, and "auto" becomes the faster precision.

Measured on copies that are thrown away, with real batches, the real optimiser and the real moving average; the network, the
global state and every random stream are left as they were. So the number of steps is known before step 0 and goes into the
recipe: the learning rate follows it, and a run repeated or gone on with is the same run, however fast the machine is then.

Checked by: tests/training/test_rehearsal.py
"""

import copy
import statistics
import time
import warnings
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from undrift.core import out_of_memory
from undrift.errors import DataError
from undrift.training.ema import Ema
from undrift.training.feed import Feed, batches, row_batches
from undrift.training.group import Group
from undrift.training.settings import Settings
from undrift.training.step import Trainer

__all__ = ["rehearse"]

SHARE = 0.05
"""Share of the budget spent on measuring."""

LONGEST = 20.0
"""Seconds of measuring at most."""

FEWEST = 5
"""Steps measured at least, if half the budget allows it."""

FASTER = 0.95
"""bfloat16 is chosen if its step takes at most this share of float32's."""


def rehearse(
    model: Any,
    net: nn.Module,
    feed: Feed,
    *,
    objective: Any,
    times: Any,
    settings: Settings,
    seed: int,
    device: torch.device | str = "cpu",
) -> Settings:
    """Settings with a budget in steps and a chosen precision.

    Args:
        model: as in `train`.
        net: as in `train`; left as it is.
        feed: as in `train`.
        objective: as in `train`.
        times: as in `train`.
        settings: how; what is resolved already is kept.
        seed: of the run.
        device: where to train.

    Returns:
        `settings` with `steps` and `precision` filled in, and `accumulate` raised if memory asked for it. At least one step,
        with a UserWarning where one step takes longer than all the minutes.

    Raises:
        DataError: no data, or a batch that the processes do not divide.
        OutOfMemory: memory is used up by a single sample, or in one of several processes.

    Checked by: tests/training/test_rehearsal.py
    """
    if settings.resolved:
        return settings
    group, begun = Group.join(device), time.perf_counter()
    seconds = None if settings.minutes is None else 60 * settings.minutes
    limit = LONGEST if seconds is None else min(LONGEST, SHARE * seconds)
    plain = replace(settings, minutes=None, steps=settings.steps or 10**9)  # a rate near its peak: any will do
    names = ["float32", "bfloat16"] if settings.precision == "auto" else [settings.precision]
    stages: dict[str, _Stage] = {}
    for name in names:
        stage = _Stage(model, net, feed, objective, times, replace(plain, precision=name), seed, group)
        if stage.works():
            stages[name] = stage
    try:
        chosen = _fastest(stages, group, limit / 2)
        stage = stages[chosen]
        while seconds is not None and group.first(_more(stage.paces, time.perf_counter() - begun, limit, seconds)):
            stage.step()
        pace = statistics.median(stage.paces or [1.0])
        parts = stage.trainer.accumulate
    finally:
        for stage in stages.values():
            stage.close()
    steps = settings.steps
    if seconds is not None:
        steps = max(1, round((seconds - (time.perf_counter() - begun)) / pace))
        if settings.epochs is not None:
            steps = min(steps, -(-settings.epochs * len(feed) // settings.batch))
        if pace > seconds and group.rank == 0:
            warnings.warn(
                f"one step takes {pace:.3g} s; {settings.minutes:g} minutes buy {steps} step: give more minutes, a smaller "
                "network or a smaller batch",
                stacklevel=2,
            )
    steps, chosen, parts = group.first((steps, chosen, parts))
    while settings.batch % parts:  # memory may have asked for parts that are not equal
        parts += 1
    return replace(settings, minutes=None, steps=steps, precision=chosen, accumulate=parts)


def _more(paces: list[float], spent: float, limit: float, seconds: float) -> bool:
    """Whether to measure another step: one at least, a few unless they eat up half the budget, more while there is time."""
    return not paces or spent < limit or (len(paces) < FEWEST and spent < seconds / 2)


def _fastest(stages: "dict[str, _Stage]", group: Group, limit: float) -> str:
    """The precision to train in: steps are interleaved, so that both meet the same machine."""
    if not stages:
        raise DataError("the network computes in neither float32 nor bfloat16 on this device; choose another device")
    if len(stages) == 1:
        return next(iter(stages))
    begun, rounds = time.perf_counter(), 0
    while group.first(rounds < 3 or (rounds < 20 and time.perf_counter() - begun < limit)):
        for stage in stages.values():
            stage.step()
        rounds += 1
    times = {name: statistics.median(stage.paces) for name, stage in stages.items()}
    return group.first("bfloat16" if times["bfloat16"] <= FASTER * times["float32"] else "float32")


class _Stage:
    """A copy of a training in one precision, to be thrown away."""

    def __init__(
        self, model: Any, net: nn.Module, feed: Feed, objective: Any, times: Any, settings: Settings, seed: int, group: Group
    ):
        model, net = copy.deepcopy((model, net))  # together: the copied model holds the copied network
        self.trainer = Trainer(
            model, net, Ema(net, settings.average), objective=objective, times=times, settings=settings, seed=seed, group=group
        )
        net.train()
        self.paces: list[float] = []
        self._number = 0
        rows = row_batches(feed, settings.batch, seed)
        self._data = batches(feed, (self.trainer.mine(some) for some in rows))

    def works(self) -> bool:
        """Two steps that are not timed: kernels are chosen, memory is taken. False if this precision is not known here."""
        try:
            self.step()
            self.step()
        except (RuntimeError, NotImplementedError) as error:
            if self.trainer.settings.precision == "float32" or out_of_memory(error):
                raise
            self.close()
            return False
        self.paces.clear()
        return True

    def step(self) -> None:
        """A timed step."""
        start = time.perf_counter()
        self.trainer.step(self._number, next(self._data))
        if self.trainer.group.device.type == "cuda":
            torch.cuda.synchronize()
        self.paces.append(time.perf_counter() - start)
        self._number += 1

    def close(self) -> None:
        """End the reader."""
        self._data.close()  # pyright: ignore[reportAttributeAccessIssue]
