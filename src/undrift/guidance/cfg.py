r"""Classifier-free guidance: one model, asked with and without the label.

.. math:: \hat x_0 = \hat x_0^{\varnothing} + w\, (\hat x_0^{y} - \hat x_0^{\varnothing})

`scale` is w as practitioners write it: 1 the plain conditional, 0 the unconditional; the survey's eta is w - 1. The mean, eps,
v and the score are affine in each other, so the same w gives the same guidance in all of them. Symbols are guided in their
log probabilities.

With `away`, the contrast is with another label in place of none, a "negative label": 1 is still the plain conditional, but
0 is now the model of the label one wants to avoid. "Anything but this" is `cond = model.null(label), away=label`.

A trap: for w > 1 the samples do *not* follow p(x) p(y | x)^w (Chidambaram et al. 2024), and nothing here says so.

Source: Ho and Salimans 2022 (2207.12598), eq. 6. Checked by: tests/guidance/test_cfg.py
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from undrift.errors import ShapeError
from undrift.guidance.contrast import Guided
from undrift.guidance.strength import Scale
from undrift.protocols import Denoiser, Guidable
from undrift.typing import Time

__all__ = ["ClassifierFree", "cfg"]


def cfg(model: Guidable, cond: Tensor, scale: Scale = 1.0, *, away: Tensor | None = None) -> Guided:
    """The denoiser guided towards `cond`.

    Args:
        model: a conditional model that knows the condition that says nothing.
        cond: one condition per sample, shape (B, ...).
        scale: w: a number, one per sample (shape (B,)), or a function of the time (`guidance.Interval` is one). Where it is 1
            or 0 for the whole batch this is the model itself and costs one call, otherwise one doubled call.
        away: conditions to be contrasted with, shaped like `cond`; by default those that say nothing.

    Returns:
        A denoiser for batches of exactly B samples.

    Raises:
        ShapeError: `away` is not shaped like `cond`, or the scale is neither one number nor one per sample.

    Checked by: tests/guidance/test_cfg.py::test_guided_score_is_the_surveys_formula,
        tests/guidance/test_cfg.py::test_away_contrasts_with_another_label,
        tests/guidance/test_cfg.py::test_scales_per_sample
    """
    return Guided(ClassifierFree(model, cond, away), scale)


@dataclass(frozen=True)
class ClassifierFree:
    """A label against no label, or against another one, in one doubled call; see `cfg`.

    Attributes:
        model: a conditional model.
        cond: one condition per sample, shape (B, ...).
        against: one condition per sample, shaped like `cond`, or None for those that say nothing.

    Raises:
        ShapeError: the two are shaped differently.

    Checked by: tests/guidance/test_cfg.py::test_one_doubled_call_of_the_network
    """

    model: Guidable
    cond: Tensor
    against: Tensor | None = None

    def __post_init__(self) -> None:
        if self.against is not None and self.cond.shape != self.against.shape:
            raise ShapeError(
                f"conditions of shape {tuple(self.cond.shape)} are contrasted with conditions of shape "
                f"{tuple(self.against.shape)}; give one of each per sample"
            )

    @property
    def path(self) -> Any:
        """The path of the model."""
        return self.model.path

    def toward(self, x_t: Tensor, t: Time) -> Any:
        """The law given the label, for one call."""
        return self._toward(x_t, t)

    def away(self, x_t: Tensor, t: Time) -> Any:
        """The law given what the label is contrasted with, for one call."""
        return self._away(x_t, t)

    # Conditions are bound once and not in every step; those that say nothing are not asked for where nobody needs them.
    @cached_property
    def _toward(self) -> Denoiser:
        return self.model.given(self.cond)

    @cached_property
    def _other(self) -> Tensor:
        return self.model.null(self.cond) if self.against is None else self.against

    @cached_property
    def _away(self) -> Denoiser:
        return self.model.given(self._other)

    @cached_property
    def _doubled(self) -> Denoiser:
        return self.model.given(torch.cat([self.cond, self._other]))

    def both(self, x_t: Tensor, t: Time) -> tuple[Any, Any]:
        """Both laws, from one call of twice the batch.

        Raises:
            ShapeError: the batch is not the one the conditions were given for.
        """
        n = x_t.shape[0]
        if self.cond.shape[0] != n:
            raise ShapeError(f"guidance holds {self.cond.shape[0]} conditions for a batch of {n}; give one per sample")
        law = self._doubled(torch.cat([x_t, x_t]), torch.cat([t, t]) if t.ndim else t)
        return law.rows(slice(0, n)), law.rows(slice(n, 2 * n))

    def rows(self, which: Tensor) -> "ClassifierFree":
        """The contrast of some rows of the batch."""
        which = which.to(self.cond.device)
        return ClassifierFree(self.model, self.cond[which], None if self.against is None else self.against[which])
