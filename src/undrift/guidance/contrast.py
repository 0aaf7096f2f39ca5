r"""Guidance by contrast: two answers to one question, and their difference made larger.

.. math:: \hat x_0 = \hat x_0^{away} + w\, (\hat x_0^{toward} - \hat x_0^{away})

A `Contrast` gives the two answers, together or one at a time; `Guided` weighs them. Classifier-free guidance contrasts a label
with no label (or with another one), autoguidance a good model with a bad one. Laws say in which coordinates evidence adds:
numbers are contrasted in their mean, symbols in their log probabilities.

Checked by: tests/guidance/test_cfg.py, test_autoguidance.py
"""

from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core import check_state
from undrift.errors import FamilyError
from undrift.gaussian import rows
from undrift.guidance.strength import Scale, at, once, plainly
from undrift.typing import Time

__all__ = ["Contrast", "Guided"]


@runtime_checkable
class Contrast(Protocol):
    """Two laws of the clean end for the same state."""

    @property
    def path(self) -> Any:
        """The path of both."""
        ...

    def toward(self, x_t: Tensor, t: Time) -> Any:
        """The law that is wanted, alone."""
        ...

    def away(self, x_t: Tensor, t: Time) -> Any:
        """The law that it is contrasted with, alone."""
        ...

    def both(self, x_t: Tensor, t: Time) -> tuple[Any, Any]:
        """Toward and away."""
        ...


@dataclass(frozen=True)
class Guided:
    """A contrast with its strength, a denoiser.

    Attributes:
        contrast: the two laws.
        scale: w, a `Scale`.

    Raises:
        ShapeError: the scale is neither one number nor one per sample.
    """

    contrast: Contrast
    scale: Scale

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", once(self.scale))

    @property
    def path(self) -> Any:
        """The path of the contrast."""
        return self.contrast.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Guided law of the clean end: a `Point` for numbers, a law of symbols for symbols; at scale 1 or 0 the law itself.

        Args:
            x_t: state, shape (B, *E).
            t: time, shape () or (B,).

        Raises:
            ShapeError: conditions or scales per sample for another batch.
        """
        check_state(x_t)
        scale = at(self.scale, t, x_t.shape[0])
        if plainly(scale, 1.0):
            return self.contrast.toward(x_t, t)
        if plainly(scale, 0.0):
            return self.contrast.away(x_t, t)
        toward, away = self.contrast.both(x_t, t)
        return toward.extrapolate(away, scale)

    def rows(self, which: Tensor) -> "Guided":
        """The denoiser of some rows of the batch, where the contrast can be asked for them.

        Checked by: tests/guidance/test_cfg.py::test_rows_follow_their_samples
        """
        scale = self.scale
        if isinstance(scale, Tensor) and scale.ndim:
            scale = scale[which.to(scale.device)]
        return Guided(rows(self.contrast, which), scale)


def check_same_path(one: Any, other: Any, cure: str) -> None:
    """Raise `FamilyError` unless two paths are the same process: one object, or equal in every part."""
    if not _alike(one, other):
        raise FamilyError(f"two models run on different paths, {one!r} and {other!r}; {cure}")


def _alike(one: Any, other: Any) -> bool:
    if one is other:
        return True
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(_alike(getattr(one, field.name), getattr(other, field.name)) for field in fields(one))
    return torch.equal(one, other) if isinstance(one, Tensor) else bool(one == other)
