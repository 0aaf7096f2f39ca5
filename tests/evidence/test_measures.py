"""The distances prepared for any rows are those of the rows."""

import pytest
import torch

from undrift.evidence import frechet, sliced_w2
from undrift.evidence.coverage import coverage
from undrift.evidence.energy import energy
from undrift.evidence.measures import DISTANCES, Real, distances


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("part", [False, True])
def test_all_rows_give_the_figures_themselves(part):
    points, features = randn(80, 2, 3, seed=0), randn(80, 4, seed=1)
    real_points, real_features = 0.5 + randn(70, 2, 3, seed=2), 0.5 + randn(70, 4, seed=3)
    rows = torch.arange(0, 80, 2) if part else torch.arange(80)
    found = distances(points, features, Real.of(real_points, real_features), seed=9)(rows)
    x, f = points[rows], features[rows]
    shares = coverage(f, real_features, k=5)
    truth = {
        "sliced W2": sliced_w2(x, real_points, projections=64 if part else 512, seed=9),
        "Frechet": frechet(f, real_features),
        "energy distance": energy(x, real_points),
        "precision": shares.precision,
        "recall": shares.recall,
        "density": shares.density,
        "coverage": shares.coverage,
    }
    assert [name for name, _, _ in DISTANCES] == list(truth)
    assert found == pytest.approx(tuple(truth.values()), rel=1e-9, abs=1e-9)


def test_of_few_points_the_neighbour_is_one_that_a_half_has_too():
    # A half of six points holds three, so balls reach the second neighbour, of all six as of the half.
    points, real = randn(6, 2, seed=0), randn(40, 2, seed=1)
    found = distances(points, points, Real.of(real, real), seed=0)
    for rows in (torch.arange(6), torch.tensor([0, 2, 5])):
        shares = coverage(points[rows], real, k=2)
        assert found(rows)[3:] == (shares.precision, shares.recall, shares.density, shares.coverage)
