"""Two halves of labelled data: one for the model, one for whoever judges it."""

import torch
from jaxtyping import Int
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import labels as check_labels

__all__ = ["split_half"]


def split_half(labels: Tensor, seed: int) -> tuple[Int[Tensor, "a"], Int[Tensor, "b"]]:
    """Indices of two disjoint halves with the same number of points of every class, within one.

    Every class is shuffled and cut in the middle; classes of odd size give their extra point to the two halves in turn,
    so the halves differ by at most one point in all. Same labels and seed, same halves.

    Args:
        labels: shape (N,), integers; every class at least twice.
        seed: of the shuffles; the global random state is not touched.

    Returns:
        The two sets of indices, ascending, together 0..N-1 once each; the first is the larger one if N is odd.

    Raises:
        ShapeError: labels are not integers of shape (N,).
        DataError: no points, or a class with a single one.

    Checked by: tests/evidence/test_split.py::test_halves_are_disjoint_complete_and_stratified
    """
    labels = check_labels(labels, len(labels) if isinstance(labels, Tensor) and labels.ndim else 0, "labels").cpu()
    classes, counts = labels.unique(return_counts=True)
    if not len(labels) or int(counts.min()) < 2:
        alone = classes[counts < 2].tolist()
        raise DataError(
            f"a half needs a point of every class, but {'there is no data' if not len(labels) else f'classes {alone} '}"
            f"{'' if not len(labels) else 'have a single one'}; gather more of them or drop them before splitting."
        )
    rng = torch.Generator().manual_seed(seed)
    halves: tuple[list[Tensor], list[Tensor]] = ([], [])
    extra = 0  # the half that the next odd class gives its extra point to
    for value in classes:
        members = torch.nonzero(labels == value).squeeze(1)
        members = members[torch.randperm(len(members), generator=rng)]
        middle = (len(members) + 1) // 2
        halves[extra].append(members[:middle])
        halves[1 - extra].append(members[middle:])
        extra ^= len(members) % 2
    first, second = (torch.cat(half).sort().values for half in halves)
    return first, second
