"""CFG++ (Chung et al. 2024, 2406.08070): guided clean end, unguided noise. It needs the target time, so it is a sampler."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from oracles import F64, draws, normal, run, time
from undrift import gaussian, grids
from undrift.schedules import Trigonometric

PATH, MEAN, EYE = gaussian.Path(Trigonometric()), draws((2,), 0), torch.eye(2, dtype=F64)
FREE, COND = (gaussian.Exact(PATH, normal(m, EYE)) for m in (0 * MEAN, MEAN))


@dataclass(frozen=True)
class CFGPP:
    """x_s = alpha_s (guided clean end) + sigma_s (unconditional noise)."""

    free: Any
    scale: float
    family: str = "gaussian"
    order: int = 1

    def calls(self, grid):
        return 2 * grid.steps

    def plan(self, path, grid):
        return [(time(t), time(s)) for t, s in grid.pairs()]

    def init(self, x):
        return None

    def step(self, denoiser, plan, i, x, state, rng):
        (t, s), q = plan[i], denoiser.path.schedule
        free = self.free(x, t)
        guided = denoiser(x, t).extrapolate(free, self.scale)
        return q.alpha(s) * guided.mean + q.sigma(s) * (x - q.alpha(t) * free.mean) / q.sigma(t), None, guided


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0, 2.5])
def test_it_shifts_the_unconditional_flow_by_a_known_amount(scale):
    """N(0, I) against N(m, I): each step turns the state by cos(step angle) and adds scale alpha_s sigma_t^2 m."""
    x, grid = draws((4, 2), 1), grids.uniform(None, 7)
    want = x
    for t, s in grid.pairs():
        angle_t, angle_s = math.pi / 2 * t, math.pi / 2 * s
        want = math.cos(angle_t - angle_s) * want + scale * math.cos(angle_s) * math.sin(angle_t) ** 2 * MEAN
    torch.testing.assert_close(run(COND, CFGPP(FREE, scale), grid, x), want, atol=1e-13, rtol=0)


def test_its_limits_are_ddim():
    """Scale 0, and equal models at any scale, are DDIM; at scale 1 it is not, for the noise stays unconditional."""
    x, grid, ddim = draws((4, 2), 1), grids.uniform(None, 7), gaussian.DDIM()
    torch.testing.assert_close(run(COND, CFGPP(FREE, 0.0), grid, x), run(FREE, ddim, grid, x), atol=1e-13, rtol=0)
    torch.testing.assert_close(run(COND, CFGPP(COND, 3.0), grid, x), run(COND, ddim, grid, x), atol=1e-13, rtol=0)
    assert float((run(COND, CFGPP(FREE, 1.0), grid, x) - run(COND, ddim, grid, x)).abs().max()) > 0.1
