"""Consistency models and flow maps (Song et al. 2023, 2303.01469): x_t -> x_s is a protocol of its own, outside the grammar.

For data N(0, v) the map is closed: f(x, t, s) = x sqrt(power_s / power_t), power = alpha^2 v + sigma^2.
"""

from dataclasses import dataclass

import pytest
import torch

from oracles import F64, Impulse, draws, normal, run, slopes, time
from undrift import gaussian, grids, trajectory
from undrift.schedules import EDM, Trigonometric
from undrift.simulate import OneCall

V = 0.6


@dataclass(frozen=True)
class Flow:
    """The exact flow map of N(0, v)."""

    path: gaussian.Path

    def __call__(self, x_t, t, s):
        power = [self.path.schedule.alpha(u) ** 2 * V + self.path.schedule.sigma(u) ** 2 for u in (t, s)]
        return x_t * (power[1] / power[0]).sqrt()


@dataclass(frozen=True)
class Consistency(OneCall):
    """Jump to the data, noise to the next time, jump again; the loop asks of what it runs nothing but its path."""

    family: str = "gaussian"
    order: int = 1

    def step(self, denoiser, plan, i, x, state, rng):
        (t, s), zero = plan[i], time(0.0)
        x = denoiser(x, t, zero)
        return x if s == 0 else denoiser.path.corrupt(x, zero, s).sample(rng), None, None


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_samples_have_the_variance_of_the_data(steps):
    """From the prior, exact at t = 1 here; the known map carries p_t to p_0, so every number of steps is exact."""
    flow, x, rng = Flow(gaussian.Path(Trigonometric())), torch.zeros(1 + steps, 1, dtype=F64), Impulse(1, 1)
    start = flow.path.prior(x).sample(rng)
    assert float(run(flow, Consistency(), grids.uniform(None, steps), start, rng).square().sum()) == pytest.approx(V, abs=1e-14)


def test_the_map_is_consistent_along_the_flow_that_heun_computes():
    """The map is constant on the exact trajectory: on Heun's it drifts at order 2 (within 0.1); composition is exact."""
    path = gaussian.Path(EDM(10.0))
    flow, model, x = Flow(path), gaussian.Exact(path, normal(time([0.0]), time([[V]]))), 10 * draws((3, 1), 0)
    drift = []
    for n in (64, 128):
        grid = grids.karras(path.schedule, n, 1.0, 0.01)
        way = trajectory(model, gaussian.Heun(), grid, x, rng=Impulse(0, 1))
        ends = [flow(step.x, time(step.t), time(0.01)) for step in way]
        drift.append(max(float((end - ends[0]).abs().max()) for end in ends))
    assert slopes(drift) == pytest.approx([2], abs=0.1)
    torch.testing.assert_close(flow(flow(x, time(1.0), time(0.3)), time(0.3), time(0.1)), flow(x, time(1.0), time(0.1)))
