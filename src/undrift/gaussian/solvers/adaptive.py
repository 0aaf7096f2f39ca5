r"""An adaptive solver of the probability-flow ODE: every sample chooses its own steps, to a tolerance in codec units.

In the flow clock :math:`w = \sigma / (\alpha + \sigma)`, finite at both ends, :math:`y = x / (\alpha + \sigma)` moves as
:math:`dy/dw = \hat z - \hat x_0`. At t = 0 it is the sample itself, and at pure noise it is z: an error in y is one of the
sample's size at every time. Ralston's method of order 3 makes the step; its distance to the midpoint method, which shares its
first two calls, is the error,

.. math:: e = h \big( \tfrac29 k_1 - \tfrac23 k_2 + \tfrac49 k_3 \big), \qquad
          \epsilon = \mathrm{rms}_j \frac{|e_j|}{\mathrm{atol} + \mathrm{rtol} \max(|y_j|, |y_j'|)}

over the coordinates j of one sample. A step is accepted if :math:`\epsilon \le 1`; the next is longer or shorter by the PI rule
:math:`0.9\, \epsilon^{-0.7/3} \epsilon_{prev}^{0.4/3}`, kept in [1/5, 5]. No stage sits at a step's end, so the step onto
sigma = 0 is like any other.

The tolerance is per step; over the whole way the error is a small multiple of it and proportional to it.

Sources: Ralston 1962; Hairer, Noersett and Wanner 1993, section II.4; Gustafsson 1991 (PI control); Song et al. 2021
(2011.13456), section 4.3 (adaptive sampling of this ODE).
Checked by: tests/gaussian/test_adaptive.py (error against tolerance, neighbours, calls, refusals)
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random, pad
from undrift.errors import GridError, NonFiniteError
from undrift.gaussian.denoiser import rows
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.gaussian.solvers.stages import CLOCKS
from undrift.grids import Grid
from undrift.laws import Point
from undrift.protocols import Denoiser
from undrift.schedules import Schedule
from undrift.simulate import check_family

__all__ = ["Adaptive", "Spent"]

_C = (0.0, 1 / 2, 3 / 4)
_B = (2 / 9, 1 / 3, 4 / 9)
_FIRST = 0.1  # first step tried, in w; a wrong guess costs a few rejected steps
_CLOCK = CLOCKS["flow"]


@dataclass(frozen=True)
class Spent:
    """What the way so far has cost.

    Attributes:
        calls: calls of the denoiser, each on the samples that needed one.
        evaluations: the same by sample, shape (B,).
        rejected: steps that were made again, by sample, shape (B,).
        length: step in w that each sample tries next, shape (B,).
        error: epsilon of the last accepted step, shape (B,).
    """

    calls: int
    evaluations: Tensor
    rejected: Tensor
    length: Tensor = field(repr=False)
    error: Tensor = field(repr=False)


@dataclass(frozen=True)
class Adaptive:
    """Runge-Kutta 3(2) with error control by sample; deterministic. The grid says where to stop, not how far to step.

    A denoiser that can serve some rows of its batch (method `rows`) is called on the unfinished samples alone. Others are
    called on all, and what they say of finished samples is dropped. Every step waits for the device: its length depends on
    what was found.

    Attributes:
        atol: error allowed a step, codec units.
        rtol: error allowed a step, as a share of the state.
        max_calls: most evaluations of one sample between two times of the grid.
        report: gets `Spent` whenever a time of the grid is reached.

    Raises:
        GridError: a tolerance that is negative, or both zero; in `step`, one that cannot be met.
    """

    atol: float = 1e-3
    rtol: float = 1e-3
    max_calls: int = 3000
    report: Callable[[Spent], None] | None = None

    def __post_init__(self) -> None:
        if not (self.atol >= 0 and self.rtol >= 0 and self.atol + self.rtol > 0):
            raise GridError(
                f"Adaptive needs atol, rtol >= 0 and one of them positive, got {self.atol:g} and {self.rtol:g}; 1e-3 suits "
                "data of about unit variance"
            )
        if self.max_calls < 3:
            raise GridError(f"Adaptive needs max_calls >= 3, one step, got {self.max_calls}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """None: the error follows the tolerance, not the grid (and the steps are of order 3)."""
        return 0

    def calls(self, grid: Grid) -> int:
        """The least it can be, three between two times; `report` says what it was."""
        return 3 * grid.steps

    def plan(self, path: Any, grid: Grid) -> tuple[Schedule, Plan]:
        """The schedule, and for every interval w at both ends."""
        check_family(self, path)
        pair = [(path.schedule.alpha(u), path.schedule.sigma(u)) for u in ends(grid)]
        start = torch.where(pair[0][1] > 0, _CLOCK.tau(*pair[0]), torch.inf)  # without noise there is no slope to start with
        return path.schedule, tabulate(self, path, grid, (start, _CLOCK.tau(*pair[1])))

    def init(self, x: Tensor) -> Spent:
        """Nothing spent, and a first guess of the step."""
        count = torch.zeros(x.shape[0], dtype=torch.int64)
        one = torch.ones(x.shape[0], dtype=torch.float64)
        return Spent(0, count, count, _FIRST * one, one)

    def step(
        self, denoiser: Denoiser, plan: tuple[Schedule, Plan], i: int, x: Tensor, state: Spent, rng: Random
    ) -> tuple[Tensor, Spent, Any]:
        """From one time of the grid to the next, by as many steps as each sample needs."""
        if max(self.atol, self.rtol) < 8 * torch.finfo(x.dtype).eps:
            raise GridError(
                f"a tolerance of atol = {self.atol:g}, rtol = {self.rtol:g} is below what {x.dtype} resolves; start from a "
                "float64 state, or raise the tolerance"
            )
        way = _Way(self, denoiser, plan[0], plan[1], i, x, state)
        while bool(way.active.any()):
            way.advance()
        if self.report is not None:
            self.report(way.spent)
        return way.x, way.spent, Point(way.mean)


class _Way:
    """The samples between two times of the grid, each at its own w."""

    def __init__(self, settings: Adaptive, denoiser: Denoiser, schedule: Schedule, plan: Plan, i: int, x: Tensor, spent: Spent):
        self.settings, self.denoiser, self.schedule, self.x = settings, denoiser, schedule, x.clone()
        self.times, self.index, self.spent = (float(plan.times[i]), float(plan.times[i + 1])), i, spent
        self.start, self.end = plan.rows[i]
        self.w = torch.full(x.shape[:1], self.start, dtype=torch.float64)
        self.active = torch.ones(x.shape[0], dtype=torch.bool)
        self.stale = self.active.clone()  # the slope at (x, w) is not known yet
        self.grow = self.active.clone()  # not straight after a rejected step
        self.used = torch.zeros(x.shape[0], dtype=torch.int64)
        self.mean, self.first = x.clone(), x.clone()
        self.asked_x, self.asked_t = x.clone(), self.time(self.w)

    def time(self, w: Tensor) -> Tensor:
        """The path's time, exact at both ends."""
        t = self.schedule.time(-2 * _CLOCK.noise(w).log())
        return torch.where(w == self.start, self.times[0], torch.where(w == self.end, self.times[1], t))

    def slope(self, x: Tensor, w: Tensor, which: Tensor) -> Tensor:
        """z_hat - x0_hat of some samples; one call."""
        t = self.time(w)
        if hasattr(self.denoiser, "rows"):
            mean = rows(self.denoiser, which)(x, t).mean
        else:
            self.asked_x[which], self.asked_t[which] = x, t
            mean = self.denoiser(self.asked_x.clone(), self.asked_t.clone()).mean[which.to(x.device)]
        self.mean[which], self.used[which] = mean, self.used[which] + 1
        evaluations = self.spent.evaluations.index_add(0, which, torch.ones_like(which))
        self.spent = replace(self.spent, calls=self.spent.calls + 1, evaluations=evaluations)
        p, r = _CLOCK.parts(*self.pair(t))
        return pad(p, x) * x + pad(r, x) * mean

    def pair(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Alpha and sigma."""
        return self.schedule.alpha(t), self.schedule.sigma(t)

    def norm(self, w: Tensor, x: Tensor) -> Tensor:
        """Alpha + sigma, shaped to multiply x."""
        return pad(_CLOCK.norm(*self.pair(self.time(w))), x)

    def advance(self) -> None:
        """One step of every unfinished sample, accepted or not."""
        fresh = torch.nonzero(self.active & self.stale).flatten()
        if len(fresh):
            self.first[fresh] = self.slope(self.x[fresh], self.w[fresh], fresh)
        which = torch.nonzero(self.active).flatten()
        x, w, left = self.x[which], self.w[which], self.end - self.w[which]
        length = self.spent.length[which]
        whole = length >= left.abs()
        h = torch.where(whole, left, length * left.sign())
        y, slopes = x / self.norm(w, x), [self.first[which]]
        for c in _C[1:]:
            at = w + c * h
            slopes.append(self.slope((y + pad(c * h, x) * slopes[-1]) * self.norm(at, x), at, which))
        there = torch.where(whole, self.end, w + h)
        ahead = y + pad(h, x) * sum(b * k for b, k in zip(_B, slopes, strict=True))
        error = self.error(y, ahead, pad(h, x) * (_B[0] * slopes[0] + (_B[1] - 1) * slopes[1] + _B[2] * slopes[2]))
        self.judge(which, h, error, there, ahead * self.norm(there, x))

    def error(self, y: Tensor, ahead: Tensor, gap: Tensor) -> Tensor:
        """Epsilon of every sample, float64 on the CPU."""
        scale = self.settings.atol + self.settings.rtol * torch.maximum(y.abs(), ahead.abs())
        return (gap / scale).flatten(1).square().mean(1).sqrt().to("cpu", torch.float64)

    def judge(self, which: Tensor, h: Tensor, error: Tensor, there: Tensor, ahead: Tensor) -> None:
        """Accept or reject, and choose the next lengths."""
        good = error <= 1
        arrived = good & (there == self.end)
        self.check(which, error, ~arrived)
        safe = error.clamp_min(1e-10)
        ratio = 0.9 * torch.where(good, safe ** (-0.7 / 3) * self.spent.error[which] ** (0.4 / 3), safe ** (-1 / 3))
        ratio = torch.where(good & self.grow[which], ratio.clamp(0.2, 5.0), ratio.clamp(0.2, 1.0))
        planned, tried = self.spent.length[which], h.abs() * ratio
        # A step cut short at the grid's time says nothing against the longer one that was planned.
        length = self.spent.length.index_put((which,), torch.where(arrived, torch.maximum(planned, tried), tried))
        last = self.spent.error.index_put((which[good],), safe[good])
        rejected = self.spent.rejected.index_add(0, which, (~good).to(torch.int64))
        self.spent = replace(self.spent, length=length, error=last, rejected=rejected)
        moved = which[good]
        self.x[moved], self.w[moved] = ahead[good.to(ahead.device)], there[good]
        self.stale[which], self.grow[which] = good, good
        self.active[which[arrived]] = False

    def check(self, which: Tensor, error: Tensor, unfinished: Tensor) -> None:
        """Refuse what cannot go on, with the sample and the time."""
        broken = ~torch.isfinite(error)
        late = unfinished & (self.used[which] + len(_C) > self.settings.max_calls)
        if not bool((broken | late).any()):
            return
        first = int(torch.nonzero(broken | late)[0, 0])
        sample = int(which[first])
        where = (
            f"sample {sample}, in step {self.index + 1} from t = {self.times[0]:g} to {self.times[1]:g}, at t = "
            f"{float(self.time(self.w)[sample]):g}"
        )
        if bool(broken[first]):
            raise NonFiniteError(
                f"{where}: the denoiser's answer is NaN or infinite; if the network was trained, look for a time outside its "
                "training range"
            )
        raise GridError(
            f"{where}: {int(self.used[sample])} calls were not enough for atol = {self.settings.atol:g}, rtol = "
            f"{self.settings.rtol:g}; raise the tolerance or max_calls, end the grid above t = 0, or use a fixed-step solver "
            "such as gaussian.Heun()"
        )
