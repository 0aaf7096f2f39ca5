r"""UniPC: an exponential multistep predictor in the clean end, and a corrector that reuses the next step's call.

With :math:`\lambda = \log(\alpha / \sigma)`, :math:`h = \lambda_s - \lambda_t` and the clean end found at earlier times (and,
in the corrector, at s itself), :math:`r_m = (\lambda_m - \lambda_t) / h`:

.. math:: x_s = \frac{\sigma_s}{\sigma_t} x_t + \alpha_s (1 - e^{-h})\, D_t + \alpha_s B \sum_m a_m \frac{D_m - D_t}{r_m},
          \qquad \sum_m a_m r_m^{k-1} = \frac{k!\, h\, \varphi_{k+1}(-h)}{B} \quad (k = 1, 2, ...)

The equations say that a polynomial through the D is integrated exactly, so B cancels: but for a single difference, where
a = 1/2 is used in their place. There B(h) = h ("bh1") or :math:`1 - e^{-h}` ("bh2"), and the predictor of order 2 with "bh2" is
DPM-Solver++(2M).

One call a step: the clean end found at the predicted x_s corrects x_s, and is not asked for again. So the states of a
trajectory are the predicted ones, and the last is never corrected. The corrector gains one order on the predictor; the first
step, with one difference in its corrector, keeps the whole at 3. Steps of infinite h (from alpha = 0, onto sigma = 0) are of
order 1 and not corrected.

Source: Zhao et al. 2023 (2302.04867), algorithms 5 to 8 and appendix E.
Checked by: tests/gaussian/test_unipc.py (the paper's lines, tiny steps), tests/gaussian/test_solvers.py (orders, limits)
"""

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.phi import phi
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.grids import Grid
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["UniPC"]


class Past(NamedTuple):
    """What a step needs of earlier ones: the corrected state, and the means, latest first."""

    x: Tensor
    means: tuple[Tensor, ...]


@dataclass(frozen=True)
class UniPC:
    """UniPC in the clean end; deterministic.

    Attributes:
        predictor: order of the predictor, 1 to 3.
        kernel: "bh1" or "bh2".

    Raises:
        GridError: another predictor or kernel.
    """

    predictor: int = 3
    kernel: str = "bh2"

    def __post_init__(self) -> None:
        if self.predictor not in (1, 2, 3):
            raise GridError(f"UniPC's predictor has order 1, 2 or 3, got {self.predictor}")
        if self.kernel not in ("bh1", "bh2"):
            raise GridError(f"UniPC's kernel is 'bh1' (B = h) or 'bh2' (B = 1 - exp(-h)), got {self.kernel!r}")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """One more than the predictor's, at most 3: the start-up's."""
        return min(self.predictor + 1, 3)

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """Of every step: the corrector's gain and its weights of D_s, D_t, ...; the predictor's gain and weights of D_t, ..."""
        check_family(self, path)
        t, s = ends(grid)
        single, gain, _ = path.step_back(t, s, 0.0)
        times = torch.tensor(grid.times, dtype=torch.float64)
        clock, alpha = 0.5 * path.schedule.log_snr(times).numpy(), path.schedule.alpha(times).numpy()
        finite, k = np.isfinite(clock), self.predictor
        rows = np.zeros((grid.steps, 2 * k + 3))
        for i in range(grid.steps):
            known = [i, *(j for j in range(i - 1, max(-1, i - k), -1) if finite[[j, i, i + 1]].all())]
            rows[i, k + 2] = gain[i]
            rows[i, k + 3 : k + 3 + len(known)] = self._weights(clock, alpha, float(single[i]), i, known[1:])
            if i + 1 < grid.steps and finite[[i, i + 1]].all():
                of_t, of_s, *earlier = self._weights(clock, alpha, float(single[i]), i, [i + 1, *known[1:]])
                rows[i + 1, : len(known) + 2] = [gain[i], of_s, of_t, *earlier]
        return tabulate(self, path, grid, tuple(torch.from_numpy(rows).unbind(1)))

    def _weights(self, clock: np.ndarray, alpha: np.ndarray, single: float, i: int, others: list[int]) -> list[float]:
        """Weights in x_{i+1} of D_i and of the D at other nodes."""
        if not others:
            return [single]
        h = clock[i + 1] - clock[i]
        r = (clock[others] - clock[i]) / h
        if len(others) == 1:
            a = np.array([0.5 * h if self.kernel == "bh1" else -0.5 * np.expm1(-h)])
        else:
            k = np.arange(1, len(others) + 1)
            moments = [math.factorial(j) * h * float(phi(int(j) + 1, torch.tensor(-h, dtype=torch.float64))) for j in k]
            a = np.linalg.solve(r[None, :] ** (k[:, None] - 1), moments)
        of_others = alpha[i + 1] * a / r
        return [single - float(of_others.sum()), *of_others.tolist()]

    def init(self, x: Tensor) -> Past:
        """Nothing known yet."""
        return Past(x, ())

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: Past, rng: Random) -> tuple[Tensor, Past, Any]:
        """One call at the predicted state; correct it, and predict the next."""
        k, row = self.predictor, plan.rows[i]
        law = denoiser(x, plan.times[i])
        means = (law.mean, *state.means)
        if row[0] != 0:
            x = _total(state.x, row[0], means, row[1 : k + 2])
        return _total(x, row[k + 2], means, row[k + 3 :]), Past(x, means[:k]), law


def _total(x: Tensor, gain: float, means: tuple[Tensor, ...], weights: tuple[float, ...]) -> Tensor:
    x = x * gain
    for mean, weight in zip(means, weights, strict=False):
        if weight != 0:
            x.add_(mean, alpha=weight)
    return x
