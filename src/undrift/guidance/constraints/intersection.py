r"""Several convex sets at once, by Dykstra's algorithm.

Round after round, for every set with its own correction p_k,

.. math:: y = P_k(x + p_k), \qquad p_k \leftarrow x + p_k - y, \qquad x \leftarrow y,

which converges to the projection on the intersection (projecting alternately without the corrections finds some event in it,
not the nearest). It stops when a round changes the corrections by less than a share of the tolerance; x alone may rest for many
rounds first.

Sources: Boyle and Dykstra 1986; Birgin and Raydan 2005 (when to stop). Checked by: tests/guidance/test_constraints.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from undrift.errors import PotentialError
from undrift.guidance.constraints.base import Constraint, rounding

__all__ = ["Intersection"]

_FINISH = 100
"""Alternating projections at most, to round off what Dykstra leaves."""


@dataclass(frozen=True, eq=False)
class Intersection(Constraint):
    """All of several convex constraints.

    An event counts as inside if every part contains it, or lies within tolerance * (1 + |x|) of it (in low precision: within
    rounding). A projection ends on the last part, which it meets as exactly as that part alone does: put last what must hold to
    the last bit. No gradient flows through the projection.

    Attributes:
        parts: convex constraints.
        shape: event shape E; may be left out if some part knows it.
        tolerance: relative distance from each part.
        sweeps: rounds at most. A few dozen serve sets that meet squarely; a sliver where sets barely meet may take thousands.

    Raises:
        PotentialError: a part that is not convex or holds data per row, no event shape, or no event found that satisfies all
            parts.

    Checked by: tests/guidance/test_constraints.py::test_projections_are_the_nearest_events,
        tests/guidance/test_constraints.py::test_infeasible_constraints_are_refused
    """

    parts: Sequence[Constraint]
    shape: tuple[int, ...] | None = None
    tolerance: float = 1e-9
    sweeps: int = 5000

    def __post_init__(self) -> None:
        rough = [type(part).__name__ for part in self.parts if not part.convex]
        if rough or not self.parts or not self.tolerance > 0 or self.sweeps < 1:
            raise PotentialError(
                f"an intersection takes one or more convex parts, a tolerance > 0 and at least one sweep; got "
                f"{len(self.parts)} parts, of which not convex: {rough}; give an Integer its own bounds, "
                "or project on one after the other"
            )
        if any(part.per(2) is not part for part in self.parts):
            raise PotentialError(
                "a part of an intersection holds one right-hand side per row; make one intersection for each, for rows "
                "converge by themselves"
            )
        shapes = {part.event for part in self.parts if part.event is not None} | ({self.shape} if self.shape else set())
        if len(shapes) != 1:
            raise PotentialError(
                "an intersection needs one event shape, to see at once that it is not empty: say shape=(n,)"
                if not shapes
                else f"parts of an intersection must be on the same events, got shapes {sorted(shapes)}"
            )
        object.__setattr__(self, "shape", shapes.pop())
        probe = torch.zeros(1, *self.shape, dtype=torch.float64)  # pyright: ignore[reportOptionalIterable]
        found = self.nearest(probe)
        if not bool(self.contains(found)):
            names = " and ".join(type(part).__name__ for part in self.parts)
            raise PotentialError(
                f"no event was found in {self.sweeps} rounds that satisfies {names} "
                f"(nearest miss {float(self._misses(found).max()):.3g}): they contradict each other, or meet at a sharp angle; "
                "drop one, or raise sweeps="
            )

    @property
    def event(self) -> tuple[int, ...] | None:
        """Shape of the events."""
        return self.shape

    @property
    def thin(self) -> bool:
        """If a part is."""
        return any(part.thin for part in self.parts)

    def inside(self, x: Tensor) -> Tensor:
        """Within the tolerance of every part."""
        size = 1 + x.double().flatten(1).norm(dim=1)
        slack = max(self.tolerance, rounding(x.dtype, prod(x.shape[1:]))) * size
        return (self._misses(x) <= slack).all(0)

    @torch.no_grad()
    def nearest(self, x: Tensor) -> Tensor:
        """Dykstra's algorithm, each row until it has converged; then alternating projections until every part contains it."""
        done = x.double().clone()
        corrections = [torch.zeros_like(done) for _ in self.parts]
        active = torch.isfinite(done).flatten(1).all(1).nonzero()[:, 0]
        for _ in range(self.sweeps):
            y = done[active]
            changed = y.new_zeros(len(active))
            for part, correction in zip(self.parts, corrections, strict=True):
                before = correction[active]
                aim = y + before
                y = part.project(aim)
                correction[active] = aim - y
                changed += (aim - y - before).flatten(1).square().sum(1)
            done[active] = y
            size = 1 + y.flatten(1).norm(dim=1)
            active = active[changed.sqrt() > 1e-2 * self.tolerance * size]
            if not len(active):
                break
        for _ in range(_FINISH):
            if bool(torch.stack([part.contains(done) for part in self.parts]).all()):
                break
            for part in self.parts:
                done = part.project(done)
        return self.parts[-1].project(done.to(x))

    def _misses(self, x: Tensor) -> Tensor:
        """Distance from every part, shape (parts, B)."""
        wide = x.double()
        return torch.stack([(wide - part.project(wide)).flatten(1).norm(dim=1) for part in self.parts])
