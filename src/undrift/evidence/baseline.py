r"""The simplest model there is, for every figure to be compared with: a Gaussian fitted to the training data.

With the centred data as rows of a matrix C of N rows, and w a vector of N standard normal numbers,

.. math:: y = \bar x + C^\top w / \sqrt{N - 1}

is a draw from exactly the Gaussian of the data's mean and (unbiased) covariance: no covariance is formed. Where there are more
rows than coordinates, R of C = QR serves in the place of C, with as many numbers as coordinates.

Where classes are given, each has its own Gaussian. A class of fewer than five points, which say next to nothing of a
covariance, has its own mean and the covariance of all; one without any has the mean of all, too. A model that is not closer to
data than this one has learned no more than means and correlations.

Checked by: tests/evidence/test_baseline.py
"""

import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import labels as check_labels
from undrift.evidence.checks import points

__all__ = ["gaussian_samples"]

_FEWEST = 5
"""Points from which on a class has a covariance of its own."""


def gaussian_samples(
    train: Tensor, n: int, seed: int = 0, *, train_labels: Tensor | None = None, labels: Tensor | None = None
) -> Tensor:
    """Draw from the Gaussian of training data, or from the Gaussian of each class.

    Args:
        train: shape (T, *E), at least two points.
        n: how many to draw.
        seed: of the draws; the global random state is not touched.
        train_labels: class of each training point, shape (T,), integers.
        labels: class of each draw, shape (n,); then `train_labels` are needed.

    Returns:
        Shape (n, *E), dtype and device of `train`.

    Raises:
        ShapeError: `train` is no floating tensor of shape (T, *E), or labels do not match.
        DataError: fewer than two points; labels without `train_labels`.
        NonFiniteError: a NaN or an infinity.

    Checked by: tests/evidence/test_baseline.py::test_the_law_of_the_draws_is_the_gaussian_of_the_data,
        tests/evidence/test_baseline.py::test_each_class_has_its_own_gaussian,
        tests/evidence/test_baseline.py::test_a_class_of_few_points_borrows_the_covariance_of_all
    """
    data = points(train, "train", at_least=2)
    rng = torch.Generator().manual_seed(seed)
    if labels is None:
        drawn = _draw(data, data.mean(0), n, rng)
    else:
        if train_labels is None:
            raise DataError("labels ask for classes, and the classes of the training data are not given: pass train_labels=")
        known = check_labels(train_labels, len(train), "train_labels").to(data.device)
        asked = check_labels(labels, n, "labels").to(data.device)
        drawn = torch.empty(n, data.shape[1], dtype=data.dtype, device=data.device)
        for value in asked.unique():
            members = data[known == value]
            mean = (members if len(members) else data).mean(0)
            of = members if len(members) >= _FEWEST else data
            drawn[asked == value] = _draw(of, mean, int((asked == value).sum()), rng)
    return drawn.reshape(n, *train.shape[1:]).to(train.dtype)


def _draw(data: Tensor, mean: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Draws about a mean, with the covariance of data."""
    factor = (data - data.mean(0)) / (len(data) - 1) ** 0.5
    if len(factor) > factor.shape[1]:
        factor = torch.linalg.qr(factor, mode="r").R
    return mean + torch.randn(n, len(factor), dtype=data.dtype, generator=rng).to(data.device) @ factor
