r"""Doob's h-transform of a denoiser: three ways to steer by a potential.

With :math:`h_t(x_t) = E[e^{r(X_0)} | x_t]` under the denoiser's law, the steered clean end is

.. math:: q_h(x_0 | x_t) \propto q(x_0 | x_t)\, e^{r(x_0)}, \qquad
          E_h[X_0 | x_t] = E[X_0 | x_t] + \frac{\sigma_t^2}{\alpha_t} \nabla \log h_t(x_t).

* `condition` reads the left formula: Bayes' rule in the law itself. No derivative; exact wherever the law is, all of it.
* `twist` reads the right one: one vector-Jacobian product through the denoiser. For what has a mean (and perhaps a covariance).
* `weigh` does not steer; it only prices a state, for particles whose reward has no gradient.

All three also answer `ask`, what `undrift.smc` needs: the law, log h, and the steered law.

Transforms compose: twisting by p and then by q is twisting by p & q, so nested twists are joined and lifted once, jointly.

Checked by: tests/guidance/test_twist.py
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undrift.core import pad
from undrift.errors import PotentialError
from undrift.guidance.potentials import All, Potential, checked
from undrift.guidance.second_order import tracked
from undrift.guidance.strength import Scale, at, once
from undrift.laws import Point
from undrift.typing import State, Time

__all__ = ["Conditioned", "Steered", "Twisted", "Weighed", "condition", "twist", "weigh"]


class Steered(NamedTuple):
    """What particles ask at a state: the unsteered law, log h there (B,), and the law that proposals step back under."""

    law: Any
    log_h: Tensor
    tilted: Any


def condition(denoiser: Any, potential: Potential) -> "Conditioned":
    """The denoiser of the law proportional to p exp r, by Bayes' rule in its answers.

    Args:
        denoiser: answers with laws that can absorb the potential: closed-form laws for likelihoods and linear rewards, laws
            over finitely many events for any reward.
        potential: what is wanted.

    Returns:
        A denoiser of the same kind of law, exact wherever the given one is. No gradient; one call.

    Raises:
        PotentialError: when asked, if the denoiser answers with a `Point`, which no potential can move.
        LawError: when asked, if its law cannot absorb the potential.

    Source: Bayes' rule; for a Kalman update under a `Normal`, Rozet et al. 2024.
    Checked by: tests/guidance/test_twist.py::test_condition_is_the_posteriors_own_denoiser
    """
    return Conditioned(denoiser, checked(potential))


def twist(denoiser: Any, potential: Potential, *, scale: Scale = 1.0) -> "Twisted":
    """The denoiser steered by the gradient of the lifted potential.

    Args:
        denoiser: any denoiser of numbers. Its law decides the method: see `second_order`.
        potential: what is wanted; nested twists are joined with `&` and lifted once.
        scale: factor on the gradient: a number, one per sample, or a function of the time. 1 is Doob's own.

    Returns:
        A denoiser that answers with a `Point`. One call and one vector-Jacobian product, and what the law's covariance costs.

    Raises:
        PotentialError: a scaled twist is nested in another, where there is no single gradient to scale; or, when asked, the
            lifted potential has no gradient.

    Source: Doob 1957; the survey, section 5.1 and 7.1.
    Checked by: tests/guidance/test_twist.py::test_the_twisted_mean_is_exact_on_exact_laws,
        tests/guidance/test_twist.py::test_nested_twists_are_joined
    """
    if isinstance(denoiser, Twisted):  # (h_p, then h_q) is h_{p & q}: lifted once, or the prior's spread would count twice
        if not (isinstance(scale, float | int) and scale == 1 and denoiser.unscaled):
            raise PotentialError(
                "a twist with a scale cannot be nested: join the potentials first, twist(denoiser, p & q, scale=...), or "
                "temper one of them, twist(denoiser, p & (0.5 * q))"
            )
        return Twisted(denoiser.denoiser, denoiser.potential & potential)
    return Twisted(denoiser, checked(potential), once(scale))


def weigh(denoiser: Any, potential: Potential) -> "Weighed":
    """The denoiser unchanged, and log h beside it: Feynman-Kac steering, for rewards without gradients.

    Source: Singhal et al. 2025 (2501.06848). Checked by: tests/test_particles.py
    """
    return Weighed(denoiser, checked(potential))


@dataclass(frozen=True)
class Conditioned:
    """See `condition`."""

    denoiser: Any
    potential: Potential

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """The law proportional to p exp r.

        Raises:
            PotentialError: the denoiser answers with a `Point`.
        """
        law = self.denoiser(x_t, t)
        if isinstance(law, Point):
            raise PotentialError(
                "a Point has no spread, so conditioning would leave it where it is and steer nothing: give the denoiser a "
                "covariance (guidance.second_order), or steer by the gradient (guidance.twist)"
            )
        return self.potential.absorb(law)

    def ask(self, x_t: Tensor, t: Time) -> Steered:
        """For particles: proposals absorb the closed parts of the potential, and log h prices all of it."""
        law = self.denoiser(x_t, t)
        closed = All([self.potential]).tractable
        return Steered(law, self.potential.lift(law), law if closed is None else closed.absorb(law))

    def per(self, particles: int) -> "Conditioned":
        """For `particles` rows of every problem."""
        return Conditioned(self.denoiser, self.potential.per(particles))


@dataclass(frozen=True)
class Twisted:
    """See `twist`."""

    denoiser: Any
    potential: Potential
    scale: Scale = 1.0

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    @property
    def unscaled(self) -> bool:
        """Whether this is Doob's own transform."""
        return isinstance(self.scale, float | int) and self.scale == 1

    def __call__(self, x_t: State, t: Time) -> Any:
        """The steered mean, a `Point`."""
        law, _, signal = self.signal(x_t, t)
        with torch.set_grad_enabled(x_t.requires_grad):
            return self.path.tilt(law, signal, t)

    def log_h(self, x_t: State, t: Time) -> Tensor:
        """The lifted potential at x_t, shape (B,), nats."""
        return self.potential.lift(self.denoiser(x_t, t))

    def ask(self, x_t: State, t: Time) -> Steered:
        """For particles: the law, log h, and the law moved to the steered mean (as broad as the unsteered one).

        Raises:
            PotentialError: the law cannot be moved.
        """
        law, log_h, signal = self.signal(x_t, t)
        if not hasattr(law, "moved"):
            raise PotentialError(
                f"proposals of particles cannot move a {type(law).__name__}; steer it by Bayes' rule (guidance.condition), or "
                "only weigh it (guidance.weigh)"
            )
        with torch.set_grad_enabled(x_t.requires_grad):
            return Steered(law, log_h, law.moved(self.path.tilt(law, signal, t).mean - law.mean))

    def per(self, particles: int) -> "Twisted":
        """For `particles` rows of every problem."""
        scale = self.scale
        scale = scale.repeat_interleave(particles) if isinstance(scale, Tensor) and scale.ndim else scale
        return Twisted(self.denoiser, self.potential.per(particles), scale)

    def signal(self, x_t: State, t: Time) -> tuple[Any, Tensor, Tensor]:
        """(law, log h, gradient of log h at x_t); attached to x_t's graph only if a caller tracks it."""
        with torch.enable_grad():
            x = tracked(x_t)
            law = self.denoiser(x, t)
            log_h = self.potential.lift(law)
            if not log_h.requires_grad:
                raise PotentialError(
                    "this potential has no gradient at x_t (it is piecewise constant, something is detached, or inference mode "
                    "is on, where torch.no_grad would do): give it a slope, condition the law (guidance.condition), or weigh "
                    "particles by it (guidance.weigh)"
                )
            (signal,) = torch.autograd.grad(log_h.sum(), x, create_graph=x_t.requires_grad)
        if not self.unscaled:
            scale = at(self.scale, t, x_t.shape[0])
            signal = signal * (pad(scale, signal) if torch.is_tensor(scale) else scale)
        return law, log_h if x_t.requires_grad else log_h.detach(), signal


@dataclass(frozen=True)
class Weighed:
    """See `weigh`."""

    denoiser: Any
    potential: Potential

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """The denoiser's own law."""
        return self.denoiser(x_t, t)

    def ask(self, x_t: Tensor, t: Time) -> Steered:
        """For particles: nothing is steered, everything is priced."""
        law = self.denoiser(x_t, t)
        return Steered(law, self.potential.lift(law), law)

    def per(self, particles: int) -> "Weighed":
        """For `particles` rows of every problem."""
        return Weighed(self.denoiser, self.potential.per(particles))
