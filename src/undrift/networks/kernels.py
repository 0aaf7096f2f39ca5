r"""Group norm, modulation and SiLU as one step that remembers little: the fast part of training in bfloat16.

.. math:: y = \mathrm{SiLU}(u), \qquad u = s \, \hat x + b, \qquad \hat x = r_g (x - m_g)

with mean m_g and inverse deviation r_g of each group g of channels, and scale s and shift b of each channel (and sample).
Only :math:`\hat x` is kept for the way back, in the precision of x, and u is computed again. With
:math:`\delta = \partial L / \partial u`, sums over positions p, and n values to a group,

.. math::
    \partial L / \partial b = \sum_p \delta, \qquad \partial L / \partial s = \sum_p \delta \hat x, \qquad
    \partial L / \partial x = r_g \Big( s \delta - \tfrac1n \sum_{c \in g} s \sum_p \delta
        - \hat x \, \tfrac1n \sum_{c \in g} s \sum_p \delta \hat x \Big) .

PyTorch's own backward of group norm takes as long as a convolution when a batch is stored channels last in bfloat16; these are
seven passes of a vectorised kernel. What is one number to a channel is float32.

Checked by: tests/networks/test_unet_speed.py
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from undrift.errors import ShapeError

__all__ = ["groups_of", "norm_silu"]


def groups_of(width: int) -> int:
    """Number of groups of a group norm: at least sixteen channels to a group, as many groups as divide the width evenly.

    Sixteen are one vector register. Below 1024 positions a batch stored channels last is normalised group by group, and with
    eight channels to a group PyTorch's kernel is twenty times slower (256 channels at 16 x 16 in bfloat16).
    """
    return math.gcd(width, max(1, width // 16))


def norm_silu(x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float = 1e-5) -> Tensor:
    """SiLU of the modulated group norm.

    Float32 and wider go through PyTorch's own pieces, which can be differentiated twice and transformed by `torch.func`; a
    bfloat16 batch that is trained on takes the step above, which can be differentiated once.

    Args:
        x: features, shape (B, C, *S).
        scale: factor of each normalised channel, shape (C,) or (B, C).
        shift: what is added, shape of scale.
        groups: number of groups of channels, a divisor of C.
        eps: added to the variance.

    Returns:
        Shape and dtype of x.

    Raises:
        ShapeError: a second derivative is asked of a bfloat16 step.

    Checked by: tests/networks/test_unet_speed.py::test_the_fused_step_is_the_composition
    """
    if x.dtype == torch.bfloat16 and torch.is_grad_enabled():
        return NormSilu.apply(x, scale, shift, groups, eps)
    if scale.ndim == 1:
        return functional.silu(functional.group_norm(x, groups, scale, shift, eps))
    whole = (*scale.shape, *(1,) * (x.ndim - 2))
    return functional.silu(
        torch.addcmul(shift.to(x.dtype).view(whole), functional.group_norm(x, groups, eps=eps), scale.to(x.dtype).view(whole))
    )


class NormSilu(torch.autograd.Function):
    """The step of this file for bfloat16; see `norm_silu`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, groups: int, eps: float) -> Tensor:
        batch, channels = x.shape[:2]
        normal, _, inverse = torch.native_group_norm(x, None, None, batch, channels, x[0, 0].numel(), groups, eps)
        ctx.save_for_backward(normal, inverse, scale, shift)
        u = torch.addcmul(_spread(shift, x), normal, _spread(scale, x))
        return functional.silu(u, inplace=True)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:
        (grad,) = grads
        if torch.is_grad_enabled():
            raise ShapeError(
                "a second derivative was asked of a network that runs in bfloat16, which has first ones only; leave autocast "
                "out where gradients of gradients are needed"
            )
        normal, inverse, scale, shift = ctx.saved_tensors
        batch, channels = normal.shape[:2]
        groups, places = inverse.shape[1], tuple(range(2, normal.ndim))
        wide = torch.promote_types(normal.dtype, torch.float32)
        u = torch.addcmul(_spread(shift, normal), normal, _spread(scale, normal))
        delta = torch.ops.aten.silu_backward(grad, u)
        by_shift = delta.sum(places).to(wide)
        by_scale = torch.mul(delta, normal, out=u).sum(places).to(wide)

        factor = scale.to(wide).expand(batch, channels)
        size = channels // groups * normal[0, 0].numel()
        inverse = inverse.to(wide).repeat_interleave(channels // groups, 1)
        mean = _of_groups(factor * by_shift, groups) / size
        slope = _of_groups(factor * by_scale, groups) / size
        torch.addcmul(_spread(-inverse * mean, u), normal, _spread(-inverse * slope, u), out=u)
        by_x = u.addcmul_(delta, _spread(inverse * factor, u))

        if scale.ndim == 1:
            by_shift, by_scale = by_shift.sum(0), by_scale.sum(0)
        return by_x, by_scale.to(scale.dtype), by_shift.to(shift.dtype), None, None


def _spread(values: Tensor, x: Tensor) -> Tensor:
    """One value for each channel (and sample), shape (C,) or (B, C), as a factor of x."""
    return values.to(x.dtype).view(*(values.shape if values.ndim == 2 else (1, -1)), *(1,) * (x.ndim - 2))


def _of_groups(values: Tensor, groups: int) -> Tensor:
    """Sums over the channels of each group, shape (B, C), the same for every channel of a group."""
    sums = values.unflatten(1, (groups, -1)).sum(-1)
    return sums.repeat_interleave(values.shape[1] // groups, 1)
