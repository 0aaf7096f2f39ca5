"""The distances that `evaluate` takes from one set of points to real data, prepared once and then asked of any of its rows.

What does not depend on the rows (distances between points, features, radii) is computed at the start, so an interval from
dozens of halves costs little more than the figure itself.

Checked by: tests/evidence/test_measures.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.evidence.coverage import coverage_of_distances, reaches
from undrift.evidence.distances import frechet, sliced_w2
from undrift.evidence.energy import pairwise

__all__ = ["DISTANCES", "Real", "distances"]

NEIGHBOURS = 5
"""Of precision, recall, density and coverage."""

DISTANCES: tuple[tuple[str, str, str], ...] = (
    ("sliced W2", "lower", "data"),
    ("Frechet", "lower", "feature, squared"),
    ("energy distance", "lower", "data"),
    ("precision", "higher", "share"),
    ("recall", "higher", "share"),
    ("density", "higher", "ratio"),
    ("coverage", "higher", "share"),
)
"""Name, direction and unit of each, in the order of what `distances` answers."""


@dataclass(frozen=True)
class Real:
    """Real data to be compared with.

    Attributes:
        points: shape (M, D), float64.
        features: shape (M, F).
        within: distances between points, shape (M, M).
        apart: distances between features, shape (M, M).
    """

    points: Tensor
    features: Tensor
    within: Tensor
    apart: Tensor

    @staticmethod
    def of(points: Tensor, features: Tensor) -> "Real":
        """From points (M, *E) and their features (M, F)."""
        flat, seen = points.flatten(1).double(), features.double()
        return Real(flat, seen, pairwise(flat, flat), pairwise(seen, seen))


def distances(points: Tensor, features: Tensor, real: Real, seed: int) -> Callable[[Tensor], tuple[float, ...]]:
    """Prepare one set, and answer for any of its rows: the figures of `DISTANCES`.

    All rows are seen along 512 directions by the sliced distance, fewer rows along 64, which is enough for a spread.

    Args:
        points: shape (N, *E), float64.
        features: of the points, shape (N, F).
        real: what they are compared with.
        seed: of the directions.

    Checked by: tests/evidence/test_measures.py::test_all_rows_give_the_figures_themselves
    """
    flat, seen = points.flatten(1).double(), features.double()
    n, m = len(flat), len(real.points)
    to_real = torch.cdist(flat, real.points).mean(1)
    within, apart, between = pairwise(flat, flat), pairwise(seen, seen), torch.cdist(real.features, seen)
    k = max(1, min(NEIGHBOURS, n // 2 - 1, m - 1))  # the same for a half as for all
    reach = reaches(real.apart, k)
    inside = float(real.within.sum()) / (m * (m - 1))

    def figures(rows: Tensor) -> tuple[float, ...]:
        some, b = seen[rows], len(rows)
        shares = coverage_of_distances(reach, between[:, rows], apart[rows][:, rows], k)
        return (
            sliced_w2(flat[rows], real.points, projections=512 if b == n else 64, seed=seed),
            frechet(some, real.features),
            2 * float(to_real[rows].mean()) - float(within[rows][:, rows].sum()) / (b * (b - 1)) - inside,
            shares.precision,
            shares.recall,
            shares.density,
            shares.coverage,
        )

    return figures
