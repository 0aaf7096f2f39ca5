r"""RED-diff: descend a variational loss whose regulariser is the denoiser.

The posterior is approximated by a Gaussian of no width at mu, and mu is moved by the slope of

.. math:: -r(\mu) + E_{t, z}\big[\lambda\, w_t\, \tfrac{\alpha_t}{\sigma_t}\, (\hat\epsilon(x_t) - z)^\top \mu\big], \qquad
          x_t = \alpha_t \mu + \sigma_t z,

with the bracket before mu held. As :math:`\hat\epsilon - z = (\alpha_t / \sigma_t)(\mu - E[X_0 | x_t])`, the slope is

.. math:: g = -\nabla r(\mu) + \lambda\, \omega_t\, \big(\mu - E[X_0 | x_t]\big),

no Jacobian of the network. The paper weighs the noise residual by sigma / alpha, which is omega = 1 (`flat`).

**It seeks a mode and draws no posterior**: many starts end at few points, and their spread is the optimiser's noise. Nor is the
mode that of the posterior. For data N(m, C) and r = log N(y; A x, R) the optimiser rests, on average, where

.. math:: A^\top R^{-1} (y - A \mu) = \lambda\, \overline{\omega_t v_t (C + v_t I)^{-1}}\; (\mu - m), \qquad
          v = \sigma^2 / \alpha^2,

a prior precision that is flat in every direction of small variance. With `precise`, omega = 1 / v, lambda = 1 and levels v far
below C it is :math:`C^{-1}` and mu the posterior's mode; the slope is then noisy, with a standard deviation of 1 / sqrt(v).

Source: Mardani et al. 2023 (2305.04391), algorithm 1 and proposition 2.
Checked by: tests/inverse/test_reddiff.py
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core import Random, pad
from undrift.errors import GridError, PotentialError, ShapeError
from undrift.gaussian.solvers.plan import ends, tabulate
from undrift.grids import Grid
from undrift.guidance.potentials import Potential
from undrift.guidance.proximal import slope, try_slope
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["Adam", "Descent", "REDdiff", "flat", "precise"]

Weight = Callable[[Tensor], Tensor]
"""v = sigma^2 / alpha^2 of every level, shape (n,) -> omega, shape (n,)."""


def flat(v: Tensor) -> Tensor:
    """Omega = 1: the paper's, sigma / alpha on the noise residual."""
    return torch.ones_like(v)


def precise(v: Tensor) -> Tensor:
    """Omega = 1 / v: minus the score of the data smoothed by v."""
    return 1 / v


@runtime_checkable
class Optimiser(Protocol):
    """How a slope becomes a move; all it remembers is in its state."""

    def init(self, mu: Tensor) -> Any:
        """State before the first step."""
        ...

    def move(self, slope: Tensor, state: Any) -> tuple[Tensor, Any]:
        """(what is added to mu, next state)."""
        ...


@dataclass(frozen=True)
class Descent:
    """Plain gradient descent.

    Attributes:
        rate: squared codec units per nat.

    Raises:
        PotentialError: a rate that is not positive.

    Checked by: tests/inverse/test_reddiff.py::test_descent_is_the_recursion_by_hand
    """

    rate: float

    def __post_init__(self) -> None:
        _positive(self.rate)

    def init(self, mu: Tensor) -> None:
        """No state."""

    def move(self, slope: Tensor, state: None) -> tuple[Tensor, None]:
        """Downhill."""
        return -self.rate * slope, None


@dataclass(frozen=True)
class Adam:
    """Adam, elementwise, so a sample never sees its neighbours.

    Attributes:
        rate: codec units a step, about.
        beta1: memory of the slope.
        beta2: memory of its square.
        epsilon: nats per codec unit.

    Raises:
        PotentialError: a rate that is not positive, a memory outside [0, 1).

    Source: Kingma and Ba 2015, algorithm 1; memories as in Mardani et al. 2023.
    Checked by: tests/inverse/test_reddiff.py::test_adam_is_torchs_adam
    """

    rate: float
    beta1: float = 0.9
    beta2: float = 0.99
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        _positive(self.rate)
        if not (0 <= self.beta1 < 1 and 0 <= self.beta2 < 1):
            raise PotentialError(
                f"Adam's memories lie in [0, 1), got {self.beta1:g} and {self.beta2:g}; 0.9 and 0.99 are usual"
            )

    def init(self, mu: Tensor) -> tuple[int, Tensor, Tensor]:
        """(steps taken, first moment, second moment)."""
        return 0, torch.zeros_like(mu), torch.zeros_like(mu)

    def move(self, slope: Tensor, state: tuple[int, Tensor, Tensor]) -> tuple[Tensor, tuple[int, Tensor, Tensor]]:
        """Slope over its root mean square, both freed of their zero start."""
        taken, first, second = state
        taken, first, second = taken + 1, torch.lerp(slope, first, self.beta1), torch.lerp(slope.square(), second, self.beta2)
        scale = (second / (1 - self.beta2**taken)).sqrt_().add_(self.epsilon)
        return -self.rate / (1 - self.beta1**taken) * first / scale, (taken, first, second)


@dataclass(frozen=True)
class REDdiff:
    """RED-diff. The state of the trajectory is mu; where the trajectory starts plays no part, `start` does.

    Attributes:
        potential: what is wanted; any differentiable reward, nats.
        optimiser: `Adam(rate)` or `Descent(rate)`.
        strength: lambda >= 0.
        start: mu before the first step, shape (1, *E) or (B, *E), codec units; the paper takes the pseudo-inverse of y.
        weight: omega from v = sigma^2 / alpha^2.
        shuffled: False walks the grid's levels downwards, as the paper found best; True draws a level for each sample anew at
            every step.

    Raises:
        PotentialError: a negative strength.

    Checked by: tests/inverse/test_reddiff.py::test_shuffled_descent_rests_where_the_formula_says,
        tests/inverse/test_reddiff.py::test_precise_weights_at_low_noise_find_the_posteriors_mode,
        tests/inverse/test_reddiff.py::test_bad_input_is_refused_before_the_first_call
    """

    potential: Potential
    optimiser: Optimiser
    strength: float
    start: Tensor
    weight: Weight = flat
    shuffled: bool = False

    def __post_init__(self) -> None:
        if not self.strength >= 0:
            raise PotentialError(f"RED-diff's strength is >= 0, got {self.strength:g}; start with 1 and weight=flat")

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """None: it is an optimiser, and converges to a mode, not to a law."""
        return 0

    def calls(self, grid: Grid) -> int:
        """One a step, and one gradient of the reward."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> "Levels":
        """(alpha_t, sigma_t, lambda omega_t) of every level.

        Raises:
            FamilyError: another family's path.
            GridError: a grid that rises; an infinite weight.
        """
        check_family(self, path)
        if grid.times[0] < grid.times[-1]:
            raise GridError("RED-diff walks from noise to data; give a grid whose times fall")
        t, _ = ends(grid)
        alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
        columns = (alpha, sigma, self.strength * self.weight((sigma / alpha).square()))
        plan = tabulate(self, path, grid, columns)
        return Levels(plan.times, plan.rows, torch.cat([t[:, None], torch.stack(torch.broadcast_tensors(*columns), 1)], 1))

    def init(self, x: Tensor) -> tuple[Tensor, Any]:
        """(mu, state of the optimiser).

        Raises:
            ShapeError: a start of another shape.
            PotentialError: a reward of the wrong shape, without a gradient, or NaN; a start that is not finite.
        """
        if self.start.shape[1:] != x.shape[1:] or self.start.shape[0] not in (1, x.shape[0]):
            raise ShapeError(
                f"start has shape {tuple(self.start.shape)} for states of shape {tuple(x.shape)}; give one start, shape "
                f"(1, ...), or one per sample"
            )
        if not bool(torch.isfinite(self.start).all()):
            raise PotentialError("start holds NaN or infinity; zeros will do, or the pseudo-inverse of the measurement")
        try_slope(self.potential, x)
        mu = self.start.to(x).expand_as(x)
        return mu, self.optimiser.init(mu)

    def step(
        self, denoiser: Denoiser, plan: "Levels", i: int, x: Tensor, state: tuple[Tensor, Any], rng: Random
    ) -> tuple[Tensor, tuple[Tensor, Any], Any]:
        """Noise mu, denoise it, move; the law is the denoiser's at the noised mu."""
        mu, memory = state
        t, alpha, sigma, strength = plan.drawn(mu, rng) if self.shuffled else (plan.times[i], *plan.rows[i])
        z = rng.normal(mu.shape, dtype=mu.dtype, device=mu.device)
        law = denoiser(alpha * mu + sigma * z, t)
        move, memory = self.optimiser.move(strength * (mu - law.mean) - slope(self.potential, mu), memory)
        mu = mu + move
        return mu, (mu, memory), law


@dataclass(frozen=True)
class Levels:
    """Every level's numbers.

    Attributes:
        times: n + 1 float64 scalars.
        rows: (alpha, sigma, lambda omega) of every level, plain numbers.
        table: (t, alpha, sigma, lambda omega), shape (n, 4), float64.
    """

    times: tuple[Tensor, ...]
    rows: tuple[tuple[float, ...], ...]
    table: Tensor = field(repr=False)

    def drawn(self, like: Tensor, rng: Random) -> tuple[Tensor, ...]:
        """A level for every sample, uniformly: t of shape (B,), and the rest as columns."""
        n = self.table.shape[0]
        u = rng.uniform(like.shape[:1], dtype=torch.float64 if like.device.type != "mps" else torch.float32, device=like.device)
        chosen = self.table.to(u)[(u * n).long()]
        return chosen[:, 0], *(pad(column, like) for column in chosen[:, 1:].unbind(1))


def _positive(rate: float) -> None:
    if not rate > 0:
        raise PotentialError(f"an optimiser needs a rate > 0, got {rate:g}; the paper's Adam takes 0.1 on images in [-1, 1]")
