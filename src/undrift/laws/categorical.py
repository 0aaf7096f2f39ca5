"""Independent symbols."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from undrift.core import Random
from undrift.errors import LawError
from undrift.laws.parts import draw_index, shared_rows

if TYPE_CHECKING:
    import undrift.laws.kernels  # which answers with a Categorical


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

    def extrapolate(self, other: "Categorical", scale: float) -> "Categorical":
        """Label guidance in the log probabilities, normalised; a symbol that is impossible without the label stays so."""
        guided = torch.lerp(other.log_probs, self.log_probs, scale)
        impossible = (other.log_probs == -torch.inf) | (self.log_probs == -torch.inf)
        return Categorical(torch.log_softmax(torch.where(impossible, -torch.inf, guided), -1))

    def rows(self, which: slice) -> "Categorical":
        """The same law for some rows of the batch."""
        return Categorical(shared_rows(self.log_probs, which))
