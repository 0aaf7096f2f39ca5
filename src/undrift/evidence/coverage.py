r"""Fidelity and variety told apart: precision, recall, density and coverage in a space of features.

Round each real point X_i draw the ball B_i that reaches its k-th nearest other real point; round each sample Y_j likewise the
ball B'_j. With N real points and M samples

.. math:: \text{precision} &= \tfrac1M \sum_j 1[Y_j \in \cup_i B_i] &
          \text{recall} &= \tfrac1N \sum_i 1[X_i \in \cup_j B'_j] \\
          \text{density} &= \tfrac1{kM} \sum_j \sum_i 1[Y_j \in B_i] &
          \text{coverage} &= \tfrac1N \sum_i 1[\exists j: Y_j \in B_i]

Precision and density say whether samples lie where data lie, recall and coverage whether data are all reached. Precision and
recall are moved by a single far point, whose ball is large; density and coverage are not, and for equal laws their
expectations are known, whatever the law: from X_i the N - 1 other real points and the M samples come in random order, so

.. math:: E[\text{density}] = 1, \qquad
          E[\text{coverage}] = 1 - \frac{(N-1)(N-2)\cdots(N-k)}{(M+N-1)(M+N-2)\cdots(M+N-k)} .

Sources: Kynkaanniemi et al. 2019; Naeem et al. 2020, section 3.
Checked by: tests/evidence/test_coverage.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import points, same_event
from undrift.evidence.energy import pairwise

__all__ = ["Coverage", "coverage", "coverage_of_distances", "expected_coverage", "reaches"]


@dataclass(frozen=True)
class Coverage:
    """Four shares (density may exceed 1), higher is better.

    Attributes:
        precision: samples within the real data.
        recall: real data within the samples.
        density: how many real balls a sample lies in, over k; 1 for equal laws.
        coverage: real balls that hold a sample.
    """

    precision: float
    recall: float
    density: float
    coverage: float


def coverage(samples: Tensor, real: Tensor, k: int = 5) -> Coverage:
    """Precision, recall, density and coverage of samples.

    Args:
        samples: features of the samples, shape (M, *F), M greater than k.
        real: features of real data, shape (N, *F), N greater than k.
        k: which neighbour a ball reaches.

    Raises:
        ShapeError: not (M, *F) and (N, *F) floating tensors on one device.
        DataError: k below 1, or not more points than k in a set.
        NonFiniteError: a NaN or an infinity.

    Checked by: tests/evidence/test_coverage.py::test_by_hand,
        tests/evidence/test_coverage.py::test_equal_laws_give_the_expected_density_and_coverage
    """
    if k < 1:
        raise DataError(f"k = {k}; a ball reaches at least to the nearest neighbour (5 is a good number)")
    y, x = points(samples, "samples", k + 1), points(real, "real", k + 1)
    same_event(samples, real, ("samples", "real"))
    centre = x.mean(0)
    x, y = x - centre, y - centre
    return coverage_of_distances(reaches(pairwise(x, x), k), torch.cdist(x, y), pairwise(y, y), k)


def coverage_of_distances(reach: Tensor, between: Tensor, samples: Tensor, k: int = 5) -> Coverage:
    """The same from the `reaches` of real points (N,), and distances real to samples (N, M), samples to samples (M, M)."""
    within = between <= reach[:, None]
    return Coverage(
        precision=float(within.any(0).double().mean()),
        recall=float((between <= reaches(samples, k)).any(1).double().mean()),
        density=float(within.double().sum(0).mean()) / k,
        coverage=float(within.any(1).double().mean()),
    )


def expected_coverage(real: int, samples: int, k: int = 5) -> float:
    """What coverage is on average where samples follow the law of the data (a law without ties).

    Args:
        real: N, greater than k.
        samples: M, at least 1.
        k: as in `coverage`.

    Raises:
        DataError: k below 1, or N not greater than k.

    Checked by: tests/evidence/test_coverage.py::test_equal_laws_give_the_expected_density_and_coverage
    """
    if not 1 <= k < real or samples < 1:
        raise DataError(f"coverage needs 1 <= k < N and a sample, got k = {k}, N = {real}, M = {samples}")
    missed = 1.0
    for i in range(1, k + 1):
        missed *= (real - i) / (samples + real - i)
    return 1 - missed


def reaches(distances: Tensor, k: int) -> Tensor:
    """Distance of each point to its k-th nearest other one: the smallest, at 0, is the point itself."""
    return distances.kthvalue(k + 1, dim=1).values
