"""The baseline's draws follow exactly the Gaussian of the data."""

import pytest
import torch

from undrift.errors import DataError
from undrift.evidence.baseline import gaussian_samples


def randn(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rows", [5, 400])
def test_the_law_of_the_draws_is_the_gaussian_of_the_data(rows):
    # Whitened by the data's own covariance, mean and second moments of n draws are 0 and I within 5 / sqrt(n), for fewer rows
    # than coordinates (in the span of the rows) and for more.
    data = randn(rows, 2, 3, seed=0) * torch.tensor([1.0, 5.0, 0.1], dtype=torch.float64) + 7
    data[:, 0] += 2 * data[:, 1]
    n = 40_000
    drawn = gaussian_samples(data, n, seed=3)
    assert drawn.shape == (n, 2, 3)
    centred = data.flatten(1) - data.flatten(1).mean(0)
    _, strength, basis = torch.linalg.svd(centred / (rows - 1) ** 0.5, full_matrices=False)
    kept = strength > 1e-9
    off = drawn.flatten(1) - data.flatten(1).mean(0)
    white = off @ basis[kept].T / strength[kept]
    assert int(kept.sum()) == min(rows - 1, 6)
    assert float(white.mean(0).abs().max()) < 5 / n**0.5
    assert float((white.T @ white / n - torch.eye(white.shape[1])).abs().max()) < 5 * 2**0.5 / n**0.5
    torch.testing.assert_close(white @ (basis[kept] * strength[kept, None]), off, rtol=0, atol=1e-9)  # nothing off the span


def test_each_class_has_its_own_gaussian():
    known = torch.arange(600) % 3
    data = randn(600, 2, seed=0) * (1 + known[:, None]) + 100 * known[:, None]
    asked = torch.tensor([2, 0, 1]).repeat(2000)
    drawn = gaussian_samples(data, 6000, train_labels=known, labels=asked)
    for value in range(3):
        torch.testing.assert_close(drawn[asked == value].mean(0), data[known == value].mean(0), rtol=0, atol=0.4)
        torch.testing.assert_close(drawn[asked == value].T.cov(), data[known == value].T.cov(), rtol=0.12, atol=0.4)


def test_a_class_of_few_points_borrows_the_covariance_of_all():
    # 400 points of class 0, k of class 1 far off; class 2 has none.
    n = 20_000
    for k in (1, 2, 4, 5):
        data = torch.cat([randn(400, 2, seed=0) * torch.tensor([1.0, 4.0]), 50 + 0.01 * randn(k, 2, seed=1)])
        known = torch.cat([torch.zeros(400, dtype=torch.long), torch.ones(k, dtype=torch.long)])
        drawn = gaussian_samples(data, 2 * n, train_labels=known, labels=torch.tensor([1, 2]).repeat(n))
        few, none = drawn[0::2], drawn[1::2]
        close = 5 * data.std(0).max() / n**0.5
        torch.testing.assert_close(few.mean(0), data[known == 1].mean(0), rtol=0, atol=float(close))
        torch.testing.assert_close(none.mean(0), data.mean(0), rtol=0, atol=float(close))
        torch.testing.assert_close(none.T.cov(), data.T.cov(), rtol=0.06, atol=0.06)
        own = data[known == 1] if k >= 5 else data
        torch.testing.assert_close(few.T.cov(), own.T.cov(), rtol=0.06, atol=0.06 if k < 5 else 1e-5)


def test_dtype_seed_and_errors():
    data = randn(9, 4, seed=0).float()
    assert gaussian_samples(data, 3).dtype == torch.float32
    assert torch.equal(gaussian_samples(data, 3, 1), gaussian_samples(data, 3, 1))
    assert not torch.equal(gaussian_samples(data, 3, 1), gaussian_samples(data, 3, 2))
    with pytest.raises(DataError, match="pass train_labels"):
        gaussian_samples(data, 2, labels=torch.zeros(2, dtype=torch.long))
