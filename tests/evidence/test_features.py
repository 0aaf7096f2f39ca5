"""Whitened features have unit covariance."""

import pytest
import torch

from undrift.errors import DataError
from undrift.evidence.features import Whitened


@pytest.mark.parametrize("rows", [6, 300])
def test_features_of_the_data_are_white(rows):
    data = torch.randn(rows, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    data = data * torch.logspace(0, 2, 5, dtype=torch.float64) + 30
    data[:, 1, 4] = 7.0  # a constant coordinate
    f = Whitened.fit(data).features(data)
    assert f.shape == (rows, min(rows - 1, 9))
    torch.testing.assert_close(f.T.cov(), torch.eye(f.shape[1], dtype=torch.float64), rtol=0, atol=1e-9)
    torch.testing.assert_close(f.mean(0), torch.zeros(f.shape[1], dtype=torch.float64), rtol=0, atol=1e-9)


def test_only_the_leading_directions_are_kept():
    data = torch.randn(500, 80, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 3, 80)
    whitened = Whitened.fit(data)
    assert whitened.basis.shape == (80, 64)
    assert float(whitened.basis.norm(dim=0).max()) < 1  # variances of 1 and more: the small ones are left out
    with pytest.raises(DataError, match="all points are equal"):
        Whitened.fit(torch.ones(9, 3))
