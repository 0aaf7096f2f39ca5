r"""The worst case near a law: distributionally robust evaluation, and samples of the worst case by steering.

.. math:: \sup_{KL(Q \| P) \le \rho} E_Q[\ell] = \min_{\lambda > 0}\ \lambda \rho + \lambda \log E_P\, e^{\ell / \lambda},
          \qquad Q^* \propto P\, e^{\ell / \lambda^*} .

The worst case is a tilt of P, so :math:`\ell / \lambda^*` is a potential: steer a model of P by it and it draws from Q*. In
s = 1/lambda, with :math:`K(s) = \log E_P e^{s \ell}`, the minimum is where the radius is spent,

.. math:: KL(Q_s \| P) = s K'(s) - K(s) = \rho,

whose left side grows with s: one root of one increasing function, and the value is :math:`K'(s) = E_{Q_s}[\ell]`.

From n draws no law is further away than log n (all mass on the worst draw), and long before that the answer rests on few
draws: the effective size says on how many.

Sources: Donsker and Varadhan; Hu and Hong 2013, theorem 1; the survey, section 7.2. Checked by: tests/guidance/test_robust.py
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import PotentialError
from undrift.guidance.potentials import Linear, Potential, Reward
from undrift.laws import Empirical, Liftable

__all__ = ["WorstCase", "worst_case"]


@dataclass(frozen=True)
class WorstCase:
    """The worst law in a ball around P.

    Attributes:
        value: E_Q*[loss], in the loss's unit.
        temperature: lambda*, in the loss's unit.
        potential: loss / lambda*, nats: what to steer by, with `condition`, `twist` or `smc`.
        law: Q* itself, batch shape (1,): the draws reweighted, or the law tilted.
        divergence: KL(Q* || P), nats: the radius, as attained.
        effective_size: how many draws carry the answer, (sum w)^2 / sum w^2; infinite for a law in closed form.
    """

    value: float
    temperature: float
    potential: Potential
    law: Any
    divergence: float
    effective_size: float


Tilted = Callable[[float], tuple[float, float]]
"""s -> (mean of the loss under Q_s, KL(Q_s || P))."""


def worst_case(loss: Potential | Callable[[Tensor], Tensor], radius: float, data: Tensor | Empirical | Liftable) -> WorstCase:
    """The largest expected loss over all laws within a divergence of P.

    Args:
        loss: events (B, *E) -> (B,), any unit; `guidance.Linear` where P is a law in closed form.
        radius: rho > 0, nats.
        data: P: draws of it, shape (n, *E), or weighted ones as an `Empirical`; or a law with `log_mgf`, batch shape (1,).

    Returns:
        The worst case. Exact in closed form; from draws it is the exact worst case of *their* law, which is optimistic where
        the effective size is small.

    Raises:
        PotentialError: radius <= 0 or not finite; no draws; a loss that is NaN or infinite somewhere, that does not vary, or
            that is not one number per event; a radius at or beyond what draws can reach; a closed-form law with another than
            a linear loss, or with more than one row.

    Source: Hu and Hong 2013, theorem 1.
    Checked by: tests/guidance/test_robust.py::test_gaussian_and_linear_is_the_closed_form,
        tests/guidance/test_robust.py::test_no_law_in_the_ball_is_worse
    """
    if not (radius > 0 and math.isfinite(radius)):
        raise PotentialError(
            f"the radius of a ball of laws is a positive number of nats, got {radius:g}; 0.1 is a moderate shift"
        )
    potential = loss if isinstance(loss, Potential) else Reward(loss)
    if torch.is_tensor(data):
        if data.ndim < 1 or data.shape[0] == 0:
            raise PotentialError(f"draws have shape (n, *E) with n >= 1, got {tuple(data.shape)}")
        data = Empirical.of(data)
    return _of_draws(potential, radius, data) if isinstance(data, Empirical) else _of_law(potential, radius, data)


def _of_draws(loss: Potential, radius: float, data: Empirical) -> WorstCase:
    values = Reward(loss)(data.atoms).detach().double()
    _one_row(data.log_weights.shape[0])
    log_weights = data.log_weights[0].double()
    if not bool(torch.isfinite(values).all()):
        raise PotentialError(
            f"the loss is NaN or infinite at {int((~torch.isfinite(values)).sum())} of {values.shape[0]} draws; mend the loss "
            "or drop them"
        )
    live = log_weights > -torch.inf
    top = values[live].max()
    scale = float(top - values[live].min())
    _varies(scale)
    reach = -float(torch.logsumexp(log_weights[live & (values == top)], 0))
    if radius >= reach * (1 - 1e-9):  # nearer, rounding decides
        raise PotentialError(
            f"a radius of {radius:g} nats is beyond these {int(live.sum())} draws, whose furthest law has all mass on the "
            f"worst one at {reach:.4g} nats: the largest loss seen, {float(top):g}, is then the answer and says nothing of P; "
            "give more draws, a smaller radius, or a law in closed form"
        )
    short = (values - top) / scale  # in [-1, 0], so that no exponential overflows

    def weights(s: float) -> Tensor:
        return torch.log_softmax(log_weights + s * short, 0)

    def tilted(s: float) -> tuple[float, float]:
        log_q = weights(s)
        q = log_q.exp()
        spread = torch.where(q > 0, q * (log_q - log_weights), 0.0)
        return float(top) + scale * float(q @ short), float(spread.sum())

    s, value, divergence = _solve(tilted, radius)
    log_q = weights(s)
    size = math.exp(-float(torch.logsumexp(2 * log_q, 0)))
    law = Empirical(log_q[None].to(data.log_weights), data.atoms)
    return WorstCase(value, scale / s, (s / scale) * loss, law, divergence, size)


def _of_law(loss: Potential, radius: float, data: Liftable) -> WorstCase:
    if not isinstance(loss, Linear):
        raise PotentialError(
            f"a {type(data).__name__} knows the worst case of a linear loss alone (guidance.Linear(direction)); for another "
            "loss give draws: worst_case(loss, radius, draws)"
        )
    _one_row(loss.lift(data).shape[0])
    if not bool(torch.isfinite(loss.direction).all()):
        raise PotentialError("the direction of a linear loss holds NaN or infinity; mend it")
    unit = float(loss.direction.norm())
    _varies(unit)
    one = Linear(loss.direction / unit)

    def tilted(s: float) -> tuple[float, float]:
        potential = s * one
        gain = float(one(potential.absorb(data).mean)[0])
        return unit * gain, s * gain - float(potential.lift(data)[0])

    s, value, divergence = _solve(tilted, radius)
    potential = (s / unit) * loss
    return WorstCase(value, unit / s, potential, potential.absorb(data), divergence, math.inf)


def _solve(tilted: Tilted, radius: float) -> tuple[float, float, float]:
    """(s, value, divergence) where the radius is spent."""
    from scipy.optimize import root_scalar  # imported where it is used: importing undrift stays light

    low, high = 1.0, 1.0
    while tilted(high)[1] < radius:
        high *= 4
        if high > 1e15:
            _varies(0.0)
    while tilted(low)[1] > radius:
        low /= 4
    s = low
    if low < high:
        s = float(root_scalar(lambda s: tilted(s)[1] - radius, bracket=(low, high), xtol=1e-300, rtol=1e-14, maxiter=500).root)
    return s, *tilted(s)


def _varies(spread: float) -> None:
    if not spread > 0:
        raise PotentialError("the loss is the same everywhere that the law has mass: no shift of the law makes it worse")


def _one_row(rows: int) -> None:
    if rows != 1:
        raise PotentialError(f"the ball is around one law, and {rows} were given (its batch shape is not (1,)); ask one by one")
