"""All mass at one value, and what every law of numbers does alike."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.laws.parts import shared_rows
from undrift.laws.protocols import Density, Kernel


class Numbers:
    """What every law of numbers does alike."""

    mean: Any

    def extrapolate(self, other: "Numbers", scale: float) -> "Point":
        """Label guidance in the mean. A guided mean belongs to no known posterior, so the answer is a `Point`."""
        return Point(torch.lerp(other.mean, self.mean, scale))


@dataclass(frozen=True)
class Point(Numbers):
    """All mass at one value: a network that regresses the clean end answers with its mean.

    Attributes:
        value: shape (B, *E).
    """

    value: Tensor

    @property
    def mean(self) -> Tensor:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The value."""
        return self.value

    @property
    def variance(self) -> Tensor:
        """Zero."""
        return torch.zeros_like(self.value)

    def sample(self, rng: Random) -> Tensor:
        """The value; draws nothing."""
        return self.value

    def through(self, kernel: Kernel) -> Density:
        """The kernel at the value."""
        return kernel.at(self.value)

    def posterior(self, y: Tensor, alpha: Tensor, variance: Tensor) -> "Point":
        """Unchanged: nothing is left to learn."""
        return Point(self.value.expand(y.shape[0], *self.value.shape[1:]))

    def rows(self, which: slice) -> "Point":
        """The same law for some rows of the batch."""
        return Point(shared_rows(self.value, which))
