r"""Exponential moving average of weights, with a memory that grows with training.

.. math:: \bar\theta_k = \beta_k \bar\theta_{k-1} + (1 - \beta_k) \theta_k, \qquad \beta_k = (1 - 1/k)^{\gamma + 1}

The power-function profile: after k steps the average weighs step j like j^gamma, so it always covers the same *share* of
training (about 1 / (gamma + 1)) and needs no warm-up, and its first step copies the weights.

Source: Karras et al. 2024 (2312.02696), section 3.1. Checked by: tests/training/test_ema.py
"""

import copy

import torch
from torch import Tensor, nn

from undrift.errors import DataError

__all__ = ["Ema"]


class Ema:
    """A shadow of a network whose weights are the moving average.

    Args:
        net: the network in training.
        gamma: exponent of the profile, > -1; larger remembers less.

    Attributes:
        net: the shadow.
        step: updates so far; with the shadow's weights it is all that going on needs.

    Raises:
        DataError: gamma <= -1.
    """

    def __init__(self, net: nn.Module, gamma: float = 13.0):
        if gamma <= -1:
            raise DataError(f"the average's exponent gamma must be > -1, got {gamma:g}")
        self.gamma, self.step = gamma, 0
        self.net = copy.deepcopy(net).eval().requires_grad_(False)
        self._source = net
        self._bind()

    def _bind(self) -> None:
        self._shadows: list[Tensor] = list(self.net.parameters())
        self._sources: list[Tensor] = list(self._source.parameters())
        self._buffers = list(zip(self.net.buffers(), self._source.buffers(), strict=True))

    def to(self, device: torch.device | str) -> "Ema":
        """Move the shadow to a device, where the network already is."""
        self.net.to(device)
        self._bind()  # moving a module makes new buffers
        return self

    @torch.no_grad()
    def update(self) -> None:
        """Take in the network's present weights; buffers are copied."""
        self.step += 1
        fresh = 1 - (1 - 1 / self.step) ** (self.gamma + 1)
        torch._foreach_lerp_(self._shadows, self._sources, fresh)  # pyright: ignore[reportPrivateImportUsage]
        for shadow, source in self._buffers:
            shadow.copy_(source)
