r"""How strong guidance is: one number, one per sample, or a function of time.

A *scale* w multiplies a contrast, :math:`\text{away} + w\,(\text{toward} - \text{away})`: 1 is no guidance, 0 the other side.
It may be a number, a tensor of shape (B,), or a function t -> either of them, which is asked at the float64 time of every
step. Wherever the scale is 1 (or 0) for the whole batch, one of the two answers is not asked for: half the cost.

`Interval` is the schedule that pays: w inside an interval of time or of noise level, 1 outside.

Source: Kynkaanniemi et al. 2024 (2404.07724), eq. 6 (interval); Wang et al. 2024 (2404.13040), schedules of w.
Checked by: tests/guidance/test_strength.py
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.core import scalars
from undrift.errors import ShapeError, TimeError
from undrift.schedules import Schedule
from undrift.typing import Time

__all__ = ["Interval", "Scale", "noise_interval"]

Scale = float | Tensor | Callable[[Time], float | Tensor]
"""A number, one per sample (shape (B,), kept where the states are), or a function of the time."""


def settled(value: float | Tensor) -> float | Tensor:
    """One plain number where all samples have it and reading it is free (on the CPU), else the tensor as it is.

    Raises:
        ShapeError: a tensor that is neither () nor (B,).
    """
    if not isinstance(value, Tensor):
        return float(value)
    if value.ndim > 1 or value.numel() == 0:
        raise ShapeError(f"a scale has shape {tuple(value.shape)}; give one number, or one per sample, shape (B,)")
    if value.device.type != "cpu":
        return value
    first = value.flatten()[0]
    return float(first) if bool((value == first).all()) else value


def once(scale: Scale) -> Scale:
    """What can be known of a scale before the first step: constants are settled, a schedule is left to its times."""
    return scale if callable(scale) else settled(scale)


def at(scale: Scale, t: Time, batch: int) -> float | Tensor:
    """The scale at a time, a plain number wherever it is one for the whole batch and reading it is free.

    Args:
        scale: a scale that went through `once`.
        t: time, shape () or (B,).
        batch: B.

    Raises:
        ShapeError: scales per sample for another batch.
    """
    value = settled(scale(scalars(t))) if callable(scale) else scale
    if isinstance(value, Tensor) and value.ndim and value.shape[0] != batch:
        raise ShapeError(f"{value.shape[0]} scales were given for a batch of {batch}; give one, or one per sample")
    return value


def plainly(scale: float | Tensor, value: float) -> bool:
    """Whether the scale is known, without waiting for a device, to be `value` for every sample."""
    return isinstance(scale, float) and scale == value


@dataclass(frozen=True)
class Interval:
    """A scale inside (low, high] of time, 1 (the plain conditional, one call) outside.

    Attributes:
        scale: w inside, a number or one per sample.
        low: time, 0 = data.
        high: time, 1 = reference.

    Raises:
        TimeError: not 0 <= low < high <= 1.

    Source: Kynkaanniemi et al. 2024 (2404.07724), eq. 6, with times for noise levels.
    Checked by: tests/guidance/test_strength.py::test_interval_guides_inside_and_costs_one_call_outside
    """

    scale: float | Tensor
    low: float
    high: float

    def __post_init__(self) -> None:
        if not 0 <= self.low < self.high <= 1:
            raise TimeError(
                f"an interval of guidance needs 0 <= low < high <= 1 (0 = data, 1 = reference), got low = {self.low:g}, "
                f"high = {self.high:g}; for limits in noise levels use noise_interval"
            )

    def __call__(self, t: Time) -> float | Tensor:
        """The scale at t: shape () where t is one time on the CPU and the scale one number, else (B,)."""
        inside = (t > self.low) & (t <= self.high)
        if t.ndim == 0 and t.device.type == "cpu":
            return self.scale if bool(inside) else 1.0
        return torch.where(inside, self.scale, 1.0)


def noise_interval(scale: float | Tensor, low: float, high: float, schedule: Schedule) -> Interval:
    r"""An `Interval` between two noise levels :math:`\sigma / \alpha`, the unit of the paper.

    Args:
        scale: w inside, a number or one per sample.
        low: level, >= 0; outside the interval itself.
        high: level, may be infinite; inside it.
        schedule: the clock that says when each level is reached.

    Raises:
        TimeError: not 0 <= low < high, or the schedule reaches no level between them.

    Checked by: tests/guidance/test_strength.py::test_noise_levels_mean_the_same_on_every_clock
    """
    if not 0 <= low < high:
        raise TimeError(f"noise levels need 0 <= low < high, got low = {low:g}, high = {high:g}; swap them")
    levels = torch.tensor([-2 * math.log(v) if v > 0 else math.inf for v in (low, high)], dtype=torch.float64)
    start, end = schedule.time(levels).tolist()
    if not start < end:
        raise TimeError(
            f"{schedule!r} reaches no noise level between {low:g} and {high:g}; look at exp(-schedule.log_snr(t) / 2) for "
            "those it has"
        )
    return Interval(scale, start, end)
