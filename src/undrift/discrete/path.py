r"""Finite-state paths whose jumps forget: a symbol survives until t with probability kappa_t, else it is a draw of pi.

.. math:: q(x_t = j \mid x_s = i) = \kappa_{t|s}\,[i = j] + (1 - \kappa_{t|s})\, \pi_j, \qquad
          \kappa_{t|s} = \kappa_t / \kappa_s

pi uniform gives uniform diffusion, pi on one extra symbol gives masked (absorbing) diffusion. As a continuous-time chain,
dp/dt = Q_t p with Q_t = r_t (pi 1^T - I), r_t = -d log kappa / dt (columns sum to zero).

The step back is Bayes' rule, averaged over the clean symbol,

.. math:: q(x_s = j \mid x_t) \propto q(x_t \mid x_s = j) \sum_k
          \frac{q(x_s = j \mid x_0 = k)}{q(x_t \mid x_0 = k)}\, q(x_0 = k \mid x_t) ,

which costs O(K) a site, since every kernel here is a constant plus a diagonal.

Sources: Austin et al. 2021 (D3PM, 2107.03006), Campbell et al. 2022 (2205.14987), Sahoo et al. 2024 (2406.07524).
Checked by: tests/discrete/test_path.py (matrix exponential, Bayes by enumeration)
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from undrift.core import check_order, check_state, pad, scalars
from undrift.errors import LawError, ShapeError
from undrift.laws import Categorical, Clean, Jump, Law
from undrift.schedules import LinearSurvival, SurvivalSchedule
from undrift.typing import Time, Tokens

__all__ = ["Path", "masked", "uniform"]


@dataclass(frozen=True)
class Path:
    """Symbols that survive, or are redrawn from `landing`.

    Attributes:
        schedule: survival kappa.
        landing: pi, shape (K,), sum 1; K counts every symbol, a mask included.
    """

    schedule: SurvivalSchedule
    landing: Float[Tensor, "k"]

    def __post_init__(self) -> None:
        if not bool((self.landing >= 0).all()) or abs(float(self.landing.sum()) - 1) > 1e-6:
            raise LawError(f"landing probabilities must be >= 0 and sum to 1, got a sum of {float(self.landing.sum()):.6g}")

    @property
    def family(self) -> str:
        """Name of the wing."""
        return "discrete"

    @property
    def symbols(self) -> int:
        """K, a mask included."""
        return self.landing.shape[0]

    def prior(self, like: Tensor) -> Categorical:
        """Pi at every site, for states shaped (B, *E) like `like`.

        The total variation to the true law of X_1 is at most the number of sites times kappa(1).
        """
        check_state(like, "like")
        return Categorical(self.landing.log().to(like.device).expand(*like.shape, self.symbols))

    def corrupt(self, x_s: Tensor, s: Time, t: Time) -> Categorical:
        """Law of X_t given X_s = x_s.

        Args:
            x_s: symbols at time s, integers 0..K-1, shape (B, *E).
            s: earlier time, shape () or (B,), 0 = data.
            t: later time, same shape as s, s < t.

        Returns:
            Categorical, batch shape (B,).

        Raises:
            ShapeError: symbols are not int64 numbers 0..K-1, or s or t is neither () nor (B,).
            TimeError: not 0 <= s < t <= 1.

        Checked by: tests/discrete/test_path.py::test_corrupt_is_the_matrix_exponential
        """
        self._check(x_s, "x_s")
        check_order(t, s)
        return self.forward(x_s, s, t).at(x_s)

    def reverse(self, x_t: Tensor, law: Clean, t: Time, s: Time) -> Law:
        r"""Law of X_s given X_t = x_t when the clean end follows `law`.

        Args:
            x_t: symbols at time t, shape (B, *E).
            law: law of the clean end: `Categorical` (sites independent) or `Empirical` (whole events jointly).
            t: current time, shape () or (B,), 0 = data, 1 = reference.
            s: target time, same shape as t, s < t.

        Returns:
            Law of X_s, batch shape (B,). Marginal exact for any step if `law` is the true joint posterior; a factorised
            `Categorical` is exact sitewise and loses dependence between sites, O((t - s)^2) a step.

        Raises:
            ShapeError: symbols are not int64 numbers 0..K-1, or t or s is neither () nor (B,).
            TimeError: not 0 <= s < t <= 1.
            LawError: the law gives no mass to any clean symbol that could have led to x_t.

        Source: Austin et al. 2021, eq. 3-4. Checked by: tests/discrete/test_path.py::test_reverse_is_bayes
        """
        self._check(x_t, "x_t")
        check_order(t, s)
        return law.through(self.back(x_t, t, s))

    def tilt(self, law: Categorical, signal: Float[Tensor, "b *e k"], t: Time) -> Categorical:
        r"""The clean law under a reward h: `signal` is log h with the site set to each clean symbol in turn.

        .. math:: q_h(x_0^i = k \mid x_t) \propto q(x_0^i = k \mid x_t)\, h(x_t; x_0^i = k)

        Args:
            law: sitewise law of the clean end.
            signal: log E[h | x_t, x_0^i = k], shape (B, *E, K), nats, up to a constant per site.
            t: time; a discrete tilt is the same at every time, so it is only checked against the state's batch.

        Checked by: tests/discrete/test_path.py::test_tilt_is_bayes
        """
        pad(t, signal)
        return Categorical(torch.log_softmax(law.log_probs + signal, -1))

    def forward(self, like: Tokens, s: Time, t: Time) -> Jump:
        """The kernel from s to t."""
        keep = self._sites(self.schedule.keep(t) / self.schedule.keep(s), like)
        shape = (*like.shape, self.symbols)
        pi = self.landing.to(like.device).expand(shape)
        return Jump((1 - keep) * pi, keep.to(pi.device).expand(shape), torch.ones_like(pi))

    def back(self, x_t: Tokens, t: Time, s: Time) -> Jump:
        """The kernel from the clean symbol to X_s, given x_t."""
        kappa_t, kappa_s = self.schedule.keep(t), self.schedule.keep(s)
        keep_ts, keep_s, keep_t = (self._sites(k, x_t) for k in (kappa_t / kappa_s, kappa_s, kappa_t))
        pi = self.landing.to(x_t.device)
        here = torch.nn.functional.one_hot(x_t, self.symbols).to(pi.dtype)
        landed = pi[x_t][..., None]
        seen_from = keep_ts * here + (1 - keep_ts) * landed  # q(x_t | x_s = j)
        seen_from_clean = keep_t * here + (1 - keep_t) * landed  # q(x_t | x_0 = k)
        weight = torch.where(seen_from_clean > 0, 1 / seen_from_clean, 0.0)
        return Jump(seen_from * (1 - keep_s) * pi, seen_from * keep_s, weight)

    def rates(self, t: Time) -> Float[Tensor, "k k"]:
        """The generator Q_t, shape (K, K), column = from, row = to, columns sum to zero; t of shape ()."""
        rate = self.schedule.rate(t)
        eye = torch.eye(self.symbols, dtype=self.landing.dtype)
        return rate * (self.landing[:, None].expand(-1, self.symbols) - eye)

    def _sites(self, coefficient: Tensor, like: Tensor) -> Tensor:
        """A coefficient of time, shaped to multiply (B, *E, K)."""
        shaped = pad(scalars(coefficient), like.to(self.landing.dtype))
        return shaped[..., None] if shaped.ndim else shaped

    def _check(self, x: Tensor, what: str) -> None:
        check_state(x, what)
        if x.dtype != torch.int64:
            raise ShapeError(f"{what} holds {x.dtype} numbers; a discrete state holds int64 symbols: use {what}.long()")
        if x.device.type == "cpu" and x.numel() and not 0 <= int(x.min()) <= int(x.max()) < self.symbols:
            raise ShapeError(
                f"{what} holds symbols from {int(x.min())} to {int(x.max())}; this path has {self.symbols} symbols, 0 to "
                f"{self.symbols - 1}"
            )


def uniform(symbols: int, schedule: SurvivalSchedule | None = None) -> Path:
    """Uniform diffusion over `symbols` symbols."""
    return Path(schedule or LinearSurvival(), torch.full((symbols,), 1 / symbols, dtype=torch.float64))


def masked(symbols: int, schedule: SurvivalSchedule | None = None) -> Path:
    """Masked diffusion: `symbols` data symbols 0..symbols-1, and the mask as symbol number `symbols`."""
    landing = torch.zeros(symbols + 1, dtype=torch.float64)
    landing[-1] = 1
    return Path(schedule or LinearSurvival(), landing)
