r"""Features for data that nobody has labelled: leading principal components, each divided by its standard deviation.

With the eigenvectors u_i of the covariance of real data, largest eigenvalue first,

.. math:: f_i(x) = u_i^\top (x - m) / \sqrt{\lambda_i}, \qquad i \le 64 .

Whitened, all directions count alike: distances see a wrong small direction as they do a wrong large one. What has less than a
millionth of the largest variance is left out (a constant column, a pixel that is always black).

Checked by: tests/evidence/test_features.py
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import points

__all__ = ["Whitened"]

_MOST, _ROWS = 64, 4096


@dataclass(frozen=True)
class Whitened:
    """Principal components of real data; made by `Whitened.fit`.

    Attributes:
        centre: mean of the data, shape (D,).
        basis: directions over their standard deviations, shape (D, F).
    """

    centre: Tensor
    basis: Tensor

    @staticmethod
    def fit(real: Tensor) -> "Whitened":
        """Components of real data, shape (N, *E); of the first 4096 points, where there are more.

        Raises:
            DataError: fewer than two points, or points that are all equal.
        """
        data = points(real, "real", 2)[:_ROWS]
        centre = data.mean(0)
        if data.shape[1] <= len(data):
            strength, vectors = torch.linalg.eigh((data - centre).T @ (data - centre) / (len(data) - 1))
        else:
            strength, left = torch.linalg.eigh((data - centre) @ (data - centre).T / (len(data) - 1))
            vectors = (data - centre).T @ left / ((len(data) - 1) * strength.clamp_min(1e-300)).sqrt()
        kept = torch.nonzero(strength > 1e-6 * strength[-1]).flatten()[-_MOST:]
        if not float(strength[-1]) > 0:
            raise DataError("all points are equal; there is nothing to compare. Check how the data were loaded.")
        return Whitened(centre, vectors[:, kept] / strength[kept].sqrt())

    def features(self, x: Tensor) -> Float[Tensor, "n f"]:
        """Features of points, shape (N, *E) -> (N, F), float64."""
        return (points(x, "x") - self.centre) @ self.basis
