r"""Distances between two sets of points: how far samples are from data.

**Sliced W2.** For a direction theta on the unit sphere of R^D, project both sets on it; the optimal transport of two
sets on a line pairs equal quantiles, so with F^{-1} the quantile function of a projected set

.. math:: W_2^2(\theta) = \int_0^1 (F_x^{-1}(u) - F_y^{-1}(u))^2 \, du, \qquad
          SW_2^2 = E_\theta \, W_2^2(\theta).

Both quantile functions are steps, with jumps at i/n and at j/m; on the merged grid the integral is a finite sum and
therefore exact for any two sizes. Only the mean over directions is an estimate.

**Frechet.** For the Gaussians N(mu_x, C_x), N(mu_y, C_y) fitted to two sets of features

.. math:: d^2 = |\mu_x - \mu_y|^2 + \mathrm{tr}\, C_x + \mathrm{tr}\, C_y
                - 2\, \mathrm{tr}\,(C_x^{1/2} C_y C_x^{1/2})^{1/2}.

With C = R'R for any factor R, the last trace is the sum of the singular values of R_x R_y'. Taking R from the QR
factorisation of the centred features needs neither a matrix square root nor a covariance, so a rank-deficient set costs
no accuracy (a square root of an eigenvalue that should be 0 would cost half the digits).

Both work in float64 on the device of their arguments.

Checked by: tests/evidence/test_distances.py
"""

from math import gcd

import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import points, same_event

__all__ = ["frechet", "sliced_w2"]

_ENTRIES = 1 << 22
"""Numbers held at once while projecting: 32 MiB of float64."""


def _quantile_coupling(n: int, m: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """The merged grid of two step functions with n and m equal steps on [0, 1].

    Integer arithmetic in units of 1/lcm(n, m), hence no rounding. Returns the index into the n steps, the index into
    the m steps and the width of each of the n + m - gcd(n, m) pieces.
    """
    per_x, per_y = m // gcd(n, m), n // gcd(n, m)
    ends_x = torch.arange(1, n + 1, device=device) * per_x
    ends_y = torch.arange(1, m + 1, device=device) * per_y
    ends = torch.cat([ends_x, ends_y]).unique()
    starts = torch.cat([ends.new_zeros(1), ends[:-1]])
    return starts // per_x, starts // per_y, (ends - starts).double() / (n * per_x)


def sliced_w2(x: Tensor, y: Tensor, *, projections: int = 512, seed: int = 0) -> float:
    r"""Sliced 2-Wasserstein distance, :math:`(E_\theta W_2^2(\theta))^{1/2}`, of two sets of points.

    Exact along each direction, whatever the two sizes; the mean is over `projections` random directions, the same for
    the same `seed` and dimension. Zero exactly when the sets are equal as multisets; symmetric; scales with the data.
    Two finite samples of one law are *not* at distance zero: compare with the floor that real data of the same size
    reaches.

    Args:
        x: points, shape (N, *E).
        y: points, shape (M, *E).
        projections: number of random directions, at least 1.
        seed: of the directions; the global random state is not touched.

    Returns:
        The distance, in the unit of the data.

    Raises:
        ShapeError: not (N, *E) and (M, *E) floating tensors on one device.
        DataError: an empty set, or no direction.
        NonFiniteError: a NaN or an infinity.

    Source: Rabin et al. 2011; Bonneel et al. 2015, section 4.
    Checked by: tests/evidence/test_distances.py::test_sliced_w2_of_a_shift,
        tests/evidence/test_distances.py::test_sliced_w2_of_two_gaussians,
        tests/evidence/test_distances.py::test_one_dimension_unequal_sizes
    """
    a, b = points(x, "x"), points(y, "y")
    same_event(x, y, ("x", "y"))
    if projections < 1:
        raise DataError(f"projections = {projections}; at least one direction is needed (512 is a good number).")
    rng = torch.Generator().manual_seed(seed)
    theta = torch.randn(a.shape[1], projections, dtype=torch.float64, generator=rng).to(a.device)
    theta = theta / theta.norm(dim=0)
    i, j, width = _quantile_coupling(len(a), len(b), a.device)
    total = 0.0
    for some in theta.split(max(1, _ENTRIES // (len(a) + len(b))), dim=1):
        # One contiguous row a direction: sorting along the last dimension is several times faster.
        gap = (some.T @ a.T).sort(-1).values[:, i] - (some.T @ b.T).sort(-1).values[:, j]
        total += float(gap.square().mul_(width).sum())
    return (total / projections) ** 0.5


def frechet(features_x: Tensor, features_y: Tensor) -> float:
    r"""*Squared* Frechet distance of the Gaussians fitted to two sets of features.

    The usual figure (FID when the features are Inception's): squared, in the features' unit squared, and biased upwards
    by the sizes of both sets; compare with the floor of real data *of the same size*. Covariances are unbiased (N - 1).

    Args:
        features_x: features, shape (N, *F), N at least 2.
        features_y: features, shape (M, *F), M at least 2.

    Returns:
        The squared distance. Equal sets give 0 within rounding (relative to the traces, about 1e-14), which may fall on
        either side of 0.

    Raises:
        ShapeError: not (N, *F) and (M, *F) floating tensors on one device.
        DataError: fewer than two points in a set.
        NonFiniteError: a NaN or an infinity.

    Source: Dowson and Landau 1982; Heusel et al. 2017 (FID).
    Checked by: tests/evidence/test_distances.py::test_frechet_of_diagonal_covariances,
        tests/evidence/test_distances.py::test_frechet_of_full_covariances,
        tests/evidence/test_distances.py::test_frechet_of_rank_deficient_features
    """
    a, b = points(features_x, "features_x", at_least=2), points(features_y, "features_y", at_least=2)
    same_event(features_x, features_y, ("features_x", "features_y"))
    mean_a, mean_b = a.mean(0), b.mean(0)
    a, b = (a - mean_a) / (len(a) - 1) ** 0.5, (b - mean_b) / (len(b) - 1) ** 0.5
    overlap = torch.linalg.svdvals(torch.linalg.qr(a, mode="r").R @ torch.linalg.qr(b, mode="r").R.T).sum()
    return float((mean_a - mean_b).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap)
