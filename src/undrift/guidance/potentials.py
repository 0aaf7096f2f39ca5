r"""Potentials: what we want, stated at the clean end, in nats.

A potential is a reward r(x_0). Under a denoiser it is *lifted* to every noise level,

.. math:: \log h_t(x_t) = \log E\big[e^{r(X_0)} \mid x_t\big], \qquad h_0 = e^r, \qquad E[h_s(X_s) \mid X_t] = h_t(X_t),

and steering is Doob's transform by h. The methods of the field differ in the law they lift under, and in nothing else.

`&` adds potentials **at the clean end and lifts the sum once**. Lifted potentials do not add: two looks at one coordinate of
prior variance 1/2 and noise variance 1/4 have the gain 1.60 together; adding their lifts would say 2.67. `~` is the complement
of a probability, :math:`h_{\neg} = 1 - h`; `w * potential` tempers.

Closed potentials (`Likelihood`, `Linear`) are lifted exactly under every law of numbers with a density, atoms or a point (under
`Implicit` up to a determinant, which moves no gradient), and *absorbed* by it: the law proportional to :math:`p\, e^r` is of
the same kind. Any other reward is exact under laws of finitely many events and at a point; elsewhere say how: `at_mean` or
`monte_carlo`.

Checked by: tests/guidance/test_potentials.py
"""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from undrift.core import Look
from undrift.core.seen import white_log_prob
from undrift.errors import PotentialError, ShapeError
from undrift.laws import Liftable, Point
from undrift.operators import Stacked

__all__ = ["All", "Likelihood", "Linear", "Potential", "Reward"]


class Potential(ABC):
    """A reward at the clean end.

    Attributes:
        density: what it is if exp r is no probability, and so has no complement; None if it may be one.
    """

    density: ClassVar[str | None] = None

    @abstractmethod
    def __call__(self, x_0: Tensor) -> Tensor:
        """The reward r, nats: (B, *E) -> (B,)."""

    def lift(self, law: Any) -> Tensor:
        """Log E exp r under a law of the clean end, shape (B,)."""
        return law.log_mean_exp(self)

    def absorb(self, law: Any) -> Any:
        """The law proportional to p exp r.

        Raises:
            LawError: that law has no closed form; says what to do.
        """
        return law.reweight(self)

    @property
    def closed(self) -> bool:
        """Whether every law of numbers lifts and absorbs it exactly."""
        return False

    @property
    def batch(self) -> int:
        """How many rows it holds data for; 1 serves any batch."""
        return 1

    def per(self, particles: int) -> "Potential":
        """The same potential for `particles` rows of every problem; only those that hold data per row change."""
        return self

    @property
    def lifting(self) -> tuple[Any, ...]:
        """How it is lifted, to be compared: potentials are joined only if they agree; () is exactly."""
        return ()

    def like(self, potential: "Potential") -> "Potential":
        """Another potential, lifted as this one is."""
        return potential

    def __and__(self, other: "Potential") -> "All":
        """Both: the rewards add at the clean end.

        Raises:
            PotentialError: the other is no potential.
        """
        return All([self, checked(other)])

    def __invert__(self) -> "Potential":
        """Not this: h becomes 1 - h; for potentials that are log-probabilities.

        Raises:
            PotentialError: it is the log of a density, or of anything else that is no probability.
        """
        if self.density is not None:
            raise PotentialError(
                f"{self.density} is no probability, so it has no complement; negate labels, constraints and rewards that are "
                "log-probabilities"
            )
        return Complement(self)

    def __rmul__(self, weight: float) -> "Potential":
        """Tempered: `weight` times the reward."""
        return Tempered(weight, self)

    def __mul__(self, weight: float) -> "Potential":
        """Tempered: `weight` times the reward."""
        return self.__rmul__(weight)


@dataclass(frozen=True)
class Tempered(Potential):
    """A multiple of a reward that has no closed form of its own.

    Attributes:
        weight: any number.
        potential: the reward.
    """

    weight: float
    potential: Potential

    def __call__(self, x_0: Tensor) -> Tensor:
        """Weight times the reward."""
        return self.weight * self.potential(x_0)

    @property
    def batch(self) -> int:
        """Those of the potential inside."""
        return self.potential.batch

    def per(self, particles: int) -> "Tempered":
        """Repeated."""
        return Tempered(self.weight, self.potential.per(particles))


@dataclass(frozen=True)
class Reward(Potential):
    """Any function of events: (B, *E) -> (B,), nats (divide by your temperature).

    Under a `Point`, which is what a network answers with, its lift is its value there: universal guidance, biased where the
    clean end is spread. `monte_carlo` under a second-order law, or particles, do better.

    Attributes:
        function: the reward; differentiable where a gradient is to steer.

    Checked by: tests/guidance/test_potentials.py::test_a_reward_of_the_wrong_shape_is_refused
    """

    function: Callable[[Tensor], Tensor]

    def __call__(self, x_0: Tensor) -> Tensor:
        """The function's value.

        Raises:
            PotentialError: it answers with anything but one number per event.
        """
        value = self.function(x_0)
        if not torch.is_tensor(value) or value.shape != x_0.shape[:1]:
            got = tuple(value.shape) if torch.is_tensor(value) else type(value).__name__
            raise PotentialError(
                f"a reward maps events of shape {tuple(x_0.shape)} to one number each, shape ({x_0.shape[0]},); this one "
                f"answered with {got}: sum or average over the event's axes, never over the batch"
            )
        return value


@dataclass(frozen=True)
class Linear(Potential):
    """The reward g . x_0; closed.

    Attributes:
        direction: g, nats per codec unit, shape (1, *E), or (B, *E) for one direction per row.

    Raises:
        ShapeError: a direction without a batch axis.
    """

    density = "a linear reward"
    direction: Tensor

    def __post_init__(self) -> None:
        if self.direction.ndim < 2:
            raise ShapeError(
                "a linear reward's direction has shape (1, *E), or (B, *E) for one per row; got "
                f"{tuple(self.direction.shape)}: give direction[None]"
            )

    @property
    def closed(self) -> bool:
        """Yes."""
        return True

    @property
    def batch(self) -> int:
        """Number of directions."""
        return self.direction.shape[0]

    def __call__(self, x_0: Tensor) -> Tensor:
        """Direction . x_0."""
        return (self.direction.to(x_0) * x_0).flatten(1).sum(1)

    def lift(self, law: Liftable) -> Tensor:
        """The law's log moment generating function."""
        return law.log_mgf(self.direction.to(law.mean))  # pyright: ignore[reportAttributeAccessIssue]

    def absorb(self, law: Liftable) -> Any:
        """The law, exponentially tilted."""
        return law.tilt(self.direction.to(law.mean))  # pyright: ignore[reportAttributeAccessIssue]

    def per(self, particles: int) -> "Linear":
        """Directions repeated."""
        return self if self.direction.shape[0] == 1 else Linear(self.direction.repeat_interleave(particles, 0))

    def __rmul__(self, weight: float) -> "Linear":
        """A longer direction."""
        return Linear(weight * self.direction)


@dataclass(frozen=True)
class Likelihood(Potential):
    """A linear look with Gaussian noise, r = log N(y; A x_0, R) + constant; closed. Make it with `inverse.gaussian_likelihood`.

    Attributes:
        look: the operator A.
        y: measurements, shape (1, m), or (B, m) for one measurement per row.
        variance: diagonal of R, shape (m,) or (1,).
        constant: nats; 0 unless it was tempered.
    """

    density = "a measurement's density"
    look: Look
    y: Tensor
    variance: Tensor
    constant: float = 0.0

    @property
    def closed(self) -> bool:
        """Yes."""
        return True

    @property
    def batch(self) -> int:
        """Number of measurements."""
        return self.y.shape[0]

    def __call__(self, x_0: Tensor) -> Tensor:
        """Log density of the measurement at x_0, nats.

        Raises:
            ShapeError: as in `lift`.
        """
        self._fits(x_0)
        return Point(x_0).evidence(self.look, self.y.to(x_0), self.variance) + self.constant

    def lift(self, law: Liftable) -> Tensor:
        """The law's evidence.

        Raises:
            ShapeError: the operator measures other events, or there are measurements per row for other rows.

        Checked by: tests/guidance/test_potentials.py::test_measurements_of_other_events_are_refused
        """
        self._fits(law.mean)  # pyright: ignore[reportAttributeAccessIssue]
        return law.evidence(self.look, self.y.to(law.mean), self.variance) + self.constant  # pyright: ignore[reportAttributeAccessIssue]

    def absorb(self, law: Liftable) -> Any:
        """The law given the measurement.

        Raises:
            ShapeError: as in `lift`.
        """
        self._fits(law.mean)  # pyright: ignore[reportAttributeAccessIssue]
        return law.observe(self.look, self.y.to(law.mean), self.variance)  # pyright: ignore[reportAttributeAccessIssue]

    def _fits(self, events: Tensor) -> None:
        event, rows = self.look.event, self.y.shape[0]
        if tuple(event) != tuple(events.shape[1:]) or 1 != rows != events.shape[0] != 1:
            raise ShapeError(
                f"{rows} measurements of events of shape {tuple(event)} were given for {events.shape[0]} events of shape "
                f"{tuple(events.shape[1:])}; the operator wants the event as it is sampled, and one measurement serves all rows"
            )

    def per(self, particles: int) -> "Likelihood":
        """Measurements repeated."""
        return self if self.y.shape[0] == 1 else replace(self, y=self.y.repeat_interleave(particles, 0))

    def __rmul__(self, weight: float) -> "Likelihood":
        """Noise variance divided by the weight, and the constant that keeps r exact.

        Raises:
            PotentialError: a weight that is not above 0, or a measurement without noise, which no weight makes weaker.
        """
        if not bool((self.variance > 0).all()):
            raise PotentialError("a noiseless measurement holds exactly, and cannot be tempered; give it some noise")
        if not weight > 0:
            raise PotentialError(
                f"a likelihood is tempered by a weight > 0, got {weight:g}: a measurement that repels has no lift (its E exp r "
                "may be infinite); leave it out, or steer by a bounded Reward"
            )
        m, variance = self.y.shape[1], self.variance / weight
        norms = [white_log_prob(v.new_zeros(m)) - 0.5 * v.log().expand(m).sum() for v in (self.variance, variance)]
        return Likelihood(self.look, self.y, variance, weight * (self.constant + float(norms[0])) - float(norms[1]))


@dataclass(frozen=True, init=False)
class All(Potential):
    """Potentials added at the clean end and lifted once, jointly.

    Looks are stacked to one look, linear rewards added to one direction, and these are absorbed before what has no closed form
    is lifted under the law that they leave.

    Raises:
        PotentialError: parts without a closed form that are lifted in different ways.
        ShapeError: parts with data for different numbers of rows.

    Checked by: tests/guidance/test_potentials.py::test_two_looks_at_one_coordinate_have_the_joint_gain
    """

    parts: tuple[Potential, ...]

    def __init__(self, parts: Sequence[Potential]):
        counts = {part.batch for part in parts} - {1}
        if len(counts) > 1:
            raise ShapeError(f"potentials with data for {sorted(counts)} rows cannot be joined; give each one row, or as many")
        flat = [leaf for part in parts for leaf in (part.parts if isinstance(part, All) else (part,))]
        looks = [p for p in flat if isinstance(p, Likelihood)]
        leans = [p for p in flat if isinstance(p, Linear)]
        rest = [p for p in flat if not isinstance(p, Likelihood | Linear)]
        stacked = [_stack(looks)] if len(looks) > 1 else looks
        leaned = (
            [Linear(torch.stack(torch.broadcast_tensors(*(p.direction for p in leans))).sum(0))] if len(leans) > 1 else leans
        )
        if len({p.lifting for p in rest if not p.closed}) > 1:
            raise PotentialError(
                "these potentials are lifted in different ways, and what is joined is lifted once: say how for all of it, "
                "at_mean(p & q) or monte_carlo(p & q, draws)"
            )
        object.__setattr__(self, "parts", (*stacked, *leaned, *rest))

    @property
    def closed(self) -> bool:
        """If every part is."""
        return all(part.closed for part in self.parts)

    def __call__(self, x_0: Tensor) -> Tensor:
        """Sum of the rewards."""
        return torch.stack([part(x_0) for part in self.parts]).sum(0)

    def lift(self, law: Any) -> Tensor:
        """One part after the other, each under the law that the earlier ones left."""
        closed, rest = self._split()
        pending = [*closed, *rest]
        total = pending[0].lift(law)
        for before, part in itertools.pairwise(pending):
            law = before.absorb(law)
            total = total + part.lift(law)
        return total

    def absorb(self, law: Any) -> Any:
        """Every part in turn."""
        closed, rest = self._split()
        for part in (*closed, *rest):
            law = part.absorb(law)
        return law

    @property
    def batch(self) -> int:
        """The most of any part."""
        return max(part.batch for part in self.parts)

    def per(self, particles: int) -> "All":
        """Every part repeated."""
        return All([part.per(particles) for part in self.parts])

    @property
    def tractable(self) -> Potential | None:
        """The closed parts alone: what a proposal can absorb; None if there are none."""
        closed, _ = self._split()
        return All(closed) if closed else None

    def _split(self) -> tuple[list[Potential], list[Potential]]:
        """Closed parts, and at most one that stands for the sum of the others."""
        closed = [part for part in self.parts if part.closed]
        rest = [part for part in self.parts if not part.closed]
        together = Reward(lambda x_0: torch.stack([part(x_0) for part in rest]).sum(0))
        return closed, rest if len(rest) < 2 else [rest[0].like(together)]

    def __rmul__(self, weight: float) -> "All":
        """Every part tempered."""
        return All([weight * part for part in self.parts])


@dataclass(frozen=True)
class Complement(Potential):
    """Not this: r = log(1 - exp p) for a potential p that is a log-probability, and h = 1 - h_p at every noise level.

    Attributes:
        potential: p, at most 0 everywhere.

    Checked by: tests/guidance/test_potentials.py::test_negation_is_one_minus_h
    """

    potential: Potential

    def __call__(self, x_0: Tensor) -> Tensor:
        """Log(1 - exp p).

        Raises:
            PotentialError: p is above 0 somewhere: no probability, so it has no complement.
        """
        return _log1mexp(self.potential(x_0))

    def lift(self, law: Any) -> Tensor:
        """Log(1 - h): exact wherever the potential's own lift is."""
        return _log1mexp(self.potential.lift(law))

    @property
    def batch(self) -> int:
        """Those of the potential inside."""
        return self.potential.batch

    def per(self, particles: int) -> "Complement":
        """Repeated."""
        return Complement(self.potential.per(particles))

    def __invert__(self) -> Potential:
        """Twice not is the potential itself."""
        return self.potential


def checked(potential: Any) -> Potential:
    """The potential itself.

    Raises:
        PotentialError: it is a bare function, or something else.
    """
    if isinstance(potential, Potential):
        return potential
    raise PotentialError(
        f"what is wanted is a potential, and {type(potential).__name__} is none; wrap a function of events in guidance.Reward"
    )


def _stack(looks: list[Likelihood]) -> Likelihood:
    rows = max(p.y.shape[0] for p in looks)
    y = torch.cat([p.y.expand(rows, -1) for p in looks], 1)
    variance = torch.cat([p.variance.expand(p.y.shape[1]) for p in looks])
    same = len({float(v) for v in variance}) == 1
    return Likelihood(Stacked([p.look for p in looks]), y, variance[:1] if same else variance, sum(p.constant for p in looks))  # pyright: ignore[reportArgumentType]


def _log1mexp(p: Tensor) -> Tensor:
    """Log(1 - e^p) for p <= 0, accurate at both ends."""
    if p.device.type == "cpu" and bool((p > 1e-6).any()):
        raise PotentialError(
            f"only a log-probability has a complement, and this potential reaches {float(p.max()):.3g} > 0; negate labels and "
            "constraints, and give a reward the other sign instead"
        )
    p = p.clamp_max(0)
    near = p > -0.6931  # each formula sees only its own side: the other's infinite slope would make the gradient NaN
    return torch.where(near, (-torch.expm1(torch.where(near, p, -1.0))).log(), torch.log1p(-torch.where(near, -1.0, p).exp()))
