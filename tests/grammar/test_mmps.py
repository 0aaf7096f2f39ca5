"""MMPS (Rozet et al. 2024, 2405.13712): the posterior covariance is (sigma^2 / alpha) times the Jacobian of the mean."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from oracles import F64, SCHEDULES, MeanOnly, draws, normal, run, spd, time
from undrift import gaussian, grids
from undrift.core import pad

MEAN, COV, LOOK, Y, NOISE = draws((4,), 0), spd(4, 1), draws((2, 4), 2), draws((2,), 3), 0.3


@dataclass(frozen=True)
class MMPS:
    """The denoiser of X_0 given y = A x_0 + noise z, by vector products with the Jacobian alone."""

    inner: Any
    path = property(lambda self: self.inner.path)

    def __call__(self, x_t, t):
        q, law = self.path.schedule, self.inner(x_t, t)
        mean, pull = torch.func.vjp(lambda x: self.inner(x, t).mean, x_t)
        spread = pad(q.sigma(t).square() / q.alpha(t), x_t)
        seen = torch.stack([spread * pull(row.expand_as(x_t))[0] for row in LOOK], 1) @ LOOK.mT
        seen = seen + NOISE**2 * torch.eye(2, dtype=F64)
        surprise = torch.linalg.solve(seen, (Y - mean @ LOOK.mT)[..., None])[..., 0]
        return self.path.tilt(law, pull(surprise @ LOOK)[0], t)


GAIN = COV @ LOOK.mT @ torch.linalg.inv(LOOK @ COV @ LOOK.mT + NOISE**2 * torch.eye(2, dtype=F64))
POSTERIOR = normal(MEAN + GAIN @ (Y - LOOK @ MEAN), COV - GAIN @ LOOK @ COV)


@pytest.mark.parametrize("name", ["vp", "edm", "custom"])
@pytest.mark.parametrize("t", [time(0.4), time([0.05, 0.5, 0.95])])
def test_the_guided_mean_is_exact_on_a_gaussian(name, t):
    """Against the exact denoiser of the posterior data law (Kalman, dense); 1e-9: EDM states are of order 80."""
    path, x = gaussian.Path(SCHEDULES[name]), draws((3, 4), 4)
    guided = MMPS(gaussian.Exact(path, normal(MEAN, COV)))(x, t)
    torch.testing.assert_close(guided.mean, gaussian.Exact(path, POSTERIOR)(x, t).mean, atol=1e-9, rtol=0)


def test_any_sampler_takes_the_guide():
    """Heun on the guided model is Heun on the posterior's own model, state by state."""
    path, x, grid = gaussian.Path(SCHEDULES["vp"]), draws((3, 4), 4), grids.uniform(None, 6)
    guided, truth = MMPS(gaussian.Exact(path, normal(MEAN, COV))), MeanOnly(gaussian.Exact(path, POSTERIOR))
    states = [run(model, gaussian.Heun(), grid, x) for model in (guided, truth)]
    torch.testing.assert_close(states[0], states[1], atol=1e-9, rtol=0)
