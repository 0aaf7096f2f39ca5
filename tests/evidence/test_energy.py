"""Energy distance against closed forms."""

import math

import numpy as np
import pytest
import torch

from undrift.errors import DataError, ShapeError
from undrift.evidence import energy as module
from undrift.evidence.energy import energy


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def folded(mean, std):
    """E|N(mean, std^2)|."""
    return std * math.sqrt(2 / math.pi) * math.exp(-(mean**2) / (2 * std**2)) + mean * math.erf(mean / (std * math.sqrt(2)))


@pytest.mark.parametrize(("mean", "std"), [(1.0, 1.0), (0.0, 2.0), (0.5, 0.3)])
def test_two_gaussians_on_a_line(mean, std):
    # X ~ N(0, 1), Y ~ N(mean, std^2): every difference is Gaussian. 20 independent pairs of sets of 500 give the standard
    # error; the tolerance is 5 of them.
    truth = 2 * folded(mean, math.hypot(1, std)) - 2 / math.sqrt(math.pi) - 2 * std / math.sqrt(math.pi)
    found = np.array([energy(randn(500, 1, seed=s), mean + std * randn(400, 1, seed=s + 100)) for s in range(20)])
    assert abs(found.mean() - truth) < 5 * found.std(ddof=1) / math.sqrt(20)
    assert found.std(ddof=1) < 0.2 * truth + 0.02


def test_twice_the_cramer_distance():
    # The V-statistic of two finite sets is exactly twice the integral of the squared gap of their step functions.
    x, y = randn(30, 1, seed=0), 0.3 + 2 * randn(40, 1, seed=1)
    grid = torch.cat([x, y]).flatten().sort().values
    gap = (x <= grid).double().mean(0) - (y <= grid).double().mean(0)
    cramer = float((gap[:-1].square() * grid.diff()).sum())
    within = [float(torch.cdist(z, z).mean()) for z in (x, y)]
    v = energy(x, y) + within[0] / 29 + within[1] / 39  # U to V: the pairs of a point with itself count
    assert v == pytest.approx(2 * cramer, rel=1e-12)


def test_equal_laws_scatter_around_zero():
    found = np.array([energy(randn(60, 3, seed=s), randn(90, 3, seed=s + 1000)) for s in range(200)])
    assert abs(found.mean()) < 4 * found.std(ddof=1) / math.sqrt(200)
    assert (found < 0).mean() > 0.3  # unbiased: it falls on both sides


def test_chunks_change_nothing_and_far_data_lose_nothing(monkeypatch):
    x, y = randn(57, 2, 3, seed=0), 0.5 + randn(43, 2, 3, seed=1)
    whole = energy(x, y)
    monkeypatch.setattr(module, "_ENTRIES", 200)
    assert energy(x, y) == pytest.approx(whole, rel=1e-12)
    assert energy(x + 1e5, y + 1e5) == pytest.approx(whole, rel=1e-6)
    assert energy(3 * x, 3 * y) == pytest.approx(3 * whole, rel=1e-9)
    assert energy(y, x) == pytest.approx(whole, rel=1e-9)


def test_by_hand():
    # Points 0, 1 and 0, 3: 2 (0 + 3 + 1 + 2)/4 - 1 - 3.
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[0.0], [3.0]])
    assert energy(x, y) == pytest.approx(-1, abs=1e-12)


def test_errors_say_the_cure():
    with pytest.raises(DataError, match="y holds 1 points, at least 2"):
        energy(torch.zeros(3, 2), torch.zeros(1, 2))
    with pytest.raises(ShapeError, match="bring both"):
        energy(torch.zeros(3, 2), torch.zeros(3, 3))
