"""Stochastic interpolants (Albergo et al. 2023, 2303.08797): a law of both ends gives z, the score, and a family of SDEs."""

from dataclasses import dataclass

import pytest
import torch

from oracles import F64, draws, normal, propagate, slopes, spd, time
from undrift import bridge, grids
from undrift.schedules import BrownianBridge
from undrift.simulate import OneCall

Q, M_0, M_1, C_0, C_1 = BrownianBridge(0.9), draws((2,), 0), draws((2,), 1), spd(2, 2), spd(2, 3)


def moments(t):
    return Q.a(t) * M_0 + Q.b(t) * M_1, Q.a(t) ** 2 * C_0 + Q.b(t) ** 2 * C_1 + Q.gamma(t) ** 2 * torch.eye(2, dtype=F64)


@dataclass(frozen=True)
class Interpolant(OneCall):
    """dX = (v - epsilon score) dt + sqrt(2 epsilon) dW, run backwards by Euler; epsilon = 0 is the flow."""

    epsilon: float
    family: str = "bridge"
    order: int = 1

    def drift(self, path, pair, x, t):
        return path.velocity(x, pair, t) + self.epsilon * path.noise(x, pair, t) / path.schedule.gamma(t)

    def step(self, denoiser, plan, i, x, state, rng):
        (t, s), pair = plan[i], denoiser(x, plan[i][0])
        noise = rng.normal(x.shape, dtype=x.dtype)
        return x - (t - s) * self.drift(denoiser.path, pair, x, t) + (2 * self.epsilon * (t - s)).sqrt() * noise, None, pair


MODEL = bridge.BothEnds(bridge.GaussianEnds(bridge.Path(Q, normal(M_1, C_1)), normal(M_0, C_0)))


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_every_epsilon_keeps_every_marginal(epsilon):
    """The Fokker-Planck moments C' = A C + C A^T - 2 epsilon and m' = drift(m), and the score, exact to rounding."""
    for t in (time(0.15), time(0.5), time(0.9)):
        mean, cov = moments(t)
        x = torch.cat([mean[None], mean + torch.eye(2, dtype=F64)])
        pair, gain = MODEL(x, t), torch.linalg.solve(cov, (x - mean).mT).mT
        drift = Interpolant(epsilon).drift(MODEL.path, pair, x, t)
        jacobian, (mean_rate, cov_rate) = (drift[1:] - drift[0]).mT, torch.func.jvp(moments, (t,), (time(1.0),))[1]
        torch.testing.assert_close(drift[0], mean_rate, atol=1e-12, rtol=0)
        want = jacobian @ cov + cov @ jacobian.mT - 2 * epsilon * torch.eye(2, dtype=F64)
        torch.testing.assert_close(want, cov_rate, atol=1e-12, rtol=0)
        torch.testing.assert_close(MODEL.path.noise(x, pair, t) / Q.gamma(t), gain, atol=1e-12, rtol=0)  # minus the score


@pytest.mark.parametrize("epsilon", [0.0, 0.5])
def test_the_sampler_converges_to_the_data(epsilon):
    """Euler: measured order 1 within 0.1 at 200 to 400 steps, for the flow and for an SDE, by moment propagation."""
    ends = [moments(time(u)) for u in (0.9, 0.1)]
    ways = [grids.uniform(None, n, 0.9, 0.1) for n in (200, 400)]
    reached = [propagate(MODEL, Interpolant(epsilon), grid, *ends[0])[1] for grid in ways]
    assert slopes([float((cov - ends[1][1]).abs().max()) for cov in reached]) == pytest.approx([1], abs=0.1)
