r"""Exponential multistep: the linear part exact, a polynomial through the last answers for the rest.

Of the four quantities q, norms n and clocks tau of `stages`, in which the probability-flow ODE is

.. math:: \frac{x_s}{n_s} = \frac{x_t}{n_t} + \int_{\tau_t}^{\tau_s} q \, d\tau ,

one is chosen, and q is replaced by the polynomial through its last values. The weights, integrals of known functions, are
computed once a grid.

========  ==================================  ======================  =====================
quantity  q                                   tau                     polynomial in
========  ==================================  ======================  =====================
x0        :math:`\hat x_0`                    alpha / sigma           log(alpha / sigma)
eps       :math:`\hat z`                      sigma / alpha           tau
v         :math:`(a \hat z - s \hat x_0)/n`   atan2(sigma, alpha)     tau
velocity  :math:`\hat z - \hat x_0`           sigma / (alpha+sigma)   tau
========  ==================================  ======================  =====================

With x0 it is DPM-Solver++, with eps DEIS, with velocity Adams-Bashforth on a straight flow. The last two clocks are finite from
pure noise to data, so those quantities keep their order onto sigma = 0. The first two are infinite at one end: there x0 makes a
step of order 1, which is DDIM, and eps has no step.

The *corrector* mends a step when the answer at its end is known, with that answer as one more point, and so costs no call:

.. math:: x_i^c = n_i \Big( \frac{x_{i-1}^c}{n_{i-1}} + \int q^{(i, i-1, \dots)}\, d\tau \Big), \qquad
          x_{i+1} = n_{i+1} \Big( \frac{x_i^c}{n_i} + \int q^{(i, i-1, \dots)}\, d\tau \Big)

It also mends the first step, which has no past. Without it, order 3 makes one call more in the first step.

Sources: Lu et al. 2022 (2211.01095), section 4 (x0); Zhang and Chen 2023 (2204.13902), section 4 (eps); Zhao et al. 2023
(2302.04867), section 3 (a corrector without a call). Checked by: tests/gaussian/test_multistep.py and test_solvers.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.gaussian.solvers.stages import CLOCKS, Clock
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["QUANTITIES", "Multistep"]

_NODES, _WEIGHTS = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(32))


class Quantity(NamedTuple):
    """What is extrapolated.

    Attributes:
        clock: norm, clock and q, a row of `stages.CLOCKS`.
        logarithmic: whether it is a polynomial in log tau, not in tau.
    """

    clock: Clock
    logarithmic: bool = False


QUANTITIES: dict[str, Quantity] = {
    "x0": Quantity(CLOCKS["signal"], logarithmic=True),
    "eps": Quantity(CLOCKS["noise"]),
    "v": Quantity(CLOCKS["angle"]),
    "velocity": Quantity(CLOCKS["flow"]),
}
"""Every quantity that can be extrapolated. A new one is one entry."""


@dataclass(frozen=True)
class Multistep:
    """Exponential multistep, deterministic, one call a step.

    Attributes:
        quantity: what is extrapolated, a key of `QUANTITIES`.
        order: of convergence, 1 to 3.
        corrector: mend each step with the answer at its end; needs order 2 or 3.

    Raises:
        GridError: an unknown quantity, or an order out of range.
    """

    quantity: str = "x0"
    order: int = 2
    corrector: bool = False

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise GridError(f"unknown quantity {self.quantity!r}; Multistep extrapolates one of {', '.join(QUANTITIES)}")
        low = 1 + self.corrector
        if self.order not in range(low, 4):
            kind = "with a corrector" if self.corrector else "without a corrector"
            raise GridError(f"Multistep {kind} has order {low} to 3, got {self.order}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def _points(self) -> int:
        """How many answers the predictor uses; the corrector uses one more, so it may leave the last one to it."""
        return self.order - self.corrector

    @property
    def _two_calls_first(self) -> bool:
        """Order 3 cannot start from a step of order 1, unless a corrector mends it."""
        return self._points == 3

    def calls(self, grid: Grid) -> int:
        """One a step, and one more in the first of several if the order is 3 and there is no corrector."""
        return grid.steps + (self._two_calls_first and grid.steps > 1)

    def plan(self, path: Any, grid: Grid) -> Plan:
        """Weights of (x, x_0) in q; of (x, answers) in the corrector, newest first; of (x, answers) in the predictor."""
        check_family(self, path)
        times = torch.tensor(grid.times, dtype=torch.float64)
        alpha, sigma = path.schedule.alpha(times), path.schedule.sigma(times)
        clock, logarithmic = QUANTITIES[self.quantity]
        norm, tau = clock.norm(alpha, sigma), clock.tau(alpha, sigma)
        frozen = path.step_back(*ends(grid), 0.0)[0]
        steps = _Steps(norm, tau.log() if logarithmic else tau, frozen, logarithmic)
        state, clean = clock.parts(alpha, sigma)
        mended = torch.zeros(grid.steps, self._points + 2, dtype=torch.float64)
        if self.corrector or self._two_calls_first:
            mended[1:] = steps.weights(self._points + 1, ahead=1)[:-1]
        columns = torch.cat([state[:-1, None], clean[:-1, None], mended, steps.weights(self._points)], 1)
        plan = tabulate(self, path, grid, columns.unbind(1))
        cut = 4 + self._points
        return Plan(plan.times, tuple((row[:2], row[2:cut], row[cut:]) for row in plan.rows))

    def init(self, x: Tensor) -> tuple[None, tuple[Tensor, ...]]:
        """No mended state and no answers yet."""
        return None, ()

    def step(
        self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: tuple[Tensor | None, tuple[Tensor, ...]], rng: Random
    ) -> tuple[Tensor, Any, Any]:
        """Ask, mend the step that led here, go on; the state is the mended state and the last answers."""
        _, mended, onward = plan.rows[i]
        before, past = state
        law, answers = self._ask(denoiser, plan, i, x, past)
        if self.corrector and before is not None:
            x = _combine(before, answers, mended)
        ahead = _combine(x, answers, onward)
        if self._two_calls_first and i == 0 and len(plan.rows) > 1:
            ahead = _combine(x, self._ask(denoiser, plan, 1, ahead, answers)[1], plan.rows[1][1])
        return ahead, (x if self.corrector else None, answers[: self._points]), law

    def _ask(
        self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, past: tuple[Tensor, ...]
    ) -> tuple[Any, tuple[Tensor, ...]]:
        """The law at x, and its quantity before those of the past."""
        law = denoiser(x, plan.times[i])
        state, clean = plan.rows[i][0]
        return law, (law.mean if (state, clean) == (0, 1) else (x * state).add_(law.mean, alpha=clean), *past)


def _combine(x: Tensor, answers: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weights of x, then of each answer, newest first; one pass for each that counts."""
    x = x * weights[0]
    for answer, weight in zip(answers, weights[1:], strict=False):
        if weight != 0:
            x.add_(answer, alpha=weight)
    return x


class _Steps(NamedTuple):
    """All steps of a grid: norm and clock at its n + 1 times, weight of an answer that is kept over a step, all float64."""

    norm: Tensor
    clock: Tensor
    frozen: Tensor
    logarithmic: bool

    def weights(self, points: int, ahead: int = 0) -> Tensor:
        """Weights of the state and of `points` answers, newest first, shape (n, 1 + points).

        The newest answer is that of the step's start, or with ahead = 1 of its end. Left out are answers before the first, and
        those where the clock is infinite; a step that begins or ends there keeps the answer at its start.
        """
        n = len(self.frozen)
        index = torch.arange(n)[:, None] + ahead - torch.arange(points)
        at = torch.where(index >= 0, self.clock[index], torch.inf)
        known = at.isfinite()
        start, end = self.clock[:-1, None], self.clock[1:, None]
        u = 0.5 * (end + start) + 0.5 * (end - start) * _NODES
        # n_s dtau: the norm, or in the logarithm norm tau_s exp(u - u_s), in which nothing overflows.
        scale = (self.norm * self.clock.exp() if self.logarithmic else self.norm)[1:, None]
        density = scale * (torch.exp(u - end) if self.logarithmic else torch.ones_like(u))
        measure = 0.5 * (end - start) * _WEIGHTS * density
        out = torch.zeros(n, 1 + points, dtype=torch.float64)
        out[:, 0] = self.norm[1:] / self.norm[:-1]
        for j in range(points):
            basis = measure
            for other in set(range(points)) - {j}:
                factor = (u - at[:, other, None]) / (at[:, j, None] - at[:, other, None])
                basis = basis * torch.where(known[:, other, None], factor, 1.0)
            out[:, 1 + j] = torch.where(known[:, j], basis.sum(1), 0.0)
        alone = ~(start.isfinite() & end.isfinite())[:, 0]
        out[alone, 1:] = 0.0
        out[alone, 1 + ahead] = self.frozen[alone]
        return out
