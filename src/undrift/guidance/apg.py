r"""Adaptive projected guidance: keep the part of the contrast that turns the answer, damp the part that inflates it.

With the update :math:`\Delta = \hat x^{toward} - \hat x^{away}`, per sample over the whole event,

.. math:: \bar\Delta_t = \Delta_t + \beta\, \bar\Delta_{t+}, \qquad
          \Delta' = \bar\Delta \min(1, r / \|\bar\Delta\|), \qquad
          \Delta'_\parallel = \frac{\langle \Delta', \hat x^{toward} \rangle}{\|\hat x^{toward}\|^2}\, \hat x^{toward}

.. math:: \hat x_0 = \hat x^{toward} + (w - 1)\, (\Delta'_\perp + \eta\, \Delta'_\parallel)

where t+ is the step before. It acts on the clean mean, as in the paper. eta = 1, r infinite and beta = 0 is guidance itself.

beta is memory, and memory lives in the sampler's state: `Projected` is a guide and has beta = 0; `Momentum` is a sampler that
wraps another one. A memory has a length in *steps*. With fine steps the running sum tends to :math:`\Delta / (1 - \beta)`, so
the paper's beta < 0 weakens guidance as well as damping its changes: -0.5 takes a third off w - 1.

Source: Sadat et al. 2024 (2410.02416), section 4 and algorithm 1. Checked by: tests/guidance/test_apg.py
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import FamilyError, GridError, LawError
from undrift.grids import Grid
from undrift.guidance.contrast import Guided
from undrift.guidance.rescale import check_numbers
from undrift.guidance.strength import at, plainly
from undrift.laws import Point
from undrift.laws.parts import strength
from undrift.protocols import Denoiser, Sampler
from undrift.typing import State, Time

__all__ = ["Momentum", "Projected"]


def split(update: State, direction: State) -> tuple[State, State]:
    """The parts of `update` along and across `direction`, per sample over the whole event; their sum is `update`."""
    axes = tuple(range(1, update.ndim))
    length = direction.square().sum(axes, keepdim=True)
    share = torch.where(length > 0, (update * direction).sum(axes, keepdim=True) / length, 0.0)  # nothing lies along 0
    along = share * direction
    return along, update - along


@runtime_checkable
class Remembering(Protocol):
    """A denoiser whose answer may depend on what it answered before, which the caller keeps."""

    @property
    def path(self) -> Any:
        """The path it was made for."""
        ...

    def recall(self, x_t: Tensor, t: Time, before: Tensor | None, momentum: float) -> tuple[Any, Tensor | None]:
        """The law, and what to remember."""
        ...


@dataclass(frozen=True)
class Projected:
    """Projected guidance without memory.

    Attributes:
        guided: what `cfg` or `autoguidance` answered.
        along: eta, the share kept of the part along the wanted mean; 1 keeps all, 0 (the paper's) none.
        radius: r, longest update in codec units over the whole event, > 0; infinite for no limit.

    Raises:
        FamilyError: a path of symbols.
        LawError: a radius that is not positive.

    Checked by: tests/guidance/test_apg.py::test_each_part_is_what_the_paper_says,
        tests/guidance/test_apg.py::test_without_shaping_it_is_guidance
    """

    guided: Guided
    along: float = 0.0
    radius: float = math.inf

    def __post_init__(self) -> None:
        check_numbers(self.guided.path, "projected guidance")
        if not self.radius > 0:
            raise LawError(f"the radius of an update is > 0, got {self.radius:g}; for no guidance set scale=1")

    @property
    def path(self) -> Any:
        """The path of the guidance."""
        return self.guided.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        """Projected guided mean, a `Point`; at scale 1 the wanted law itself, for one call."""
        return self.recall(x_t, t, None, 0.0)[0]

    def recall(self, x_t: Tensor, t: Time, before: Tensor | None, momentum: float) -> tuple[Any, Tensor | None]:
        """The law, and the running update; at scale 1 there is no update and the memory stays as it was.

        Args:
            x_t: state, shape (B, *E).
            t: time, shape () or (B,).
            before: running update of the step before, shape (B, *E), or None.
            momentum: beta.
        """
        scale = at(self.guided.scale, t, x_t.shape[0])
        if plainly(scale, 1.0):
            return self.guided.contrast.toward(x_t, t), before
        toward, away = (law.mean for law in self.guided.contrast.both(x_t, t))
        running = toward - away if before is None else torch.add(toward - away, before, alpha=momentum)
        update = running
        if self.radius < math.inf:
            length = running.flatten(1).norm(dim=1).reshape(-1, *([1] * (running.ndim - 1)))
            update = running * (self.radius / length).clamp_max(1.0)
        along, across = split(update, toward)
        return Point(toward + (strength(scale, toward) - 1) * torch.add(across, along, alpha=self.along)), running


@dataclass(frozen=True)
class Momentum:
    """A sampler that remembers the updates of a `Projected` guide, around one that asks once a step.

    Attributes:
        sampler: the sampler inside, one call a step, best a deterministic one.
        momentum: beta, |beta| < 1; the paper's are -0.75 to -0.25, 0 is the sampler inside.

    Raises:
        LawError: |momentum| >= 1, whose memory never fades.

    Checked by: tests/guidance/test_apg.py::test_momentum_is_the_papers_running_sum,
        tests/guidance/test_apg.py::test_fine_steps_forget_all_but_a_weaker_scale
    """

    sampler: Sampler
    momentum: float

    def __post_init__(self) -> None:
        if not abs(self.momentum) < 1:
            raise LawError(f"momentum lies in (-1, 1), got {self.momentum:g}; -0.5 is the paper's")

    @property
    def family(self) -> str:
        """That of the sampler inside."""
        return self.sampler.family

    @property
    def order(self) -> int:
        """1: the memory lags by a step."""
        return 1

    def calls(self, grid: Grid) -> int:
        """Those of the sampler inside."""
        return self.sampler.calls(grid)

    def plan(self, path: Any, grid: Grid) -> Any:
        """The plan of the sampler inside.

        Raises:
            GridError: that sampler asks more than once a step.
        """
        if self.sampler.calls(grid) != grid.steps:
            raise GridError(
                f"{type(self.sampler).__name__} asks {self.sampler.calls(grid)} times in {grid.steps} steps, and a memory of "
                "updates needs one question a step; use DDIM() or DPMSolverPP()"
            )
        return self.sampler.plan(path, grid)

    def init(self, x: Tensor) -> tuple[Any, None]:
        """The inner state, and no memory."""
        return self.sampler.init(x), None

    def step(
        self, denoiser: Denoiser, plan: Any, i: int, x: Tensor, state: tuple[Any, Tensor | None], rng: Random
    ) -> tuple[Tensor, tuple[Any, Tensor | None], Any]:
        """The inner step on the remembered law.

        Raises:
            FamilyError: the denoiser has no updates to remember.
        """
        if not isinstance(denoiser, Remembering):
            raise FamilyError(
                f"Momentum remembers the updates of projected guidance, and {type(denoiser).__name__} has none; wrap the "
                "guidance in guidance.Projected, or use the sampler inside"
            )
        inner, before = state
        once = _Recalled(denoiser, before, self.momentum)
        x, inner, law = self.sampler.step(once, plan, i, x, inner, rng)
        return x, (inner, once.running), law


@dataclass
class _Recalled:
    """A remembering denoiser for one question; keeps what is to be remembered for the caller, who made it for that."""

    denoiser: Remembering
    before: Tensor | None
    momentum: float
    running: Tensor | None = None

    @property
    def path(self) -> Any:
        return self.denoiser.path

    def __call__(self, x_t: Tensor, t: Time) -> Any:
        law, self.running = self.denoiser.recall(x_t, t, self.before, self.momentum)
        return law
