"""What every function of `undrift.evidence` asks of its arrays, with errors that say the cure."""

import torch
from torch import Tensor

from undrift.errors import DataError, NonFiniteError, ShapeError

__all__ = ["labels", "points", "same_event"]


def points(x: object, name: str, at_least: int = 1) -> Tensor:
    """Check a set of points and return it flattened to (N, D), float64, without gradient.

    Args:
        x: points, shape (N, *E), any real floating dtype.
        name: what the caller calls `x`; used in the message.
        at_least: the smallest N that the figure makes sense for.

    Raises:
        ShapeError: `x` is no floating tensor of shape (N, *E).
        DataError: fewer than `at_least` points.
        NonFiniteError: a NaN or an infinity.

    Checked by: tests/evidence/test_checks.py::test_bad_points_are_refused_with_the_cure
    """
    if not isinstance(x, Tensor):
        raise ShapeError(f"{name} is a {type(x).__name__}, not a tensor; pass torch.as_tensor({name}).")
    if not x.is_floating_point():
        raise ShapeError(f"{name} has dtype {x.dtype}; distances need a real floating dtype: pass {name}.float().")
    if x.ndim < 2 or x[:1].numel() == 0 < len(x):
        raise ShapeError(
            f"{name} has shape {tuple(x.shape)}; expected (N, *E), one row a point and at least one number in each. "
            f"One-dimensional data is {name}[:, None]."
        )
    if len(x) < at_least:
        raise DataError(f"{name} holds {len(x)} points, at least {at_least} are needed; draw or gather more.")
    flat = x.detach().flatten(1).double()
    if not bool(torch.isfinite(flat).all()):
        bad = int((~torch.isfinite(flat)).any(1).sum())
        raise NonFiniteError(
            f"{name}: {bad} of {len(x)} points hold NaN or infinity; find the step that made them (a smaller learning "
            f"rate, a finer grid) or drop them on purpose: {name}[{name}.flatten(1).isfinite().all(1)]."
        )
    return flat


def same_event(x: Tensor, y: Tensor, names: tuple[str, str]) -> None:
    """Refuse two sets whose points differ in shape, or that live on two devices.

    Checked by: tests/evidence/test_checks.py::test_events_must_agree
    """
    if x.shape[1:] != y.shape[1:]:
        raise ShapeError(
            f"{names[0]} has points of shape {tuple(x.shape[1:])}, {names[1]} of shape {tuple(y.shape[1:])}; bring "
            "both to one shape (the codec that encoded one should encode the other)."
        )
    if x.device != y.device:
        raise ShapeError(f"{names[0]} is on {x.device}, {names[1]} on {y.device}; move one: {names[0]}.to({names[1]}).")


def labels(y: object, count: int, name: str) -> Tensor:
    """Check labels, one integer a point, and return them as int64.

    Args:
        y: labels, shape (N,), any integer dtype.
        count: N, the number of points they belong to.
        name: what the caller calls `y`.

    Raises:
        ShapeError: `y` is no integer tensor of shape (count,).

    Checked by: tests/evidence/test_checks.py::test_bad_labels_are_refused_with_the_cure
    """
    if not isinstance(y, Tensor):
        raise ShapeError(f"{name} is a {type(y).__name__}, not a tensor; pass torch.as_tensor({name}).")
    if y.is_floating_point() or y.is_complex() or y.dtype == torch.bool:
        raise ShapeError(f"{name} has dtype {y.dtype}; labels are integers, one a point: pass {name}.long().")
    if y.shape != (count,):
        raise ShapeError(f"{name} has shape {tuple(y.shape)}; expected ({count},), one integer a point (not one-hot).")
    return y.detach().long()
