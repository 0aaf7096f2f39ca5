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
v_flow    the same                            atan2(sigma, alpha)     sigma / (alpha+sigma)
velocity  :math:`\hat z - \hat x_0`           sigma / (alpha+sigma)   tau
========  ==================================  ======================  =====================

With x0 it is DPM-Solver++, with eps DEIS, with velocity Adams-Bashforth on a straight flow. The last two clocks are finite from
pure noise to data, so those quantities keep their order onto sigma = 0. The first two are infinite at one end: there x0 makes a
step of order 1, which is DDIM, and eps has no step.

The *corrector* mends a step when the answer at its end is known, with that answer as one more point, and so costs no call:

.. math:: x_i^c = n_i \Big( \frac{x_{i-1}^c}{n_{i-1}} + \int q^{(i, i-1, \dots)}\, d\tau \Big), \qquad
          x_{i+1} = n_{i+1} \Big( \frac{x_i^c}{n_i} + \int q^{(i, i-1, \dots)}\, d\tau \Big)

It also mends the first step, which has no past. Without it, order 3 makes one call more in the first step.

A mended state is never formed: :math:`x_i` and :math:`x_i^c` start from the same :math:`x_{i-1}^c` and differ in the weights of
the answers alone, so :math:`x_{i+1}` is a sum of :math:`x_i` and the last answers too, of one more of them.

Sources: Lu et al. 2022 (2211.01095), section 4 (x0); Zhang and Chen 2023 (2204.13902), section 4 (eps); Zhao et al. 2023
(2302.04867), section 3 (a corrector without a call). Checked by: tests/gaussian/test_multistep.py and test_solvers.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.plan import Plan, combine, tabulate
from undrift.gaussian.solvers.stages import CLOCKS, Clock
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["QUANTITIES", "Multistep"]

# Gauss-Legendre: exact for polynomials of degree 5; to rounding for those times a slope, if log(sigma_t / sigma_s) < 20.
_FEW, _MANY = (np.polynomial.legendre.leggauss(n) for n in (3, 24))


class Quantity(NamedTuple):
    """What is extrapolated.

    Attributes:
        clock: norm, clock and q, a row of `stages.CLOCKS`.
        variable: what it is a polynomial in, as a function of the clock tau; tau itself by default.
        slope: d tau / d variable, as a function of the variable.
    """

    clock: Clock
    variable: Callable[[Tensor], Tensor] | None = None
    slope: Callable[[np.ndarray], np.ndarray] | None = None


QUANTITIES: dict[str, Quantity] = {
    "x0": Quantity(CLOCKS["signal"], torch.log, np.exp),
    "eps": Quantity(CLOCKS["noise"]),
    "v": Quantity(CLOCKS["angle"]),
    "v_flow": Quantity(CLOCKS["angle"], lambda a: a.sin() / (a.sin() + a.cos()), lambda w: 1 / ((1 - w) ** 2 + w**2)),
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
        points: answers that the predictor uses, up to 4; as many as the order needs by default. More make the error smaller
            where steps are short, but the first steps, which have fewer, keep the order.

    Raises:
        GridError: an unknown quantity, or an order or a number of points out of range.
    """

    quantity: str = "x0"
    order: int = 2
    corrector: bool = False
    points: int | None = None

    def __post_init__(self) -> None:
        if self.quantity not in QUANTITIES:
            raise GridError(f"unknown quantity {self.quantity!r}; Multistep extrapolates one of {', '.join(QUANTITIES)}")
        low = 1 + self.corrector
        if self.order not in range(low, 4):
            kind = "with a corrector" if self.corrector else "without a corrector"
            raise GridError(f"Multistep {kind} has order {low} to 3, got {self.order}")
        if not self.order - self.corrector <= self._points <= 4:
            raise GridError(
                f"Multistep of order {self.order} {'with' if self.corrector else 'without'} a corrector predicts from "
                f"{self.order - self.corrector} to 4 points, got {self.points}"
            )

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def _points(self) -> int:
        """How many answers the predictor uses; the corrector uses one more, so it may leave the last one to it."""
        return self.order - self.corrector if self.points is None else self.points

    @property
    def _two_calls_first(self) -> bool:
        """Order 3 cannot start from a step of order 1, unless a corrector mends it."""
        return self.order == 3 and not self.corrector

    def calls(self, grid: Grid) -> int:
        """One a step, and one more in the first of several if the order is 3 and there is no corrector."""
        return grid.steps + (self._two_calls_first and grid.steps > 1)

    def plan(self, path: Any, grid: Grid) -> Plan:
        """Weights of (x, x_0) in q; then of a state and the answers, newest first, in three sums.

        They are the corrector's, from the mended state before; the predictor's, from the mended state; and the two in one,
        from the state that was asked at, which the step makes.
        """
        check_family(self, path)
        times = torch.tensor(grid.times, dtype=torch.float64)
        alpha, sigma = path.schedule.alpha(times), path.schedule.sigma(times)
        clock, variable, slope = QUANTITIES[self.quantity]
        tau = clock.tau(alpha, sigma)
        rise = alpha if clock is CLOCKS["signal"] else sigma
        norm, at = clock.norm(alpha, sigma), tau if variable is None else variable(tau)
        steps = _Steps(norm.numpy(), rise.numpy(), at.numpy(), slope)
        k = self._points
        parts, mended, onward = clock.parts(alpha, sigma), np.zeros((grid.steps, k + 2)), steps.weights(k)
        if self.corrector or self._two_calls_first:
            mended[1:] = steps.weights(k + 1, ahead=1)[:-1]
        whole = np.zeros_like(mended)
        whole[:, :-1] = onward
        if self.corrector:
            with np.errstate(invalid="ignore"):  # a step of infinite weights is refused by `tabulate`
                change = mended[1:, 1:].copy()
                change[:, 1:] -= onward[:-1, 1:]
                whole[1:, 1:] += onward[1:, :1] * change
        sums = torch.from_numpy(np.concatenate([mended, onward, whole], 1))
        plan = tabulate(self, path, grid, torch.cat([torch.stack(parts, 1)[:-1], sums], 1))
        a, b = 4 + k, 5 + 2 * k
        return Plan(plan.times, tuple((row[:2], row[2:a], row[a:b], row[b:]) for row in plan.rows))

    def init(self, x: Tensor) -> tuple[Tensor, ...]:
        """No answers yet."""
        return ()

    def step(
        self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: tuple[Tensor, ...], rng: Random
    ) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        """One call, and one pass for each answer that counts; the state is the last answers, newest first."""
        law, answer = self._ask(denoiser, plan, i, x)
        ahead = _sum(x, answer, state, plan.rows[i][3])
        if i == 0 and self._two_calls_first and len(plan.rows) > 1:
            there = self._ask(denoiser, plan, 1, ahead)[1]
            ahead = _sum(x, there, (answer,), plan.rows[1][1])
        return ahead, (answer, *state)[: self._points - 1 + self.corrector], law

    def _ask(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor) -> tuple[Any, Tensor]:
        """The law at x, and its quantity."""
        law = denoiser(x, plan.times[i])
        of_state, of_clean = plan.rows[i][0]
        return law, law.mean if of_state == 0 and of_clean == 1 else combine(x, of_state, law.mean, of_clean)


def _sum(x: Tensor, answer: Tensor, past: tuple[Tensor, ...], weights: tuple[float, ...]) -> Tensor:
    """Weights of x, of the answer there, and of those before, newest first."""
    out = combine(x, weights[0], answer, weights[1])
    for earlier, weight in zip(past, weights[2:], strict=False):
        if weight != 0:
            out.add_(earlier, alpha=weight)
    return out


class _Steps(NamedTuple):
    """All steps of a grid, float64 arrays: numpy, whose small arrays cost a third of torch's.

    Attributes:
        norm: of the quantity, at the n + 1 times.
        rise: norm times tau where tau is infinite somewhere, and finite there.
        clock: the variable of the polynomial, at the n + 1 times.
        slope: of tau in it; None where it is tau itself.
    """

    norm: np.ndarray
    rise: np.ndarray
    clock: np.ndarray
    slope: Callable[[np.ndarray], np.ndarray] | None

    def weights(self, points: int, ahead: int = 0) -> np.ndarray:
        """Weights of the state and of `points` answers, newest first, shape (n, 1 + points).

        The newest answer is that of the step's start, or with ahead = 1 of its end. Left out are answers before the first, and
        those where the clock is infinite; a step that begins or ends there keeps the answer at its start.
        """
        n = len(self.norm) - 1
        index = np.arange(n)[:, None] + ahead - np.arange(points)
        at = np.where(index >= 0, self.clock[index], np.inf)
        known = np.isfinite(at)
        start, end = self.clock[:-1, None], self.clock[1:, None]
        nodes, shares = _FEW if self.slope is None else _MANY
        out = np.empty((n, 1 + points))
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # such a step is replaced, or refused by `tabulate`
            half = 0.5 * (end - start)
            u = start + half * (1 + nodes)
            measure = self.norm[1:, None] * half * shares  # n_s dtau
            if self.slope is not None:
                measure = measure * self.slope(u)
            out[:, 0] = self.norm[1:] / self.norm[:-1]
            for j in range(points):
                basis = measure
                for other in range(points):
                    if other != j:
                        apart = at[:, j, None] - at[:, other, None]
                        basis = basis * np.where(known[:, other, None], (u - at[:, other, None]) / apart, 1.0)
                out[:, 1 + j] = np.where(known[:, j], basis.sum(1), 0.0)
            alone = ~np.isfinite(start + end)[:, 0]
            out[alone, 1:] = 0.0
            out[alone, 1 + ahead] = (self.rise[1:] - out[:, 0] * self.rise[:-1])[alone]
        return out
