r"""CFG++: guided clean end, unguided noise. It needs the time it steps to, so it is a sampler and no guide.

.. math:: x_s = \alpha_s \hat x_0^{w} + \sigma_s \frac{x_t - \alpha_t \hat x_0^{\varnothing}}{\sigma_t}, \qquad
          \hat x_0^{w} = \hat x_0^{\varnothing} + w\, (\hat x_0^{y} - \hat x_0^{\varnothing})

The frozen settings hold the unconditional model; the denoiser it runs is the conditional one. w = 0 is DDIM of the
unconditional model; w = 1 is *not* DDIM of the conditional one, for the noise stays unconditional. A step is one of DDIM
under guidance of strength :math:`w\, \alpha_s / (\alpha_s - \sigma_s \alpha_t / \sigma_t)`.

A trap: that strength grows like 1 / (t - s). With ever finer steps at one w the guidance grows without bound, there is no
limiting differential equation, and a good w is good for one number of steps. (The paper's w lies in [0, 1].)

Source: Chung et al. 2024 (2406.08070), algorithm 1. Checked by: tests/guidance/test_cfgpp.py, tests/grammar/test_cfgpp.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.gaussian.solvers.plan import ends, tabulate
from undrift.grids import Grid
from undrift.guidance.contrast import check_same_path
from undrift.guidance.strength import Scale, at, once, plainly
from undrift.protocols import Denoiser
from undrift.simulate import check_family
from undrift.typing import Time

__all__ = ["CFGPP"]


@dataclass(frozen=True)
class CFGPP:
    """CFG++.

    Attributes:
        free: the unconditional model, on the path of the conditional one that is run.
        scale: w: a number, one per sample, or a function of the time.

    Raises:
        ShapeError: the scale is neither one number nor one per sample.

    Checked by: tests/guidance/test_cfgpp.py::test_it_shifts_the_unconditional_flow_by_a_known_amount,
        tests/guidance/test_cfgpp.py::test_a_step_is_a_ddim_step_under_a_stronger_scale
    """

    free: Denoiser
    scale: Scale

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", once(self.scale))

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """That of DDIM, which it is at w = 0; at any other w it has no limit, see the module."""
        return 1

    def calls(self, grid: Grid) -> int:
        """Two a step; where w is plainly 0, the unconditional one alone."""
        silent = sum(plainly(at(self.scale, torch.tensor(t, dtype=torch.float64), 1), 0.0) for t in grid.times[:-1])
        return 2 * grid.steps - silent

    def plan(self, path: Any, grid: Grid) -> "CFGPPPlan":
        """x_s = a x_t + b D_guided + c D_free, with the scale of every step.

        Raises:
            FamilyError: another family, or the unconditional model runs on another path.
            GridError: a step from sigma = 0.
        """
        check_family(self, path)
        check_same_path(path, self.free.path, "move the unconditional one to this clock with free.on(path)")
        t, s = ends(grid)
        schedule = path.schedule
        ratio = schedule.sigma(s) / schedule.sigma(t)
        plan = tabulate(self, path, grid, (ratio, schedule.alpha(s), -ratio * schedule.alpha(t)))
        return CFGPPPlan(plan.times, plan.rows)

    def init(self, x: Tensor) -> None:
        """No state."""

    def step(
        self, denoiser: Denoiser, plan: "CFGPPPlan", i: int, x: Tensor, state: None, rng: Random
    ) -> tuple[Tensor, None, Any]:
        """Two calls, one contrast, and one combination; the law is the guided one."""
        a, b, c = plan.rows[i]
        free = self.free(x, plan.times[i])
        scale = at(self.scale, plan.times[i], x.shape[0])
        guided = free if plainly(scale, 0.0) else denoiser(x, plan.times[i]).extrapolate(free, scale)
        return torch.add(x * a, guided.mean, alpha=b).add_(free.mean, alpha=c), None, guided


@dataclass(frozen=True)
class CFGPPPlan:
    """Times and coefficients of a grid.

    Attributes:
        times: n + 1 float64 scalars on the CPU.
        rows: (a, b, c) of every step, plain numbers.
    """

    times: tuple[Time, ...]
    rows: tuple[tuple[float, ...], ...]
