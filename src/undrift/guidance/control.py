r"""Steering as stochastic control: what Doob's transform spends, and the equation that it solves.

The reverse process, pushed by a control u,

.. math:: dX = \big[f X - g^2 \nabla \log p_t(X) - g\, u(X, t)\big]\, dt + g\, d\bar W, \qquad t: 1 \to 0,

costs :math:`\tfrac12 E \int |u|^2 dt`, the divergence of the pushed from the unpushed process. To gain a reward r(X_0) at
least cost is to follow Doob's transform, with :math:`h_t(x) = E[e^{r(X_0)} | X_t = x]` and value :math:`\log h_t`,

.. math:: u^*(x, t) = g_t\, \nabla \log h_t(x) .

h is a martingale of the reverse process, so log h solves the Hamilton-Jacobi-Bellman equation

.. math:: -\partial_t \log h + b \cdot \nabla \log h + \tfrac12 g^2 \big(\Delta \log h + |\nabla \log h|^2\big) = 0,
          \qquad b = -f x + g^2 \nabla \log p_t,

whose residual tells an exact lift from an approximate one. The books balance between any two times s < t, under the steered
process and with Z = E e^r,

.. math:: E_h[\log h_s(X_s)] - E_h[\log h_t(X_t)] = \tfrac12 E_h \int_s^t |u^*|^2\, dt',

.. math:: KL(p_h \| p) = E_h[r] - \log Z = \tfrac12 E_h \int_0^1 |u^*|^2\, dt + KL(p_{h,1} \| p_1) .

A sampler that starts from the path's prior pays nothing for the last term; it is 0 where x_1 says nothing about the clean end.

Sources: Dai Pra 1991; Berner et al. 2022 (2211.01364); Uehara et al. 2024 (2402.15194); the survey, section 7.1.
Checked by: tests/guidance/test_control.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random, pad, scalars
from undrift.errors import FamilyError, PotentialError, TimeError
from undrift.grids import Grid
from undrift.guidance.potentials import Potential
from undrift.guidance.twist import Twisted, twist
from undrift.protocols import Denoiser, Sampler
from undrift.simulate import trajectory
from undrift.typing import PerSample, State, Time

__all__ = ["Control", "Spent", "control", "hjb_residual", "spend"]


@dataclass(frozen=True)
class Control:
    """The control view of a twist; see `control`.

    Attributes:
        denoiser: any denoiser of numbers on a Gaussian path.
        potential: what is wanted, at the clean end.
    """

    denoiser: Any
    potential: Potential

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    def log_h(self, x_t: State, t: Time) -> PerSample:
        """The value of a state: the lifted potential, shape (B,), nats."""
        return self.potential.lift(self.denoiser(x_t, t))

    def __call__(self, x_t: State, t: Time) -> State:
        """The control u* = g grad log h, shape (B, *E), in units of one over the square root of time.

        Args:
            x_t: state, shape (B, *E).
            t: time, shape () or (B,).

        Checked by: tests/guidance/test_control.py::test_the_control_is_the_difference_of_scores
        """
        _, _, slope = Twisted(self.denoiser, self.potential).signal(x_t, t)
        return pad(self.path.schedule.g2(t).sqrt(), x_t) * slope

    def rate(self, x_t: State, t: Time) -> PerSample:
        """What it costs to be here: |u*|^2 / 2, shape (B,), nats per unit of time."""
        return 0.5 * self(x_t, t).flatten(1).square().sum(1)


@dataclass(frozen=True)
class Spent:
    """Where a steered run ended, and its cost.

    Attributes:
        x: states at the grid's end, shape (B, *E).
        cost: sum of |u*|^2 / 2 over the steps, shape (B,), nats; its mean tends at first order to the running cost.
    """

    x: Tensor
    cost: Tensor


def control(denoiser: Denoiser, potential: Potential) -> Control:
    """The optimal control towards a potential.

    Args:
        denoiser: any denoiser of numbers on a Gaussian path; its law decides how exact h is.
        potential: what is wanted, at the clean end; for a temperature beta divide the reward by it.

    Returns:
        The function u*(x_t, t), with its value and cost.

    Raises:
        FamilyError: the path is not Gaussian, so that there is no g.

    Source: Berner et al. 2022, section 2. Checked by: tests/guidance/test_control.py::test_the_books_balance_on_a_gaussian
    """
    _gaussian(denoiser.path)
    return Control(denoiser, potential)


def spend(controlled: Control, sampler: Sampler, grid: Grid, x: State, *, rng: Random) -> Spent:
    """Run the steered process, adding up what the control costs.

    Args:
        controlled: the control.
        sampler: any one for random Gaussian paths; `gaussian.EulerMaruyama()` is the equation of the module, step by step.
        grid: times, falling.
        x: states at the grid's first time, shape (B, *E).
        rng: source of noise.

    Returns:
        States and costs. Two calls of the denoiser and two gradients a step.

    Raises:
        TimeError: the grid rises.

    Checked by: tests/guidance/test_control.py::test_what_a_run_spends_tends_to_the_closed_form
    """
    if grid.times[0] < grid.times[-1]:
        raise TimeError("a control pushes from noise to data; give a grid whose times fall")
    pairs = [(torch.tensor(t, dtype=torch.float64), t - s) for t, s in grid.pairs()]
    cost = x.new_zeros(x.shape[0])
    for step in trajectory(twist(controlled.denoiser, controlled.potential), sampler, grid, x, rng=rng):
        x = step.x
        if step.index < grid.steps:
            t, length = pairs[step.index]
            cost = torch.add(cost, controlled.rate(x, t), alpha=length)
    return Spent(x, cost)


@torch.no_grad()
def hjb_residual(controlled: Control, x_t: State, t: Time, *, step: float = 1e-3) -> PerSample:
    r"""How far log h is from solving the Hamilton-Jacobi-Bellman equation, shape (B,), nats per unit of time.

    Zero for the transform of an exact law; for an approximate lift it is the rate at which h stops being a martingale, divided
    by h. Derivatives are central differences of fourth order: log h is only evaluated, so the residual judges the function
    itself and not its gradient. Its own error is O(step^4) and, from rounding, O(1e-16 |log h| / step^2).

    Args:
        controlled: the control.
        x_t: states, shape (B, *E); meant for few coordinates: 4 d + 5 evaluations of log h.
        t: time, shape (); 2 steps away from 0 and 1 at least.
        step: of the differences, in time and, as they are, in codec units.

    Raises:
        TimeError: t is closer to an end than 2 steps.
        PotentialError: step <= 0.

    Checked by: tests/guidance/test_control.py::test_exact_lifts_solve_the_equation,
        tests/guidance/test_control.py::test_a_wrong_lift_does_not
    """
    if not step > 0:
        raise PotentialError(f"a difference needs a step > 0, got {step:g}; 1e-3 is a good one in float64")
    if not 2 * step <= float(t) <= 1 - 2 * step:
        raise TimeError(
            f"the equation is looked at between the ends: t lies in [{2 * step:g}, {1 - 2 * step:g}], got {float(t):g}"
        )
    schedule, t = controlled.path.schedule, scalars(t)
    d = x_t[0].numel()
    nudges = step * torch.eye(d, dtype=x_t.dtype, device=x_t.device).reshape(d, *x_t.shape[1:])

    def at(multiple: int) -> Tensor:  # log h beside x_t, one row per coordinate: (d, B)
        return torch.stack([controlled.log_h(x_t + multiple * nudge, t) for nudge in nudges])

    near = {k: at(k) for k in (-2, -1, 1, 2)}
    here = controlled.log_h(x_t, t)
    gradient = ((near[-2] - near[2]) + 8 * (near[1] - near[-1])) / (12 * step)
    curved = (16 * (near[1] + near[-1]) - (near[2] + near[-2]) - 30 * here) / (12 * step**2)
    ahead = {k: controlled.log_h(x_t, t + k * step) for k in (-2, -1, 1, 2)}
    passing = ((ahead[-2] - ahead[2]) + 8 * (ahead[1] - ahead[-1])) / (12 * step)
    f, g2, alpha, variance = (float(c) for c in (schedule.f(t), schedule.g2(t), schedule.alpha(t), schedule.sigma(t).square()))
    score = (alpha * controlled.denoiser(x_t, t).mean - x_t) / variance
    drift = (g2 * score - f * x_t).flatten(1)
    return (drift * gradient.mT).sum(1) - passing + 0.5 * g2 * (curved.sum(0) + gradient.square().sum(0))


def _gaussian(path: Any) -> None:
    if path.family != "gaussian":
        raise FamilyError(
            f"a control pushes a diffusion of numbers, and this path is {path.family}; symbols are steered by "
            "discrete.TwistedLeaping or guidance.condition, bridges by guidance.twist"
        )
