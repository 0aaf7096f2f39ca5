"""Three unit Gaussians on the line, each a label: the example of guidance theory, with everything about it known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift import gaussian, guidance
from undrift.core import Covariance
from undrift.laws import Mixture
from undrift.schedules import VP
from undrift.typing import Time

__all__ = ["Strength", "Three"]

Strength = float | Callable[[Time], Any]


@dataclass(frozen=True)
class Three:
    """Centres -mu, 0, mu of equal weight and unit variance, labelled 0, 1, 2, on an Ornstein-Uhlenbeck clock.

    Attributes:
        mu: distance of the outer centres from 0.
        horizon: length T of dX = -X/2 dtau + dW; t = tau / T.
    """

    mu: float = 2.0
    horizon: float = 8.0

    @property
    def path(self) -> gaussian.Path:
        """The process: VP of constant rate T."""
        return gaussian.Path(VP(self.horizon, self.horizon))

    @property
    def law(self) -> gaussian.LabelledMixture:
        """The data."""
        means = torch.tensor([[-self.mu], [0.0], [self.mu]], dtype=torch.float64)
        weights = torch.full((3,), 1 / 3, dtype=torch.float64)
        mixture = Mixture.of(weights, means, Covariance.isotropic(torch.ones(3, dtype=torch.float64), 1))
        return gaussian.LabelledMixture(mixture, torch.tensor([0, 1, 2]))

    @property
    def model(self) -> gaussian.ExactConditional:
        """The exact conditional model; label 3 says nothing."""
        return gaussian.ExactConditional(self.path, self.law, nothing=3)

    def guided(self, label: int, scale: Strength) -> guidance.Guided:
        """Classifier-free guidance towards one label, as a contrast of two laws of a single row, which serve every batch."""
        label_alone, free = (self.model.given(torch.tensor([y])) for y in (label, 3))
        return guidance.Guided(guidance.TwoModels(label_alone, free), scale)

    def confidence(self, x: Tensor, label: int) -> Tensor:
        """P(label | x) of clean points x, shape (N,) -> (N,)."""
        clean = torch.zeros((), dtype=torch.float64)
        return guidance.ExactClassifier(self.path, self.law)(x[:, None], clean)[:, label].exp()
