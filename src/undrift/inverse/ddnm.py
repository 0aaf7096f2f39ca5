r"""DDNM: what is measured from the measurement, what is not from the denoiser; DDNM+ where the measurement is noisy.

*No noise.* The clean mean is projected onto the events that have this measurement, then the path steps back as ever:

.. math:: \hat x_0 \leftarrow \hat x_0 - A^+ (A \hat x_0 - y), \qquad x_s = \beta \hat x_0 + \kappa x_t + \omega z

with :math:`(\beta, \kappa, \omega^2)` of `Path.step_back`. The last step lands on A x = y.

*Noise* (DDNM+). In the direction of singular value s_i the projection brings noise of standard deviation
:math:`\beta \lambda_i \tau_i,\ \tau_i = \text{noise} / s_i`, into x_s; it takes the place of a part of the step's own:

.. math:: \lambda_i = \min\big(1,\ \omega / (\beta \tau_i)\big), \qquad \gamma_i = \omega^2 - (\beta \lambda_i \tau_i)^2,

where lambda weighs the correction and gamma is the variance of the noise that is still drawn. Given x_0 and x_t, and over the
noise of one measurement, x_s then has the covariance omega^2 I of an unguided step.

*What it does not claim.* The measurement's noise is the same at every step while the step's own is not, so the law of the
result is not the posterior. The step onto t = 0 has omega = 0: with noise, it is the denoiser's mean, uncorrected. A useless
measurement (noise to infinity) leaves its directions without noise of their own: the sampler expects it from y, and is not the
unguided one. Without noise an unseen coordinate that depends on a seen one is biased too.

Source: Wang, Yu and Zhang 2023 (2212.00490), algorithm 1, eq. 17-19 and appendix I (stochasticity = 1 is theirs).
Checked by: tests/inverse/test_ddnm.py
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import PotentialError
from undrift.gaussian.path import Path
from undrift.inverse.ddrm import SpectralSampler, Table

__all__ = ["DDNM"]


@dataclass(frozen=True)
class DDNM(SpectralSampler):
    """DDNM, and DDNM+ where noise > 0.

    Attributes:
        look: the operator A.
        y: measurements, shape (1, m) or (B, m).
        noise: standard deviation of their noise, >= 0.
        stochasticity: of the path's step, in (0, 1]; 1 is the paper's; 0 (DDIM) only without noise.

    Raises:
        PotentialError: stochasticity outside [0, 1], or 0 with noise, where lambda is 0 and y would never be looked at; and
            what `Held` raises.

    Source: Wang, Yu and Zhang 2023 (2212.00490), algorithm 1 and eq. 17-19.
    Checked by: tests/inverse/test_ddnm.py::test_without_noise_it_ends_on_the_measurement,
    tests/inverse/test_ddnm.py::test_the_noise_of_a_step_is_the_paths_own
    """

    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.stochasticity <= 1 or (self.stochasticity == 0 and self.noise > 0):
            raise PotentialError(
                "DDNM's stochasticity lies in [0, 1], and above 0 where the measurement is noisy: its noise takes the place of "
                "the step's own, and a deterministic step has none; got "
                f"{self.stochasticity:g} with noise {self.noise:g}: take 1"
            )

    def coefficients(self, path: Path, t: Tensor, s: Tensor, noise: Tensor) -> Table:
        """The path's step back from a corrected mean."""
        b, a, variance = path.step_back(t, s, self.stochasticity)
        brought, c = b * noise, variance.sqrt()
        weight = torch.where(brought > c, c / brought, 1.0)
        left = torch.where(brought > c, 0.0, variance - brought.square()).sqrt()
        return Table(a, b, c, torch.zeros_like(weight), -b * weight, left - c, b * weight)
