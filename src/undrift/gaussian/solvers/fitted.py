r"""A linear multistep whose weights were fitted to one model, for one grid.

.. math:: x_{i+1} = a_i\, x_0 + \sum_{j \le i} b_{ij}\, \hat x_0(x_j, t_j)

Every explicit deterministic solver with one call a step has this form (x_0 the state it started from), so nothing is lost: the
weights of `Multistep` are one choice, and `gaussian.tune` finds better ones for a model.

Source: the form is the S4S of Frankel et al. 2025 (2502.17423), section 3. Checked by: tests/gaussian/test_tune.py
"""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.plan import Plan, combine, ticks
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["Fitted"]


@dataclass(frozen=True)
class Fitted:
    """Weights for one grid.

    Attributes:
        grid: the only one they are for.
        rows: of step i, the weights of the start and of the i + 1 answers so far, oldest first.

    Raises:
        GridError: there is not one row a step, of 2, 3, ... numbers.
    """

    grid: Grid
    rows: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        if [len(row) for row in self.rows] != list(range(2, self.grid.steps + 2)):
            raise GridError(f"weights for {self.grid.steps} steps are as many rows, of 2, 3, ... numbers; fit them again")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """None: there is one grid."""
        return 0

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """The rows themselves.

        Raises:
            GridError: another grid.
        """
        check_family(self, path)
        if grid != self.grid:
            raise GridError(
                f"these weights were fitted to a grid of {self.grid.steps} steps and fit no other; use the grid they came "
                "with, or tune for the number of calls you want"
            )
        return Plan(ticks(grid), self.rows)

    def init(self, x: Tensor) -> tuple[Tensor, ...]:
        """The start; answers follow."""
        return (x,)

    def step(
        self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: tuple[Tensor, ...], rng: Random
    ) -> tuple[Tensor, tuple[Tensor, ...], Any]:
        """One call, and one pass for each answer so far."""
        law = denoiser(x, plan.times[i])
        state, row = (*state, law.mean), plan.rows[i]
        x = combine(state[0], row[0], state[1], row[1])
        for part, weight in zip(state[2:], row[2:], strict=True):
            x.add_(part, alpha=weight)
        return x, state, law
