r"""DiffPIR: a proximal step on the clean mean, then noise again, part of it new.

.. math:: \tilde x_0 &= \arg\min_x\ \frac{|y - A x|^2}{2\, \text{noise}^2}
          + \frac{\lambda \alpha_t^2}{2 \sigma_t^2} |x - \hat x_0|^2 \\
          x_s &= \alpha_s \tilde x_0 + \sigma_s \Big( \sqrt{1 - \zeta}\, \frac{x_t - \alpha_t \tilde x_0}{\sigma_t}
          + \sqrt{\zeta}\, z \Big)

In the direction of singular value s_i, with :math:`\tau_i = \text{noise} / s_i`, the first line is

.. math:: \tilde x_0 = \hat x_0 + w_i (\bar y_i - \hat x_0), \qquad
          w_i = \frac{\sigma_t^2}{\sigma_t^2 + \lambda \alpha_t^2 \tau_i^2} ,

closed, and 1 where alpha_t = 0. It is Bayes' rule for a clean end whose covariance given x_t is sigma_t^2 / (lambda alpha_t^2).
For lambda = 1 that is too wide, by the factor 1 + sigma_t^2 / (alpha_t^2 c) for white data of variance c: too much trust in y.

*What it draws is not the posterior*, with the exact denoiser of a Gaussian. With lambda = 1 and zeta > 0 fine steps bring the
mean to the posterior's, and the covariance to (1 + sqrt(1 - zeta)) / 2 of it: every step forgets the same share of its noise
however short. (lambda tempers the likelihood.) With zeta = 0 nothing is forgotten, and early trust stays: mean and covariance
are biased. As noise goes to infinity it becomes the unguided sampler, DDIM for zeta = 0.

Source: Zhu et al. 2023 (2305.08995), eq. 12-14 and algorithm 1. The paper's step 6b is taken at every step, the last included.
Checked by: tests/inverse/test_diffpir.py
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import PotentialError
from undrift.gaussian.path import Path
from undrift.inverse.ddrm import SpectralSampler, Table

__all__ = ["DiffPIR"]


@dataclass(frozen=True)
class DiffPIR(SpectralSampler):
    """DiffPIR; see the module for its step, and for what it does not claim.

    Attributes:
        look: the operator A.
        y: measurements, shape (1, m) or (B, m).
        noise: standard deviation of their noise, > 0.
        lambda_: trust in the denoiser against the measurement, > 0; 1 takes the denoiser's error to be sigma / alpha.
        zeta: share of the noise variance that is new, in [0, 1].

    Raises:
        PotentialError: noise = 0, lambda_ not positive, zeta outside [0, 1], and what `Held` raises.

    Source: Zhu et al. 2023 (2305.08995), algorithm 1.
    Checked by: tests/inverse/test_diffpir.py::test_the_data_step_minimises_the_papers_objective,
    tests/inverse/test_diffpir.py::test_without_noise_it_is_refused
    """

    lambda_: float = 1.0
    zeta: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.noise == 0:
            raise PotentialError(
                "DiffPIR weighs the measurement by its noise, and there is none (noise = 0); state the noise it has, or use "
                "DDNM or RePaint, which hold an exact measurement exactly"
            )
        if not 0 < self.lambda_ < math.inf or not 0 <= self.zeta <= 1:
            raise PotentialError(
                f"DiffPIR needs a finite lambda_ > 0 and zeta in [0, 1], got {self.lambda_} and {self.zeta}; 1 and 1 are usual"
            )

    @property
    def order(self) -> int:
        """1 if deterministic; 0 otherwise: the variance does not converge to the data's."""
        return int(self.zeta == 0)

    def coefficients(self, path: Path, t: Tensor, s: Tensor, noise: Tensor) -> Table:
        """The step of the module."""
        schedule = path.schedule
        alpha_t, sigma_t, sigma_s = schedule.alpha(t), schedule.sigma(t), schedule.sigma(s)
        a, c = math.sqrt(1 - self.zeta) * sigma_s / sigma_t, math.sqrt(self.zeta) * sigma_s
        b = schedule.alpha(s) - a * alpha_t
        weight = sigma_t.square() / (sigma_t.square() + self.lambda_ * (alpha_t * noise).square())
        none = torch.zeros_like(weight)
        return Table(a, b, c, none, -b * weight, none, b * weight)
