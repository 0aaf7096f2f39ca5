r"""RePaint: the measured part of the state replaced, at every level, by the measurement noised to that level.

The ancestral step gives x_s under the model. Then, along each right singular vector of A that is seen better than in x_s:

.. math:: V^\top x_s \leftarrow \alpha_s \bar y + \sqrt{\sigma_s^2 - \alpha_s^2 \tau^2}\, z, \qquad
          \bar y = s^{-1} U^\top y, \quad \tau = \text{noise} / s, \quad \text{where } \sigma_s \ge \alpha_s \tau .

Over the measurement's noise this has the law of :math:`V^\top X_s` given x_0. For a mask without noise it is the paper's
algorithm: the seen coordinates are y, noised. Any A is served: the row space is replaced, its complement is the model's.
**Below the level tau nothing is replaced**: the state is then cleaner than the measurement, and to replace it would put the
measurement's noise into the sample.

*Resampling.* After every `jump` steps (and at the end, where fewer may be left) the state is noised back up to where these
began, and they are made again, `rounds` times in all. That lets what is unseen learn of what is seen.

*What is exact.* Noiseless measurements hold at the end, whatever the denoiser. With the exact law of the clean end, coordinates
(along V) that are independent under the prior follow their posterior, for any number of steps: without noise, and with noise if
the grid stops at the level tau and rounds = 1. *What is not:* an unseen coordinate that depends on a seen one is biased. More
rounds lessen the bias; but with noise, rounds below the level tau forget the measurement, and the spread grows.

Source: Lugmayr et al. 2022 (2201.09865), algorithm 1 (which does not resample its last step; the last block is resampled here).
Checked by: tests/inverse/test_repaint.py
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import PotentialError
from undrift.gaussian.solvers.plan import ends
from undrift.grids import Grid
from undrift.inverse.ddrm import Held
from undrift.protocols import Denoiser
from undrift.simulate import Ancestral

__all__ = ["RePaint"]


@dataclass(frozen=True)
class Plan:
    """A grid's numbers, and the problem.

    Attributes:
        back: (t, s) of every step.
        replace: (weight, shift, spread) of every step, shape (3, 1, rank), placed like y.
        noisy: whether a step's replacement draws noise.
        basis: V, shape (d, rank), placed like y.
        y: in these coordinates, shape (1 or B, rank).
    """

    back: list[tuple[Tensor, Tensor]]
    replace: tuple[Tensor, ...]
    noisy: tuple[bool, ...]
    basis: Tensor
    y: Tensor


@dataclass(frozen=True)
class RePaint(Held):
    """Replacement, with resampling; the free step is the ancestral one, with the whole law of the clean end.

    Attributes:
        look: the operator A.
        y: measurements, shape (1, m) or (B, m).
        noise: standard deviation of their noise, >= 0.
        rounds: times that each block of steps is made, >= 1.
        jump: steps in a block, >= 1.

    Raises:
        PotentialError: rounds or jump below 1, and what `Held` raises.

    Source: Lugmayr et al. 2022 (2201.09865), algorithm 1.
    Checked by: tests/inverse/test_repaint.py::test_independent_coordinates_are_exact,
    tests/inverse/test_repaint.py::test_noisy_independent_coordinates_are_exact_if_the_grid_stops_at_their_level
    """

    rounds: int = 1
    jump: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.jump < 1:
            raise PotentialError(
                f"RePaint makes every block of jump >= 1 steps rounds >= 1 times, got {self.jump}, {self.rounds}"
            )

    @property
    def order(self) -> int:
        """Weak order of the free step with a mean in place of the law."""
        return 1

    def calls(self, grid: Grid) -> int:
        """One a step and round."""
        return self.rounds * grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """Weights of the replacement in float64, then placed like y; the decomposition is asked for here, once.

        Raises:
            FamilyError: another family's path.
            GridError: a rising grid.
            PotentialError: a noiseless measurement that no event has.
        """
        self.check_grid(path, grid)
        basis, y, noise = self.coordinates()
        s = ends(grid)[1][:, None]
        alpha, sigma, noise = path.schedule.alpha(s), path.schedule.sigma(s), noise.cpu()
        known = sigma >= alpha * noise
        spread = torch.where(known, sigma.square() - (alpha * noise).square(), 0.0).sqrt()
        replace = torch.stack([known.double(), torch.where(known, alpha, 0.0), spread], 1)[:, :, None]
        noisy = tuple((spread > 0).any(1).tolist())
        back = Ancestral().plan(path, grid)
        return Plan(back, tuple(replace.to(self.y)), noisy, basis.to(self.y), y.to(self.y))

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """Step i; at the end of a block also the block again, `rounds` - 1 times."""
        x, law = self._back(denoiser, plan, i, x, rng)
        first = i - i % self.jump
        if i == first + self.jump - 1 or i == len(plan.back) - 1:
            for _ in range(self.rounds - 1):
                x = denoiser.path.corrupt(x, plan.back[i][1], plan.back[first][0]).sample(rng)
                for k in range(first, i + 1):
                    x, law = self._back(denoiser, plan, k, x, rng)
        return x, None, law

    def _back(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, rng: Random) -> tuple[Tensor, Any]:
        """The free step, then the replacement."""
        x, _, law = Ancestral().step(denoiser, plan.back, i, x, None, rng)
        basis = plan.basis.to(x)
        weight, shift, spread = plan.replace[i].to(x)
        move = shift * plan.y.to(x) - weight * (x.flatten(1) @ basis)
        if plan.noisy[i]:
            z = rng.normal(x.shape, dtype=x.dtype, device=x.device)
            move = move + spread * (z.flatten(1) @ basis)
        return x + (move @ basis.mT).reshape(x.shape), law
