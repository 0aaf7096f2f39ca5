r"""SA-Solver: stochastic Adams in the clean end, predictor and corrector with one call a step.

With the exact linear part and the exact noise of `reverse_sde`, the clean end is a polynomial through known answers,

.. math:: x_{i+1} = \frac{\sigma_{i+1}}{\sigma_i} e^{-\tau^2 h} x_i + \sum_j b_j \hat x_0^{(j)} + \omega z, \qquad
          b_j = \alpha_{i+1} \int_0^\kappa e^{-v}\, \ell_j(v)\, dv

with the Lagrange polynomials of the half log-SNR, counted back from the end of the step. The predictor of order p goes through
the last p answers. It gives the point of the next call, whose answer joins the last q ones in the corrector of order q: the
same step again, with the same noise. The next step starts from the corrected state; the last state stays as predicted.

The integrals are done by Gauss-Legendre quadrature, once per grid. Where a node lies at infinity (alpha = 0, sigma = 0) the
polynomial stops before it: a step onto sigma = 0 takes the last answer itself, and the step from alpha = 0, linear in
:math:`e^{(1 + \tau^2) \lambda}`, takes the mean of both in its corrector.

Orders above 1 extrapolate, and the kernel gives the far end of a long step nearly all the weight. With stochasticity 1 and 8
steps from pure noise to data on Karras's grid, the paper's predictor=3, corrector=3 misses a Gaussian's moments by more than 5
times their size. Predictor and corrector of order 1, the default, are sound at any number of steps; from 40 on the paper's are
better there.

Source: Xue et al. 2023 (2309.05019), eq. 14-18 and algorithm 1. Checked by: tests/gaussian/test_stochastic.py
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import Plan, tabulate
from undrift.gaussian.solvers.reverse_sde import drawn, exact_part, half_log_snr, signal_clock
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["SASolver"]

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(32)
_FAR = 50.0  # e^-50 v^3 is below rounding; 32 points integrate that far to rounding

State = tuple[Tensor, tuple[Tensor, ...]] | None


@dataclass(frozen=True)
class SASolver:
    """SA-Solver.

    Attributes:
        stochasticity: tau >= 0, constant; 1 is the time reversal, 0 the probability-flow ODE.
        predictor: order of the predictor, 1 to 3.
        corrector: order of the corrector, 1 to 3, or 0 for none.

    Raises:
        GridError: a setting out of range.
    """

    stochasticity: float = 1.0
    predictor: int = 1
    corrector: int = 1

    def __post_init__(self) -> None:
        if self.stochasticity < 0:
            raise GridError(f"SASolver's stochasticity is >= 0, got {self.stochasticity:g}")
        if self.predictor not in (1, 2, 3) or self.corrector not in (0, 1, 2, 3):
            raise GridError(
                f"SASolver has a predictor of order 1, 2 or 3 and a corrector of order 0 (none) to 3, got {self.predictor} "
                f"and {self.corrector}"
            )

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """Order of convergence, start-up included; with noise the weak order, at most 2.

        The first step has one answer: order 1 there, which its corrector raises by one. A predictor of order p that is
        corrected leaves an error of order p + 1, and a corrector of order q one of q + 1.
        """
        steps = min(self.corrector + 1, self.predictor + 1, 3) if self.corrector else min(self.predictor, 2)
        return steps if self.stochasticity == 0 else min(steps, 2)

    def calls(self, grid: Grid) -> int:
        """One a step: the corrector has the call of the step that follows."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """(a, noise, predictor's weights, corrector's weights times a), newest answer first."""
        check_family(self, path)
        level2 = self.stochasticity**2
        _, scale, still, noise = exact_part(path, grid, level2)
        places = (1 + level2) * half_log_snr(path, grid).numpy()
        alpha = path.schedule.alpha(torch.tensor(grid.times, dtype=torch.float64)).numpy()
        ahead, behind = np.zeros((grid.steps, 3)), np.zeros((grid.steps + 1, 4))
        for i in range(grid.steps):
            if not np.isfinite(places[i + 1] - places[i]):
                ahead[i, 0], behind[i + 1, :2] = still[i], 0.5 * still[i]
                continue
            step, oldest = (places[i], places[i + 1]), i + 1 - self.predictor
            ahead[i] = alpha[i + 1] * _weights(places[max(0, oldest) : i + 1][::-1], *step, 3)
            oldest = i + 1 - self.corrector
            behind[i + 1] = alpha[i + 1] * _weights(places[max(0, oldest) : i + 2][::-1], *step, 4)
        columns = torch.from_numpy(np.hstack([ahead, behind[:-1] * scale[:, None].numpy()])).unbind(1)
        return tabulate(self, path, grid, (scale, noise, *columns))

    def noise_clock(self, path: Path, grid: Grid) -> list[float]:
        """Values of the clock in which its noise is Brownian, at the ends of the steps that draw."""
        level2 = self.stochasticity**2
        return drawn(signal_clock(path, grid, level2), exact_part(path, grid, level2)[-1])

    def init(self, x: Tensor) -> None:
        """No previous answer."""

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: State, rng: Random) -> tuple[Tensor, State, Any]:
        """One call: correct the step before, then predict. The state is what no answer has part in, and the answers."""
        a, noise, *weights = plan.rows[i]
        law = denoiser(x, plan.times[i])
        answers = (law.mean,) if state is None else (law.mean, *state[1][:3])
        if self.corrector and state is not None:
            base = _joined(state[0] * a, answers, weights[3:])
        else:
            base = x * a
        if noise > 0:
            base.add_(rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=noise)
        return _joined(base.clone(), answers, weights[:3]), (base, answers), law


def _joined(x: Tensor, answers: tuple[Tensor, ...], weights: list[float]) -> Tensor:
    """Add the weighted answers to x, which is the caller's own."""
    for answer, weight in zip(answers, weights, strict=False):
        if weight != 0:
            x.add_(answer, alpha=weight)
    return x


def _weights(nodes: np.ndarray, start: float, end: float, width: int) -> np.ndarray:
    """Integrals of e^-v l_j(v) from the end of the step (v = 0) back to its start, shape (width,), zeros after the last."""
    nodes = end - nodes[np.isfinite(nodes)]
    half = 0.5 * min(end - start, _FAR)
    v = half * (1 + _NODES)
    kernel = half * _WEIGHTS * np.exp(-v)
    weights = np.zeros(width)
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        weights[j] = kernel @ np.prod((v[:, None] - others) / (node - others), 1)
    return weights
