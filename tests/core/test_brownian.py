"""Certifies `undrift.core.brownian`: one path per sample, whatever the grid, the batch and the order."""

import math
from itertools import pairwise

import numpy as np
import pytest
import scipy.stats
import torch

from undrift import gaussian, grids, schedules
from undrift.core import Brownian, PerSample, Random
from undrift.errors import GridError, ShapeError
from undrift.laws import Point
from undrift.simulate import sample

F64 = torch.float64
DECADES = [0.0, *np.geomspace(1e-30, 1e6, 37)]


def increments(clock, samples=1, event=(2000,), seed=3, **settings) -> torch.Tensor:
    """All standardised increments, shape (n, B, *E)."""
    source = Brownian(seed, samples, [float(c) for c in clock], starts=0, **settings)
    return torch.stack([source.normal((len(source), *event), dtype=F64) for _ in pairwise(clock)])


def path(clock, **settings) -> torch.Tensor:
    """W at every clock value, 0 at the first."""
    lengths = torch.tensor(np.abs(np.diff(clock)))
    moves = increments(clock, **settings) * lengths.sqrt()[:, None, None]
    return torch.cat([torch.zeros_like(moves[:1]), moves.cumsum(0)])


@pytest.mark.parametrize("clock", [np.linspace(0, 1, 20), np.geomspace(2e-4, 2e5, 20), np.geomspace(50, 0.1, 20), DECADES])
def test_increments_are_independent_standard_normal(clock):
    z = increments(clock).flatten(1)
    assert scipy.stats.kstest(z.flatten().numpy(), "norm").pvalue > 1e-3  # a fixed seed: no false alarm in later runs
    bound = 5 / math.sqrt(2000)  # five standard errors of a correlation
    off = torch.corrcoef(z) - torch.eye(len(z), dtype=F64)
    assert float(off.abs().max()) < bound


def test_two_grids_see_one_path():
    fine = np.geomspace(1e-3, 1e3, 65)
    for stride in (2, 8, 64):
        assert float((path(fine)[::stride] - path(fine[::stride])).abs().max()) < 1e-11 * math.sqrt(fine[-1])
    # Inner values that are not shared: W itself at two values a share 2^-10 apart differs by a Brownian increment of that
    # length and not more (5 standard deviations and the rounding to 2^-24).
    near = fine.copy()
    near[1:-1] *= 1 + 2**-10
    gap = (path(fine) - path(near))[1:-1, 0] / torch.from_numpy(np.sqrt(fine[1:-1] * 2**-10))[:, None]
    assert float(gap.abs().max()) < 5.5
    assert 0.9 < float(gap.square().mean().sqrt()) < 1.1


def test_a_value_is_rounded_to_the_stated_resolution():
    # Clocks that share the ends, with one inner value each, closer together than 2^-levels: the same W, or a neighbour's.
    low, high, levels = 0.5, 8.0, 10
    w = [path([low, c, high], levels=levels)[1] for c in (3.0, 3.0 * (1 + 2.0**-13))]
    step = math.sqrt(3.0 * 2.0**-levels)
    assert float((w[0] - w[1]).abs().max()) < 5.5 * step
    assert torch.equal(increments([low, 3.0, high]), increments([low, 3.0 * (1 + 1e-15), high]))


def test_falling_is_the_same_path_backwards():
    clock = np.geomspace(1e-2, 30, 12)
    assert torch.equal(increments(clock[::-1]), -increments(clock).flip(0))


def test_a_sample_alone_is_the_sample_in_company():
    clock = [0.0, 0.3, 0.5, 2.0]
    together = increments(clock, samples=[4, 0, 2**40], event=(2, 3))
    for k, i in enumerate([4, 0, 2**40]):
        assert torch.equal(increments(clock, samples=[i], event=(2, 3)), together[:, k : k + 1])
    assert not torch.equal(together[:, 0], together[:, 1])
    assert not torch.equal(increments(clock, seed=4), increments(clock, seed=3))


def test_single_precision_sees_the_same_path():
    clock = [0.0, 0.3, 2.0]
    single = Brownian(3, 1, clock, starts=0).normal((1, 2000), dtype=torch.float32)
    assert torch.equal(single, increments(clock)[0].float())


def test_starts_and_uniforms_are_ordinary_draws():
    ours, plain = Brownian(5, 3, [1.0, 2.0], starts=2), PerSample(5, 3)
    for _ in range(2):
        assert torch.equal(ours.normal((3, 4), dtype=F64), plain.normal((3, 4), dtype=F64))
    assert torch.equal(ours.uniform((3, 4), dtype=F64), plain.uniform((3, 4), dtype=F64))
    first = ours.normal((3, 4), dtype=F64)
    again = ours.replay()
    for _ in range(2):
        again.normal((3, 4), dtype=F64)
    assert torch.equal(again.normal((3, 4), dtype=F64), first)
    assert isinstance(ours, Random)


def test_it_is_a_source_for_sample():
    # Onto a point mass the chain's steps are exact along the path, so any number of steps gives one state.
    schedule, solver = schedules.VP(), gaussian.DDIM(1.0)
    denoiser = gaussian.Exact(gaussian.Path(schedule), Point(torch.tensor([[0.3, -1.0]], dtype=F64)))

    def state(steps):
        grid = grids.log_snr(schedule, steps, 1.0, 0.2)
        clock = solver.noise_clock(denoiser.path, grid)
        return sample(denoiser, solver, grid, (4, 2), seed=0, dtype=F64, rng=lambda: Brownian(0, 4, clock))

    assert float((state(3) - state(12)).abs().max()) < 1e-5  # rounding of the clock, about 2^-24 of a step


@pytest.mark.parametrize(
    ("clock", "cure"),
    [
        ([0.0, 1.0, 1.0], "noise_clock"),
        ([0.0, 2.0, 1.0], "noise_clock"),
        ([0.0, math.inf], "leave out the ends"),
        ([-1.0, 2.0], "leave out the ends"),
        ([1.0, 1.0 + 1e-12, 2.0], "raise levels="),
        ([0.0, 1e-80, 1.0], "less stochasticity"),
    ],
)
def test_a_bad_clock_is_refused_with_the_cure(clock, cure):
    with pytest.raises(GridError, match=cure):
        Brownian(0, 1, clock)


def test_more_increments_than_the_clock_has_are_refused():
    source = Brownian(0, 2, [0.0, 1.0])
    for _ in range(2):
        source.normal((2, 3), dtype=F64)
    with pytest.raises(GridError, match=r"increment 2 .* has 1; .*starts=1"):
        source.normal((2, 3), dtype=F64)
    with pytest.raises(GridError, match="has 0"):
        Brownian(0, 2, [], starts=0).normal((2, 3), dtype=F64)
    with pytest.raises(ShapeError, match="Brownian"):
        Brownian(0, 2, [0.0, 1.0], starts=0).normal((3, 3), dtype=F64)
