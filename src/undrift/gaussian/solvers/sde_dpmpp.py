r"""SDE-DPM-Solver++ (2M): the multistep solver in the clean end, with a chosen share of fresh noise.

.. math:: x_s = \frac{\sigma_s}{\sigma_t} e^{-\eta h} x_t + \alpha_s \big(1 - e^{-(1 + \eta) h}\big) D
          + \sigma_s \sqrt{1 - e^{-2 \eta h}}\; z, \qquad
          D = \hat x_0 + \tfrac{1}{2r} (\hat x_0 - \hat x_0^{prev})

with h and r as in `DPMSolverPP`, to which it is equal for eta = 0. The paper has eta = 1, the time reversal; in between,
eta is the square of the stochasticity tau of `SASolver`. One call a step. Steps of order 1 are those of `DPMSolverPP`.

The extrapolation carries the noise of the step before, where it should carry that of the step itself. The two have the same
law up to a higher order, so that the weak order is 2, while along a given Brownian path it is 1.

Source: Lu et al. 2022 (2211.01095), appendix B.5 and eq. 19 (SDE-DPM-Solver++(2M)).
Checked by: tests/gaussian/test_stochastic.py (update, limits, strong order), test_solvers.py (weak order)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import Plan, tabulate
from undrift.gaussian.solvers.reverse_sde import drawn, exact_part, signal_clock
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["SDEDPMSolverPP"]


@dataclass(frozen=True)
class SDEDPMSolverPP:
    """SDE-DPM-Solver++ (multistep), weak order 2.

    Attributes:
        stochasticity: eta in [0, 1]; 0 is DPM-Solver++ (2M), 1 the time reversal.

    Raises:
        GridError: stochasticity outside [0, 1].
    """

    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.stochasticity <= 1:
            raise GridError(
                f"SDEDPMSolverPP's stochasticity lies in [0, 1], got {self.stochasticity:g}; for more noise use SASolver"
            )

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Weak order of convergence."""
        return 2

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(a, b, c, d): x_s = a x_t + b D + c D_prev + d z."""
        check_family(self, path)
        lengths, scale, still, noise = exact_part(path, grid, self.stochasticity)
        ahead = torch.zeros_like(lengths)
        usable = torch.isfinite(lengths[1:]) & torch.isfinite(lengths[:-1])
        ahead[1:] = torch.where(usable, 0.5 * lengths[1:] / lengths[:-1], 0.0)
        return tabulate(self, path, grid, (scale, still * (1 + ahead), -still * ahead, noise))

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """Values of the clock in which its noise is Brownian, at the ends of the steps that draw."""
        return drawn(signal_clock(path, grid, self.stochasticity), exact_part(path, grid, self.stochasticity)[-1])

    def init(self, x: Tensor) -> None:
        """No previous answer."""

    def step(
        self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: Tensor | None, rng: Random
    ) -> tuple[Tensor, Tensor, Any]:
        """One call; the state is the previous posterior mean."""
        a, b, c, d = plan.rows[i]
        law = denoiser(x, plan.times[i])
        x = torch.add(x * a, law.mean, alpha=b)
        if state is not None and c != 0:
            x.add_(state, alpha=c)
        if d > 0:
            x.add_(rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=d)
        return x, law.mean, law
