r"""Explicit Runge-Kutta methods on the probability-flow ODE: a table of methods, and a clock of choice.

.. math:: k_j = q(x_j, \tau_t + c_j h), \qquad \frac{x_j}{n_j} = \frac{x_t}{n_t} + h \sum_{l<j} a_{jl} k_l, \qquad
          \frac{x_s}{n_s} = \frac{x_t}{n_t} + h \sum_l b_l k_l, \qquad h = \tau_s - \tau_t

with the clocks of `stages`. A clock that is infinite at an end of a step gives way to "flow" in that step.

A method with all stages inside its step (every c < 1) goes onto sigma = 0 like anywhere else, at full order where the data
have a smooth density. ("signal" apart: it is infinite there, and on a grid whose last steps are not shorter than the others,
the steps before the last never become short in it; order 2 was measured.) A stage at the step's end cannot sit at sigma = 0.
The one method here that has one, "rk4", takes "ralston3" for that step: a single step of order 3, whose error is of fourth
order, so the order of the whole stays 4.

On Gaussian data the midpoint rule is of order 3, but in the angle: there the flow is the root of a quadratic in tau.

Sources: Kutta 1901; Heun 1900; Ralston 1962; Karras et al. 2022 (2206.00364), appendix C (midpoint in the noise clock).
Checked by: tests/gaussian/test_solvers.py (orders, limits), tests/gaussian/test_runge_kutta.py (order conditions; by hand;
full order onto sigma = 0)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.solvers.stages import CLOCKS, Columns, StagedSolver, unfold
from undrift.grids import Grid
from undrift.schedules import Schedule

__all__ = ["TABLEAUX", "ExplicitRungeKutta", "Tableau", "tableau_columns"]


@dataclass(frozen=True)
class Tableau:
    """Nodes c, rows a and weights b of an explicit method, and its order."""

    c: tuple[float, ...]
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    order: int


TABLEAUX: dict[str, Tableau] = {
    "midpoint": Tableau((0, 1 / 2), ((1 / 2,),), (0, 1), 2),
    "ralston2": Tableau((0, 2 / 3), ((2 / 3,),), (1 / 4, 3 / 4), 2),
    "heun3": Tableau((0, 1 / 3, 2 / 3), ((1 / 3,), (0, 2 / 3)), (1 / 4, 0, 3 / 4), 3),
    "ralston3": Tableau((0, 1 / 2, 3 / 4), ((1 / 2,), (0, 3 / 4)), (2 / 9, 1 / 3, 4 / 9), 3),
    "rk4": Tableau((0, 1 / 2, 1 / 2, 1), ((1 / 2,), (0, 1 / 2), (0, 0, 1)), (1 / 6, 1 / 3, 1 / 3, 1 / 6), 4),
}
ONTO_DATA = "ralston3"


def tableau_columns(tableau: Tableau, clock: str, schedule: Schedule, t: Tensor, s: Tensor) -> Columns:
    """The calls of a tableau for steps t -> s of shape (n,)."""
    row = CLOCKS[clock]
    times = [row.between(schedule, t, s, c) for c in tableau.c]
    alphas, sigmas = ([part(u) for u in (*times, s)] for part in (schedule.alpha, schedule.sigma))
    norms = [row.norm(a, z) for a, z in zip(alphas, sigmas, strict=True)]
    h = row.tau(alphas[-1], sigmas[-1]) - row.tau(alphas[0], sigmas[0])
    parts = [row.parts(a, z) for a, z in zip(alphas[:-1], sigmas[:-1], strict=True)]
    gains = [n / norms[0] for n in norms[1:]]
    weights = [[n * h * v for v in values] for n, values in zip(norms[1:], (*tableau.a, tableau.b), strict=True)]
    return list(zip(times, unfold(gains, weights, parts), strict=True))


@dataclass(frozen=True)
class ExplicitRungeKutta(StagedSolver):
    """Explicit Runge-Kutta; deterministic.

    Attributes:
        tableau: a key of `TABLEAUX`: "midpoint" and "ralston2" (two calls a step), "heun3" and "ralston3" (three),
            "rk4" (four).
        clock: a key of `CLOCKS`: "signal", "noise", "angle" or "flow".

    Raises:
        GridError: another tableau or clock.
    """

    tableau: str = "ralston3"
    clock: str = "flow"

    def __post_init__(self) -> None:
        for what, value, known in (("tableau", self.tableau, TABLEAUX), ("clock", self.clock, CLOCKS)):
            if value not in known:
                raise GridError(f"ExplicitRungeKutta has no {what} {value!r}; choose one of {', '.join(known)}")

    @property
    def order(self) -> int:
        """That of the tableau."""
        return TABLEAUX[self.tableau].order

    def calls(self, grid: Grid) -> int:
        """One a stage; "rk4" saves one in the step onto t = 0."""
        stages = len(TABLEAUX[self.tableau].c)
        return grid.steps * stages - (self.tableau == "rk4" and grid.times[-1] == 0)

    def stages(self, schedule: Schedule, t: Tensor, s: Tensor) -> list[tuple[Tensor, Columns]]:
        """Steps grouped by the tableau and the clock that serve them."""
        tableau, kinds = TABLEAUX[self.tableau], []
        no_noise = (schedule.sigma(t) == 0) | (schedule.sigma(s) == 0)
        no_signal = (schedule.alpha(t) == 0) | (schedule.alpha(s) == 0)
        infinite = {"signal": no_noise, "noise": no_signal}.get(self.clock, torch.zeros_like(no_noise))
        replaced = (schedule.sigma(s) == 0) & (tableau.c[-1] == 1)
        for clock, by_clock in ((self.clock, ~infinite), ("flow", infinite)):
            for method, by_end in ((tableau, ~replaced), (TABLEAUX[ONTO_DATA], replaced)):
                which = torch.nonzero(by_clock & by_end).flatten()
                if len(which):
                    kinds.append((which, tableau_columns(method, clock, schedule, t[which], s[which])))
        return kinds
