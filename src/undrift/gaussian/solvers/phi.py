r"""The phi functions of exponential integrators, without cancellation.

.. math:: \varphi_k(z) = \int_0^1 e^{(1 - \theta) z} \frac{\theta^{k-1}}{(k-1)!}\, d\theta
          = \sum_{m \ge 0} \frac{z^m}{(m + k)!}, \qquad
          \varphi_{k+1}(z) = \frac{\varphi_k(z) - 1/k!}{z}

The recurrence loses digits where z is small, the series where it is large; they meet at abs(z) = 1.

Source: Hochbruck and Ostermann 2010, section 2. Checked by: tests/gaussian/test_unipc.py::test_phi_is_its_integral
"""

import math

import torch
from torch import Tensor

__all__ = ["phi"]

_TERMS = 20  # 1 / 20! is below half a unit in the last place of float64


def phi(k: int, z: Tensor) -> Tensor:
    """phi_k, k >= 1, elementwise on float64, shape kept."""
    series = torch.zeros_like(z)
    for m in reversed(range(_TERMS)):
        series = series * z + 1 / math.factorial(m + k)
    away = torch.where(z.abs() < 1, torch.ones_like(z), z)
    value = torch.expm1(away) / away
    for j in range(1, k):
        value = (value - 1 / math.factorial(j)) / away
    return torch.where(z.abs() < 1, series, value)
