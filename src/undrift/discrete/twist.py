r"""Steering a finite-state chain: the rate of a jump is multiplied by what it gains.

With h at the state and at its neighbours, those that differ in one symbol, the reverse rates become

.. math:: R_h(x \to x') = R(x \to x')\, \Big(\frac{h_t(x')}{h_t(x)}\Big)^{\gamma} .

gamma = 1 with :math:`h_t(x_t) = E[e^{r(X_0)} | x_t]` is Doob's transform: the chain ends at :math:`p\, e^r` exactly, and with
:math:`h_t = p(y | x_t)`, a classifier of noisy states, at :math:`p(x | y)`. Other gammas sharpen or soften every jump; no
simple formula gives where they end.

`TwistedLeaping` is the sampler. All sites jump at once, each by the path's own step back, weighted by the same ratios,

.. math:: p(x_s^i = k \mid x_t) \propto q(x_s^i = k \mid x_t)\, \Big(\frac{h_u(x_t^{i \to k})}{h_u(x_t)}\Big)^{\gamma}, \qquad
          u = \tfrac12 (t + s),

with h in the middle of the step, where every state that the chain ever visits is possible (at t = 1 no symbol is shown, at
t = 0 none is masked). It has the rates above for short steps, keeps a probability for long ones, and has no singular ends: it
starts from pure noise, and its last step leaves no mask. It costs one call of the denoiser and, for each sample, h at
sites (symbols - 1) + 1 states a step. On masked paths with gamma = 1 a step is the steered law's own, sites independent.

Where whole events can be enumerated, `guidance.condition` is exact at any number of steps and asks h nowhere.

Source: Nisonoff et al. 2024 (2406.01572), eq. 2 and algorithm 1. Checked by: tests/discrete/test_twist.py
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import Random
from undrift.discrete.heads import RatioHead
from undrift.errors import LabelError, PotentialError, ShapeError
from undrift.laws import Categorical, Empirical
from undrift.protocols import Denoiser
from undrift.simulate import OneCall
from undrift.typing import PerSample, Time, Tokens

__all__ = ["Labelled", "Lifted", "LogH", "Stated", "TwistedLeaping", "guided_rates"]


class LogH(ABC):
    """Log h of states, up to a constant."""

    @abstractmethod
    def __call__(self, x_t: Tokens, t: Time) -> PerSample:
        """Log h_t(x_t), shape (B,), nats."""

    def per(self, copies: int) -> "LogH":
        """The same for `copies` states of every row; only what holds data per row changes."""
        return self


@dataclass(frozen=True)
class Lifted(LogH):
    """A potential, lifted under a denoiser: h_t = E[exp r(X_0) | x_t].

    Attributes:
        denoiser: exact where its law is (`discrete.Exact`); a factorised one drops dependence between sites.
        potential: a `guidance.Potential`.

    Checked by: tests/discrete/test_twist.py::test_lifts_are_martingales
    """

    denoiser: Any
    potential: Any

    def __call__(self, x_t: Tokens, t: Time) -> PerSample:
        """The lift: one call of the denoiser."""
        return self.potential.lift(self.denoiser(x_t, t))

    def per(self, copies: int) -> "Lifted":
        """For copies."""
        return Lifted(self.denoiser, self.potential.per(copies))


@dataclass(frozen=True)
class Labelled(LogH):
    """The log probability of a label under a classifier of noisy states.

    Attributes:
        classifier: (x_t, t) -> log probabilities, shape (B, C), nats.
        label: one per sample, shape (B,), integers 0..C-1; or one for all, shape (1,).

    Raises:
        LabelError: labels that are no integers, or negative.

    Checked by: tests/discrete/test_twist.py::test_a_classifier_of_noisy_states_gives_the_conditional_law
    """

    classifier: Callable[[Tensor, Time], Tensor]
    label: Tensor

    def __post_init__(self) -> None:
        label = self.label
        if label.ndim != 1 or label.dtype.is_floating_point or (label.numel() and int(label.min()) < 0):
            raise LabelError(
                f"labels are integers 0, 1, ..., shape (B,) or (1,); got {label.dtype} of shape {tuple(label.shape)}"
            )

    def __call__(self, x_t: Tokens, t: Time) -> PerSample:
        """Log probability of the label.

        Raises:
            ShapeError: labels for another batch.
            LabelError: a label that the classifier does not know.
        """
        if self.label.shape[0] not in (1, x_t.shape[0]):
            raise ShapeError(
                f"guidance holds {self.label.shape[0]} labels for {x_t.shape[0]} states; give one per sample, or one"
            )
        log_probs = self.classifier(x_t, t)
        label = self.label.to(log_probs.device).expand(x_t.shape[0])
        if label.device.type == "cpu" and label.numel() and int(label.max()) >= log_probs.shape[1]:
            raise LabelError(
                f"the classifier knows the labels 0 to {log_probs.shape[1] - 1}, and was asked for {int(label.max())}"
            )
        return log_probs.gather(1, label[:, None])[:, 0]

    def per(self, copies: int) -> "Labelled":
        """Labels repeated."""
        return self if self.label.shape[0] == 1 else Labelled(self.classifier, self.label.repeat_interleave(copies))


@dataclass(frozen=True)
class Stated(LogH):
    """Any function of states, the same for every row of the batch.

    Attributes:
        function: (x_t, t) -> log h, shape (B,), nats.
    """

    function: Callable[[Tensor, Time], Tensor]

    def __call__(self, x_t: Tokens, t: Time) -> PerSample:
        """The function's value.

        Raises:
            PotentialError: it answers with anything but one number per state.
        """
        value = self.function(x_t, t)
        if value.shape != x_t.shape[:1]:
            raise PotentialError(
                f"log h maps {x_t.shape[0]} states to one number each, shape ({x_t.shape[0]},); got {tuple(value.shape)}: sum "
                "over the event's axes, never over the batch"
            )
        return value


@dataclass(frozen=True)
class TwistedLeaping(OneCall):
    """Leaps under rates that are multiplied by what a jump gains.

    Attributes:
        log_h: log h of states.
        gamma: exponent of the ratios, >= 0; 1 is Doob's transform, 0 the unsteered chain, which asks no h.

    Raises:
        PotentialError: gamma negative or not finite.

    Source: Nisonoff et al. 2024, algorithm 1.
    Checked by: tests/discrete/test_twist.py::test_leaps_converge_at_first_order,
        tests/discrete/test_twist.py::test_h_is_asked_as_often_as_stated,
        tests/discrete/test_twist.py::test_masked_leaps_are_the_steered_laws_own
    """

    log_h: LogH
    gamma: float = 1.0

    def __post_init__(self) -> None:
        _check(self.gamma)

    @property
    def family(self) -> str:
        """Symbols."""
        return "discrete"

    @property
    def order(self) -> int:
        """Sites jump as if alone."""
        return 1

    def evaluations(self, sites: int, symbols: int) -> int:
        """How many states h is asked of, per sample and step; a mask counts as a symbol."""
        return sites * (symbols - 1) + 1 if self.gamma else 0

    def ahead(self, denoiser: Denoiser, x_t: Tokens, t: Time, s: Time) -> tuple[Categorical, Any]:
        """The law that a step from t to s draws from, and the law of the clean end.

        Raises:
            PotentialError: h is 0 or NaN at the state, or 0 at everything that a site could become.
        """
        law = denoiser(x_t, t)
        path = denoiser.path
        back = path.reverse(x_t, _sites(law, path.symbols), t, s)
        if not self.gamma:
            return back, law
        gain = self.gamma * _gains(self.log_h, x_t, 0.5 * (t + s), back.log_probs > -torch.inf)
        weighted = back.log_probs + gain
        if weighted.device.type == "cpu" and bool((weighted == -torch.inf).all(-1).any()):
            raise PotentialError(
                f"at t = {float(t):g} a site has no symbol left with h > 0: sites that jump together broke what is wanted; "
                "take more steps, or give h a floor above 0"
            )
        return Categorical(torch.log_softmax(weighted, -1)), law

    def step(
        self, denoiser: Denoiser, plan: list[tuple[Tensor, Tensor]], i: int, x: Tensor, state: None, rng: Random
    ) -> tuple[Tensor, None, Any]:
        """All sites at once."""
        back, law = self.ahead(denoiser, x, *plan[i])
        return back.sample(rng), None, law


def guided_rates(denoiser: Denoiser, log_h: LogH, x_t: Tokens, t: Time, *, gamma: float = 1.0) -> Float[Tensor, "b *e k"]:
    """Reverse rates R_h of a jump of one site to each symbol, per unit of time; 0 for the symbol that it has.

    Args:
        denoiser: on a discrete path; its answers are read site by site, which is exact for rates.
        log_h: log h of states.
        x_t: states, shape (B, *E).
        t: time, shape (), with 0 < keep(t) < 1.
        gamma: exponent of the ratios, >= 0.

    Raises:
        PotentialError: gamma negative or not finite; h is 0 or NaN at a state.

    Source: Nisonoff et al. 2024, eq. 2; Campbell et al. 2022, proposition 1.
    Checked by: tests/discrete/test_twist.py::test_guided_rates_are_the_ratios_written_out,
        tests/discrete/test_twist.py::test_guided_rates_lead_to_the_tilted_law
    """
    _check(gamma)
    path = denoiser.path
    elsewhere = 1 - torch.nn.functional.one_hot(x_t, path.symbols)
    ratios = RatioHead(path).ratios(_sites(denoiser(x_t, t), path.symbols), x_t, t)
    rates = ratios * path.rates(t).to(x_t.device)[x_t] * elsewhere
    if not gamma:
        return rates
    return rates * torch.where(rates > 0, (gamma * _gains(log_h, x_t, t, rates > 0)).exp(), 0.0)


def _gains(log_h: LogH, x_t: Tensor, t: Time, possible: Tensor) -> Tensor:
    """Log h of every neighbour less that of the state, shape (B, *E, K); 0 for the symbol seen, and where not `possible`.

    A neighbour that is not possible may have no h at all (no event leads there): the state itself is asked in its place, so
    that every step asks equally many states, and none is looked at to decide.
    """
    symbols = possible.shape[-1]
    here, open_ = x_t.reshape(x_t.shape[0], -1), possible.reshape(x_t.shape[0], -1, symbols)
    sites = here.shape[1]
    others = (here[..., None] + torch.arange(1, symbols, device=x_t.device)) % symbols
    moved = torch.eye(sites, dtype=torch.bool, device=x_t.device)[:, None] & open_.gather(-1, others)[..., None]
    states = torch.where(moved, others[..., None], here[:, None, None]).flatten(1, 2)
    asked = torch.cat([here[:, None], states], 1)
    copies = asked.shape[1]
    times = t if t.ndim == 0 else t.repeat_interleave(copies)
    values = log_h.per(copies)(asked.reshape(-1, *x_t.shape[1:]), times).reshape(-1, copies)
    if values.device.type == "cpu" and bool((torch.isnan(values).any(1) | (values[:, 0] == -torch.inf)).any()):
        raise PotentialError(
            f"log h is NaN, or -inf at a state that was reached, at t = {float(t.max()):g}: from there no ratio leads on; "
            "start from states where h > 0, and give a constraint a floor"
        )
    gains = (values[:, 1:] - values[:, :1]).reshape(others.shape)
    return torch.zeros_like(open_, dtype=values.dtype).scatter(-1, others, gains).reshape(possible.shape)


def _sites(law: Any, symbols: int) -> Categorical:
    """Every site by itself."""
    if not isinstance(law, Empirical):
        return law
    here = torch.nn.functional.one_hot(law.atoms, symbols).to(law.log_weights.dtype)
    return Categorical.from_probabilities(torch.einsum("bn,n...k->b...k", law.log_weights.exp(), here))


def _check(gamma: float) -> None:
    if not (gamma >= 0 and math.isfinite(gamma)):
        raise PotentialError(f"gamma is a finite number >= 0, got {gamma:g}; to steer away, give the reward the other sign")
