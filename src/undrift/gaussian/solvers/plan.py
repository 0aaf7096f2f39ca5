"""A plan: every number that a solver needs for a whole grid, computed once, before the loop, in float64."""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.grids import Grid

__all__ = ["Plan", "tabulate"]


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


def tabulate(solver: object, path: Path, grid: Grid, columns: tuple[Tensor, ...]) -> Plan:
    """A plan from columns of shape (n,).

    Raises:
        GridError: a number is not finite; names the first such step.
    """
    rows = tuple(tuple(row) for row in torch.stack(torch.broadcast_tensors(*columns), 1).tolist())
    for (t, s), row in zip(pairwise(grid.times), rows, strict=True):
        if all(math.isfinite(c) for c in row):
            continue
        if s > t:
            raise GridError(
                f"{type(solver).__name__} has no step from t = {t:g} up to s = {s:g}: a random solver runs from noise to data, "
                "and a deterministic one encodes from a time with some noise; use DDIM() on a grid that starts above t = 0"
            )
        raise GridError(
            f"{type(solver).__name__} has no finite step from t = {t:g} to s = {s:g} on {path.schedule!r}, whose drift "
            "or noise is infinite there; start and end the grid just inside, or use DDIM, which has such a step"
        )
    return Plan(tuple(torch.tensor(t, dtype=torch.float64) for t in grid.times), rows)
