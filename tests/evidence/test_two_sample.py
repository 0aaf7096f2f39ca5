"""The classifier's accuracy against the closed form of total variation."""

import math

import pytest
import torch

from undrift.errors import DataError
from undrift.evidence.two_sample import two_sample


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def phi(z):
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


def scales(std):
    """The best accuracy for N(0, 1) against N(0, std^2): the densities cross at +-c."""
    c = math.sqrt(2 * math.log(std) / (1 - 1 / std**2))
    return 0.5 + 0.5 * ((2 * phi(c) - 1) - (2 * phi(c / std) - 1))


@pytest.mark.parametrize(("shift", "std", "best"), [(1.0, 1.0, phi(0.5)), (2.0, 1.0, phi(1.0)), (0.0, 3.0, scales(3.0))])
def test_accuracy_reaches_half_of_one_plus_total_variation(shift, std, best):
    # Both cases are within the reach of a logistic regression on x and x^2, so only chance is left: 4 standard errors.
    found = two_sample(randn(3000, 1, seed=0), shift + std * randn(3000, 1, seed=1))
    assert found.points == 6000
    assert found.error == pytest.approx(math.sqrt(best * (1 - best) / 6000), rel=0.05)
    assert abs(found.accuracy - best) < 4 * found.error
    if std == 1:  # P(X < Y) for two Gaussians
        truth = phi(shift / math.sqrt(2))
        assert abs(found.auc - truth) < 4 * math.sqrt(truth * (1 - truth) / 3000)


def test_equal_laws_stand_at_the_floor():
    found = [two_sample(randn(300, 5, seed=s), randn(400, 5, seed=s + 100)) for s in range(10)]
    mean = sum(one.accuracy for one in found) / 10
    assert abs(mean - 0.5) < 4 * math.sqrt(0.25 / 6000)
    assert all(one.points == 600 for one in found)  # the larger set was cut
    assert all(abs(one.auc - 0.5) < 0.12 for one in found)


def test_the_larger_set_is_cut_at_random():
    # One law, the larger set in ascending order: its first 400 points alone would be told from any other set.
    x, y = randn(400, 1, seed=0), randn(4000, 1, seed=1).sort(0).values
    assert abs(two_sample(x, y).accuracy - 0.5) < 4 * math.sqrt(0.25 / 800)


def test_trees_see_what_depends_on_two_coordinates():
    # The sign of a product: each coordinate alone, and its square, follow one law.
    x, y = randn(600, 2, seed=0), randn(600, 2, seed=1)
    x[:, 1] = x[:, 1].abs() * x[:, 0].sign()
    y[:, 1] = -y[:, 1].abs() * y[:, 0].sign()
    assert two_sample(x, y).accuracy < 0.6
    assert two_sample(x, y, classifier="boosting", folds=3).accuracy > 0.93


def test_same_seed_same_result_and_errors_say_the_cure():
    x, y = randn(50, 3, seed=0), randn(60, 3, seed=1)
    assert two_sample(x, y) == two_sample(x, y)
    assert two_sample(x, x + 100).accuracy == 1
    with pytest.raises(DataError, match="one of"):
        two_sample(x, y, classifier="oracle")
    with pytest.raises(DataError, match="x holds 3 points, at least 5"):
        two_sample(x[:3], y)
