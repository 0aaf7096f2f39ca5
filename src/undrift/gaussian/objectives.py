r"""Score matching, in the forms that have the same minimiser.

*Denoising regression* draws :math:`x_t = \alpha_t x_0 + \sigma_t z` and regresses the head's target,

.. math:: L = w_t \, \tfrac1d \, \| F(x_t, t) - y_t \|^2 .

For head eps and w = 1 this is the simple loss of DDPM; for head score, denoising score matching with weight w; for head edm,
EDM's loss. In expectation every one differs from *explicit* score matching, :math:`w_t \|s_\theta - \nabla\log p_t\|^2`, by a
constant that no parameter can change (Vincent 2011).

Losses are per sample and per coordinate, in squared head units; nothing sums over a batch.

Checked by: tests/gaussian/test_objectives.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random, check_state, pad, scalars
from undrift.errors import FamilyError, HeadError
from undrift.gaussian.denoiser import Trainable, score
from undrift.gaussian.heads import Head
from undrift.schedules import Schedule
from undrift.typing import PerSample, State, Time

__all__ = ["WEIGHTS", "ExplicitScoreMatching", "Regression", "corrupted", "weight_between"]

Weight = Callable[[Schedule, Time], Tensor]


def _unit(schedule: Schedule, t: Time) -> Tensor:
    return torch.ones_like(scalars(t))


def _noise_variance(schedule: Schedule, t: Time) -> Tensor:
    return schedule.sigma(t).square()


def _snr(schedule: Schedule, t: Time) -> Tensor:
    return schedule.log_snr(t).exp()


def _min_snr(schedule: Schedule, t: Time) -> Tensor:
    return _snr(schedule, t).clamp_max(5.0)


def _likelihood(schedule: Schedule, t: Time) -> Tensor:
    return schedule.g2(t)


WEIGHTS: dict[str, Weight] = {
    "unit": _unit,
    "noise_variance": _noise_variance,
    "snr": _snr,
    "min_snr": _min_snr,
    "likelihood": _likelihood,
}
"""Weights w_t by name, of the loss in the denoiser's own head.

`snr` and `min_snr` (capped at 5, Hang et al. 2023) are meant for head x0; `weight_between` turns the weight of one head into
that of another. `likelihood` (g^2) with head score bounds the likelihood (Song et al. 2021, Durkan et al.)."""


def weight_between(schedule: Schedule, t: Time, head: str, other: str, data_std: float = 1.0) -> Tensor:
    """The weight that makes the loss of `head` equal the unit-weighted loss of `other` at t: (out_head / out_other)^2."""
    out = Head(head, schedule, data_std, span=(0.0, 0.5)).coefficients(t)[1]
    goal = Head(other, schedule, data_std, span=(0.0, 0.5)).coefficients(t)[1]
    return (out / goal).square()


def corrupted(path: Any, x_0: State, t: Time, rng: Random) -> tuple[State, State]:
    """(x_t, z) with x_t = alpha x_0 + sigma z, both shape (B, *E)."""
    z = rng.normal(x_0.shape, dtype=x_0.dtype, device=x_0.device)
    return pad(path.schedule.alpha(t), x_0) * x_0 + pad(path.schedule.sigma(t), x_0) * z, z


@dataclass(frozen=True)
class Regression:
    """Denoising regression in the denoiser's own head.

    Attributes:
        weight: w_t, a key of `WEIGHTS`.

    Raises:
        HeadError: unknown weight.
    """

    weight: str = "unit"

    def __post_init__(self) -> None:
        _known(self.weight)

    def __call__(self, denoiser: Trainable, batch: State, t: Time, rng: Random) -> PerSample:
        """Unreduced loss, squared head units per coordinate.

        Args:
            denoiser: anything with an `error`.
            batch: clean data, shape (B, *E), codec units.
            t: times, shape (B,) or ().
            rng: draws the noise.

        Returns:
            Shape (B,).

        Raises:
            FamilyError: the denoiser runs on a path of another family.
            ShapeError: batch is a scalar, or t is neither () nor (B,).
        """
        check_state(batch, "batch")
        _gaussian(denoiser)
        x_t, _ = corrupted(denoiser.path, batch, t, rng)
        error = denoiser.error(batch, x_t, t).flatten(1).square().mean(1)
        return WEIGHTS[self.weight](denoiser.path.schedule, t).to(error) * error


@dataclass(frozen=True)
class ExplicitScoreMatching:
    r"""Explicit score matching against a law whose score is known: the oracle's metric.

    .. math:: w_t \tfrac1d \| s_\theta(x_t, t) - \nabla \log p_t(x_t) \|^2

    Attributes:
        truth: the exact denoiser.
        weight: w_t, a key of `WEIGHTS`.

    Raises:
        HeadError: unknown weight.

    Source: Hyvarinen 2005; survey section 4.1.
    Checked by: tests/gaussian/test_objectives.py::test_denoising_and_explicit_differ_by_a_constant
    """

    truth: Any
    weight: str = "unit"

    def __post_init__(self) -> None:
        _known(self.weight)

    def __call__(self, denoiser: Any, batch: State, t: Time, rng: Random) -> PerSample:
        """Unreduced loss, squared score units per coordinate, shape (B,)."""
        x_t, _ = corrupted(denoiser.path, batch, t, rng)
        error = (score(denoiser, x_t, t) - score(self.truth, x_t, t)).flatten(1).square().mean(1)
        return WEIGHTS[self.weight](denoiser.path.schedule, t).to(error) * error


def _gaussian(denoiser: Any) -> None:
    if denoiser.path.family != "gaussian":
        raise FamilyError(
            f"this objective regresses numbers on Gaussian paths, and the denoiser runs on a {denoiser.path.family} path; "
            "train it with an objective of its own family"
        )


def _known(weight: str) -> None:
    if weight not in WEIGHTS:
        raise HeadError(f"unknown weight {weight!r}; the weights are {', '.join(sorted(WEIGHTS))}")
