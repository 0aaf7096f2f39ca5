r"""DPS: a step back, then a step down the misfit of the mean, of fixed length.

.. math:: x_s = x_s' - \zeta\, c_{t,s}\, \nabla_{x_t} \| y - A\, E[X_0 | x_t] \|, \qquad x_s' \sim \text{the unsteered step}

The norm makes the length of the pull independent of the misfit and of the noise, which the method never asks for. It is no
likelihood: the total pull grows with the number of steps, and zeta is tuned, not derived. (Under a likelihood of zero
covariance, `twist(second_order(denoiser, "zero"), ...)`, the pull is the derived one, and stiff.)

The paper's zeta belongs to its clock, a variance-preserving one of data of unit variance. So that zeta means the same on every
path and in every unit, the pull is translated from that clock:

.. math:: c_{t,s} = s_d\, \frac{\alpha_t \alpha_s}{\bar\alpha_t \bar\alpha_s}, \qquad
          \bar\alpha = \big(1 + \sigma^2 / (\alpha^2 s_d^2)\big)^{-1/2}, \qquad s_d = \text{standard deviation of the data.}

Exact for nothing; often the best of the cheap methods. The norm is per sample: a norm over the batch would shrink everybody's
pull by the square root of the batch.

Source: Chung et al. 2022 (2209.14687), algorithm 1 with the step size of its appendix C.2, zeta / |y - A x_0|.
Checked by: tests/inverse/test_dps.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import PotentialError, ShapeError
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.grids import Grid
from undrift.guidance.potentials import Likelihood
from undrift.guidance.second_order import tracked
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["DPS"]


@dataclass(frozen=True)
class DPS:
    """DPS with ancestral steps.

    Attributes:
        likelihood: operator and measurement; its noise plays no part.
        data_std: standard deviation of the data about their mean, codec units.
        zeta: strength of the pull; 1 in the paper's experiments, give or take.
        stochasticity: of the unsteered step, 1 ancestral, 0 deterministic.

    Raises:
        PotentialError: a strength or a size of the data that is not positive.

    Checked by: tests/inverse/test_dps.py::test_the_pull_is_the_gradient_of_the_norm
    """

    likelihood: Likelihood
    data_std: float
    zeta: float = 1.0
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if not (self.zeta > 0 and self.data_std > 0):
            raise PotentialError(
                f"DPS needs a strength and a size of the data > 0, got zeta = {self.zeta:g}, data_std = {self.data_std:g}; "
                "start with zeta = 1"
            )

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Of the unsteered step; the pull has no limit in the number of steps."""
        return 1

    def calls(self, grid: Grid) -> int:
        """One a step, and one vector-Jacobian product with it."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(weight of x_t, weight of the mean, noise, pull) of every step."""
        check_family(self, path)
        t, s = ends(grid)
        from_clean, from_state, variance = path.step_back(t, s, self.stochasticity)
        pull = self.zeta * self.data_std * self._unit(path, t) * self._unit(path, s)
        return tabulate(self, path, grid, (from_state, from_clean, variance.sqrt(), pull))

    def _unit(self, path: Any, t: Tensor) -> Tensor:
        """Alpha over that of the unit-variance clock at the same noise: sqrt(alpha^2 + sigma^2 / data_std^2)."""
        return (path.schedule.alpha(t).square() + path.schedule.sigma(t).square() / self.data_std**2).sqrt()

    def init(self, x: Tensor) -> None:
        """No state.

        Raises:
            ShapeError: the operator measures another event, or there is neither one measurement nor one per sample.
        """
        event, rows = self.likelihood.look.event, self.likelihood.y.shape[0]
        if tuple(x.shape[1:]) != event or rows not in (1, x.shape[0]):
            raise ShapeError(
                f"a batch of shape {tuple(x.shape)} meets {rows} measurements of events of shape {event}; give one "
                "measurement, or one per sample, of the events that are drawn"
            )

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """One call, one product."""
        a, b, c, d = plan.rows[i]
        with torch.enable_grad():
            x_t = tracked(x)
            law = denoiser(x_t, plan.times[i])
            misfit = torch.linalg.vector_norm(self.likelihood.y.to(x) - self.likelihood.look.forward(law.mean), dim=-1)
            (pull,) = torch.autograd.grad(misfit.sum(), x_t)
        with torch.no_grad():
            x = torch.add(x * a, law.mean, alpha=b).sub_(pull, alpha=d)
            if c > 0:
                x.add_(rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=c)
        return x, None, law
