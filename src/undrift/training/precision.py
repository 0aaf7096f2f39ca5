"""The numbers that a network computes with.

Weights, optimiser and losses stay in float32. With "bfloat16" the products inside the network are computed in bfloat16, which
has the range of float32 and needs no scaling of the loss.
"""

from contextlib import AbstractContextManager, nullcontext

import torch

__all__ = ["computing"]


def computing(precision: str, device: torch.device) -> AbstractContextManager[object]:
    """The context for a forward pass in `precision`, "float32" or "bfloat16"."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bfloat16" else nullcontext()
