"""DSBM / IMF (Shi et al. 2023, 2303.16852; in discrete time Gushchin et al. 2024, 2405.14449): a path, its flip, two denoisers.

Ends N(0, p) and N(0, q), reference of variance epsilon: the Schroedinger bridge has cov(x_0, x_1) = (sqrt(4pq + e^2) - e) / 2.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from oracles import F64, Impulse, normal, run, time
from undrift import Ancestral, bridge, gaussian, grids
from undrift.schedules import BrownianBridge


@dataclass(frozen=True)
class Reciprocal:
    """The exact denoiser of a Brownian bridge between Gaussian ends of covariance `ends`: what training would learn."""

    path: bridge.Path
    ends: torch.Tensor

    def __call__(self, x_t, t):
        q = self.path.schedule
        look = torch.stack([q.a(t), q.b(t)])
        seen = self.ends @ look
        joint = torch.stack([self.ends[0, 0], seen[0], seen[0], look @ seen + q.gamma(t) ** 2]).reshape(2, 2)
        return gaussian.JointGaussian(torch.zeros(2, dtype=F64), joint, 1)(x_t)


def transport(model, grid):
    """Exact (cross covariance, variance reached) of the sampler run from the reference end: unit impulses, no Monte Carlo."""
    x = torch.zeros(2 + grid.steps, 1, dtype=F64)
    x[1] = model.ends[1, 1].sqrt()
    end = run(model, Ancestral(), grid, x, Impulse(2, 1))
    return x[1, 0] * end[1, 0], end.square().sum()


@pytest.mark.parametrize(("p", "q", "epsilon"), [(1.0, 2.0, 0.5), (0.3, 0.7, 2.0)])
@pytest.mark.parametrize("start", [0.0, -0.3])
def test_alternation_converges_to_the_schroedinger_bridge(p, q, epsilon, start):
    """Marginals are exact in every round; the coupling converges, with 4 steps a round, since the law is the true posterior."""
    path = bridge.Path(BrownianBridge(math.sqrt(epsilon)), normal(torch.zeros(1, dtype=F64), time([[q]])))
    flipped, cross, grid = path.flip(normal(torch.zeros(1, dtype=F64), time([[p]]))), time(start), grids.uniform(None, 4)
    want, gaps = (math.sqrt(4 * p * q + epsilon**2) - epsilon) / 2, []
    for _ in range(60):
        for here, near, far in ((path, p, q), (flipped, q, p)):
            ends = torch.stack([time(near), cross, cross, time(far)]).reshape(2, 2)
            cross, reached = transport(Reciprocal(here, ends), grid)
            assert float(reached) == pytest.approx(near, abs=1e-12)
        gaps.append(abs(float(cross) - want))
    assert gaps[0] > 1e-3  # one round is not enough, so it is the alternation that converges
    assert gaps[-1] < 1e-10
