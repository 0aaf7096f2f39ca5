r"""Autoguidance: a good model against a bad version of itself.

.. math:: \hat x_0 = \hat x_0^{good} + (w - 1)\, (\hat x_0^{good} - \hat x_0^{bad})

The bad model is smaller or trained for less time, on the same data and under the same label. Both make the same kind of
mistakes, the bad one more of them; their difference points away from the mistakes and not towards the label, so variety
survives. Conditions are bound beforehand: `autoguidance(good.given(label), bad.given(label), 2.0)`.

Source: Karras et al. 2024 (2406.02507), eq. 4. Checked by: tests/guidance/test_autoguidance.py
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undrift.guidance.contrast import Guided, check_same_path
from undrift.guidance.strength import Scale
from undrift.protocols import Denoiser
from undrift.typing import Time

__all__ = ["TwoModels", "autoguidance"]


def autoguidance(good: Denoiser, bad: Denoiser, scale: Scale = 1.0) -> Guided:
    """The good model, pushed away from the bad one.

    Args:
        good: the model one has.
        bad: a worse one of the same data, on the same path.
        scale: w: a number, one per sample (shape (B,)), or a function of the time. 1 is the good model and one call;
            otherwise one call of each.

    Raises:
        FamilyError: the two run on different paths.
        ShapeError: the scale is neither one number nor one per sample.

    Checked by: tests/guidance/test_autoguidance.py::test_it_removes_an_error_that_the_bad_model_has_more_of
    """
    return Guided(TwoModels(good, bad), scale)


@dataclass(frozen=True)
class TwoModels:
    """Two denoisers on one path.

    Attributes:
        good: the model one has.
        bad: a worse one.

    Raises:
        FamilyError: they run on different paths.
    """

    good: Denoiser
    bad: Denoiser

    def __post_init__(self) -> None:
        check_same_path(self.good.path, self.bad.path, "move one to the other's clock with bad.on(good.path), or retrain it")

    @property
    def path(self) -> Any:
        """The path of both."""
        return self.good.path

    def toward(self, x_t: Tensor, t: Time) -> Any:
        """The good law."""
        return self.good(x_t, t)

    def away(self, x_t: Tensor, t: Time) -> Any:
        """The bad law."""
        return self.bad(x_t, t)

    def both(self, x_t: Tensor, t: Time) -> tuple[Any, Any]:
        """Both laws, one call each."""
        return self.good(x_t, t), self.bad(x_t, t)
