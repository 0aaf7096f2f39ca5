r"""A simplex and a ball.

*Simplex* (last axis): :math:`C = \{x \ge 0, \sum_i x_i = total\}`. With x sorted, falling, and the largest k for which
:math:`x_k > \theta_k = (\sum_{i \le k} x_i - total) / k`, the projection is :math:`\max(x - \theta_k, 0)`.

*Ball* (whole event): :math:`C = \{|x| \le r\}`, and :math:`P x = x\, r / |x|` outside.

Source: Duchi et al. 2008, figure 1 (simplex). Checked by: tests/guidance/test_constraints.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import PotentialError
from undrift.guidance.constraints.base import Constraint, rounding

__all__ = ["Ball", "Simplex"]


@dataclass(frozen=True)
class Simplex(Constraint):
    """Nonnegative numbers of a given sum along the last axis.

    `contains` allows the sum the rounding of a state: (8 eps(dtype) + n eps(float64)) total. Signs are exact.

    Attributes:
        total: the sum, > 0.

    Raises:
        PotentialError: a total that is not a positive number.
    """

    total: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.total < torch.inf:
            raise PotentialError(f"parts of a whole need a total > 0, got {self.total:g}; at 0 every part is 0")

    @property
    def thin(self) -> bool:
        """Yes."""
        return True

    def inside(self, x: Tensor) -> Tensor:
        """Signs exactly, the sum within rounding."""
        wide = x.double()
        right = (wide.sum(-1) - self.total).abs() <= rounding(x.dtype, x.shape[-1]) * self.total
        return (right & (wide >= 0).all(-1)).flatten(1).all(1) if x.ndim > 2 else right & (wide >= 0).all(-1)

    def nearest(self, x: Tensor) -> Tensor:
        """Shifted and cut at 0 (by sorting), then scaled to the sum within rounding."""
        wide = x.double()
        y = wide - wide.amax(-1, keepdim=True)  # the projection does not see a common shift, and rounding does
        falling = y.sort(-1, descending=True).values
        counts = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype, device=y.device)
        thresholds = (falling.cumsum(-1) - self.total) / counts
        kept = (falling > thresholds).sum(-1, keepdim=True).clamp_min(1)  # 0 for NaN alone
        parts = (y - thresholds.gather(-1, kept - 1)).clamp_min(0)
        return (parts * (self.total / parts.sum(-1, keepdim=True))).to(x)


@dataclass(frozen=True)
class Ball(Constraint):
    """Events of Euclidean length at most `radius`, over all their numbers.

    Attributes:
        radius: r >= 0, finite, codec units.

    Raises:
        PotentialError: a negative radius, or NaN.
    """

    radius: float

    def __post_init__(self) -> None:
        if not 0 <= self.radius < torch.inf:
            raise PotentialError(f"a ball has a radius >= 0, got {self.radius:g}")

    @property
    def thin(self) -> bool:
        """If it is one point."""
        return self.radius == 0

    def inside(self, x: Tensor) -> Tensor:
        """No longer than the radius, in float64."""
        return x.double().flatten(1).norm(dim=1) <= self.radius

    def nearest(self, x: Tensor) -> Tensor:
        """Shortened to the radius, less what rounding may add."""
        wide = x.double()
        length = wide.flatten(1).norm(dim=1).reshape(-1, *([1] * (x.ndim - 1)))
        return (wide * (self.radius * (1 - rounding(x.dtype, x[0].numel())) / length)).to(x)
