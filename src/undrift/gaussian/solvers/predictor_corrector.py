r"""Predictor-corrector: any solver's step, then Langevin steps at the level that it reached.

Song et al. correct with :math:`x \leftarrow x + \epsilon\, g + \sqrt{2 \epsilon}\, z`, g the score, and choose epsilon so that
the drift is `snr` times the noise, :math:`\epsilon = 2\, (\text{snr}\, \|z\| / \|g\|)^2`, with norms averaged over the
batch. Here the norms are replaced by what they are where noise dominates: in dimension d, :math:`E\|z\|^2 = d` and
:math:`E\|g\|^2 \le d / \sigma_t^2`, near equality for data on a thin set. Then

.. math:: \epsilon = 2\, \text{snr}^2 \sigma_t^2, \qquad
          \text{a Langevin step of size } 2 \epsilon / \sigma_t^2 = 4\, \text{snr}^2 .

So no sample depends on its neighbours, every coefficient is known before the loop, and p_t stays the law at rest as the step
goes to 0 (a step length that follows the state would need a drift of its own for that). Where the score is much smaller than
1 / sigma_t, as for broad data at low noise, their step is longer than this one.

When it pays, measured with an exact score on a mixture of two Gaussians on the line, 19 calls, Karras et al.'s grid,
Wasserstein-2: the ancestral predictor alone .31; with a corrector of snr .7 .20, of .5 .33, of the paper's .16 .44. So the
paper's ratio, which is tuned to images and to a learned score's errors, spends calls that predictor steps would use better
here; a large ratio adds noise that thin data do not forgive.

Source: Song et al. 2021 (2011.13456), algorithms 1, 4 and 5, without the factor alpha_i = 1 - beta_i of VP.
Checked by: tests/gaussian/test_predictor_corrector.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError
from undrift.gaussian.solvers.ddim import DDIM
from undrift.gaussian.solvers.langevin import check_walk, coefficients, walk
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.grids import Grid
from undrift.protocols import Denoiser, Sampler
from undrift.simulate import check_family

__all__ = ["PredictorCorrector"]

_ANCESTRAL = DDIM(1.0)


@dataclass(frozen=True)
class PredictorCorrector:
    """A predictor, and a Langevin corrector at a fixed signal-to-noise ratio.

    No correction follows a step onto t = 0, where there is no score. A finer grid removes the predictor's error, but not the
    corrector's bias O(snr^2): there is no order of convergence.

    Attributes:
        predictor: any sampler for Gaussian paths; the ancestral step by default.
        steps: corrector steps, and so network calls, after each predictor step.
        snr: length of the corrector's drift over that of its noise, in (0, 1).

    Raises:
        GridError: a setting out of range.
    """

    predictor: Sampler = _ANCESTRAL
    steps: int = 1
    snr: float = 0.16

    def __post_init__(self) -> None:
        if not 0 < self.snr < 1:
            raise GridError(
                f"PredictorCorrector's snr lies in (0, 1), got {self.snr:g}; .16 is usual, for no correction use the predictor"
            )
        check_walk("PredictorCorrector", self.steps, self.size)

    @property
    def size(self) -> float:
        """The Langevin step in units of sigma^2."""
        return 4 * self.snr**2

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """0: a finer grid does not remove the corrector's bias."""
        return 0

    def calls(self, grid: Grid) -> int:
        """The predictor's, and `steps` for each step that does not go onto t = 0."""
        return self.predictor.calls(grid) + self.steps * (grid.steps - (grid.times[-1] == 0))

    def plan(self, path: Any, grid: Grid) -> tuple[Any, Plan]:
        """The predictor's plan, and (state, posterior mean, noise) of the corrector at every target."""
        check_family(self, path)
        t, s = ends(grid)
        keep, pull, noise = coefficients(path, s, self.size)
        keep = torch.where(s < t, keep, torch.nan)  # a random solver has one direction; `tabulate` says so
        return self.predictor.plan(path, grid), tabulate(self, path, grid, (keep, pull, noise))

    def init(self, x: Tensor) -> Any:
        """The predictor's state."""
        return self.predictor.init(x)

    def step(
        self, denoiser: Denoiser, plan: tuple[Any, Plan], i: int, x: Tensor, state: Any, rng: Random
    ) -> tuple[Tensor, Any, Any]:
        """Predict, then walk at the target."""
        ahead, corrector = plan
        x, state, law = self.predictor.step(denoiser, ahead, i, x, state, rng)
        keep, pull, noise = corrector.rows[i]
        if noise > 0:
            x, law = walk(denoiser, corrector.times[i + 1], x, (keep, pull, noise), self.steps, rng)
        return x, state, law
