r"""Heun's method on the probability-flow ODE in the noise clock: the deterministic sampler of EDM.

With :math:`\tilde x = x / \alpha` and :math:`\tilde\sigma = \sigma / \alpha` the ODE is
:math:`d\tilde x / d\tilde\sigma = (\tilde x - \hat x_0) / \tilde\sigma`. A trapezoid step costs two calls; the last one, onto
sigma = 0, is a single call, since the slope does not exist there.

Where alpha = 0 the noise clock is infinite. That one step is a trapezoid in the angle
:math:`\theta = \mathrm{atan2}(\sigma, \alpha)`, in which the same ODE reads
:math:`dy/d\theta = y \cot\theta - \hat x_0 / \sin\theta` for :math:`y = x / \sqrt{\alpha^2 + \sigma^2}`.

Source: Karras et al. 2022 (2206.00364), algorithm 1.
Checked by: tests/gaussian/test_solvers.py (order 2, limits)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.gaussian.solvers.plan import Plan, combine, ends, tabulate
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["Heun"]


@dataclass(frozen=True)
class Heun:
    """Heun in the noise clock; deterministic, order 2, two calls a step and one for the step onto t = 0."""

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Order of convergence."""
        return 2

    def calls(self, grid: Grid) -> int:
        """Two a step, one for the step onto t = 0."""
        return 2 * grid.steps - (grid.times[-1] == 0)

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(a, b) of the predictor, (c, d, e, f) of the corrector: x_s = c x_t + d D_t + e x' + f D_s."""
        check_family(self, path)
        t, s = ends(grid)
        schedule = path.schedule
        b, a, _ = path.step_back(t, s, 0.0)
        alpha_t, alpha_s, sigma_t, sigma_s = schedule.alpha(t), schedule.alpha(s), schedule.sigma(t), schedule.sigma(s)
        noise_t, noise_s = sigma_t / alpha_t, sigma_s / alpha_s
        half = 0.5 * (noise_s - noise_t)
        inner = (
            alpha_s / alpha_t * (1 + half / noise_t),
            -alpha_s * half / noise_t,
            half / noise_s,
            -alpha_s * half / noise_s,
        )
        angle_t, angle_s = torch.atan2(sigma_t, alpha_t), torch.atan2(sigma_s, alpha_s)
        half, norm_t, norm_s = 0.5 * (angle_s - angle_t), torch.hypot(alpha_t, sigma_t), torch.hypot(alpha_s, sigma_s)
        first = (
            norm_s / norm_t * (1 + half * alpha_t / sigma_t),
            -norm_s * half / torch.sin(angle_t),
            half * alpha_s / sigma_s,
            -norm_s * half / torch.sin(angle_s),
        )
        onto_data = sigma_s == 0
        alone = (a, b, torch.zeros_like(a), torch.zeros_like(a))
        corrector = (
            torch.where(onto_data, last, torch.where((alpha_t == 0) | (alpha_s == 0), start, usual))
            for last, start, usual in zip(alone, first, inner, strict=True)
        )
        return tabulate(self, path, grid, (a, b, *corrector))

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """Predict with DDIM, correct with the slope found there."""
        a, b, c, d, e, f = plan.rows[i]
        law = denoiser(x, plan.times[i])
        ahead = combine(x, a, law.mean, b)
        if e == 0:
            return ahead, None, law
        there = denoiser(ahead, plan.times[i + 1])
        x = combine(x, c, law.mean, d)
        return x.add_(ahead, alpha=e).add_(there.mean, alpha=f), None, there
