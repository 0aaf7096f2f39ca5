r"""Grids: the times a sampler stops at, built once, validated once, float64 on the CPU.

A grid of n steps has n + 1 times, strictly decreasing from `start` (noise) to `end` (data), both met exactly. Every builder
takes a schedule, the number of steps and the two ends.

A grid is a *shape* on a *clock* (`spaced`): the clock is a function of the noise level sigma / alpha, or t itself; the shape
says where the steps crowd. The usual grids have names of their own.

A clock may be infinite at an end (log-SNR at sigma = 0 or alpha = 0). There the ladder stops at a stated noise level, in
units of sigma / alpha, and one step of its own goes to the end. The angle and the flow clock are finite at both ends.

Checked by: tests/test_grids.py (every step count 1..200 on every grid; shapes of the ladders).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from undrift.errors import GridError, TimeError
from undrift.schedules import Schedule

__all__ = [
    "CLOCKS",
    "GRIDS",
    "SHAPES",
    "Clock",
    "Grid",
    "angle",
    "bend",
    "flow",
    "graded",
    "karras",
    "log_snr",
    "of_times",
    "quadratic",
    "spaced",
    "uniform",
]

Warp = Callable[[np.ndarray], np.ndarray]


class Clock(NamedTuple):
    """An increasing function of the noise level sigma / alpha.

    Attributes:
        of: the clock at a noise level.
        noise: the noise level at a clock.
        endless: whether a ladder in it must stop before an end without noise or without signal.
    """

    of: Warp
    noise: Warp
    endless: bool = False


def power(rho: float) -> Clock:
    """(sigma / alpha)^(1 / rho), rho > 0: Karras et al. 2022, eq. 5."""
    if not rho > 0:
        raise GridError(f"Karras et al.'s grid needs rho > 0, got {rho:g}; 7 is the usual value")
    return Clock(lambda r: r ** (1 / rho), lambda u: u**rho, endless=True)


CLOCKS: dict[str, Clock | None] = {
    "time": None,
    "log_snr": Clock(np.log, np.exp, endless=True),
    "karras": power(7.0),
    "angle": Clock(np.arctan, np.tan),
    "flow": Clock(lambda r: 1 / (1 + 1 / r), lambda w: w / (1 - w)),
}
"""Clocks by name; `time` is t itself, whatever the schedule."""

SHAPES: dict[str, Warp] = {
    "uniform": lambda u: u,
    "quadratic": np.square,
    "cosine": lambda u: 1 - np.cos(0.5 * np.pi * u),
    "sigmoid": lambda u: 0.5 + 0.5 * np.tanh(6 * u - 3) / np.tanh(3),
}
"""Shapes by name: increasing maps of [0, 1], 0 = data, to itself. The flatter, the more steps."""


def bend(data: float = 1.0, noise: float = 1.0) -> Warp:
    """A shape that crowds steps near data (data > 1), near noise (noise > 1), or spreads them there (< 1)."""
    if not (data > 0 and noise > 0):
        raise GridError(f"a bend needs two positive exponents, got {data:g} and {noise:g}; 1 leaves the clock as it is")
    return lambda u: 1 - (1 - u**data) ** noise


def graded(share: float, finest: float = 1e-3) -> Warp:
    r"""A shape with a share of the steps equal in log(w + finest), the others in w, the way from data (0) to noise (1).

    .. math:: u = (1 - \kappa)\, w + \kappa\, \frac{\log(1 + w / a)}{\log(1 + 1 / a)}

    Data has details of every size, down to one below which there are none: the logarithm meets all of them alike, and a says
    where they end.

    Args:
        share: kappa in [0, 1).
        finest: a in (0, 1], as a part of the way on the clock.

    Raises:
        GridError: one of them out of range.

    Checked by: tests/test_grids.py::test_graded_steps_are_equal_in_its_clock
    """
    if not (0 <= share < 1 and 0 < finest <= 1):
        raise GridError(f"graded steps need a share in [0, 1) and a finest detail in (0, 1], got {share:g} and {finest:g}")
    if share == 0:
        return lambda u: u
    fine, even = share / np.log1p(1 / finest), 1 - share
    from scipy.special import wrightomega  # imported where it is used: importing undrift stays light

    def warp(u: np.ndarray) -> np.ndarray:
        # y = (w + a) even / fine solves y + log y = z, and Wright's omega is that y.
        z = (u + even * finest) / fine + np.log(even * finest / fine)
        return np.clip(fine / even * wrightomega(z) - finest, 0.0, 1.0)

    return warp


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


def spaced(
    schedule: Schedule | None,
    steps: int,
    start: float = 1.0,
    end: float = 0.0,
    *,
    clock: str | Clock = "flow",
    shape: str | Warp = "uniform",
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Grid:
    """Steps of any shape on any clock.

    Args:
        schedule: says which time has which noise level; may be None on the clock `time`.
        steps: number of steps, >= 1.
        start: first time.
        end: last time.
        clock: a key of `CLOCKS`, or a clock.
        shape: a key of `SHAPES`, or an increasing map of [0, 1] to itself, such as `bend(1.5)` or `graded(0.2)`.
        sigma_min: noise level at which an endless clock stops before an end without noise; at most half of its first.
        sigma_max: noise level at which it starts after an end without signal; at least twice its last.

    Raises:
        GridError: an unknown clock or shape, limits that cross, or so many steps that two times coincide.
        TimeError: not 0 <= end < start <= 1.
    """
    _check(steps, start, end)
    on, warp = _named(clock, CLOCKS, "clock"), _named(shape, SHAPES, "shape")
    if on is None:
        inner = end + (start - end) * warp(np.linspace(1, 0, steps + 1)[1:-1])
        return of_times([start, *inner, end])
    if schedule is None:
        raise GridError("a clock other than 'time' needs a schedule: it says which time has which noise level")
    if not 0 < sigma_min < sigma_max:
        raise GridError(f"noise limits must satisfy 0 < sigma_min < sigma_max, got {sigma_min:g} and {sigma_max:g}")
    with np.errstate(divide="ignore"):
        top, bottom = _noise(schedule, np.array([start, end]))
        free_start, free_end = on.endless and not np.isfinite(top), on.endless and bottom == 0
        bottom = min(sigma_min, 0.5 * top) if free_end else bottom
        top = max(sigma_max, 2 * bottom) if free_start else top
        first, last = on.of(np.array([top, bottom]))
    rungs = steps + 1 - free_start - free_end
    u = np.array([0.5]) if free_start and free_end and rungs == 1 else warp(np.linspace(1, 0, rungs))
    ladder = on.noise((last + (first - last) * u)[0 if free_start else 1 : rungs if free_end else rungs - 1])
    return of_times([start, *_times(schedule, ladder), end])


def uniform(schedule: Schedule | None, steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """Equal steps in t; the schedule plays no part."""
    return spaced(None, steps, start, end, clock="time")


def quadratic(schedule: Schedule | None, steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """Equal steps in sqrt(t): finer near data (Song et al. 2021, DDIM, appendix D.2); the schedule plays no part."""
    _check(steps, start, end)
    low = end**0.5
    roots = low + (start**0.5 - low) * np.linspace(1, 0, steps + 1)[1:-1]
    return of_times([start, *np.square(roots), end])


def log_snr(
    schedule: Schedule,
    steps: int,
    start: float = 1.0,
    end: float = 0.0,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
) -> Grid:
    """Equal steps in log-SNR (Lu et al. 2022); arguments as in `spaced`."""
    return spaced(schedule, steps, start, end, clock="log_snr", sigma_min=sigma_min, sigma_max=sigma_max)


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
    """Equal steps in (sigma / alpha)^(1 / rho), rho > 0 (Karras et al. 2022, eq. 5); arguments as in `spaced`."""
    return spaced(schedule, steps, start, end, clock=power(rho), sigma_min=sigma_min, sigma_max=sigma_max)


def angle(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """Equal steps in atan2(sigma, alpha)."""
    return spaced(schedule, steps, start, end, clock="angle")


def flow(schedule: Schedule, steps: int, start: float = 1.0, end: float = 0.0) -> Grid:
    """Equal steps in sigma / (alpha + sigma), the time of the straight flow."""
    return spaced(schedule, steps, start, end, clock="flow")


GRIDS: dict[str, Callable[..., Grid]] = {
    "uniform": uniform,
    "quadratic": quadratic,
    "cosine": partial(spaced, clock="time", shape="cosine"),
    "sigmoid": partial(spaced, clock="time", shape="sigmoid"),
    "log_snr": log_snr,
    "karras": karras,
    "angle": angle,
    "flow": flow,
}
"""The grids that have names. A new clock or shape is one entry of its own table."""


def _named(choice: Any, table: dict[str, Any], kind: str) -> Any:
    if not isinstance(choice, str):
        return choice
    if choice not in table:
        raise GridError(f"unknown {kind} {choice!r}; the {kind}s are {', '.join(table)}")
    return table[choice]


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
