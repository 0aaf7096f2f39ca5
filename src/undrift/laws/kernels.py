"""Conditional laws: `Affine` for numbers, `Jump` for symbols."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import Covariance
from undrift.laws.categorical import Categorical
from undrift.laws.normal import Normal
from undrift.laws.parts import column


@dataclass(frozen=True)
class Affine:
    r"""Gaussian kernel :math:`y = \text{scale}\, x + \text{shift} + \sqrt{\text{variance}}\, z`.

    Attributes:
        scale: shape () or (B,).
        shift: shape (B, *E).
        variance: shape () or (B,), >= 0.
    """

    scale: Tensor
    shift: Tensor
    variance: Tensor

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.shift.shape[0]

    def at(self, x: Tensor) -> Normal:
        """Law of y given x, shape (B, *E)."""
        mean = column(self.scale, self.shift) * x + self.shift
        variance = self.variance.to(mean)
        variance = variance.expand(mean.shape[0]) if variance.ndim == 0 else variance
        return Normal(mean, Covariance.isotropic(variance, mean[0].numel()))


@dataclass(frozen=True)
class Jump:
    r"""Finite-state kernel, sitewise: :math:`p(y \mid x) = w_x (\text{land}_y + \text{stay}_y [y = x])`.

    A full K x K matrix is never needed: jumps of the shared families land on a law that does not depend on where they
    started.

    Attributes:
        land: shape (B, *E, K).
        stay: shape (B, *E, K).
        weight: shape (B, *E, K); 0 marks a start that is impossible.
    """

    land: Float[Tensor, "b *e k"]
    stay: Float[Tensor, "b *e k"]
    weight: Float[Tensor, "b *e k"]

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.land.shape[0]

    def at(self, x: Tensor) -> Categorical:
        """Law of y given symbols x, integer, shape (B, *E)."""
        weight = self.weight.gather(-1, x[..., None])
        here = torch.nn.functional.one_hot(x, self.land.shape[-1]).to(self.land.dtype)
        return Categorical.from_probabilities(weight * (self.land + self.stay * here))

    def average(self, probabilities: Tensor) -> Categorical:
        """Law of y when x is itself random with `probabilities`, shape (B, *E, K)."""
        weighted = probabilities * self.weight
        return Categorical.from_probabilities(self.land * weighted.sum(-1, keepdim=True) + self.stay * weighted)
