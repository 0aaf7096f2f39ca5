"""Intervals hold what they promise, on laws whose truth is known; the usual bootstrap would not."""

import math

import numpy as np
import pytest
import torch

from undrift.errors import DataError
from undrift.evidence import sliced_w2
from undrift.evidence.bootstrap import interval, share_interval, standard_error
from undrift.evidence.energy import energy


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_the_standard_error_of_a_mean():
    # Of a mean over n samples it is s / sqrt(n), whatever the law; many halves leave 1 / sqrt(2 * 2000) of error.
    for n in (5, 200, 201):
        x = randn(n, seed=0).exp()
        found = standard_error(lambda rows, x=x: float(x[rows].mean()), n, halves=2000)
        assert found == pytest.approx(float(x.std()) / math.sqrt(n), rel=0.08)


@pytest.mark.parametrize("name", ["mean", "median", "w2", "energy"])
def test_intervals_hold_what_they_promise(name):
    # 150 experiments, 90 % intervals: binomial standard error .0245, 24 halves cost about .01 of the level. The truth is what
    # a figure is on average over experiments of this size, as the docstring says.
    real = randn(200, 1, seed=77) + 1.0
    figures = {
        "mean": lambda x: float(x.mean()),
        "median": lambda x: float(x.median()),
        "w2": lambda x: sliced_w2(x, real, projections=1),
        "energy": lambda x: energy(x, real),
    }
    figure = figures[name]
    sets = [randn(160, 1, seed=s) for s in range(150)]
    values = [figure(x) for x in sets]
    truth = float(np.mean(values))
    held = 0
    for s, (x, value) in enumerate(zip(sets, values, strict=True)):
        low, high = interval(lambda rows, x=x: figure(x[rows]), value, len(x), level=0.9, halves=24, seed=s)
        assert low < value < high
        held += low <= truth <= high
    assert 0.8 <= held / 150 <= 0.985
    # And they are no wider than they must be.
    found = standard_error(lambda rows: figure(sets[0][rows]), 160, halves=200)
    assert found == pytest.approx(float(np.std(values, ddof=1)), rel=0.35)


def test_drawing_with_replacement_would_be_biased():
    # Why halves: replicates of a distance that repeat points stand above it, by more than their own spread.
    x, real = randn(300, 4, seed=0), randn(300, 4, seed=1)
    rng = torch.Generator().manual_seed(0)
    repeated = [sliced_w2(x[torch.randint(300, (300,), generator=rng)], real, projections=64) for _ in range(20)]
    assert np.mean(repeated) - sliced_w2(x, real, projections=64) > 2 * np.std(repeated)


def test_an_interval_ends_where_the_figure_does():
    x = (randn(50, seed=0) > -9).double()
    x[0] = 0.0
    low, high = interval(lambda rows: float(x[rows].mean()), float(x.mean()), 50, within=(0, 1))
    assert high == 1
    assert 0.9 < low < 0.98


def test_same_seed_same_interval_and_errors_say_the_cure():
    x = randn(50, seed=0)
    one, two = (interval(lambda rows: float(x[rows].mean()), 0.0, 50, seed=3) for _ in range(2))
    assert one == two
    with pytest.raises(DataError, match="at least 4 samples"):
        standard_error(lambda rows: 0.0, 3)
    with pytest.raises(DataError, match="between 0 and 1"):
        interval(lambda rows: 0.0, 0.0, 9, level=95)


@pytest.mark.parametrize("share", [0.0, 0.07, 0.5, 1.0])
def test_shares_by_the_quadratic_that_defines_them(share):
    # Its ends are the shares q for which |p - q| = z sqrt(q (1 - q) / n).
    for end in share_interval(share, 80, level=0.95):
        assert abs(share - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / 80), abs=1e-6)
    low, high = share_interval(share, 80)
    assert 0 <= low <= share <= high <= 1
    assert high - low > 0.03
