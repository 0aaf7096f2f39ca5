"""DDBM (Zhou et al. 2024, 2309.16948): the denoiser is conditioned on the other end; the step back never asks for it."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch

from oracles import F64, draws, propagate, spd, time
from undrift import Ancestral, bridge, gaussian, grids
from undrift.laws import Normal, Point
from undrift.schedules import BrownianBridge


@dataclass(frozen=True)
class DDBM:
    """A conditional model whose condition is x_1: the bridge is pinned there, and so is the law of the clean end."""

    path: bridge.Path
    law: Callable[[torch.Tensor], Normal]

    def given(self, cond):
        return bridge.Pinned(self.path.pinned(cond), self.law(cond))


@pytest.mark.parametrize("steps", [1, 2, 5, 200])
def test_a_correlated_pair_is_sampled_exactly(steps):
    """X_0 | x_1 by moment propagation for every x_1, so the joint law of both ends; 200 steps of rounding."""
    joint, mean = spd(4, 0), draws((4,), 1)
    model = DDBM(bridge.Path(BrownianBridge(0.8), Point(torch.zeros(1, 2, dtype=F64))), gaussian.JointGaussian(mean, joint, 2))
    gain = joint[:2, 2:] @ torch.linalg.inv(joint[2:, 2:])
    assert float(gain.abs().max()) > 0.2  # the ends do depend on each other
    for x_1 in draws((3, 2), 2):
        got = propagate(model.given(x_1[None]), Ancestral(), grids.uniform(None, steps), x_1, torch.zeros(2, 2, dtype=F64))
        torch.testing.assert_close(got[0], mean[:2] + gain @ (x_1 - mean[2:]), atol=1e-11, rtol=0)
        torch.testing.assert_close(got[1], joint[:2, :2] - gain @ joint[2:, :2], atol=1e-11, rtol=0)


def test_one_batch_serves_many_ends():
    """Each row has its own x_1 and its own posterior: the batch agrees with its rows taken alone, bit for bit in float64."""
    x_1, x, t = draws((3, 2), 2), draws((3, 2), 3), time([0.2, 0.5, 1.0])
    path = bridge.Path(BrownianBridge(0.8), Point(torch.zeros(1, 2, dtype=F64)))
    model = DDBM(path, gaussian.JointGaussian(draws((4,), 1), spd(4, 0), 2))
    whole = model.given(x_1)(x, t).mean
    alone = torch.cat([model.given(x_1[i : i + 1])(x[i : i + 1], t[i]).mean for i in range(3)])
    torch.testing.assert_close(whole, alone, atol=1e-14, rtol=0)
