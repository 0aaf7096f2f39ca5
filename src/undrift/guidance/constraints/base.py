r"""Constraints: a set that samples must lie in, with certainty.

A constraint is the potential whose reward is 0 on a closed set C and :math:`-\infty` off it, so that
:math:`h_t(x_t) = P(X_0 \in C | x_t)`. It also knows its Euclidean projection,

.. math:: P x = \arg\min_{z \in C} |x - z|, \qquad
          \langle x - P x, z - P x \rangle \le 0 \ \text{ for all } z \in C \text{ (C convex)},

and three ways to obey it, which give three laws:

* *steer*: `twist` (or particles) draw the law *given* that X_0 lies in C, in the interior where p is;
* *absorb*: `condition` does so in closed form, for equalities under Gaussian laws;
* *project*: `constrained` moves each sample to the nearest event of C. Mass from outside lands on the boundary: of all laws
  on C, the one nearest in W2 to the law that was drawn.

An indicator is flat. It has no gradient at a point: only a law with a spread gives its lift a slope.

Checked by: tests/guidance/test_constraints.py
"""

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from undrift.errors import LawError, PotentialError, ShapeError
from undrift.guidance.potentials import Potential
from undrift.laws.mass import indicator

__all__ = ["Constraint", "rounding"]


def rounding(dtype: torch.dtype, terms: int) -> float:
    """Relative slack for sums of `terms` numbers of a dtype, added in float64: what counts as equal."""
    return 8 * torch.finfo(dtype).eps + terms * torch.finfo(torch.float64).eps


class Constraint(Potential):
    """A closed set of events: its indicator as a reward, and its projection.

    Every projection returns events that `contains` accepts, and leaves those as they are, bit for bit: projecting twice is
    projecting once.
    """

    @abstractmethod
    def inside(self, x: Tensor) -> Tensor:
        """Whether events of finite numbers lie in the set, (B, *E) -> (B,)."""

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """The nearest event in the set, of events outside, (B, *E) -> (B, *E)."""

    @property
    def thin(self) -> bool:
        """Whether the set has no volume, so that no law with a density ever falls in it."""
        return False

    @property
    def convex(self) -> bool:
        """Whether the set is convex, so that there is one nearest event."""
        return True

    @property
    def event(self) -> tuple[int, ...] | None:
        """Shape E of the events it constrains, or None for any."""
        return None

    def contains(self, x: Tensor) -> Tensor:
        """Whether each event lies in the set, shape (B, *E) -> (B,) boolean; an event that is not finite never does.

        Raises:
            ShapeError: not a batch of numbers, or of other events than the constraint's.
        """
        if not x.dtype.is_floating_point or x.ndim < 2:
            raise ShapeError(f"a constraint is on events of numbers, shape (B, *E), got {tuple(x.shape)} of {x.dtype}")
        if self.event is not None and tuple(x.shape[1:]) != self.event:
            raise ShapeError(
                f"this {type(self).__name__} is on events of shape {self.event}, and a batch of shape {tuple(x.shape)} was "
                f"given; wanted (B, {', '.join(map(str, self.event))})"
            )
        return torch.isfinite(x).flatten(1).all(1) & self.inside(x)

    def project(self, x: Tensor) -> Tensor:
        """The nearest event in the set, shape kept; events inside come back unchanged.

        Checked by: tests/guidance/test_constraints.py::test_projections_land_inside_and_stay,
            tests/guidance/test_constraints.py::test_projections_are_the_nearest_events
        """
        inside = self.contains(x).reshape(-1, *([1] * (x.ndim - 1)))
        return torch.where(inside, x, self.nearest(x))

    def __call__(self, x_0: Tensor) -> Tensor:
        """0 inside and -inf outside, shape (B,), nats.

        Raises:
            PotentialError: x_0 carries a gradient, and an indicator has none to pass on.

        Checked by: tests/guidance/test_constraints.py::test_an_indicator_without_gradient_says_what_to_do
        """
        if torch.is_grad_enabled() and x_0.requires_grad:
            raise PotentialError(flat(self))
        return indicator(self.contains(x_0), x_0)

    def lift(self, law: Any) -> Tensor:
        """Log P(X in C) under a law of the clean end, shape (B,): exact under laws of finitely many events.

        Raises:
            LawError: no closed form under that law; says what to do.
            PotentialError: a gradient was asked for at a point.
        """
        try:
            return law.log_mean_exp(self)
        except LawError as error:
            raise LawError(no_mass(self, law)) from error

    def __rmul__(self, weight: float) -> "Constraint":
        """Itself: what is impossible stays so at any weight > 0.

        Raises:
            PotentialError: a weight that is not positive.
        """
        if not weight > 0:
            raise PotentialError(f"a constraint cannot be weighed by {weight:g}; leave it out, or negate it with ~")
        return self


def flat(constraint: Constraint) -> str:
    name = type(constraint).__name__
    return (
        f"a {name} is 0 or -inf at a point, so it has no gradient to steer by: give the denoiser a spread "
        "(guidance.second_order, whose laws give a Box a smooth mass), weigh particles without a gradient (undrift.smc with "
        "guidance.weigh, the constraint lifted by guidance.monte_carlo(constraint, draws, floor=-20)), or project the samples "
        "(guidance.constrained)"
    )


def no_mass(constraint: Constraint, law: Any) -> str:
    name, kind = type(constraint).__name__, type(law).__name__
    if constraint.thin:
        return (
            f"a {kind} never falls in a {name}, which has no volume: project the samples (guidance.constrained), or state "
            "what is linear in it as an Equality, which Gaussian laws and mixtures absorb (guidance.condition)"
        )
    return (
        f"the mass of a {name} under a {kind} has no closed form: average over draws and weigh particles by it (undrift.smc "
        "with guidance.weigh and guidance.monte_carlo(constraint, draws, floor=-20)), or project the samples "
        "(guidance.constrained)"
    )
