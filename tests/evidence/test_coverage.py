"""Precision, recall, density and coverage: by hand, and against their expectations."""

import math

import numpy as np
import pytest
import torch

from undrift.errors import DataError
from undrift.evidence.coverage import Coverage, coverage, expected_coverage


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_by_hand():
    # Real 0, 1, 3, 10 with k = 1: balls of radius 1, 1, 2, 7. Samples 2, 2.5, 30: radii .5, .5, 27.5.
    real, samples = torch.tensor([[0.0], [1.0], [3.0], [10.0]]), torch.tensor([[2.0], [2.5], [30.0]])
    # 2 lies in the balls of 1 and 3; 2.5 in those of 3 (and 10, whose ball reaches down to 3: no); 30 in none.
    # The samples' balls: [1.5, 2.5], [2, 3], [2.5, 57.5]: they hold 3 and 10.
    assert coverage(samples, real, k=1) == Coverage(precision=2 / 3, recall=2 / 4, density=3 / 3, coverage=2 / 4)
    # With k = 2 the real balls reach 3, 2, 3, 9 and the samples' 28, 27.5, 28: 2 and 2.5 lie in all four.
    assert coverage(samples, real, k=2) == Coverage(precision=2 / 3, recall=1.0, density=8 / (2 * 3), coverage=1.0)


@pytest.mark.parametrize(("n", "m", "k"), [(40, 30, 1), (30, 60, 3), (50, 10, 5)])
def test_equal_laws_give_the_expected_density_and_coverage(n, m, k):
    # Exact for any law: 400 repetitions, tolerance 4.5 standard errors of their mean (a false alarm in 7e-6 of seeds).
    found = [coverage(randn(m, 2, seed=s), randn(n, 2, seed=10_000 + s), k) for s in range(400)]
    for name, truth in (("density", 1.0), ("coverage", expected_coverage(n, m, k))):
        values = np.array([getattr(one, name) for one in found])
        assert abs(values.mean() - truth) < 4.5 * values.std(ddof=1) / 20
        assert values.std(ddof=1) / 20 < 0.02


def test_the_expectation_by_hand():
    assert expected_coverage(10, 10, 1) == pytest.approx(1 - 9 / 19)
    assert expected_coverage(10, 5, 2) == pytest.approx(1 - 9 * 8 / (14 * 13))
    assert expected_coverage(1000, 1000, 5) == pytest.approx(1 - 0.5**5, abs=2e-3)


def test_each_figure_sees_its_own_fault():
    real = torch.cat([randn(300, 2, seed=0), 20 + randn(300, 2, seed=1)])
    lost = coverage(randn(600, 2, seed=2), real)  # one of two modes
    assert lost.precision > 0.9
    assert lost.recall == pytest.approx(0.5, abs=0.03)
    assert lost.coverage == pytest.approx(0.5, abs=0.03)
    noisy = coverage(torch.cat([randn(300, 2, seed=3), 500 + 9 * randn(300, 2, seed=4)]), real[:300])
    assert noisy.precision == pytest.approx(0.5, abs=0.05)
    assert noisy.density == pytest.approx(0.5, abs=0.1)
    assert noisy.coverage > 0.9
    assert math.isclose(coverage(real, real).recall, 1)


def test_errors_say_the_cure():
    with pytest.raises(DataError, match="k = 0"):
        coverage(randn(9, 2, seed=0), randn(9, 2, seed=1), k=0)
    with pytest.raises(DataError, match="samples holds 5 points, at least 6"):
        coverage(randn(5, 2, seed=0), randn(9, 2, seed=1))
    with pytest.raises(DataError, match="1 <= k < N"):
        expected_coverage(5, 5, 5)
