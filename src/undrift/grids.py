r"""Grids: the times a sampler stops at, built once, validated once, float64 on the CPU.

A grid of n steps has n + 1 times, strictly decreasing from `start` (noise) to `end` (data), both met exactly. Every builder
takes a schedule, the number of steps and the two ends.

A clock may be infinite at an end (log-SNR at sigma = 0 or alpha = 0). There the ladder stops at a stated noise level, in
units of sigma / alpha, and one step of its own goes to the end.

Checked by: tests/test_grids.py (every step count 1..200 on every grid; shapes of the ladders).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch

from undrift.errors import GridError, TimeError
from undrift.schedules import Schedule

__all__ = ["GRIDS", "Grid", "karras", "log_snr", "of_times", "quadratic", "uniform"]


@dataclass(frozen=True)
class Grid:
    """Strictly monotone times in [0, 1]: falling to generate, rising to encode.

    Attributes:
        times: n + 1 plain numbers.

    Raises:
        GridError: fewer than two times, not finite, or not strictly monotone.
        TimeError: a time outside [0, 1].
    """

    times: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.times) < 2:
            raise GridError(f"a grid needs at least two times (one step), got {len(self.times)}; ask for steps >= 1")
        times = np.asarray(self.times, dtype=np.float64)
        if not np.isfinite(times).all():
            raise GridError("a grid holds a time that is NaN or infinite")
        if times.min() < 0 or times.max() > 1:
            raise TimeError(
                f"a grid runs from {times.max():g} to {times.min():g}; times lie in [0, 1], 0 = data, 1 = reference: "
                "divide step indices by their number"
            )
        moves = np.diff(times)
        stuck = np.flatnonzero(moves * np.sign(times[-1] - times[0]) <= 0)
        if stuck.size:
            i = int(stuck[0])
            raise GridError(
                f"a grid must be strictly monotone, but times[{i}] = {times[i]:g} is followed by times[{i + 1}] = "
                f"{times[i + 1]:g}; sort it, drop repeated times, or ask for fewer steps"
            )

    def flipped(self) -> "Grid":
        """The same times the other way round: from data to noise, for deterministic solvers to encode with."""
        return Grid(self.times[::-1])

    @property
    def steps(self) -> int:
        """Number of steps, one less than the number of times."""
        return len(self.times) - 1

    def pairs(self) -> list[tuple[float, float]]:
        """(t, s) of every step."""
        return list(pairwise(self.times))


def of_times(times: Sequence[float]) -> Grid:
    """A grid of the caller's own times."""
    return Grid(tuple(float(t) for t in times))


def uniform(schedule: Schedule | None, steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """Equal steps in t; the schedule plays no part."""
    return _warped(steps, start, end, lambda u: u)


def quadratic(schedule: Schedule | None, steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """Equal steps in sqrt(t): finer near data (Song et al. 2021, DDIM, appendix D.2); the schedule plays no part."""
    return _warped(steps, start, end, np.square, np.sqrt)


def log_snr(
    schedule: Schedule,
    steps: int,
    start: float = 1.0,
    end: float = 0.0,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Grid:
    """Equal steps in log-SNR (Lu et al. 2022).

    Args:
        schedule: the clock.
        steps: number of steps, >= 1.
        start: first time.
        end: last time.
        sigma_min: noise level sigma / alpha at which the ladder stops before an end without noise; at most half of its first.
        sigma_max: noise level at which it starts after an end without signal; at least twice its last.
    """
    return _ladder(schedule, steps, start, end, (sigma_min, sigma_max), np.log, np.exp)


def karras(
    schedule: Schedule,
    steps: int,
    start: float = 1.0,
    end: float = 0.0,
    *,
    rho: float = 7.0,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Grid:
    """Equal steps in (sigma / alpha)^(1 / rho), rho > 0 (Karras et al. 2022, eq. 5); arguments as in `log_snr`."""
    if not rho > 0:
        raise GridError(f"Karras et al.'s grid needs rho > 0, got {rho:g}; 7 is the usual value")
    return _ladder(schedule, steps, start, end, (sigma_min, sigma_max), lambda x: x ** (1 / rho), lambda u: u**rho)


GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "log_snr": log_snr,
    "karras": karras,
}

Warp = Callable[[np.ndarray], np.ndarray]


def _warped(steps: int, start: float, end: float, forward: Warp, inverse: Warp = lambda t: t) -> Grid:
    """Equal steps in `inverse(t)`."""
    _check(steps, start, end)
    ends = inverse(np.array([start, end], dtype=np.float64))
    times = forward(np.linspace(ends[0], ends[1], steps + 1))
    return of_times([start, *times[1:-1], end])


def _ladder(
    schedule: Schedule,
    steps: int,
    start: float,
    end: float,
    limits: tuple[float, float],
    forward: Warp,
    inverse: Warp,
) -> Grid:
    """Equal steps in `forward(sigma / alpha)`, with a step of its own at an end where the ladder would be infinite."""
    _check(steps, start, end)
    low, high = limits
    if not 0 < low < high:
        raise GridError(f"noise limits must satisfy 0 < sigma_min < sigma_max, got {low:g} and {high:g}")
    noise = _noise(schedule, np.array([start, end]))
    free_start, free_end = not np.isfinite(noise[0]), noise[1] == 0
    bottom = min(low, 0.5 * noise[0]) if free_end else noise[1]
    top = max(high, 2 * bottom) if free_start else noise[0]
    first, last = forward(np.array([top, bottom]))
    rungs = steps + 1 - free_start - free_end
    if free_start and free_end and rungs == 1:
        ladder = np.array([0.5 * (first + last)])
    else:
        ladder = np.linspace(first, last, rungs)
    inner = _times(schedule, inverse(ladder[0 if free_start else 1 : rungs if free_end else rungs - 1]))
    return of_times([start, *inner, end])


def _noise(schedule: Schedule, times: np.ndarray) -> np.ndarray:
    return torch.exp(-0.5 * schedule.log_snr(torch.from_numpy(times))).numpy()


def _times(schedule: Schedule, noise: np.ndarray) -> np.ndarray:
    return schedule.time(-2 * torch.from_numpy(np.asarray(noise)).log()).numpy()


def _check(steps: int, start: float, end: float) -> None:
    if not hasattr(steps, "__index__") or steps < 1:
        raise GridError(f"a grid needs a whole number of steps, at least one step, got steps = {steps}")
    if not 0 <= end < start <= 1:
        raise TimeError(
            f"a grid goes from start (noise) down to end (data) with 0 <= end < start <= 1, got start = {start:g}, "
            f"end = {end:g}; swap them"
        )
