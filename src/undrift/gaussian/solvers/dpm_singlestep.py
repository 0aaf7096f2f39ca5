r"""DPM-Solver, single-step: exponential Runge-Kutta in half log-SNR, two or three calls a step.

With :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t`, stages at :math:`\lambda_t + r_j h` and
:math:`\varphi_1(z) = (e^z - 1) / z`, :math:`\varphi_2(z) = (\varphi_1(z) - 1) / z`, the noise form (DPM-Solver) is

.. math:: x_j &= \frac{\alpha_j}{\alpha_t} x - \sigma_j r_j h \big[ \varphi_1(r_j h)\, \hat z_t
          + \tfrac{r_j}{r_{j-1}} \varphi_2(r_j h)\, (\hat z_{j-1} - \hat z_t) \big] \\
          x_s &= \frac{\alpha_s}{\alpha_t} x - \sigma_s h \big[ \varphi_1(h)\, \hat z_t
          + \tfrac{1}{r} \varphi_2(h)\, (\hat z_{last} - \hat z_t) \big] \quad (\text{order 3})

where order 2 has one stage, at r = 1/2, and ends with :math:`x_s = \alpha_s x / \alpha_t - \sigma_s h \varphi_1(h) \hat z_1`;
order 3 has two, at 1/3 and 2/3. The clean form (DPM-Solver++) is the same with the roles of alpha and sigma, of clean end and
noise, and the sign of h exchanged.

A step from alpha = 0 or onto sigma = 0, where h is infinite, is one of Runge-Kutta in the flow clock with as many calls
("midpoint" or "ralston3"), which is finite there and keeps the order.

Sources: Lu et al. 2022 (2206.00927), algorithms 1 and 2; Lu et al. 2022 (2211.01095), algorithm 1 (2S).
Checked by: tests/gaussian/test_dpm_singlestep.py (the papers' lines), tests/gaussian/test_solvers.py (orders, limits)
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.solvers.phi import phi
from undrift.gaussian.solvers.runge_kutta import TABLEAUX, tableau_columns
from undrift.gaussian.solvers.stages import CLOCKS, Columns, StagedSolver, unfold
from undrift.grids import Grid
from undrift.schedules import Schedule

__all__ = ["DPMSolverSingle"]

SHARES = {2: (0.5,), 3: (1 / 3, 2 / 3)}
FINITE = {2: "midpoint", 3: "ralston3"}


@dataclass(frozen=True)
class DPMSolverSingle(StagedSolver):
    """DPM-Solver-2, DPM-Solver-3 or DPM-Solver++(2S), and the clean form of order 3; deterministic.

    Attributes:
        order: 2 or 3, also the calls of a step.
        quantity: "eps" (DPM-Solver) or "x0" (DPM-Solver++).

    Raises:
        GridError: another order or quantity.
    """

    order: int = 2
    quantity: str = "x0"

    def __post_init__(self) -> None:
        if self.order not in SHARES:
            raise GridError(f"DPMSolverSingle has order 2 or 3, got {self.order}; order 1 is DDIM()")
        if self.quantity not in ("eps", "x0"):
            raise GridError(f"DPMSolverSingle's quantity is 'eps' or 'x0', got {self.quantity!r}")

    def calls(self, grid: Grid) -> int:
        """As many a step as the order."""
        return self.order * grid.steps

    def stages(self, schedule: Schedule, t: Tensor, s: Tensor) -> list[tuple[Tensor, Columns]]:
        """Exponential steps where log-SNR is finite, Runge-Kutta steps elsewhere."""
        finite = torch.isfinite(schedule.log_snr(t)) & torch.isfinite(schedule.log_snr(s))
        inside, outside = (torch.nonzero(which).flatten() for which in (finite, ~finite))
        kinds = []
        if len(inside):
            kinds.append((inside, self._exponential(schedule, t[inside], s[inside])))
        if len(outside):
            method = TABLEAUX[FINITE[self.order]]
            kinds.append((outside, tableau_columns(method, "flow", schedule, t[outside], s[outside])))
        return kinds

    def _exponential(self, schedule: Schedule, t: Tensor, s: Tensor) -> Columns:
        start, end = (0.5 * schedule.log_snr(u) for u in (t, s))
        h, shares = end - start, SHARES[self.order]
        times = [t, *(schedule.time(2 * torch.lerp(start, end, r)) for r in shares)]
        alphas, sigmas = ([part(u) for u in (*times, s)] for part in (schedule.alpha, schedule.sigma))
        if self.quantity == "eps":
            row, sign, norms, others = CLOCKS["noise"], -1.0, alphas, sigmas
        else:
            row, sign, norms, others = CLOCKS["signal"], 1.0, sigmas, alphas
        gains, weights = [norm / norms[0] for norm in norms[1:]], []
        for j, (r, other) in enumerate(zip((*shares, 1.0), others[1:], strict=True)):
            z = -sign * r * h
            lead = sign * other * r * h
            first = lead * phi(1, z)
            if j == 0:
                weights.append([first])
            elif self.order == 2:
                weights.append([torch.zeros_like(first), first])
            else:
                slope = lead * phi(2, z) * r / shares[j - 1]
                weights.append([first - slope, *(torch.zeros_like(first),) * (j - 1), slope])
        parts = [row.parts(a, b) for a, b in zip(alphas[:-1], sigmas[:-1], strict=True)]
        return list(zip(times, unfold(gains, weights, parts), strict=True))
