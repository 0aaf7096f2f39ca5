r"""DDPM: the ancestral chain with either of its two variances.

.. math:: \mu = E[X_s \mid x_t, \hat x_0], \qquad
          \tilde\beta = \sigma_{t|s}^2 \sigma_s^2 / \sigma_t^2 \ (\text{posterior}), \qquad
          \beta = \sigma_{t|s}^2 \ (\text{forward})

The posterior variance is right if the data are a point, the forward variance if they are white noise of unit variance on a
VP path; for other data the truth lies between. The last step, onto the data, adds no noise with either.

Source: Ho, Jain and Abbeel 2020 (2006.11239), eq. 6-7 and section 3.2.
Checked by: tests/gaussian/test_solvers.py::test_ddpm_matches_the_papers_update
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.affine import AffineSolver

__all__ = ["DDPM"]


@dataclass(frozen=True)
class DDPM(AffineSolver):
    """DDPM.

    Attributes:
        variance: "posterior" or "forward".

    Raises:
        GridError: another variance.
    """

    variance: str = "posterior"

    def __post_init__(self) -> None:
        if self.variance not in ("posterior", "forward"):
            raise GridError(f"DDPM's variance is 'posterior' or 'forward', got {self.variance!r}")

    def coefficients(self, path: Path, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The chain's mean, and the chosen variance."""
        from_clean, from_state, variance = path.step_back(t, s, 1.0)
        if self.variance == "forward":
            sigma_t, sigma_s = path.schedule.sigma(t), path.schedule.sigma(s)
            variance = torch.where(sigma_s > 0, variance * (sigma_t / sigma_s).square(), 0.0)
        return from_state, from_clean, variance.sqrt()
