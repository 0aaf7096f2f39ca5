r"""Parallel in time: all steps of a window at once, by Picard iteration on a one-call solver.

A deterministic one-call solver steps by :math:`x_{i+1} = a_i x_i + b_i \hat x_0(x_i, t_i)`. A sweep asks for the clean end at
all states of a window in one batched call, and runs the steps again with these answers held fixed,

.. math:: x_{i+1}^{new} = a_i x_i^{new} + b_i\, \hat x_0(x_i^{old}, t_i).

After k sweeps the first k states are those of the solver itself, exactly, so it never takes more sweeps than there are steps;
and far fewer where the steps are fine. The window then slides past the leading states that moved, in the last sweep, by no
more than the tolerance, each by itself, in units of :math:`\sqrt{\alpha^2 + \sigma^2}` (root mean square over a sample: codec
units at t = 0). New states at its end are guessed with the last answer. Every sample has a window of its own and slides alone.

It trades calls for latency: a sweep is one call on up to window * B states. All n + 1 states are kept until the end.

Source: Shih et al. 2023 (2305.16317, ParaDiGMS), algorithm 1; here with the linear part exact, and by sample.
Checked by: tests/gaussian/test_picard.py
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random, pad
from undrift.errors import GridError
from undrift.gaussian.denoiser import rows
from undrift.gaussian.solvers.affine import AffineSolver
from undrift.gaussian.solvers.ddim import DDIM
from undrift.gaussian.solvers.plan import Plan
from undrift.grids import Grid
from undrift.laws import Point
from undrift.protocols import Denoiser

__all__ = ["Picard", "Swept"]


@dataclass(frozen=True)
class Swept:
    """The states so far.

    Attributes:
        states: of every time of the grid, shape (n + 1, B, *E); known up to `known`, guessed in the window after it.
        means: clean ends that made them, shape (n, B, *E).
        known: index of the last known state by sample, shape (B,).
        sweeps: batched calls so far.
        evaluations: denoised states by sample, shape (B,).
    """

    states: Tensor
    means: Tensor
    known: Tensor
    sweeps: int
    evaluations: Tensor


@dataclass(frozen=True)
class PicardPlan:
    """Numbers of all steps: times (n + 1,), a and b (n,), norms (n + 1,), float64."""

    times: Tensor
    a: Tensor
    b: Tensor
    norm: Tensor


@dataclass(frozen=True)
class Picard:
    """Picard sweeps over a sliding window; deterministic, within the tolerance of `solver`.

    The denoiser must be able to serve some rows of its batch (method `rows`).

    Attributes:
        solver: a deterministic one-call solver: DDIM() or ExponentialIntegrator(0).
        window: steps asked for at once, >= 1.
        tolerance: change of a state in a sweep at which it is known, codec units; 0 gives the solver's own states.
        report: gets `Swept` when the last state is known.

    Raises:
        GridError: a random solver, a window below 1, a negative tolerance.
        ShapeError: in `step`, the denoiser has no `rows`.
    """

    solver: AffineSolver = field(default_factory=DDIM)
    window: int = 16
    tolerance: float = 1e-3
    report: Callable[[Swept], None] | None = None

    def __post_init__(self) -> None:
        if getattr(self.solver, "stochasticity", 1.0) != 0:
            raise GridError(
                f"Picard sweeps need a solver without noise, got {self.solver}; give DDIM() or ExponentialIntegrator(0)"
            )
        if self.window < 1 or not self.tolerance >= 0:
            raise GridError(f"Picard needs window >= 1 and tolerance >= 0, got {self.window} and {self.tolerance:g}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """That of the solver."""
        return self.solver.order

    def calls(self, grid: Grid) -> int:
        """The least it can be, one a window; at most one a step; `report` says what it was."""
        return -(-grid.steps // self.window)

    def plan(self, path: Any, grid: Grid) -> PicardPlan:
        """The solver's own coefficients."""
        plan: Plan = self.solver.plan(path, grid)
        times = torch.tensor(grid.times, dtype=torch.float64)
        a, b, _ = torch.tensor(plan.rows, dtype=torch.float64).unbind(1)
        return PicardPlan(times, a, b, torch.hypot(path.schedule.alpha(times), path.schedule.sigma(times)))

    def init(self, x: Tensor) -> None:
        """Nothing is known before the grid is."""

    def step(
        self, denoiser: Denoiser, plan: PicardPlan, i: int, x: Tensor, state: Swept | None, rng: Random
    ) -> tuple[Tensor, Swept, Any]:
        """Sweep until the state after step i is known for every sample."""
        if state is None:
            state = self._guess(plan, x)
        before = state
        while int(state.known.min()) <= i:
            state = self._sweep(denoiser, plan, state)
        if self.report is not None and state is not before and int(state.known.min()) == len(plan.a):
            self.report(state)
        return state.states[i + 1].clone(), state, Point(state.means[i].clone())

    def _guess(self, plan: PicardPlan, x: Tensor) -> Swept:
        """The start, at every time at its usual size."""
        scale = (plan.norm / plan.norm[0]).to(x).reshape(-1, *([1] * x.ndim))
        count = torch.zeros(x.shape[0], dtype=torch.int64)
        return Swept(scale * x, x.new_zeros((len(plan.a), *x.shape)), count, 0, count)

    def _sweep(self, denoiser: Denoiser, plan: PicardPlan, state: Swept) -> Swept:
        """One batched call, and the steps of the window with its answers."""
        n, batch = len(plan.a), state.known.shape[0]
        at = state.known + torch.arange(self.window)[:, None]  # the steps of every sample's window, shape (window, B)
        which, step = torch.arange(batch).expand(at.shape)[at < n], at[at < n]
        answer = rows(denoiser, which)(state.states[step, which], plan.times[step]).mean
        states, means = state.states.clone(), state.means.clone()
        means[step, which] = answer
        last = (state.known + self.window).clamp(max=n) - 1
        everyone, leading, moved_on = torch.arange(batch), torch.ones(batch, dtype=torch.bool), torch.zeros_like(state.known)
        x = states[state.known, everyone]
        for j in range(min(2 * self.window, n - int(state.known.min()))):
            now = state.known + j
            live = now < n
            now = now.clamp(max=n - 1)
            x_next = pad(plan.a[now], x) * x + pad(plan.b[now], x) * means[torch.minimum(now, last), everyone]
            if j < self.window:
                change = (x_next - states[now + 1, everyone]).flatten(1).square().mean(1).sqrt().to("cpu", torch.float64)
                # The first is exact whatever it was before: it was made from a known state.
                leading &= live & ((change <= self.tolerance * plan.norm[now + 1]) if j else True)
                moved_on += leading
            keep = live.to(x.device)
            states[now[live] + 1, everyone[live]] = x_next[keep]
            x = torch.where(pad(keep.to(x.dtype), x) > 0, x_next, x)
        evaluations = state.evaluations.index_add(0, which, torch.ones_like(which))
        return Swept(states, means, state.known + moved_on, state.sweeps + 1, evaluations)
