"""Class names as indices, and back."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from undrift.errors import DataError, LabelError

__all__ = ["Labels"]


@dataclass(frozen=True)
class Labels:
    """A fixed list of class names; index K, the number of classes, says nothing.

    Attributes:
        names: class names in order; text or whole numbers.

    Checked by: tests/codecs/test_labels.py
    """

    names: tuple[Any, ...]

    @staticmethod
    def guess(labels: Iterable[Any]) -> "Labels":
        """The sorted distinct labels.

        Raises:
            DataError: fewer than two classes, or a label that is neither text nor a whole number.
        """
        plain = [_plain(label) for label in labels]
        names = sorted(set(plain), key=lambda name: (isinstance(name, str), name))
        if len(names) < 2:
            raise DataError(f"labels name {len(names)} class; give at least two, or fit without labels")
        return Labels(tuple(names))

    def encode(self, labels: Iterable[Any]) -> Int[Tensor, "n"]:
        """Names to indices, shape (N,), long.

        Raises:
            LabelError: a name that the model does not know; lists those it does.
        """
        index = {name: i for i, name in enumerate(self.names)}
        plain = [_plain(label) for label in labels]
        unknown = [label for label in plain if label not in index]
        if unknown:
            known = ", ".join(map(repr, self.names[:12])) + (", ..." if len(self.names) > 12 else "")
            raise LabelError(f"unknown class {unknown[0]!r}; this model knows {known}")
        return torch.tensor([index[label] for label in plain], dtype=torch.long)

    def decode(self, indices: Sequence[int] | Tensor) -> list[Any]:
        """Indices to names; the null index becomes None."""
        return [self.names[int(i)] if int(i) < len(self.names) else None for i in indices]


def _plain(label: Any) -> Any:
    """A label as plain Python text or integer."""
    value = label.item() if getattr(label, "size", 0) == 1 or (hasattr(label, "numel") and label.numel() == 1) else label
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)):
        raise DataError(f"a class label is text or a whole number, got {label!r} ({type(label).__name__})")
    return value
