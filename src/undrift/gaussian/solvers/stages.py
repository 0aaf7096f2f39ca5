r"""Steps of several calls: every stage is a weighted sum of the step's start and the posterior means found so far.

Along the probability-flow ODE :math:`x = \alpha \hat x_0 + \sigma \hat z` moves as :math:`dx = \hat x_0\, d\alpha +
\hat z\, d\sigma`. Dividing by a norm n leaves one quantity q and the clock tau in which it is integrated,

.. math:: \frac{x_s}{n_s} = \frac{x_t}{n_t} + \int_{\tau_t}^{\tau_s} q\, d\tau

=======  ====================================  =============================  =======================  ===============
clock    quantity q                            norm n                         tau                      infinite at
=======  ====================================  =============================  =======================  ===============
signal   :math:`\hat x_0`                      sigma                          alpha / sigma            sigma = 0
noise    :math:`\hat z`                        alpha                          sigma / alpha            alpha = 0
angle    :math:`(a \hat z - s \hat x_0) / n`   sqrt(alpha^2 + sigma^2)        atan2(sigma, alpha)      nowhere
flow     :math:`\hat z - \hat x_0`             alpha + sigma                  sigma / (alpha + sigma)  nowhere
=======  ====================================  =============================  =======================  ===============

A method writes its stages as :math:`x_j = g_j x + \sum_{l<j} w_{jl} q_l`. Since :math:`q = p x + r \hat x_0` with numbers p
and r, every stage is also a sum of x and the posterior means. `unfold` finds those numbers once a grid, so that a stage costs
one call and one fused operation a term.

Where sigma = 0 the noise is not determined by the state, so no stage may sit there.

Checked by: tests/gaussian/test_runge_kutta.py (the table by finite differences along an exact flow; stages by hand)
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.gaussian.solvers.plan import ends, tabulate
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.schedules import Schedule
from undrift.simulate import check_family

__all__ = ["CLOCKS", "Clock", "StagedPlan", "StagedSolver", "unfold"]


@dataclass(frozen=True)
class Clock:
    """A row of the table; each function takes alpha and sigma, float64 of one shape.

    Attributes:
        norm: n.
        tau: the clock.
        noise: tau -> sigma / alpha, its inverse.
        parts: (p, r) with q = p x + r x0_hat.
    """

    norm: Callable[[Tensor, Tensor], Tensor]
    tau: Callable[[Tensor, Tensor], Tensor]
    noise: Callable[[Tensor], Tensor]
    parts: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def between(self, schedule: Schedule, t: Tensor, s: Tensor, share: float) -> Tensor:
        """The time at which the clock has gone this share of the way from t to s, shape (n,)."""
        if share in (0, 1):  # not through the inverse, which rounds
            return s if share else t
        before, after = (self.tau(schedule.alpha(u), schedule.sigma(u)) for u in (t, s))
        return schedule.time(-2 * self.noise(torch.lerp(before, after, share)).log())


CLOCKS: dict[str, Clock] = {
    "signal": Clock(
        lambda a, s: s,
        lambda a, s: a / s,
        lambda tau: 1 / tau,
        lambda a, s: (torch.zeros_like(a), torch.ones_like(a)),
    ),
    "noise": Clock(
        lambda a, s: a,
        lambda a, s: s / a,
        lambda tau: tau,
        lambda a, s: (1 / s, -a / s),
    ),
    "angle": Clock(
        torch.hypot,
        lambda a, s: torch.atan2(s, a),
        torch.tan,
        lambda a, s: (a / (s * torch.hypot(a, s)), -torch.hypot(a, s) / s),
    ),
    "flow": Clock(
        lambda a, s: a + s,
        lambda a, s: s / (a + s),
        lambda tau: tau / (1 - tau),
        lambda a, s: (1 / s, -(a + s) / s),
    ),
}


def unfold(
    gains: Sequence[Tensor], weights: Sequence[Sequence[Tensor]], parts: Sequence[tuple[Tensor, Tensor]]
) -> list[list[Tensor]]:
    """Stages as sums of the start and of posterior means.

    Args:
        gains: g_j of stages 1..k, the last of which is the step's result, each of shape (n,).
        weights: w_jl of stages 1..k, l < j.
        parts: (p_l, r_l) of q_l = p_l x_l + r_l x0_hat_l, l = 0..k - 1.

    Returns:
        For stages 1..k: [weight of x, weight of mean 0, ..., weight of mean j - 1].
    """
    made: list[list[Tensor]] = [[torch.ones_like(gains[0])]]
    for gain, row in zip(gains, weights, strict=True):
        stage = [gain, *(torch.zeros_like(gain) for _ in row)]
        for weight, (p, r), earlier, of_mean in zip(row, parts, made, range(1, len(row) + 1), strict=False):
            for i, value in enumerate(earlier):
                stage[i] = stage[i] + weight * p * value
            stage[of_mean] = stage[of_mean] + weight * r
        made.append(stage)
    return made[1:]


@dataclass(frozen=True)
class StagedPlan:
    """What each step does.

    Attributes:
        steps: for every step, for every call: the time to ask at, and the weights of x and of all means so far in what comes
            next (the next stage, or the step's result).
    """

    steps: tuple[tuple[tuple[Tensor, tuple[float, ...]], ...], ...]


Columns = list[tuple[Tensor, list[Tensor]]]


class StagedSolver(ABC):
    """A deterministic solver whose step makes a known number of calls."""

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @abstractmethod
    def stages(self, schedule: Schedule, t: Tensor, s: Tensor) -> list[tuple[Tensor, Columns]]:
        """The steps by kind: (indices of the steps, for every call its times and the weights of what comes next)."""

    def plan(self, path: Any, grid: Grid) -> StagedPlan:
        """Times and weights of all stages."""
        check_family(self, path)
        t, s = ends(grid)
        kinds = self.stages(path.schedule, t, s)
        table = t.new_zeros((grid.steps, 1 + max(sum(1 + len(w) for _, w in columns) for _, columns in kinds)))
        for which, columns in kinds:
            flat = [torch.full_like(t[which], len(columns)), *(c for time, weights in columns for c in (time, *weights))]
            table[which, : len(flat)] = torch.stack(torch.broadcast_tensors(*flat), 1)
        return StagedPlan(tuple(_unpack(row) for row in tabulate(self, path, grid, table).rows))

    def init(self, x: Tensor) -> None:
        """No state."""
        return None

    def step(
        self, denoiser: Denoiser, plan: StagedPlan, i: int, x: Tensor, state: None, rng: Random
    ) -> tuple[Tensor, None, Any]:
        """Ask, sum, ask again; the law is the last one asked for."""
        here, law, means = x, None, []
        for time, (of_start, *of_means) in plan.steps[i]:
            law = denoiser(here, time)
            means.append(law.mean)
            here = x * of_start
            for weight, mean in zip(of_means, means, strict=True):
                if weight != 0:
                    here.add_(mean, alpha=weight)
        return here, None, law


def _unpack(row: tuple[float, ...]) -> tuple[tuple[Tensor, tuple[float, ...]], ...]:
    calls, at = [], 1
    for j in range(int(row[0])):
        calls.append((torch.tensor(row[at], dtype=torch.float64), row[at + 1 : at + 3 + j]))
        at += 3 + j
    return tuple(calls)
