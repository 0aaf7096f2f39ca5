"""How to train: plain numbers, checked once for kind and range, and the learning rate that follows from them.

A budget in minutes is a wish; `rehearse` turns it into steps before the first one, so that a run repeated or gone on with is
the same run.

Checked by: tests/training/test_loop.py
"""

import math
from dataclasses import dataclass
from numbers import Real
from typing import Any

from undrift.errors import DataError

__all__ = ["PRECISIONS", "Settings"]

PRECISIONS = ("auto", "float32", "bfloat16")

_RANGES = {
    "minutes": (0, math.inf),
    "steps": (1, math.inf),
    "epochs": (1, math.inf),
    "batch": (1, math.inf),
    "learning_rate": (0, math.inf),
    "warmup": (0, math.inf),
    "decay": (0, 1),
    "weight_decay": (0, math.inf),
    "clip": (0, math.inf),
    "label_dropout": (0, 1),
    "accumulate": (1, math.inf),
    "average": (-1, math.inf),
    "snapshot": (0, math.inf),
}

_OPEN = ("minutes", "decay", "clip", "average")
"""Settings whose lower end is left out."""

_WHOLE = ("steps", "epochs", "batch", "warmup", "accumulate")
"""Settings that count something."""

_OPTIONAL = ("minutes", "steps", "epochs")
"""Settings that may be None."""

_SWITCHES = ("flips", "compile", "checkpoint")
"""Settings that are on or off."""


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        minutes: budget of wall-clock time, a number, or None if `steps` is given.
        steps: budget in optimiser steps, a whole number, or None.
        epochs: at most so many passes over the data for a budget in minutes, which a small table would spend on learning its
            records by heart; None for no limit.
        batch: samples per step, a whole number, over all processes.
        learning_rate: peak of AdamW's rate.
        warmup: steps of linear rise.
        decay: share of the budget, at its end, over which the rate falls to zero along a cosine.
        weight_decay: of AdamW, on matrices and kernels only.
        clip: largest norm of the gradient.
        label_dropout: share of samples trained with conditions that say nothing, for guidance.
        flips: mirror half of the records along their last axis; right where a mirror image is as likely as the record.
        accumulate: micro-batches that a step's batch is cut into, to save memory.
        precision: "float32", "bfloat16", or "auto": the faster of the two, which `rehearse` measures.
        compile: compile the network first.
        checkpoint: keep no activations and compute them again on the way back: less memory, one forward pass more.
        average: exponent gamma of the moving average, see `Ema`.
        snapshot: seconds between snapshots.

    Whole numbers may be given as 16.0, any number as NumPy's: kept are plain int and float, which a recipe can hold.

    Raises:
        DataError: not exactly one budget, or a value of another kind or out of its range.

    Checked by: tests/training/test_settings.py
    """

    # Users write these, so their kinds are checked below, with words, and not by annotations.
    minutes: Any = None
    steps: Any = None
    epochs: Any = None
    batch: Any = 64
    learning_rate: Any = 6e-3
    warmup: Any = 100
    decay: Any = 1.0
    weight_decay: Any = 0.01
    clip: Any = 1.0
    label_dropout: Any = 0.1
    flips: Any = False
    accumulate: Any = 1
    precision: Any = "auto"
    compile: Any = False
    checkpoint: Any = False
    average: Any = 13.0
    snapshot: Any = 30.0

    def __post_init__(self) -> None:
        if (self.minutes is None) == (self.steps is None):
            raise DataError("training needs exactly one budget: minutes= or steps=")
        for name in _RANGES:
            object.__setattr__(self, name, _number(name, getattr(self, name)))
        for name in _SWITCHES:
            if not isinstance(getattr(self, name), bool):
                raise DataError(f"training setting {name} must be True or False, got {getattr(self, name)!r}")
        if self.precision not in PRECISIONS:
            raise DataError(f"precision={self.precision!r} is unknown; choose one of {', '.join(PRECISIONS)}")
        if self.batch % self.accumulate:
            raise DataError(
                f"batch={self.batch} cannot be cut into accumulate={self.accumulate} equal parts; change one of them"
            )

    @property
    def resolved(self) -> bool:
        """Whether nothing is left to be measured: the budget is in steps and the precision chosen."""
        return self.steps is not None and self.precision != "auto"

    def rate(self, step: int) -> float:
        """Learning rate of a step, counted from 0; the budget is in steps.

        Checked by: tests/training/test_loop.py::test_learning_rate_rises_stays_and_falls_to_zero
        """
        if self.steps is None:
            raise DataError("the learning rate follows the steps, and the budget is in minutes; call rehearse first")
        rise = min(1.0, (step + 1) / max(1, self.warmup))
        done = (step / self.steps - 1 + self.decay) / self.decay
        return self.learning_rate * rise * (0.5 + 0.5 * math.cos(math.pi * min(max(done, 0.0), 1.0)))


def _number(name: str, value: Any) -> int | float | None:
    """The value as a plain number, checked."""
    if value is None and name in _OPTIONAL:
        return None
    whole, (low, high) = name in _WHOLE, _RANGES[name]
    number = float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    if number is None or (whole and not number.is_integer()):
        raise DataError(f"training setting {name} must be a {'whole ' if whole else ''}number, got {value!r}")
    if not (low <= number <= high and math.isfinite(number) and (number > low or name not in _OPEN)):
        start, end = "(" if name in _OPEN else "[", ")" if high == math.inf else "]"
        raise DataError(f"training setting {name} must lie in {start}{low:g}, {high:g}{end}, got {number:g}")
    return int(number) if whole else number
