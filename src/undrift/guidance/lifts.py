r"""How a reward without a closed form is lifted: at the law's mean, or by draws of the law.

Both say how a gradient or a weight is had, and neither tilts a law. Potentials that are joined are lifted once, so they must
agree.

Checked by: tests/guidance/test_potentials.py
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undrift.errors import PotentialError
from undrift.guidance.potentials import Potential

__all__ = ["AtMean", "Lifted", "MonteCarlo", "at_mean", "monte_carlo"]


@dataclass(frozen=True)
class Lifted(Potential):
    """A reward with a way to lift it, which joining, repeating and tempering keep.

    Attributes:
        potential: the reward.
    """

    potential: Potential

    def __call__(self, x_0: Tensor) -> Tensor:
        """The reward itself."""
        return self.potential(x_0)

    @abstractmethod
    def lift(self, law: Any) -> Tensor:
        """The approximation, shape (B,), nats."""

    def absorb(self, law: Any) -> Any:
        """An approximate lift belongs to no tilted law.

        Raises:
            PotentialError: always.
        """
        raise PotentialError(
            f"{self.lifting[0]} says how a gradient or a weight is had, not a law: to condition a law of finitely many events, "
            "give the potential itself"
        )

    @property
    def batch(self) -> int:
        """Those of the potential inside."""
        return self.potential.batch

    def per(self, particles: int) -> Potential:
        """Repeated."""
        return self.like(self.potential.per(particles))

    def like(self, potential: Potential) -> Potential:
        """Another potential, lifted in the same way."""
        return replace(self, potential=potential)

    def __rmul__(self, weight: float) -> Potential:
        """Tempered, and lifted in the same way."""
        return self.like(weight * self.potential)


@dataclass(frozen=True)
class AtMean(Lifted):
    """Lifted as the reward at the law's mean; see `at_mean`."""

    def lift(self, law: Any) -> Tensor:
        """R at the mean."""
        return self.potential(law.mean)

    @property
    def lifting(self) -> tuple[Any, ...]:
        """At the mean."""
        return ("at_mean",)


@dataclass(frozen=True)
class MonteCarlo(Lifted):
    """Lifted by averaging over draws; see `monte_carlo`."""

    draws: int
    seed: int
    floor: float

    def lift(self, law: Any) -> Tensor:
        """Log of the mean of exp r over the draws, no lower than the floor."""
        rng = Common(self.seed)
        values = torch.stack([self.potential(law.sample(rng)) for _ in range(self.draws)])
        mean = torch.logsumexp(values, 0) - torch.tensor(float(self.draws), dtype=values.dtype).log()
        return mean if self.floor == -torch.inf else torch.logaddexp(mean, torch.full_like(mean, self.floor))

    @property
    def lifting(self) -> tuple[Any, ...]:
        """By these draws."""
        return ("monte_carlo", self.draws, self.seed, self.floor)


def at_mean(potential: Potential) -> Potential:
    """The potential, lifted as r(E[X_0 | x_t]): what DPS and universal guidance do. Exact at a point alone; biased elsewhere.

    Source: Chung et al. 2022 (2209.14687); Bansal et al. 2023 (2302.07121).
    Checked by: tests/guidance/test_potentials.py::test_at_mean_is_universal_guidance
    """
    return AtMean(potential)


def monte_carlo(potential: Potential, draws: int, *, seed: int = 0, floor: float = -torch.inf) -> Potential:
    """The potential, lifted as the log of an average over draws of the law (LGD-MC).

    Args:
        potential: any reward; differentiable if a gradient is to steer.
        draws: draws per row. The same numbers serve every row and every call, so the lift is a function of the law; a smooth
            one under a `Normal`. Draws of a mixture jump between components, and their gradient misses how the weights change.
        seed: of the draws.
        floor: nats; the lift is log(mean exp r + exp floor). Give one to constraints, whose draws may all miss: a particle that
            is merely unlucky must not die.

    Source: Song et al. 2023 (LGD-MC, ICML), eq. 8. Checked by: tests/guidance/test_potentials.py::test_monte_carlo_converges
    """
    if draws < 1:
        raise PotentialError(f"monte_carlo needs at least one draw, got {draws}")
    return MonteCarlo(potential, draws, seed, floor)


class Common:
    """The same numbers for every row, so that a row's lift does not depend on its batch."""

    def __init__(self, seed: int):
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Standard normal numbers, shape `shape`, equal rows."""
        return torch.randn(tuple(shape[1:]), generator=self._generator, dtype=dtype).to(device).expand(tuple(shape))

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Uniform numbers in [0, 1), shape `shape`, equal rows."""
        return torch.rand(tuple(shape[1:]), generator=self._generator, dtype=dtype).to(device).expand(tuple(shape))

    def replay(self) -> "Common":
        """The same source, rewound."""
        return Common(self.seed)
