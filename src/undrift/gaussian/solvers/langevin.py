r"""Langevin dynamics: at one noise level, and annealed down the levels of a grid.

At a fixed time the chain

.. math:: x \leftarrow x + \tfrac{a}{2} \nabla \log p_t(x) + \sqrt{a}\, z

has p_t as its law at rest, up to O(a). In the clean end's units, y = x / alpha and r = sigma / alpha, Song and Ermon take
:math:`a_i = \epsilon\, r_i^2 / r_L^2`. So one number is left, `size` :math:`= \epsilon / r_L^2`, the same at all levels,
and with Tweedie's formula the step is

.. math:: x \leftarrow \big(1 - \tfrac{\text{size}}{2}\big) x + \tfrac{\text{size}}{2}\, \alpha_t \hat x_0
          + \sqrt{\text{size}}\, \sigma_t z .

It needs neither 1 / alpha nor the schedule's name. The curvature of -log p_t is at most 1 / sigma_t^2, so the step is stable
for size < 4.

Between far modes the chain at a low level does not pass: it keeps the weights it was started with. Annealing settles them at
high noise, where the modes overlap.

Source: Song and Ermon 2019 (1907.05600), algorithm 1 (its eps = 2e-5 at sigma_L = .01 is size .2).
Checked by: tests/gaussian/test_langevin.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random, check_state
from undrift.errors import GridError, ScheduleError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family
from undrift.typing import State, Time

__all__ = ["Langevin", "langevin"]


def coefficients(path: Path, t: Tensor, size: float) -> tuple[Tensor, Tensor, Tensor]:
    """(weight of the state, weight of the posterior mean, weight of the noise) at times t, each of t's shape, float64."""
    schedule = path.schedule
    pull = 0.5 * size * schedule.alpha(t)
    return torch.full_like(pull, 1 - 0.5 * size), pull, size**0.5 * schedule.sigma(t)


def walk(denoiser: Denoiser, t: Time, x: State, row: tuple[float, float, float], steps: int, rng: Random) -> tuple[State, Any]:
    """`steps` >= 1 Langevin steps at time t with the coefficients `row`; the state and the last law of the clean end."""
    keep, pull, noise = row
    law = None
    for _ in range(steps):
        law = denoiser(x, t)
        x = torch.add(x * keep, law.mean, alpha=pull).add_(rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=noise)
    return x, law


def check_walk(solver: str, steps: int, size: float) -> None:
    """Raise `GridError` unless a Langevin walk can be made with these settings."""
    if steps < 1:
        raise GridError(f"{solver} takes at least one step at each level, got steps = {steps}")
    if not 0 < size < 4:
        raise GridError(f"{solver} takes a relative step size in (0, 4), beyond which it diverges, got {size:g}; .2 is usual")


def langevin(denoiser: Denoiser, x: State, t: Time, *, steps: int, size: float, rng: Random) -> State:
    r"""Plain Langevin dynamics on the law of X_t.

    The chain for dX = 1/2 grad log p_t dt + dW with a time step a = size * sigma_t^2. On a Gaussian law of variance v, per
    eigendirection and with q = 1 - a / (2 v), the variance is :math:`v_\infty + q^{2k} (v_0 - v_\infty)` after k steps, where
    :math:`v_\infty = v / (1 - a / (4 v))`; and the divergence from p_t falls at least like exp(-k a / v) as a goes to 0.

    Args:
        denoiser: any denoiser on a Gaussian path.
        x: state, shape (B, *E), codec units.
        t: the time whose law is sampled, shape (), sigma > 0.
        steps: number of steps, >= 1.
        size: a / sigma_t^2, in (0, 4).
        rng: source of noise.

    Returns:
        The state after `steps` steps, shape (B, *E).

    Raises:
        GridError: steps or size out of range.
        ScheduleError: sigma = 0 at t.

    Source: Song and Ermon 2019, eq. 4.
    Checked by: tests/gaussian/test_langevin.py::test_chain_on_a_gaussian_is_its_closed_form and
        ::test_divergence_falls_as_the_log_sobolev_inequality_says
    """
    check_state(x)
    check_walk("langevin", steps, size)
    keep, pull, noise = (float(v) for v in coefficients(denoiser.path, t, size))
    if noise == 0:
        raise ScheduleError(
            f"Langevin dynamics needs a score, which is not defined where sigma = 0 (here at t = {float(t):g}); walk at an "
            "early stop t0 > 0"
        )
    return walk(denoiser, t, x, (keep, pull, noise), steps, rng)[0]


@dataclass(frozen=True)
class Langevin:
    """Annealed Langevin dynamics down the levels of a grid.

    Every step carries y = x / alpha to the next level as it is, and walks there. A step onto t = 0, where there is no score,
    is one denoising, x = E[X_0 | x_t], always; a grid that ends above t = 0 ends with a walk and is not denoised. At the
    grid's first level the start is taken to be right. From alpha = 0, where y is infinite, the state is carried as noise,
    sigma_s / sigma_t, which is the path's prior at the next level.

    The walks keep a bias O(size) however fine the grid is: there is no order of convergence.

    Attributes:
        steps: Langevin steps, and so network calls, at each level.
        size: step in units of sigma^2, in (0, 4).

    Raises:
        GridError: a setting out of range.
    """

    steps: int = 10
    size: float = 0.2

    def __post_init__(self) -> None:
        check_walk("Langevin", self.steps, self.size)

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """0: a finer grid does not remove the bias of the walks."""
        return 0

    def calls(self, grid: Grid) -> int:
        """`steps` a step, one for the step onto t = 0."""
        onto_data = grid.times[-1] == 0
        return self.steps * (grid.steps - onto_data) + onto_data

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(carry, state, posterior mean, noise) of every step, the last three at its target."""
        check_family(self, path)
        t, s = ends(grid)
        alpha_t, sigma = path.schedule.alpha(t), path.schedule.sigma
        carry = torch.where(alpha_t > 0, path.schedule.alpha(s) / alpha_t, sigma(s) / sigma(t))
        carry = torch.where(s < t, carry, torch.nan)  # annealing has one direction; `tabulate` says so
        return tabulate(self, path, grid, (carry, *coefficients(path, s, self.size)))

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """Carry to the next level and walk there; onto t = 0, denoise."""
        carry, keep, pull, noise = plan.rows[i]
        if noise == 0:
            law = denoiser(x, plan.times[i])
            return law.mean.expand_as(x).clone(), None, law
        x, law = walk(denoiser, plan.times[i + 1], x * carry, (keep, pull, noise), self.steps, rng)
        return x, None, law
