r"""DPM-Solver++: exponential multistep in the clean end, half log-SNR as the clock.

.. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t - \alpha_s (e^{-h} - 1) D, \qquad
          D = \hat x_0 + \tfrac{1}{2r} (\hat x_0 - \hat x_0^{prev}), \qquad
          h = \lambda_s - \lambda_t, \quad r = h^{prev} / h, \quad \lambda = \log(\alpha / \sigma)

One call a step. The first step is of order 1 (there is no previous answer), and so is every step whose h, or whose previous h,
is infinite: the one onto sigma = 0, and the second after a start at alpha = 0. They are single steps, so the order of the
whole is 2.

Source: Lu et al. 2022 (2211.01095), algorithm 2 (2M). Checked by: tests/gaussian/test_solvers.py (order 2, limits)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["DPMSolverPP"]


@dataclass(frozen=True)
class DPMSolverPP:
    """DPM-Solver++ (multistep), deterministic.

    Attributes:
        order: 1 (which is DDIM) or 2.

    Raises:
        GridError: another order.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2):
            raise GridError(f"DPMSolverPP has order 1 or 2, got {self.order}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(a, b, c): x_s = a x_t + b D + c D_prev."""
        check_family(self, path)
        t, s = ends(grid)
        schedule = path.schedule
        h = 0.5 * (schedule.log_snr(s) - schedule.log_snr(t))
        gain, a, _ = path.step_back(t, s, 0.0)  # sigma_s / sigma_t, and -alpha_s (exp(-h) - 1) without its overflow
        half_inverse_r = torch.zeros_like(h)
        if self.order == 2:
            usable = torch.isfinite(h[1:]) & torch.isfinite(h[:-1])
            half_inverse_r[1:] = torch.where(usable, 0.5 * h[1:] / h[:-1], 0.0)
        return tabulate(self, path, grid, (a, gain * (1 + half_inverse_r), -gain * half_inverse_r))

    def init(self, x: Tensor) -> None:
        """No previous answer."""

    def step(
        self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: Tensor | None, rng: Random
    ) -> tuple[Tensor, Tensor, Any]:
        """One call; the state is the previous posterior mean."""
        a, b, c = plan.rows[i]
        law = denoiser(x, plan.times[i])
        x = torch.add(x * a, law.mean, alpha=b)
        if state is not None and c != 0:
            x.add_(state, alpha=c)
        return x, law.mean, law
