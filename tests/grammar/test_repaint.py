"""RePaint (Lugmayr et al. 2022, 2201.09865): a sampler whose frozen settings hold the problem."""

from dataclasses import dataclass

import pytest
import torch

from oracles import F64, Impulse, draws, normal, run, spd, time
from undrift import gaussian, grids
from undrift.schedules import Trigonometric

KNOWN, Y, MEAN, PATH = torch.tensor([False, True, False]), draws((3,), 1), draws((3,), 2), gaussian.Path(Trigonometric())


@dataclass(frozen=True)
class RePaint:
    """Unknown coordinates by the step back, known ones by noising y; `rounds` repetitions of each step."""

    known: torch.Tensor
    y: torch.Tensor
    rounds: int = 1
    family: str = "any"
    order: int = 1

    def calls(self, grid):
        return self.rounds * grid.steps

    def plan(self, path, grid):
        return [(time(t), time(s)) for t, s in grid.pairs()]

    def init(self, x):
        return None

    def step(self, denoiser, plan, i, x, state, rng):
        (t, s), path, y = plan[i], denoiser.path, self.y.expand_as(x)
        for r in range(self.rounds):
            x = path.corrupt(x, s, t).sample(rng) if r else x
            law = denoiser(x, t)
            free = path.reverse(x, law, t, s).sample(rng)
            seen = y if s == 0 else path.corrupt(y, torch.zeros_like(s), s).sample(rng)
            x = torch.where(self.known, seen, free)
        return x, None, law


def moments(cov, rounds, steps=4):
    """Exact mean and covariance of what it draws: one unit impulse per noise number, the prior's included."""
    rows, rng = 1 + 3 * 3 * (rounds * steps + 1), Impulse(1, 3)
    start = PATH.prior(torch.empty(rows, 3, dtype=F64)).sample(rng)
    x = run(gaussian.Exact(PATH, normal(MEAN, cov)), RePaint(KNOWN, Y, rounds), grids.uniform(None, steps), start, rng)
    return x[0], (x[1:] - x[0]).mT @ (x[1:] - x[0])


@pytest.mark.parametrize("rounds", [1, 3])
def test_independent_coordinates_are_exact(rounds):
    """What is known is y, and what is unknown keeps its own law, after any number of rounds."""
    variance = torch.tensor([0.3, 0.7, 1.5], dtype=F64)
    mean, cov = moments(torch.diag(variance), rounds)
    torch.testing.assert_close(mean, torch.where(KNOWN, Y, MEAN), atol=1e-13, rtol=0)
    torch.testing.assert_close(cov, torch.diag(torch.where(KNOWN, 0.0, variance)), atol=1e-13, rtol=0)


def test_resampling_lessens_the_bias_on_dependent_coordinates():
    """Replacement alone is biased (exact conditional by block algebra); each fourfold number of rounds brings it nearer."""
    cov, rest = spd(3, 3), ~KNOWN
    want = MEAN[rest] + cov[rest][:, KNOWN] @ torch.linalg.solve(cov[KNOWN][:, KNOWN], Y[KNOWN] - MEAN[KNOWN])
    bias = [float((moments(cov, rounds)[0][rest] - want).abs().max()) for rounds in (1, 4, 16)]
    assert bias[0] > bias[1] > bias[2]
