r"""Proximal guidance: move the clean mean towards the reward, and leave the network alone.

From the clean mean :math:`m = E[X_0 | x_t]` climb

.. math:: J(x) = r(x) - \frac{|x - m|^2}{2 v_t}, \qquad v_t = \frac{s^2 \sigma_t^2}{\alpha_t^2 s^2 + \sigma_t^2}, \qquad
          x \leftarrow x + \eta \big(v_t \nabla r(x) - (x - m)\big),

K times from x = m, and answer with a `Point` at the end. The proximity is not a free parameter: v_t is the posterior variance
of white data of standard deviation s, so far from the data the reward moves much, and near it nothing. No gradient passes
through the network: a call costs one call of the denoiser and K gradients of the reward.

For a quadratic reward the limit of many steps is the Kalman update under N(m, v_t I), in closed form
`condition(second_order(denoiser, isotropic(s)), potential)`; for r concave the maximum of J is the mode of the law proportional
to N(m, v_t I) exp r. It is a mode, not a mean, and its covariance is not the posterior's: biased, and cheap.

The climb is stable while :math:`\eta (1 + v_t L) < 2`, L the largest curvature of -r; with noise of variance R, L is |A|^2 / R.

Sources: Bansal et al. 2023 (2302.07121), section 3.2 (backward universal guidance, without the proximity); He et al. 2023
(MPGD, 2311.16424), algorithm 1, which takes K = 1. Checked by: tests/guidance/test_proximal.py
"""

from dataclasses import dataclass, field
from typing import Any

import torch

from undrift.core import pad
from undrift.errors import PotentialError
from undrift.guidance.potentials import Potential
from undrift.laws import Point
from undrift.typing import State, Time

__all__ = ["Proximal", "proximal", "slope", "try_slope"]


def proximal(denoiser: Any, potential: Potential, *, data_std: float, steps: int, rate: float) -> "Proximal":
    """The denoiser with its clean mean moved towards a reward.

    Args:
        denoiser: any denoiser of numbers on a Gaussian path, itself guided or not.
        potential: what is wanted; any differentiable reward.
        data_std: s, standard deviation of the data about their mean, codec units.
        steps: K, gradients of the reward a call.
        rate: eta, dimensionless; below 2 / (1 + v_t L) at every noise level, so below 2 / (1 + s^2 L).

    Returns:
        A denoiser that answers with a `Point`. One call, K gradients of the reward, none of the network.

    Raises:
        PotentialError: a rate or a size of the data that is not positive, fewer than one step; at the first call, before the
            denoiser is asked: a reward of the wrong shape, without a gradient, or NaN.

    Source: Bansal et al. 2023, section 3.2; He et al. 2023, algorithm 1.
    Checked by: tests/guidance/test_proximal.py::test_the_limit_of_many_steps_is_the_isotropic_kalman_update,
        tests/guidance/test_proximal.py::test_bad_input_is_refused_before_the_first_call
    """
    return Proximal(denoiser, potential, data_std, steps, rate)


@dataclass(frozen=True)
class Proximal:
    """See `proximal`.

    Attributes:
        denoiser: what is steered.
        potential: what is wanted.
        data_std: s, codec units.
        steps: K.
        rate: eta.
    """

    denoiser: Any
    potential: Potential
    data_std: float
    steps: int
    rate: float
    _tried: set[torch.Size] = field(default_factory=set, init=False, repr=False, compare=False)  # what has been checked

    def __post_init__(self) -> None:
        if self.steps < 1 or not (self.rate > 0 and self.data_std > 0):
            raise PotentialError(
                f"proximal guidance needs steps >= 1, rate > 0 and data_std > 0, got {self.steps}, {self.rate:g} and "
                f"{self.data_std:g}; start with one step at rate 1 / (1 + data_std^2 L), L the curvature of the reward"
            )

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    def __call__(self, x_t: State, t: Time) -> Point:
        """Point at the end of the climb.

        Works under `torch.no_grad()`. Where the caller differentiates through x_t, the answer can be differentiated, too.
        """
        if x_t.shape not in self._tried:
            try_slope(self.potential, x_t)
            self._tried.add(x_t.shape)
        schedule, m = self.path.schedule, self.denoiser(x_t, t).mean
        noise = schedule.sigma(t).square()
        spread = pad(noise / (schedule.alpha(t).square() + noise / self.data_std**2), m)
        x = m
        for _ in range(self.steps):
            x = x + self.rate * (spread * slope(self.potential, x) - (x - m))
        return Point(x)


def slope(potential: Potential, x_0: State) -> State:
    """Gradient of the reward at clean events, shape (B, *E), nats per codec unit; part of x_0's graph if a caller tracks it.

    Raises:
        PotentialError: the reward answers with anything but one number per event, or has no gradient.

    Checked by: tests/guidance/test_proximal.py::test_bad_input_is_refused_before_the_first_call
    """
    nested = x_0.requires_grad and torch.is_grad_enabled()
    with torch.enable_grad():
        x = x_0 if nested else x_0.detach().requires_grad_()
        value = potential(x)
        if value.shape != x.shape[:1]:
            raise PotentialError(
                f"a reward maps events of shape {tuple(x.shape)} to one number each, shape ({x.shape[0]},); this one "
                f"answered with {tuple(value.shape)}: sum or average over the event's axes, never over the batch"
            )
        if not value.requires_grad:
            raise PotentialError(
                "this reward has no gradient at a clean event (it rounds, thresholds, or leaves torch); steer by particles "
                "(undrift.smc with guidance.weigh), or smooth it"
            )
        return torch.autograd.grad(value.sum(), x, create_graph=nested)[0]


def try_slope(potential: Potential, x: State) -> None:
    """Whether a reward can steer by its gradient, tried on events shaped like `x`, at most of the size of unit-power data.

    Raises:
        PotentialError: as `slope`; or a slope that is NaN.

    Checked by: tests/guidance/test_proximal.py::test_bad_input_is_refused_before_the_first_call
    """
    ordinary = x.detach() / x.detach().square().mean().sqrt().clamp_min(1.0)
    bad = torch.isnan(slope(potential, ordinary)).flatten(1).any(1)
    if bool(bad.any()):
        raise PotentialError(
            f"the gradient of the reward is NaN for {int(bad.sum())} of {bad.shape[0]} ordinary events (first: row "
            f"{int(bad.nonzero()[0])}); look for NaN in the measurement, a root or a logarithm at 0 in the reward"
        )
