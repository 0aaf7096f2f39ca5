r"""DDIM: the step back with a chosen stochasticity, made with the posterior mean alone.

.. math:: x_s = \alpha_s \hat x_0 + \sqrt{\sigma_s^2 - \omega^2}\, \hat z + \omega z, \qquad
          \omega = \eta\, \sigma_{t|s} \sigma_s / \sigma_t

With eta = 0 it is the exponential integrator of the probability-flow ODE in the clean end, and Euler in sigma / alpha.

Source: Song, Meng and Ermon 2021 (2010.02502), eq. 12 and 16.
Checked by: tests/gaussian/test_solvers.py (order, limits, exactness on a point mass)
"""

from dataclasses import dataclass

from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.affine import AffineSolver

__all__ = ["DDIM"]


@dataclass(frozen=True)
class DDIM(AffineSolver):
    """DDIM.

    Attributes:
        stochasticity: eta in [0, 1]; 0 deterministic, 1 ancestral.

    Raises:
        GridError: stochasticity outside [0, 1].
    """

    stochasticity: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.stochasticity <= 1:
            raise GridError(
                f"DDIM's stochasticity lies in [0, 1], got {self.stochasticity:g}; for more noise use EulerMaruyama"
            )

    def coefficients(self, path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The path's own step back."""
        from_clean, from_state, variance = path.step_back(t, s, self.stochasticity)
        return from_state, from_clean, variance.sqrt()
