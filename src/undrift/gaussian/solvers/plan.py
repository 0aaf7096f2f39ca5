"""A plan: every number that a solver needs for a whole grid, computed once, before the loop, in float64."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.grids import Grid

__all__ = ["Plan", "combine", "ends", "tabulate", "ticks"]


@dataclass(frozen=True)
class Plan:
    """Times and coefficients of a grid.

    Attributes:
        times: n + 1 float64 scalars on the CPU.
        rows: one tuple of plain numbers a step, in groups where a solver likes.
    """

    times: tuple[Tensor, ...]
    rows: tuple[tuple[Any, ...], ...]


def ends(grid: Grid) -> tuple[Tensor, Tensor]:
    """(t, s) of all steps at once, each of shape (n,), float64."""
    times = torch.tensor(grid.times, dtype=torch.float64)
    return times[:-1], times[1:]


def ticks(grid: Grid) -> tuple[Tensor, ...]:
    """Times of the grid as n + 1 float64 scalars on the CPU."""
    return torch.tensor(grid.times, dtype=torch.float64).unbind()


def combine(x: Tensor, gain: float, mean: Tensor, weight: float) -> Tensor:
    """The sum gain x + weight mean, in one new block of memory: a second one may cost more in page faults than the arithmetic.

    A mean of another dtype is promoted, not rounded in silence; the trajectory then says so.
    """
    out = x * gain
    return out.add_(mean, alpha=weight) if mean.dtype == out.dtype else torch.add(out, mean, alpha=weight)


def tabulate(solver: object, path: Path, grid: Grid, columns: tuple[Tensor, ...] | Tensor) -> Plan:
    """A plan from columns of shape (n,), or from a table of them, shape (n, k).

    Raises:
        GridError: a number is not finite; names the first such step.
    """
    table = columns if isinstance(columns, Tensor) else torch.stack(torch.broadcast_tensors(*columns), 1)
    finite = table.isfinite().all(1)
    if bool(finite.all()):
        return Plan(ticks(grid), tuple(map(tuple, table.tolist())))
    t, s = grid.pairs()[finite.tolist().index(False)]
    if s > t:
        raise GridError(
            f"{type(solver).__name__} has no step from t = {t:g} up to s = {s:g}: a random solver runs from noise to data, "
            "and a deterministic one encodes from a time with some noise; use DDIM() on a grid that starts above t = 0"
        )
    raise GridError(
        f"{type(solver).__name__} has no finite step from t = {t:g} to s = {s:g} on {path.schedule!r}, whose drift "
        "or noise is infinite there; start and end the grid just inside, or use DDIM, which has such a step"
    )
