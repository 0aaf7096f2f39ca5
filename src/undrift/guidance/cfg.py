r"""Classifier-free guidance: one model, asked with and without the label.

.. math:: \hat x_0 = \hat x_0^{\varnothing} + w\, (\hat x_0^{y} - \hat x_0^{\varnothing})

`scale` is w as practitioners write it: 1 the plain conditional, 0 the unconditional; the survey's eta is w - 1. The mean, eps,
v and the score are affine in each other, so the same w gives the same guidance in all of them. Symbols are guided in their
log probabilities.

A trap: for w > 1 the samples do *not* follow p(x) p(y | x)^w (Chidambaram et al. 2024), and nothing here says so.

Source: Ho and Salimans 2022 (2207.12598), eq. 6. Checked by: tests/guidance/test_cfg.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import ShapeError
from undrift.protocols import Denoiser, Guidable
from undrift.typing import Time

__all__ = ["ClassifierFree", "cfg"]


def cfg(model: Guidable, cond: Tensor, scale: float = 1.0) -> Denoiser:
    """The denoiser guided towards `cond`.

    Args:
        model: a conditional model that knows the condition that says nothing.
        cond: one condition per sample, shape (B, ...).
        scale: w; at 1 and at 0 this is the model itself and costs one call, otherwise one doubled call.

    Returns:
        A denoiser for batches of exactly B samples.
    """
    if scale == 1:
        return model.given(cond)
    if scale == 0:
        return model.given(model.null(cond))
    return ClassifierFree(model, cond, float(scale))


@dataclass(frozen=True)
class ClassifierFree:
    """Guidance by one doubled call; see `cfg`.

    Attributes:
        model: a conditional model that knows the condition that says nothing.
        cond: one condition per sample, shape (B, ...).
        scale: w.
    """

    model: Guidable
    cond: Tensor
    scale: float

    @property
    def path(self) -> Any:
        """The path of the model."""
        return self.model.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Guided law of the clean end: a `Point` for numbers, a `Categorical` for symbols.

        Raises:
            ShapeError: the batch is not the one the conditions were given for.
        """
        n = x_t.shape[0]
        if self.cond.shape[0] != n:
            raise ShapeError(f"guidance holds {self.cond.shape[0]} conditions for a batch of {n}; give one per sample")
        both = self.model.given(torch.cat([self.cond, self.model.null(self.cond)]))
        law = both(torch.cat([x_t, x_t]), torch.cat([t, t]) if t.ndim else t)
        return law.rows(slice(0, n)).extrapolate(law.rows(slice(n, 2 * n)), self.scale)
