"""Weighted atoms, and a kernel at one of them."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import Look, Random
from undrift.errors import LawError
from undrift.laws.mass import in_box, indicator
from undrift.laws.parts import check_probabilities, draw_index, expect, look, noisy_look, shared_rows
from undrift.laws.point import Numbers, Reward
from undrift.laws.protocols import Kernel
from undrift.typing import State


@dataclass(frozen=True)
class Empirical(Numbers):
    """Weighted atoms shared by the batch: numbers or symbols, whole events jointly.

    Attributes:
        log_weights: normalised, shape (B or 1, N).
        atoms: shape (N, *E).
    """

    log_weights: Float[Tensor, "b n"]
    atoms: Tensor

    @staticmethod
    def of(atoms: Tensor, weights: Tensor | None = None) -> "Empirical":
        """A single empirical law (batch shape (1,)) from atoms (N, *E) and weights (N,), uniform by default."""
        n = atoms.shape[0]
        dtype = atoms.dtype if atoms.dtype.is_floating_point else torch.float64
        weights = torch.full((n,), 1 / n, dtype=dtype, device=atoms.device) if weights is None else weights
        check_probabilities(weights)
        expect(weights.shape[0] == n, f"{n} atoms got {weights.shape[0]} weights")
        return Empirical(weights.log()[None], atoms)

    @property
    def mean(self) -> Tensor:
        """Weighted mean, shape (B, *E)."""
        mean = self.log_weights.exp() @ self.atoms.flatten(1).to(self.log_weights.dtype)
        return mean.reshape(-1, *self.atoms.shape[1:])

    @property
    def variance(self) -> Tensor:
        """Weighted variance of each coordinate, shape (B, *E)."""
        # Around the atoms' common mean, so that the difference of squares does not cancel.
        atoms = self.atoms.flatten(1).to(self.log_weights.dtype)
        centred = atoms - atoms.mean(0)
        weights = self.log_weights.exp()
        return (weights @ centred.square() - (weights @ centred).square()).reshape(-1, *self.atoms.shape[1:])

    def rows(self, which: slice | Tensor) -> "Empirical":
        """The same law for some rows of the batch."""
        return replace(self, log_weights=shared_rows(self.log_weights, which))

    def expand(self, batch: int) -> "Empirical":
        """The same law for `batch` rows."""
        return replace(self, log_weights=self.log_weights.expand(batch, -1))

    def extrapolate(self, other: Any, scale: float | Tensor) -> Any:
        """Label guidance: of numbers in the mean; of symbols in the log weights of whole events, over the same atoms.

        `scale` is one number, or one per row, shape (B,). An event that is impossible without the label stays so.

        Raises:
            LawError: symbols, and the other law holds other atoms.

        Checked by: tests/guidance/test_cfg.py::test_whole_events_of_symbols_are_guided_jointly
        """
        if self.atoms.dtype.is_floating_point:
            return super().extrapolate(other, scale)
        if other.atoms is not self.atoms and not torch.equal(other.atoms, self.atoms):
            raise LawError(
                "two laws over different events cannot be contrasted; give both the same atoms, and their own weights"
            )
        from undrift.laws.categorical import Categorical  # which answers with an Empirical, too

        guided = Categorical(self.log_weights).extrapolate(Categorical(other.log_weights), scale)
        return replace(self, log_weights=guided.log_probs)

    def sample(self, rng: Random) -> Tensor:
        """One atom per row."""
        return self.atoms[draw_index(self.log_weights, rng)]

    def through(self, kernel: Kernel) -> "Compound":
        """An atom, then the kernel at it, each row its own atom."""
        return Compound(self.expand(max(kernel.batch, self.log_weights.shape[0])), kernel)

    def posterior(self, y: State, alpha: Tensor, variance: Tensor) -> "Empirical":
        """Softmax attention over the atoms: weights times the Gaussian likelihood of y.

        Source: Pidstrigach 2022, the optimum of denoising regression on a finite set.
        Checked by: tests/gaussian/test_exact.py::test_empirical_posterior_is_softmax_attention
        """
        # log N(y; alpha x, v) up to a constant is (alpha / v) (y.x - alpha |x|^2 / 2). In float64: it is a small difference
        # of large numbers, one matrix product, and the weights it makes are what memorisation is measured by.
        y64, atoms = y.flatten(1).double(), self.atoms.flatten(1).double()
        a, v = look(alpha.double(), variance.double(), y64)
        fit = torch.where(self.log_weights > -torch.inf, a * (y64 @ atoms.mT - 0.5 * a * atoms.square().sum(1)), -torch.inf)
        # Short of the best by 0 costs 0, also under a noiseless look, where everything else is ruled out.
        short = fit.amax(-1, keepdim=True) - fit
        log_weights = torch.log_softmax(self.log_weights.double() - torch.where(short > 0, short / v, 0.0), -1)
        return replace(self, log_weights=log_weights.to(self.log_weights.dtype))

    def evidence(self, look: Look, y: Tensor, variance: Tensor) -> Tensor:
        """Log density of y = A X + noise, shape (B,), nats."""
        return torch.logsumexp(self.log_weights + noisy_look(look, self.atoms, y[:, None], variance), -1)

    def observe(self, look: Look, y: Tensor, variance: Tensor) -> "Empirical":
        """Law of X given y = A X + noise: atoms weigh what they explain."""
        return self._weigh(noisy_look(look, self.atoms, y[:, None], variance))

    def log_mgf(self, direction: Tensor) -> Tensor:
        """Log E exp(direction . X), shape (B,)."""
        return torch.logsumexp(self.log_weights + direction.flatten(1) @ self.atoms.flatten(1).mT, -1)

    def tilt(self, direction: Tensor) -> "Empirical":
        """Proportional to p(x) exp(direction . x)."""
        return self._weigh(direction.flatten(1) @ self.atoms.flatten(1).mT)

    def log_mass(self, low: Tensor, high: Tensor) -> Tensor:
        """Log P(low <= X <= high), shape (B,), nats; bounds broadcast against the event, and may be infinite.

        Checked by: tests/laws/test_log_mass.py::test_points_and_atoms_are_in_or_out
        """
        return torch.logsumexp(self.log_weights + indicator(in_box(self.atoms, low, high), self.log_weights), -1)

    def log_mean_exp(self, reward: Reward) -> Tensor:
        """Log E exp r(X), shape (B,): the reward is asked once, of all atoms (for every row, if it holds data per row).

        Checked by: tests/laws/test_liftable.py::test_rewards_with_data_per_row_meet_every_atom
        """
        return torch.logsumexp(self.log_weights + self._rewards(reward), -1)

    def reweight(self, reward: Reward) -> "Empirical":
        """Proportional to p exp r: the same atoms, other weights."""
        return self._weigh(self._rewards(reward))

    def _rewards(self, reward: Reward) -> Tensor:
        """R of every atom, shape (1 or rows, N)."""
        rows, n = getattr(reward, "batch", 1), self.atoms.shape[0]
        if rows == 1:
            return reward(self.atoms)[None]
        everyone = self.atoms.repeat(rows, *([1] * (self.atoms.ndim - 1)))
        return reward.per(n)(everyone).reshape(rows, n)  # pyright: ignore[reportFunctionMemberAccess]

    def _weigh(self, log_ratio: Tensor) -> "Empirical":
        """Other weights.

        Raises:
            LawError: no atom is left with any (seen on the CPU only).
        """
        joint = self.log_weights + log_ratio
        if joint.device.type == "cpu" and bool((joint == -torch.inf).all(-1).any()):
            raise LawError(
                "no atom is possible under what is wanted: every one has the reward -inf; loosen it, or give the law an event "
                "that satisfies it"
            )
        return Empirical(torch.log_softmax(joint, -1), self.atoms)


@dataclass(frozen=True)
class Compound:
    """An atom of an empirical law, then a kernel at it: a kernel density that is never written out.

    Attributes:
        base: law of the atom.
        kernel: conditional law given the atom.
    """

    base: Empirical
    kernel: Kernel

    def sample(self, rng: Random) -> Tensor:
        """An atom, then a draw of the kernel at it."""
        return self.kernel.at(self.base.sample(rng)).sample(rng)

    def log_prob(self, x: Tensor) -> Tensor:
        """Log density, shape (B,), nats: one pass over the atoms, memory O(B)."""
        total = torch.full(x.shape[:1], -torch.inf, dtype=self.base.log_weights.dtype, device=x.device)
        weights = self.base.log_weights
        likely = self.base.atoms[weights.argmax(-1)]  # stands in for atoms of no weight, where the kernel may be undefined
        for n, atom in enumerate(self.base.atoms):
            possible = (weights[:, n] > -torch.inf).reshape(-1, *([1] * (x.ndim - 1)))
            inside = self.kernel.at(torch.where(possible, atom, likely).expand(x.shape)).log_prob(x)
            total = torch.logaddexp(total, weights[:, n] + inside)
        return total
