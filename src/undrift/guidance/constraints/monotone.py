r"""Rising (or falling) numbers along the last axis: isotonic regression.

.. math:: (P x)_i = \max_{j \le i} \min_{k \ge i} \frac{x_j + \dots + x_k}{k - j + 1}

The formula gives what pooling adjacent violators gives, for all rows at once, and its maxima and minima over nested sets rise
exactly, whatever the rounding. Work and memory are quadratic in the length.

Source: Barlow et al. 1972; Robertson et al. 1988, theorem 1.4.4. Checked by: tests/guidance/test_constraints.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.guidance.constraints.base import Constraint

__all__ = ["Monotone"]

_ENTRIES = 1 << 22
"""Numbers held at once: 32 MiB of float64."""


@dataclass(frozen=True)
class Monotone(Constraint):
    """Each number at least (at most) the one before it, along the last axis.

    Attributes:
        increasing: True to rise, False to fall.
    """

    increasing: bool

    def inside(self, x: Tensor) -> Tensor:
        """Exactly ordered."""
        steps = x[..., 1:] >= x[..., :-1] if self.increasing else x[..., 1:] <= x[..., :-1]
        return steps.flatten(1).all(1)

    def nearest(self, x: Tensor) -> Tensor:
        """Isotonic regression of every row."""
        rows = x.double().reshape(-1, x.shape[-1])
        rows = rows if self.increasing else -rows
        some = max(1, _ENTRIES // x.shape[-1] ** 2)
        done = torch.cat([_isotonic(part) for part in rows.split(some)])
        return (done if self.increasing else -done).reshape(x.shape).to(x)


def _isotonic(x: Tensor) -> Tensor:
    """Rows made to rise, shape (N, n)."""
    n = x.shape[-1]
    centre = x.mean(-1, keepdim=True)
    sums = torch.nn.functional.pad((x - centre).cumsum(-1), (1, 0))
    first, last = torch.arange(n, device=x.device)[:, None], torch.arange(n, device=x.device)
    means = (sums[:, None, 1:] - sums[:, :-1, None]) / (last - first + 1).clamp_min(1)
    # Smallest over k >= i, for every i: a running minimum from the right; blocks that end before they begin do not count.
    least = torch.where(last >= first, means, torch.inf).flip(-1).cummin(-1).values.flip(-1)
    return torch.where(last >= first, least, -torch.inf).amax(-2) + centre
