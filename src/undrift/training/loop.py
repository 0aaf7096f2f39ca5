"""The training loop: a generator that yields its progress, so that bars, logs and stops need no hooks.

The learning rate rises linearly over the first steps, stays, and falls to zero along a cosine over the last share of the
budget, which is counted in steps or timed in seconds. Randomness (order, times, noise, dropout) comes from one seed, and the
global generator is left as it was found.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn

from undrift.core import Random, Shared
from undrift.errors import DataError, NonFiniteError
from undrift.gaussian import TimeLaw
from undrift.protocols import Objective
from undrift.training.ema import Ema
from undrift.typing import State

__all__ = ["Progress", "Settings", "forked", "train"]


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        seconds: budget of wall-clock time, or None if `steps` is given.
        steps: budget in optimiser steps, or None.
        batch: samples per step.
        learning_rate: peak of AdamW's rate.
        warmup: steps of linear rise.
        decay: share of the budget, at its end, over which the rate falls to zero along a cosine.
        weight_decay: of AdamW, on matrices and kernels only.
        clip: largest norm of the gradient.
        label_dropout: share of samples trained with the label that says nothing, for guidance.

    Raises:
        DataError: not exactly one budget, or a number out of its range.
    """

    seconds: float | None = None
    steps: int | None = None
    batch: int = 64
    learning_rate: float = 6e-3
    warmup: int = 100
    decay: float = 1.0
    weight_decay: float = 0.01
    clip: float = 1.0
    label_dropout: float = 0.1

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise DataError("training needs exactly one budget: seconds= or steps=")
        for name, low, high in (
            ("seconds", 0, math.inf),
            ("steps", 1, math.inf),
            ("batch", 1, math.inf),
            ("learning_rate", 0, math.inf),
            ("warmup", 0, math.inf),
            ("decay", 0, 1),
            ("weight_decay", 0, math.inf),
            ("clip", 0, math.inf),
            ("label_dropout", 0, 1),
        ):
            value = getattr(self, name)
            if value is not None and not (low <= value <= high and (value > 0 or name not in ("seconds", "decay", "clip"))):
                raise DataError(f"training setting {name} must lie in [{low:g}, {high:g}], got {value:g}")


@dataclass(frozen=True)
class Progress:
    """Where training stands.

    Attributes:
        step: steps done.
        steps: steps in all; an estimate for a budget in seconds.
        loss: mean loss of the steps since the last report, in the objective's unit.
        rate: steps per second since the start.
        seconds_left: estimate.
    """

    step: int
    steps: int
    loss: float
    rate: float
    seconds_left: float


@contextmanager
def forked(seed: int) -> Iterator[None]:
    """The global CPU generator seeded for a block (layers draw their first weights from it), and put back after."""
    kept = torch.get_rng_state()
    torch.default_generator.manual_seed(seed)  # not torch.manual_seed, which reseeds every device
    try:
        yield
    finally:
        torch.set_rng_state(kept)


def train(
    model: Any,
    net: nn.Module,
    ema: Ema,
    data: State,
    labels: Int[Tensor, "n"] | None,
    *,
    objective: Objective,
    times: TimeLaw,
    settings: Settings,
    seed: int,
    every: int = 50,
) -> Iterator[Progress]:
    """Train `net` inside `model`, averaging its weights into `ema`.

    Args:
        model: a denoiser that holds `net`; with labels, a conditional model.
        net: the network, trained in place.
        ema: the moving average, updated in place.
        data: encoded data, shape (N, *E).
        labels: class indices, shape (N,), or None.
        objective: loss per sample.
        times: law of training times.
        settings: how.
        seed: of order, times, noise and dropout.
        every: steps between reports.

    Yields:
        Progress every `every` steps and at the end.

    Raises:
        NonFiniteError: the loss is NaN or infinite; names the step.
        DataError: no data, labels that do not match it, or data that are not on the CPU.

    Checked by: tests/training/test_loop.py
    """
    if len(data) == 0:
        raise DataError("there is nothing to train on: data has no rows")
    if data.device.type != "cpu":
        raise DataError(f"the loop trains on the CPU for now, and the data are on {data.device}; move them with data.cpu()")
    if labels is not None and len(labels) != len(data):
        raise DataError(f"{len(labels)} labels were given for {len(data)} samples; give one for each")
    seeds = np.random.SeedSequence(seed).generate_state(3, np.uint64).tolist()  # streams of one seed share no bits
    rng, order, dropout = Shared(seeds[0]), Shared(seeds[1]), Dropout(seeds[2])
    parameters = list(net.parameters())
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    optimiser = torch.optim.AdamW(groups, lr=settings.learning_rate, betas=(0.9, 0.99), fused=True)
    clock = Clock(settings)
    batches = _batches(len(data), settings.batch, order)
    net.train()
    loss_sum = torch.zeros((), dtype=torch.float64)
    since, used = 0, 0.0
    while used < 1:
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * clock.share(used)
        rows = next(batches)
        batch = data[rows]
        bound = model
        if labels is not None:
            cond = labels[rows]
            silent = order.uniform((len(rows),), dtype=torch.float32) < settings.label_dropout
            bound = model.given(torch.where(silent, model.null(cond), cond))
        with dropout:
            loss = objective(bound, batch, times.sample(len(rows), rng), rng).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, settings.clip)
        optimiser.step()
        ema.update()
        loss_sum += loss.detach()
        step, since, used = clock.tick(), since + 1, clock.used()
        if since == every or used >= 1:
            mean = float(loss_sum) / since
            if not math.isfinite(mean):
                raise NonFiniteError(
                    f"the loss became {mean} between steps {step - since} and {step}; lower the learning rate (now "
                    f"{settings.learning_rate:g}), or look for extreme values in the data"
                )
            loss_sum.zero_()
            since = 0
            yield clock.report(mean)
    net.eval()


class Dropout:
    """The stream that dropout layers draw from: the global generator is swapped in and out around a forward pass."""

    def __init__(self, seed: int):
        self._own = torch.Generator().manual_seed(seed & (2**63 - 1)).get_state()
        self._kept = self._own

    def __enter__(self) -> None:
        self._kept = torch.get_rng_state()
        torch.set_rng_state(self._own)

    def __exit__(self, *_: object) -> None:
        self._own = torch.get_rng_state()
        torch.set_rng_state(self._kept)


class Clock:
    """How much of the budget is used, and the share of the learning rate that belongs to it.

    A budget in steps is counted and one in seconds is timed: no pace measured early, perhaps on a busy machine, decides how
    long a run lasts.
    """

    def __init__(self, settings: Settings):
        self.settings, self.step = settings, 0
        self._seconds = settings.seconds or math.inf
        self._start = time.perf_counter()

    def tick(self) -> int:
        """Count a step."""
        self.step += 1
        return self.step

    def used(self) -> float:
        """Share of the budget that is used."""
        if self.settings.steps is not None:
            return self.step / self.settings.steps
        return (time.perf_counter() - self._start) / self._seconds

    def share(self, used: float) -> float:
        """Learning rate as a share of its peak, after this step and this share of the budget."""
        rise = min(1.0, (self.step + 1) / max(1, self.settings.warmup))
        done = (used - 1 + self.settings.decay) / self.settings.decay
        return rise * (0.5 + 0.5 * math.cos(math.pi * min(max(done, 0.0), 1.0)))

    def report(self, loss: float) -> Progress:
        """Where training stands now."""
        spent, used = time.perf_counter() - self._start, min(1.0, self.used())
        steps = self.settings.steps or max(self.step, round(self.step / max(used, 1e-9)))
        rate = self.step / max(spent, 1e-9)
        left = (steps - self.step) / rate if self.settings.steps else self._seconds - spent
        return Progress(self.step, self.step if used == 1 else steps, loss, rate, max(0.0, left))


def _batches(n: int, size: int, order: Random) -> Iterator[Tensor]:
    """Endless shuffled epochs, cut into batches of one size; a batch may cross from one epoch into the next."""
    queue = torch.empty(0, dtype=torch.long)
    while True:
        while len(queue) < size:
            queue = torch.cat([queue, order.uniform((n,), dtype=torch.float64).argsort()])
        yield queue[:size]
        queue = queue[size:]
