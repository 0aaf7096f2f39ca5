r"""The probability flow, followed closely: the grid and the divergence that likelihoods and encodings need.

In the angle :math:`\theta = \mathrm{atan2}(\sigma, \alpha)`, with :math:`y = x / n`, :math:`n = \sqrt{\alpha^2 + \sigma^2}`,
the probability-flow ODE of every Gaussian path is

.. math:: \frac{dy}{d\theta} = y \cot\theta - \frac{\hat x_0(n y)}{\sin\theta}, \qquad
          \nabla\cdot\frac{dy}{d\theta} = d \cot\theta - \frac{n}{\sin\theta}\, \mathrm{tr}\frac{\partial\hat x_0}{\partial x} .

It is integrated in theta by the classical Runge-Kutta method (`solvers.ExplicitRungeKutta("rk4", "angle")`, four calls a step),
and the divergence by the same method's quadrature, Simpson's rule. The steps are equal in

.. math:: u = \log\frac{\sin\theta + a \cos\theta}{\cos\theta + b \sin\theta} = \log\frac{r + a}{1 + b r}, \qquad
          r = \sigma / \alpha :

the logarithm of r between the noise levels a = `sigma_min` and 1/b = `sigma_max`, where all scales of the data are met alike;
linear in r below and in 1/r above, so that alpha = 0 lies at finite u. The slope is 0/0 at sigma = 0, so the grid ends at
`sigma_min`.

Sources: Song et al. 2021 (2011.13456), section 4.3 (a Runge-Kutta method on this ODE), eq. 13 and 39.
Checked by: tests/gaussian/test_inversion.py (grid, round trips), tests/gaussian/test_likelihood.py (divergence)
"""

import math

import torch

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers import ExplicitRungeKutta
from undrift.gaussian.solvers.plan import ends, tabulate
from undrift.grids import Grid, of_times

__all__ = ["FOLLOW", "divergence", "flow_grid"]

FOLLOW = ExplicitRungeKutta("rk4", "angle")
"""The solver: order 4, four calls a step."""


def flow_grid(path: Path, steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0) -> Grid:
    """Equal steps of the module's clock, from t = 1 down to the time of noise level `sigma_min`.

    Args:
        path: the Gaussian path.
        steps: number of steps, >= 1.
        sigma_min: noise level sigma / alpha at the grid's end, codec units.
        sigma_max: noise level above which steps are equal in its inverse, codec units.

    Raises:
        GridError: steps < 1, not 0 < sigma_min < sigma_max, or the path never has as much noise as `sigma_min`.

    Checked by: tests/gaussian/test_inversion.py::test_the_grid_has_equal_steps_of_its_clock_and_both_ends
    """
    if steps < 1:
        raise GridError(f"a grid needs at least one step, got steps = {steps}")
    if not 0 < sigma_min < sigma_max:
        raise GridError(f"noise limits must satisfy 0 < sigma_min < sigma_max, got {sigma_min:g} and {sigma_max:g}")
    schedule = path.schedule
    end = float(schedule.time(torch.tensor(-2 * math.log(sigma_min), dtype=torch.float64)))
    if end >= 1:
        raise GridError(f"{schedule!r} never has noise of sigma_min = {sigma_min:g}; give a smaller sigma_min")
    t = torch.tensor([1.0, end], dtype=torch.float64)
    alpha, sigma = schedule.alpha(t), schedule.sigma(t)
    first, last = ((sigma + sigma_min * alpha) / (alpha + sigma / sigma_max)).log().tolist()
    ratio = torch.linspace(first, last, steps + 1, dtype=torch.float64)[1:-1].exp()
    inner = schedule.time(2 * ((1 - ratio / sigma_max).log() - (ratio - sigma_min).log()))
    return of_times([1.0, *inner.tolist(), end])


def divergence(path: Path, grid: Grid) -> list[tuple[float, ...]]:
    r"""Weights of :math:`\int \nabla\cdot(dy/d\theta)\, d\theta` over every step, by Simpson's rule.

    Returns:
        (constant, first, middle, last) of each step: the integral is d times the constant, plus the weights times the trace of
        the denoiser's Jacobian at the four states that `FOLLOW` asks it at (the two in the middle have the same weight).

    Raises:
        GridError: an end of a step lies at sigma = 0.
    """
    schedule = path.schedule
    before, after = (torch.atan2(schedule.sigma(t), schedule.alpha(t)) for t in ends(grid))
    sixth = (after - before) / 6
    middle = schedule.time(-2 * (0.5 * (before + after)).tan().log())
    constant, weights = torch.zeros_like(sixth), []
    for t, share in zip((ends(grid)[0], middle, ends(grid)[1]), (1, 4, 1), strict=True):
        alpha, sigma = schedule.alpha(t), schedule.sigma(t)
        constant = constant + share * sixth * alpha / sigma
        weights.append(-max(1, share / 2) * sixth * (alpha.square() + sigma.square()) / sigma)  # n / sin(theta) is n^2 / sigma
    return list(tabulate(FOLLOW, path, grid, (constant, *weights)).rows)
