"""The grammar: what a path, a denoiser, an objective and a sampler are. At most four methods each.

*Freeze the law of the clean end, move the clock.* A path knows how clean data becomes noise and, given a law of the clean
end, how to step back. A denoiser says what the clean end could be. Everything else composes.

A protocol stands here only if every family implements it without `NotImplementedError`, an ignored argument or
`isinstance`. What one family alone has (stochasticity, `flip`, velocities) stays in its wing.
"""

from typing import Any, Protocol, TypeVar, runtime_checkable

from torch import Tensor

from undrift.core import Random
from undrift.grids import Grid
from undrift.laws import Clean, Law
from undrift.typing import PerSample, Time

__all__ = ["Conditional", "Denoiser", "Guidable", "Objective", "Path", "Sampler"]


@runtime_checkable
class Path(Protocol):
    """How clean data becomes noise, and the step back.

    Attributes:
        family: name of the wing, "gaussian", "bridge" or "discrete"; samplers say which they serve.
    """

    @property
    def family(self) -> str:
        """Name of the wing."""
        ...

    def prior(self, like: Tensor) -> Law:
        """Law that generation starts from at t = 1, for states shaped (B, *E) and placed like `like`."""
        ...

    def corrupt(self, x_s: Tensor, s: Time, t: Time) -> Law:
        """Law of X_t given X_s = x_s, s < t; s = 0 is the usual case."""
        ...

    def reverse(self, x_t: Tensor, law: Clean, t: Time, s: Time) -> Law:
        """Law of X_s given X_t = x_t when the clean end follows `law`, s < t."""
        ...

    def tilt(self, law: Any, signal: Tensor, t: Time) -> Clean:
        """The clean law under a reward h(x_t): `signal` is the gradient of log h, or log h at neighbouring states."""
        ...


@runtime_checkable
class Denoiser(Protocol):
    """What the clean end could be: `(x_t, t) -> Law`."""

    @property
    def path(self) -> Any:
        """The path it was made for."""
        ...

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Law of the clean end given X_t = x_t, batch shape (B,)."""
        ...


@runtime_checkable
class Conditional(Protocol):
    """A model of many laws: choose one with `given`, so that nothing carries an argument that it ignores."""

    @property
    def path(self) -> Any:
        """The path it was made for."""
        ...

    def given(self, cond: Tensor) -> Denoiser:
        """The denoiser of the clean end given `cond`, one condition per sample."""
        ...


@runtime_checkable
class Guidable(Conditional, Protocol):
    """A conditional model that also knows the condition that says nothing: what label guidance contrasts with."""

    def null(self, cond: Tensor) -> Tensor:
        """Conditions that say nothing, shaped like `cond`."""
        ...


@runtime_checkable
class Objective(Protocol):
    """A loss per sample; its docstring states the unit."""

    def __call__(self, denoiser: Any, batch: Tensor, t: Time, rng: Random) -> PerSample:
        """Unreduced loss, shape (B,)."""
        ...


PlanT = TypeVar("PlanT")


@runtime_checkable
class Sampler(Protocol[PlanT]):
    """Frozen settings of a way to run a path backwards; all state is passed explicitly.

    Attributes:
        family: the wing whose paths it serves, or "any".
        order: declared order of convergence (weak order for random samplers), start-up included.
    """

    @property
    def family(self) -> str:
        """The wing it serves, or "any"."""
        ...

    @property
    def order(self) -> int:
        """Declared order of convergence."""
        ...

    def calls(self, grid: Grid) -> int:
        """Network calls that a grid costs."""
        ...

    def plan(self, path: Any, grid: Grid) -> PlanT:
        """Every coefficient of the whole grid, as plain numbers; raises `FamilyError` for another family's path."""
        ...

    def init(self, x: Tensor) -> Any:
        """State before the first step."""
        ...

    def step(self, denoiser: Denoiser, plan: PlanT, i: int, x: Tensor, state: Any, rng: Random) -> tuple[Tensor, Any, Any]:
        """Step i: the next x, the next state, and the law of the clean end it was made from."""
        ...
