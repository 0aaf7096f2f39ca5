r"""Does the model repeat its training points?

A sample near a training point proves nothing: real data has near neighbours too. The yardstick is therefore data that
the model has not seen. Let d(x) be the distance from x to its nearest training point, and let the threshold be the k-th
smallest of d over M held-out points, k = floor(quantile (M + 1)). If a sample is distributed as a held-out point, then
the M + 1 distances are exchangeable, and (without ties)

.. math:: P(d(\text{sample}) \le \text{threshold}) = k / (M + 1),

exactly, for every law and every dimension. A model that memorises exceeds it; the share k / (M + 1) is the quantile
itself whenever quantile (M + 1) is a whole number, and never more than it.

Checked by: tests/evidence/test_memorisation.py
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import points, same_event

__all__ = ["expected_fraction", "memorised_fraction", "nearest"]

_ENTRIES = 1 << 23
"""Distances held at once: 64 MiB of float64."""


def nearest(x: Tensor, reference: Tensor) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Euclidean distance from each point to its nearest reference point, and which one that is.

    Chunked over `x`, so memory stays bounded. The neighbour is found through |a|^2 - 2ab + |b|^2 of centred float64
    data, so two candidates whose distances differ by less than about 1e-8 of the data's radius may be exchanged; the
    distance to the one found is then computed directly, so a copy is at exactly 0.

    Args:
        x: points, shape (N, *E).
        reference: points, shape (M, *E), M at least 1.

    Returns:
        Distances, shape (N,), float64, unit of the data; indices into `reference`, shape (N,), int64.

    Raises:
        ShapeError: not (N, *E) and (M, *E) floating tensors on one device.
        DataError: an empty set.
        NonFiniteError: a NaN or an infinity.

    Checked by: tests/evidence/test_memorisation.py::test_nearest_equals_brute_force
    """
    a, b = points(x, "x"), points(reference, "reference")
    same_event(x, reference, ("x", "reference"))
    centre = b.mean(0)
    centred, square = b - centre, (b - centre).square().sum(1)
    found = [
        # |a|^2 is the same for every candidate, so it does not move the minimum.
        torch.addmm(square, some - centre, centred.T, alpha=-2).argmin(1)
        for some in a.split(max(1, _ENTRIES // len(b)))
    ]
    index = torch.cat(found)
    return torch.linalg.vector_norm(a - b[index], dim=1), index


def _rank(held_out: int, quantile: float) -> int:
    if not 0 < quantile < 1:
        raise DataError(f"quantile = {quantile} must lie strictly between 0 and 1; 0.01 is the usual choice.")
    rank = int(quantile * (held_out + 1) + 1e-9)  # 0.01 * 900 must count as 9, whatever its rounding
    if rank < 1:
        raise DataError(
            f"quantile {quantile} needs at least {int(1 / quantile - 1e-9)} held-out points, there are {held_out}; "
            f"give more, or a quantile of at least {1 / (held_out + 1):.3g}."
        )
    return rank


def expected_fraction(held_out: int, quantile: float = 0.01) -> float:
    """What `memorised_fraction` is on average for samples that follow the law of the held-out data.

    Args:
        held_out: number of held-out points M.
        quantile: as given to `memorised_fraction`.

    Returns:
        floor(quantile (M + 1)) / (M + 1): the quantile, or a little less. Ties (integer-valued data on both sides)
        raise the true value above it.

    Raises:
        DataError: the quantile is outside (0, 1), or too small for so few points.

    Checked by: tests/evidence/test_memorisation.py::test_fresh_samples_give_the_quantile
    """
    return _rank(held_out, quantile) / (held_out + 1)


def memorised_fraction(samples: Tensor, train: Tensor, held_out: Tensor, quantile: float = 0.01) -> float:
    """Share of samples no farther from a training point than the closest `quantile` of held-out data is.

    Expected value without memorisation: `expected_fraction(len(held_out), quantile)`, the quantile in short; a copying
    model gives 1. Samples far from all data give 0, so read it beside a distance.

    Args:
        samples: what the model made, shape (N, *E).
        train: what it was trained on, shape (T, *E).
        held_out: data of the same source that it has not seen, shape (M, *E), quantile (M + 1) at least 1.
        quantile: share of held-out points that counts as "as near as data comes", in (0, 1).

    Returns:
        A share in [0, 1].

    Raises:
        ShapeError: the three differ in event shape or are no floating tensors of shape (N, *E).
        DataError: an empty set, a quantile outside (0, 1), or too few held-out points for it.
        NonFiniteError: a NaN or an infinity.

    Source: nearest-neighbour memorisation tests, as in Meehan et al. 2020 (data copying), section 3; the exact
        expectation is exchangeability (order statistics).
    Checked by: tests/evidence/test_memorisation.py::test_planted_copies_are_counted_exactly,
        tests/evidence/test_memorisation.py::test_fresh_samples_give_the_quantile
    """
    points(samples, "samples")
    points(held_out, "held_out")
    same_event(samples, train, ("samples", "train"))
    same_event(held_out, train, ("held_out", "train"))
    threshold = nearest(held_out, train)[0].kthvalue(_rank(len(held_out), quantile)).values
    return float((nearest(samples, train)[0] <= threshold).double().mean())
