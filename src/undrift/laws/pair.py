"""The laws of both ends of a path."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.laws.protocols import Kernel, Law


@dataclass(frozen=True)
class Pair:
    """Both ends of a two-sided path, as two laws over the same rows.

    Attributes:
        x_0: law of the clean end.
        x_1: law of the reference end.
    """

    x_0: Any
    x_1: Any

    def sample(self, rng: Random) -> Tensor:
        """A draw of both ends, stacked on a new last axis: shape (B, *E, 2)."""
        return torch.stack([self.x_0.sample(rng), self.x_1.sample(rng)], -1)

    def through(self, kernel: Kernel) -> Law:
        """The clean end through the kernel: a step back needs no more."""
        return self.x_0.through(kernel)

    def rows(self, which: slice | Tensor) -> "Pair":
        """The same law for some rows of the batch."""
        return Pair(self.x_0.rows(which), self.x_1.rows(which))

    def extrapolate(self, other: "Pair", scale: float | Tensor) -> "Pair":
        """Label guidance in both ends; `scale` is one number, or one per row, shape (B,)."""
        return Pair(self.x_0.extrapolate(other.x_0, scale), self.x_1.extrapolate(other.x_1, scale))
