"""Independent symbols."""

from dataclasses import dataclass
from itertools import product
from math import prod
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from undrift.core import Random
from undrift.errors import LawError
from undrift.laws.empirical import Empirical
from undrift.laws.parts import draw_index, shared_rows, strength
from undrift.laws.point import Reward

if TYPE_CHECKING:
    import undrift.laws.kernels  # which answers with a Categorical

ENUMERABLE = 1 << 16
"""Joint events that are written out at most: beyond, a law over whole events is asked by particles."""


@dataclass(frozen=True)
class Categorical:
    """Independent symbols, one categorical per site.

    Attributes:
        log_probs: normalised, shape (B, *E, K), nats.
    """

    log_probs: Float[Tensor, "b *e k"]

    @staticmethod
    def from_probabilities(weights: Tensor) -> "Categorical":
        """From weights >= 0, shape (B, *E, K), normalised here.

        Raises:
            LawError: a site has no possible symbol (all weights 0), or a weight is negative or NaN.
        """
        total = weights.sum(-1, keepdim=True)
        if weights.device.type == "cpu" and not bool(((total > 0) & (weights >= 0).all(-1, keepdim=True)).all()):
            raise LawError(
                "a categorical law has a site without any possible symbol (or a negative weight): the law of the clean end "
                "contradicts the state; a denoiser must give the symbol it sees at sites that have not jumped"
            )
        return Categorical((weights / total).log())

    @property
    def probs(self) -> Tensor:
        """Probabilities, shape (B, *E, K)."""
        return self.log_probs.exp()

    @property
    def mean(self) -> Tensor:
        """Mean of the one-hot symbol: the probabilities, shape (B, *E, K)."""
        return self.probs

    @property
    def variance(self) -> Tensor:
        """Variance of the one-hot symbol, shape (B, *E, K)."""
        return self.probs * (1 - self.probs)

    def sample(self, rng: Random) -> Int[Tensor, "b *e"]:
        """One symbol per site."""
        return draw_index(self.log_probs, rng)

    def log_prob(self, x: Int[Tensor, "b *e"]) -> Float[Tensor, "b"]:
        """Log mass of whole events, shape (B,), nats."""
        return self.log_probs.gather(-1, x[..., None])[..., 0].flatten(1).sum(1)

    def through(self, kernel: "undrift.laws.kernels.Jump") -> "Categorical":
        """Sitewise average of the kernel."""
        return kernel.average(self.probs)

    def extrapolate(self, other: "Categorical", scale: float | Tensor) -> "Categorical":
        """Label guidance in the log probabilities, normalised; a symbol that is impossible without the label stays so.

        `scale` is one number, or one per row, shape (B,).
        """
        scale = strength(scale, self.log_probs)
        guided = torch.lerp(other.log_probs, self.log_probs, scale)
        impossible = (other.log_probs == -torch.inf) | (self.log_probs == -torch.inf)
        return Categorical(torch.log_softmax(torch.where(impossible, -torch.inf, guided), -1))

    def rows(self, which: slice | Tensor) -> "Categorical":
        """The same law for some rows of the batch."""
        return Categorical(shared_rows(self.log_probs, which))

    def joint(self) -> Empirical:
        """The same law over whole events, written out: every sequence of symbols with its probability.

        Raises:
            LawError: more than `ENUMERABLE` sequences.
        """
        event, symbols = self.log_probs.shape[1:-1], self.log_probs.shape[-1]
        sites = prod(event)
        if symbols**sites > ENUMERABLE:
            raise LawError(
                f"{symbols} symbols at {sites} sites make {symbols**sites} events, more than the {ENUMERABLE} that are written "
                "out; weigh particles by the reward instead (undrift.smc with guidance.monte_carlo)"
            )
        atoms = torch.tensor(list(product(range(symbols), repeat=sites)), device=self.log_probs.device)
        flat = self.log_probs.flatten(1, -2) if sites > 1 or event else self.log_probs[:, None]
        log_weights = flat[:, torch.arange(sites), atoms].sum(-1)
        return Empirical(log_weights, atoms.reshape(-1, *event))

    def log_mean_exp(self, reward: Reward) -> Tensor:
        """Log E exp r(X) over whole events, shape (B,): exact, by enumeration."""
        return self.joint().log_mean_exp(reward)

    def reweight(self, reward: Reward) -> Empirical:
        """Proportional to p exp r: a joint law, for a reward ties sites together."""
        return self.joint().reweight(reward)
