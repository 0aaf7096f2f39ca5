"""All mass at one value, and what every law of numbers does alike."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Look, Random
from undrift.errors import LawError
from undrift.laws.mass import in_box, indicator
from undrift.laws.parts import noisy_look, shared_rows, strength
from undrift.laws.protocols import Density, Kernel

Reward = Callable[[Tensor], Tensor]


class Numbers:
    """What every law of numbers does alike."""

    mean: Any

    def extrapolate(self, other: "Numbers", scale: float | Tensor) -> "Point":
        """Label guidance in the mean. A guided mean belongs to no known posterior, so the answer is a `Point`.

        `scale` is one number, or one per row, shape (B,).
        """
        scale = strength(scale, self.mean)
        return Point(torch.lerp(other.mean, self.mean, scale))

    def log_mean_exp(self, reward: Reward) -> Tensor:
        """Log E exp r(X) has no closed form for an arbitrary reward under this law.

        Raises:
            LawError: always; says what to do.
        """
        raise LawError(
            f"an arbitrary reward has no closed expectation under a {type(self).__name__}: evaluate it at the mean "
            "(guidance.at_mean), average it over draws (guidance.monte_carlo), or weigh particles by it (undrift.smc)"
        )

    def reweight(self, reward: Reward) -> Any:
        """Proportional to p exp r, which is no law of this kind for an arbitrary reward.

        Raises:
            LawError: always; says what to do.
        """
        raise LawError(
            f"a {type(self).__name__} reweighted by an arbitrary reward is no {type(self).__name__}: steer by gradient "
            "(guidance.twist) or by particles (undrift.smc); finite laws can be reweighted"
        )


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

    def rows(self, which: slice | Tensor) -> "Point":
        """The same law for some rows of the batch."""
        return Point(shared_rows(self.value, which))

    def moved(self, shift: Tensor) -> "Point":
        """The same law, elsewhere."""
        return Point(self.value + shift)

    def evidence(self, look: Look, y: Tensor, variance: Tensor) -> Tensor:
        """Log N(y; A value, R), shape (B,), nats."""
        return noisy_look(look, self.value, y, variance)

    def observe(self, look: Look, y: Tensor, variance: Tensor) -> "Point":
        """Unchanged: nothing is left to learn."""
        return self

    def log_mgf(self, direction: Tensor) -> Tensor:
        """Direction . value, shape (B,)."""
        return (direction * self.value).flatten(1).sum(1)

    def tilt(self, direction: Tensor) -> "Point":
        """Unchanged: a point has nowhere to lean."""
        return self

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Log P(low <= X <= high), shape (B,), nats; bounds broadcast against the event, and may be infinite.

        Checked by: tests/laws/test_log_mass.py::test_points_and_atoms_are_in_or_out
        """
        return indicator(in_box(self.value, low, high), self.value)

    def log_mean_exp(self, reward: Reward) -> Tensor:
        """The reward at the value, shape (B,)."""
        return reward(self.value)

    def reweight(self, reward: Reward) -> "Point":
        """Unchanged."""
        return self
