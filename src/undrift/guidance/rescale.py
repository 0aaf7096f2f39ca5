r"""Rescaled guidance: the contrast may turn the answer, but not make it louder.

Strong guidance spreads the coordinates of the guided answer far wider than any data (overexposed images). With std over the
coordinates of one sample, about their own mean,

.. math:: \hat x^{re} = \hat x^{cfg}\, \frac{\mathrm{std}(\hat x^{toward})}{\mathrm{std}(\hat x^{cfg})}, \qquad
          \hat x = \varphi\, \hat x^{re} + (1 - \varphi)\, \hat x^{cfg}

It acts on the clean mean. (The paper acts on whatever its network predicts, v there; a std is not affine, so the coordinate
matters.) phi = 0 is the guidance itself; at scale 1 nothing is rescaled.

Source: Lin et al. 2023 (2305.08891), eq. 15-16. Checked by: tests/guidance/test_rescale.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import FamilyError, LawError, ShapeError
from undrift.guidance.contrast import Guided
from undrift.guidance.strength import at, plainly
from undrift.laws import Point
from undrift.typing import Time

__all__ = ["Rescaled"]


@dataclass(frozen=True)
class Rescaled:
    """Guidance whose answer keeps the spread of the unguided one, per sample.

    Attributes:
        guided: what `cfg` or `autoguidance` answered.
        share: phi in [0, 1]: 0 the guidance itself, 1 the full rescaling; the paper uses 0.7.

    Raises:
        FamilyError: a path of symbols, which have no spread.
        LawError: share outside [0, 1].

    Checked by: tests/guidance/test_rescale.py::test_the_full_share_keeps_the_spread_of_the_conditional_mean
    """

    guided: Guided
    share: float

    def __post_init__(self) -> None:
        check_numbers(self.guided.path, "rescaled guidance")
        if not 0 <= self.share <= 1:
            raise LawError(f"the share of rescaling lies in [0, 1], got {self.share:g}; 0.7 is the paper's")

    @property
    def path(self) -> Any:
        """The path of the guidance."""
        return self.guided.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Rescaled guided mean, a `Point`; at scale 1 the wanted law itself, for one call.

        Raises:
            ShapeError: an event of one number, which has no spread of its own.
        """
        scale = at(self.guided.scale, t, x_t.shape[0])
        if plainly(scale, 1.0):
            return self.guided.contrast.toward(x_t, t)
        if x_t[0].numel() < 2:
            raise ShapeError("rescaled guidance compares spreads over the coordinates of a sample, and here is one coordinate")
        toward, away = self.guided.contrast.both(x_t, t)
        guided = toward.extrapolate(away, scale).mean
        wanted, made = spread(toward.mean), spread(guided)
        factor = torch.where(made > 0, wanted / made, 1.0)  # an answer without spread has none to lose
        return Point(torch.lerp(guided, factor * guided, self.share))


def spread(x: Tensor) -> Tensor:
    """Standard deviation over the coordinates of each sample, about their own mean, shape (B, 1, ..., 1)."""
    return x.flatten(1).std(1).reshape(-1, *([1] * (x.ndim - 1)))


def check_numbers(path: Any, what: str) -> None:
    """Raise `FamilyError` on a path of symbols."""
    if path.family == "discrete":
        raise FamilyError(f"{what} shapes the mean of numbers, and this path moves symbols; use plain cfg for symbols")
