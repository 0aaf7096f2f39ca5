r"""The mass of a box under a Gaussian, in logs.

With :math:`a = (low - m) / s` and :math:`b = (high - m) / s`, mirrored so that the interval lies below 0 for its larger part,

.. math:: \log\big(\Phi(b) - \Phi(a)\big) = \log\Phi(b) + \log\big(1 - e^{\log\Phi(a) - \log\Phi(b)}\big),

which keeps its digits in both tails. An interval much narrower than s has the mass of its middle,
:math:`\varphi(m)\,(b - a)\,(1 + (b - a)^2 (m^2 - 1) / 24)`, m its middle. Independent coordinates multiply.

Checked by: tests/laws/test_log_mass.py
"""

import torch
from torch import Tensor

from undrift.core import Covariance
from undrift.errors import LawError, ShapeError

__all__ = ["box_log_mass", "indicator"]

_NARROW = 1e-4
"""Below this width (times the larger of 1 and the distance from 0) the middle's density is exact to 1e-16."""
_LOG_ROOT_2PI = 0.9189385332046727


def indicator(inside: Tensor, like: Tensor) -> Tensor:
    """0 where inside and -inf outside, shape kept, dtype and device of `like`."""
    nothing = torch.zeros(inside.shape, dtype=like.dtype, device=like.device)
    return nothing.masked_fill(~inside, -torch.inf)


def in_box(values: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Whether low <= value <= high in every coordinate of the event, shape (N, *E) -> (N,)."""
    wide = values.double()
    return ((wide >= low.to(wide)) & (wide <= high.to(wide))).flatten(1).all(1)


def box_log_mass(mean: Tensor, cov: Covariance, low: Tensor, high: Tensor, event: torch.Size) -> Tensor:
    """Log P(low <= X <= high) for X ~ N(mean, cov), nats.

    Args:
        mean: shape (*batch, d).
        cov: batch shape broadcasting against that of the mean.
        low: smallest values, broadcasting against the event; -inf where there is none.
        high: largest values.
        event: shape E, d numbers in all.

    Returns:
        Shape (*batch,). A coordinate without variance has the mass 1 on the interval, its ends included, and 0 off it.

    Raises:
        LawError: more than one coordinate is bounded and the covariance has a basis, so that they may depend on each other.
        ShapeError: the bounds do not broadcast against the event.
    """
    try:
        low, high = low.expand(event).reshape(-1), high.expand(event).reshape(-1)
    except RuntimeError as error:
        raise ShapeError(
            f"bounds of shapes {tuple(low.shape)} and {tuple(high.shape)} do not fit events of shape {tuple(event)}; give one "
            "number, or one per coordinate"
        ) from error
    bounded = torch.isfinite(low) | torch.isfinite(high)
    if cov.basis is not None and cov.dim > 1 and low.device.type == "cpu" and int(bounded.sum()) > 1:
        raise LawError(
            f"the mass of a box in {int(bounded.sum())} coordinates has no closed form under a covariance that ties them "
            "together; bound one coordinate, take a law of independent coordinates (Covariance.diagonal, or "
            "second_order(denoiser, 'diagonal')), average over draws (guidance.monte_carlo), or project the samples "
            "(guidance.constrained)"
        )
    variance = cov.variances().expand(mean.shape)
    spread = variance > 0
    std = torch.where(spread, variance, 1.0).sqrt()
    below, above = low.to(mean) - mean, high.to(mean) - mean
    mass = _log_mass(below / std, above / std)
    return torch.where(spread, mass, indicator((below <= 0) & (above >= 0), mass)).sum(-1)


def _log_mass(a: Tensor, b: Tensor) -> Tensor:
    """Log(Phi(b) - Phi(a)) for a <= b, either infinite; each formula sees only its own side, or its slope elsewhere is NaN."""
    flip = a + b > 0
    lo, hi = torch.where(flip, -b, a), torch.where(flip, -a, b)
    far = torch.finfo(a.dtype).max ** 0.5  # beyond, the square in log Phi is infinite: so is the end
    below, above = lo.abs() < far, hi.abs() < far
    both = below & above
    lo, top = torch.where(both, lo, -1.0), torch.where(above, hi, 0.0)
    up = torch.special.log_ndtr(top)
    middle, width = 0.5 * (lo + top), top - lo
    narrow = both & (width * middle.abs().clamp_min(1) < _NARROW)
    thin = torch.where(narrow, width, 1.0)
    bump = 0.5 * middle.square() + _LOG_ROOT_2PI
    density = thin.log() - bump + torch.log1p(thin.square() * (torch.where(narrow, middle, 0.0).square() - 1) / 24)
    gap = torch.special.log_ndtr(torch.where(narrow, top - 1, lo)) - up
    near = gap > -0.6931
    log1mexp = torch.where(
        near, torch.log(-torch.expm1(torch.where(near, gap, -1.0))), torch.log1p(-torch.where(near, -1.0, gap).exp())
    )
    finite = torch.where(both, torch.where(narrow, density, up + log1mexp), up)
    ends = torch.where(hi > 0, torch.zeros_like(hi), -torch.inf)
    return torch.where(above, finite, ends)
