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

__all__ = ["expected_fraction", "memorised_fraction", "nearest", "threshold"]

_ENTRIES = 1 << 23
"""Distances held at once: 32 MiB of float32."""

_CANDIDATES = 4
"""Nearest points of the fast search that are measured exactly."""


def nearest(x: Tensor, reference: Tensor) -> tuple[Float[Tensor, "n"], Int[Tensor, "n"]]:
    """Euclidean distance from each point to its nearest reference point, and which one that is.

    Chunked over `x`, so memory stays bounded. Four candidates are found through |a|^2 - 2ab + |b|^2 of centred float32
    data, and the nearest of them by its distance in float64, computed directly: a copy is at exactly 0. Only among more than
    four points whose squared distances differ by less than about 1e-6 of the squared radius may one be taken for another.

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
    scale = (b - centre).abs().max().clamp_min(1e-300)  # squares of any unit then fit float32
    near = ((b - centre) / scale).float()
    square = near.square().sum(1)
    distances, found = [], []
    for some in a.split(max(1, _ENTRIES // len(b))):
        # |a|^2 is the same for every candidate, so it does not move the minimum.
        rough = torch.addmm(square, ((some - centre) / scale).float(), near.T, alpha=-2)
        candidates = rough.topk(min(_CANDIDATES, len(b)), dim=1, largest=False).indices
        exact = torch.linalg.vector_norm(some[:, None] - b[candidates], dim=2)
        best = exact.argmin(1, keepdim=True)
        distances.append(exact.gather(1, best).squeeze(1))
        found.append(candidates.gather(1, best).squeeze(1))
    return torch.cat(distances), torch.cat(found)


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
    return float((nearest(samples, train)[0] <= threshold(train, held_out, quantile)).double().mean())


def threshold(train: Tensor, held_out: Tensor, quantile: float = 0.01) -> Float[Tensor, ""]:
    """How near to a training point the closest `quantile` of held-out data comes, shape ()."""
    return nearest(held_out, train)[0].kthvalue(_rank(len(held_out), quantile)).values
