r"""Samples made to obey, with a report of what that took.

.. math:: x \mapsto P x, \qquad W_2(\text{law of } P X,\ \text{law of } X)^2 = E |X - P X|^2 = \min \{W_2^2 : \text{law on } C\}

Projection keeps what lies inside as it is and puts the mass from outside on the boundary. That is *not* the law given that X
lies in C (steer for that); it is the nearest law on C. The share that moved is the mass on the boundary, and says how much the
model knew of the constraint.

Checked by: tests/guidance/test_constraints.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError, PotentialError, ShapeError
from undrift.grids import Grid
from undrift.guidance.constraints.base import Constraint
from undrift.guidance.rescale import check_numbers
from undrift.protocols import Denoiser, Sampler

__all__ = ["Constrained", "Enforced", "Projection", "constrained"]


@dataclass(frozen=True)
class Enforced:
    """Samples that satisfy a constraint, and how far each had to move.

    Attributes:
        x: shape (B, *E); `contains` holds for every one.
        moved: whether it lay outside, shape (B,).
        distance: Euclidean distance it was moved, over the whole event, codec units, float64, shape (B,).
    """

    x: Tensor
    moved: Tensor
    distance: Tensor

    @property
    def share(self) -> float:
        """Share of samples that were moved: the mass put on the boundary."""
        return float(self.moved.double().mean())

    @property
    def mean_distance(self) -> float:
        """Mean distance over all samples, those that stayed counting 0."""
        return float(self.distance.mean())

    @property
    def largest_distance(self) -> float:
        """The farthest that a sample was moved."""
        return float(self.distance.max())


def one_set(constraint: Any) -> None:
    """Refuse what has no projection.

    Raises:
        PotentialError: not a constraint; says how several are held together.
    """
    if not isinstance(constraint, Constraint):
        raise PotentialError(
            f"a projection is on one constraint, and {type(constraint).__name__} is none; join several convex ones with "
            "guidance.Intersection([...]) (& joins what is lifted or weighed, not projections)"
        )


def constrained(x: Tensor, constraint: Any) -> Enforced:
    """Project samples on a constraint.

    Args:
        x: samples, shape (B, *E).
        constraint: the set.

    Returns:
        The projected samples, every one of which the constraint contains, and the report.

    Raises:
        PotentialError: some sample could not be projected (it was not finite, or the projection failed); names the first.

    Checked by: tests/guidance/test_constraints.py::test_the_share_moved_is_the_mass_outside,
        tests/guidance/test_constraints.py::test_no_sample_of_a_run_violates
    """
    one_set(constraint)
    moved = ~constraint.contains(x)
    y = constraint.project(x)
    missed = ~constraint.contains(y)
    if bool(missed.any()):
        first = int(missed.nonzero()[0])
        raise PotentialError(
            f"{int(missed.sum())} of {len(x)} samples could not be put in the {type(constraint).__name__} (first: "
            f"sample {first}, {'finite' if bool(torch.isfinite(x[first]).all()) else 'not finite'}): look for NaN, use "
            "float64 where bounds are closer than a dtype resolves, raise sweeps= of an Intersection, or mend the "
            "projection that was given"
        )
    return Enforced(y, moved, (y.double() - x.double()).flatten(1).norm(dim=1))


@dataclass(frozen=True)
class Projection(Constraint):
    """A set given by its projection.

    Attributes:
        onto: the nearest event in the set, (B, *E) -> (B, *E), each row on its own.
        within: whether an event is in the set, (B, *E) -> (B,) boolean; true of everything that `onto` answers.

    In an `Intersection` the set must be convex; that is taken on trust.

    Checked by: tests/guidance/test_constraints.py::test_a_projection_of_ones_own_is_held_to_its_word
    """

    onto: Callable[[Tensor], Tensor]
    within: Callable[[Tensor], Tensor]

    def inside(self, x: Tensor) -> Tensor:
        """As given.

        Raises:
            ShapeError: not one boolean per event.
        """
        answer = self.within(x)
        if answer.shape != x.shape[:1] or answer.dtype != torch.bool:
            raise ShapeError(
                f"membership is one boolean per event, shape ({x.shape[0]},); got {answer.dtype} of shape {tuple(answer.shape)}"
            )
        return answer

    def nearest(self, x: Tensor) -> Tensor:
        """As given.

        Raises:
            ShapeError: events of another shape.
        """
        y = self.onto(x)
        if y.shape != x.shape:
            raise ShapeError(f"a projection keeps the shape of events, {tuple(x.shape)}; got {tuple(y.shape)}")
        return y.to(x)


@dataclass(frozen=True)
class Constrained:
    """A sampler whose last state is projected; all states before are the inner sampler's own.

    The law that results is the inner sampler's, pushed through the projection: unchanged inside, the mass from outside on the
    boundary. States on the way are noisy and obey nothing, so nothing is projected there. Steer as well (`guidance.twist`) to
    draw the law given the constraint; the projection then moves rounding alone.

    Attributes:
        sampler: the sampler inside.
        constraint: the set, at the clean end.

    Raises:
        PotentialError: no constraint.
        GridError: when planned, a grid that does not end at t = 0.
        FamilyError: when planned, a path of symbols.

    Checked by: tests/guidance/test_constraints.py::test_no_sample_of_a_run_violates,
        tests/guidance/test_constraints.py::test_the_wrapper_is_the_sampler_and_one_projection
    """

    sampler: Sampler
    constraint: Any

    def __post_init__(self) -> None:
        one_set(self.constraint)

    @property
    def family(self) -> Any:
        """That of the sampler inside."""
        return self.sampler.family

    @property
    def order(self) -> int:
        """That of the sampler inside: a projection brings no two states farther apart."""
        return self.sampler.order

    def calls(self, grid: Grid) -> int:
        """Those of the sampler inside."""
        return self.sampler.calls(grid)

    def plan(self, path: Any, grid: Grid) -> tuple[Any, int]:
        """The plan of the sampler inside, and the index of the last step."""
        check_numbers(path, "a constraint")
        if grid.times[-1] != 0:
            raise GridError(
                f"a constraint holds at the clean end, and this grid stops at t = {grid.times[-1]:g}, where states are noisy; "
                "end it at 0, or project what you take for samples (guidance.constrained)"
            )
        return self.sampler.plan(path, grid), grid.steps - 1

    def init(self, x: Tensor) -> Any:
        """That of the sampler inside."""
        return self.sampler.init(x)

    def step(
        self, denoiser: Denoiser, plan: tuple[Any, int], i: int, x: Tensor, state: Any, rng: Random
    ) -> tuple[Tensor, Any, Any]:
        """The inner step; the last one projected.

        Raises:
            PotentialError: a sample cannot be projected.
        """
        inner, last = plan
        x, state, law = self.sampler.step(denoiser, inner, i, x, state, rng)
        return (constrained(x, self.constraint).x if i == last else x), state, law
