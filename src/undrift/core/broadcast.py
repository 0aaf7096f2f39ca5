"""The only place that broadcasts a time against a state.

A time t has shape () (one time for the whole batch) or (B,) (one per sample). A state has shape (B, *E). `pad` appends
singleton axes so that any function of t multiplies a state. (Laws, whose tensors may be shared by the batch, have a looser
`column` of their own for coefficients.)
"""

import torch
from torch import Tensor

from undrift.errors import ShapeError, TimeError
from undrift.typing import Time


def pad(t: Time, like: Tensor) -> Tensor:
    """Right-pad `t` with singleton axes until it broadcasts against the state `like`.

    Args:
        t: a time, or any function of time, shape () or (B,).
        like: a state, shape (B, *E).

    Returns:
        `t` with shape () or (B, 1, ..., 1), in the dtype of `like` (values computed in float64 lose nothing before this
        border). Times per sample move to the device of `like`; a scalar stays on the CPU, where no device waits for it.

    Raises:
        ShapeError: t is neither () nor (B,).

    Checked by: tests/core/test_broadcast.py
    """
    if t.ndim == 0:
        return t.to(like.dtype)
    if t.ndim != 1 or like.ndim < 1 or t.shape[0] != like.shape[0]:
        raise ShapeError(
            f"a time has shape {tuple(t.shape)} beside a state of shape {tuple(like.shape)}; give one time, shape (), "
            f"or one per sample, shape ({like.shape[0] if like.ndim else 'B'},)"
        )
    return t.to(like).reshape(t.shape[0], *([1] * (like.ndim - 1)))


def scalars(t: Time) -> Time:
    """`t` in float64, where every schedule is evaluated; shape kept."""
    return t.to(torch.float64) if t.device.type != "mps" else t


def check_state(x: Tensor, what: str = "x_t") -> None:
    """Raise `ShapeError` unless `x` has a batch axis."""
    if x.ndim < 1:
        raise ShapeError(f"{what} is a scalar; a state has shape (B, *E): add a batch axis, for example {what}[None]")


def check_order(t: Time, s: Time) -> None:
    """Raise unless 0 <= s < t <= 1 elementwise.

    Values are read only where reading is free: a time that lives on an accelerator is taken on trust, because looking at
    it would stall the device in every step.

    Raises:
        ShapeError: the two have different shapes.
        TimeError: not 0 <= s < t <= 1.
    """
    if t.shape != s.shape:
        raise ShapeError(f"t has shape {tuple(t.shape)} and s {tuple(s.shape)}; give both the same shape, () or (B,)")
    if t.device.type != "cpu" or s.device.type != "cpu":
        return
    if not bool(((s >= 0) & (s < t) & (t <= 1)).all()):
        raise TimeError(
            f"times must satisfy 0 <= s < t <= 1 (0 = data, 1 = reference), got t = {_show(t)}, s = {_show(s)}; "
            "a step backwards in noise goes from t down to s: swap them, or rescale your times to [0, 1]"
        )


def _show(t: Tensor) -> str:
    flat = t.detach().flatten()
    return f"{flat[0].item():g}" if flat.numel() == 1 else f"[{flat.min().item():g}, {flat.max().item():g}]"
