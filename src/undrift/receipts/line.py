r"""Exact laws on the line: what a sampler makes of its start, without Monte Carlo.

A random solver's step is :math:`x_s = m(x_t) + c z`, so densities move by a smooth kernel,

.. math:: p_s(y) = \int N(y;\ m(x), c^2)\, p_t(x)\, dx ,

and the trapezoid rule on points c / 2 apart is exact to rounding, as long as no step stretches the line much. A
deterministic solver moves quantiles: n middle quantiles of the start, run as n samples, are those of the result, for its steps
keep their order; the density between two of them is 1 / (n gap).

Checked by: tests/receipts/test_line.py
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Deterministic
from undrift.errors import GridError
from undrift.gaussian import EulerMaruyama
from undrift.grids import Grid
from undrift.simulate import last, trajectory

__all__ = ["Line", "flow", "propagate"]

_REACH = 7.0  # standard deviations of a step that are followed: 2.6e-12 of its mass lies beyond


@dataclass(frozen=True)
class Line:
    """A law on the line by points and their masses.

    Attributes:
        x: points in ascending order, shape (N,).
        mass: shape (N,), sum 1 within rounding.
        entropy: differential entropy, nats.
    """

    x: Tensor
    mass: Tensor
    entropy: float

    def mean_of(self, values: Tensor) -> float:
        """Expectation of a function given by its values at the points, shape (N,)."""
        return float((self.mass * values).sum())


def propagate(denoiser: Any, solver: EulerMaruyama, grid: Grid, low: float, high: float) -> Line:
    """The law of a random solver's result, started from the path's prior.

    Args:
        denoiser: of numbers on the line, event shape (1,), for any batch size.
        solver: with stochasticity > 0.
        grid: uniform enough that one spacing serves every step; the smallest noise sets it.
        low: left end of the line; nothing of weight may lie beyond.
        high: right end.

    Raises:
        GridError: a step without noise.

    Checked by: tests/receipts/test_line.py::test_a_gaussian_stays_the_gaussian_of_its_moments
    """
    plan = solver.plan(denoiser.path, grid)
    smallest = min(c for _, _, c in plan.rows)
    if not smallest > 0:
        raise GridError("a step without noise moves no density; run deterministic solvers with `flow`")
    x = torch.linspace(low, high, 2 + int((high - low) / (0.5 * smallest)), dtype=torch.float64)
    width = float(x[1] - x[0])
    prior = denoiser.path.prior(x[:, None])
    mass = width * prior.log_prob(x[:, None]).exp()
    for i, (a, b, c) in enumerate(plan.rows):
        middle = (a * x[:, None] + b * denoiser(x[:, None], plan.times[i]).mean)[:, 0]
        reach = math.ceil(_REACH * c / width)
        index = ((middle - low) / width).round().long()[:, None] + torch.arange(-reach, reach + 1)
        away = (low + width * index.double() - middle[:, None]) / c
        kernel = torch.exp(-0.5 * away.square()) * (width / (c * math.sqrt(2 * math.pi)))
        inside = (index >= 0) & (index < len(x))
        moved = torch.where(inside, kernel * mass[:, None], 0.0)
        mass = torch.zeros_like(mass).index_add(0, index.clamp(0, len(x) - 1).flatten(), moved.flatten())
    density = mass / width
    return Line(x, mass, -float((mass * torch.where(density > 0, density, 1.0).log()).sum()))


def flow(denoiser: Any, solver: Any, grid: Grid, n: int) -> Line:
    """The law of a deterministic solver's result, started from the path's prior.

    Args:
        denoiser: of numbers on the line, event shape (1,), for any batch size.
        solver: deterministic.
        grid: where to stop; fine enough that steps keep the order of points.
        n: number of quantiles.

    Raises:
        GridError: two points changed their order: the steps are too coarse; or the solver draws noise.

    Checked by: tests/receipts/test_line.py::test_a_flow_of_quantiles_is_the_flow_of_the_law
    """
    levels = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    x = denoiser.path.prior(levels[:, None]).variance.sqrt()[:, 0] * torch.special.ndtri(levels)
    x = last(trajectory(denoiser, solver, grid, x[:, None], rng=Deterministic()))[:, 0]
    gaps = x.diff()
    if not bool((gaps > 0).all()):
        raise GridError(f"{int((gaps <= 0).sum())} of {n} points changed their order; take more steps")
    # Mean of -log density over the n - 1 gaps; the half cells at both ends count as their neighbours.
    surprise = (n * gaps).log()
    entropy = float((surprise.sum() + 0.5 * (surprise[0] + surprise[-1])) / n)
    return Line(x, torch.full_like(x, 1 / n), entropy)
