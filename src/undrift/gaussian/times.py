r"""Time laws: which noise levels training sees, and how often.

A time law draws t from a density q on [t0, t1]. A loss under uniform time keeps its expected gradient if each sample is
weighted by 1 / q (`importance`); a good q lowers the variance of that gradient. A law used without the correction weights
the loss by q: both are wanted, so the choice is the caller's.

t0 > 0 is the early stop: below it the score of data without a density blows up as 1 / sigma^2.

Checked by: tests/gaussian/test_times.py
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import TimeError
from undrift.schedules import Schedule

__all__ = ["LogNormalNoise", "TimeLaw", "UniformTime"]


@runtime_checkable
class TimeLaw(Protocol):
    """A law of training times."""

    def sample(self, n: int, rng: Random) -> Tensor:
        """Draw n times, shape (n,), float64."""
        ...

    def log_density(self, t: Tensor) -> Tensor:
        """Log density at t, shape of t."""
        ...


def importance(law: TimeLaw, t: Tensor) -> Tensor:
    """1 / q(t): weights that turn an average under `law` into an integral over t, shape of t."""
    return torch.exp(-law.log_density(t))


@dataclass(frozen=True)
class UniformTime:
    """Uniform on [start, end], stratified: one time in each of n equal cells, in order of the batch.

    Attributes:
        start: early stop t0, >= 0.
        end: latest time, <= 1.
    """

    start: float = 1e-3
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise TimeError(f"a time law needs 0 <= start < end <= 1, got start = {self.start:g}, end = {self.end:g}")

    def sample(self, n: int, rng: Random) -> Tensor:
        """Draw n times, shape (n,), float64."""
        u = (torch.arange(n, dtype=torch.float64) + rng.uniform((n,), dtype=torch.float64)) / n
        return self.start + (self.end - self.start) * u

    def log_density(self, t: Tensor) -> Tensor:
        """-log(end - start) inside, -inf outside."""
        inside = (t >= self.start) & (t <= self.end)
        return torch.where(inside, -math.log(self.end - self.start), -torch.inf)


@dataclass(frozen=True)
class LogNormalNoise:
    """Log-normal noise level sigma / alpha (Karras et al. 2022, table 1), stratified, truncated to [start, end].

    A narrow law used with `importance` can raise the variance of the gradient many times over: rare levels get huge weights.
    Widen `std` until it covers every level that matters.

    Attributes:
        schedule: the clock.
        mean: mean of log(sigma / alpha).
        std: its standard deviation.
        start: early stop t0, >= 0.
        end: latest time, <= 1.
    """

    schedule: Schedule
    mean: float = -1.2
    std: float = 1.2
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.end <= 1:
            raise TimeError(f"a time law needs 0 <= start < end <= 1, got start = {self.start:g}, end = {self.end:g}")
        if not self.std > 0:
            raise TimeError(f"a log-normal time law needs std > 0, got {self.std:g}")

    def sample(self, n: int, rng: Random) -> Tensor:
        """Draw n times, shape (n,), float64."""
        low, high = self._limits()
        u = (torch.arange(n, dtype=torch.float64) + rng.uniform((n,), dtype=torch.float64)) / n
        z = torch.special.ndtri(low + (high - low) * u)
        return self.schedule.time(-2 * (self.mean + self.std * z)).clamp(self.start, self.end)

    def log_density(self, t: Tensor) -> Tensor:
        """Log density of t, by the change of variables from log(sigma / alpha)."""
        low, high = self._limits()
        level = -0.5 * self.schedule.log_snr(t)
        z = (level - self.mean) / self.std
        slope = self.schedule.dsigma(t) / self.schedule.sigma(t) - self.schedule.f(t)
        log_density = -0.5 * z.square() - 0.5 * math.log(2 * math.pi) - math.log(self.std) + slope.log()
        inside = (t >= self.start) & (t <= self.end)
        return torch.where(inside, log_density - (high - low).log(), -torch.inf)

    def _limits(self) -> tuple[Tensor, Tensor]:
        """Probability below the two ends, before truncation."""
        ends = torch.tensor([self.start, self.end], dtype=torch.float64)
        low, high = torch.special.ndtr((-0.5 * self.schedule.log_snr(ends) - self.mean) / self.std)
        return low, high
