"""What several laws share: columns and rows of a batch, the Gaussian log density, a draw of an index, and checks."""

import torch
from torch import Tensor

from undrift.core import Covariance, Look, Random
from undrift.core.seen import white_log_prob
from undrift.errors import LawError, ShapeError

LOG_2PI = 1.8378770664093453


def column(c: Tensor, like: Tensor) -> Tensor:
    """Coefficients of shape () or (B,) as a column that broadcasts against `like`, shape (B, ...)."""
    return c.to(like.dtype) if c.ndim == 0 else c.to(like).reshape(-1, *([1] * (like.ndim - 1)))


def strength(scale: float | Tensor, like: Tensor) -> float | Tensor:
    """A strength, one number or one per row, shape (B,), that multiplies `like`, shape (B, ...)."""
    return column(scale.to(like.device), like) if torch.is_tensor(scale) else scale


def shared_rows(values: Tensor, which: slice | Tensor) -> Tensor:
    """Rows of a tensor whose leading axis is the batch, or 1 and shared by it."""
    return values if values.shape[0] == 1 else values[which]


def look(alpha: Tensor, variance: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Alpha and variance of a Gaussian look as columns; a look with alpha = 0 says nothing, whatever its variance."""
    variance = torch.where(alpha == 0, torch.ones_like(variance), variance)
    return column(alpha, like), column(variance, like)


def ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """Numerator / denominator with 0 / 0 = 0: an eigenvalue 0 moves nothing, even under a noiseless look."""
    return torch.where(numerator == 0, torch.zeros_like(numerator), numerator / denominator)


def weighted(weights: Tensor, values: Tensor) -> Tensor:
    """Sum over components: weights (B or 1, K) and values (B or 1, K, ...) -> (B, ...)."""
    return (weights.reshape(*weights.shape, *([1] * (values.ndim - 2))) * values).sum(1)


def gaussian_log_prob(residual: Tensor, cov: Covariance, spectrum) -> Tensor:
    """Log density of a centred Gaussian with covariance `spectrum(cov)` at `residual`, shape (*batch, d) -> (*batch,)."""
    quadratic = cov.quadratic(lambda s: 1 / spectrum(s), residual)
    return -0.5 * (quadratic + cov.logdet(spectrum) + residual.shape[-1] * LOG_2PI)


def noisy_look(look: Look, values: Tensor, y: Tensor, variance: Tensor) -> Tensor:
    """Log N(y; A value, R) for known values, shape (N, *E) against y (B or 1, m): (N,) for as many or one, else see callers.

    Raises:
        LawError: some measurement has no noise, and a known value then has no density.
    """
    noise = variance.to(values)
    if noise.device.type == "cpu" and bool((noise <= 0).any()):
        raise LawError(
            "a noiseless look at a law without spread has no density: lift it under a law with a covariance "
            "(guidance.second_order), or give the measurement some noise"
        )
    residual = y - look.forward(values)
    scale = noise.sqrt().expand(residual.shape[-1])
    return white_log_prob(residual / scale) - scale.log().sum()


def draw_index(log_weights: Tensor, rng: Random) -> Tensor:
    """An index along the last axis per row, by inverting the cumulative distribution (one uniform number per draw)."""
    weights = log_weights.exp()
    cumulative = weights.cumsum(-1)
    u = rng.uniform(log_weights.shape[:-1], dtype=weights.dtype, device=weights.device)[..., None]
    index = (u * cumulative[..., -1:] >= cumulative).sum(-1).clamp_max(log_weights.shape[-1] - 1)
    return torch.where(torch.isnan(cumulative[..., -1]), -1, index)  # no symbol: `simulate.sample` names the step


def expect(condition: bool, message: str) -> None:
    """A `ShapeError` with this message unless the condition holds."""
    if not condition:
        raise ShapeError(message)


def check_probabilities(weights: Tensor) -> None:
    """A `LawError` unless the weights are >= 0 and sum to 1."""
    total = float(weights.sum())
    if not bool((weights >= 0).all()) or abs(total - 1) > 1e-6:
        raise LawError(f"weights must be >= 0 and sum to 1, got a sum of {total:.6g}; divide them by their sum")
