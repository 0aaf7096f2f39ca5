r"""One Brownian path per sample, seen through any grid: noise that two step sizes share.

A solver asks for standard normal numbers, one block a step. `Brownian` answers with the increments of one path,

.. math:: z_k = \frac{W(c_{k+1}) - W(c_k)}{\sqrt{|c_{k+1} - c_k|}}

at the values :math:`c_0, \dots, c_n` of the solver's noise clock (its method `noise_clock`). Two grids whose clocks share both
ends then see the same W, and the difference of their results is the error of the steps, not that of the noise.

W is a virtual tree: no path is kept. An interval is halved, and W at its middle is drawn from the Brownian bridge between its
ends, keyed by (seed, sample, interval); the walk stops when the interval is a `2^-levels` share of its own values. A value is
rounded to the nearer end of that interval. Halves are geometric, so that a clock over many decades is resolved at each of them.

Source: Gaines and Lyons 1997; Li et al. 2020 (2001.01328), section 4. Checked by: tests/core/test_brownian.py
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from undrift.core.random import PerSample
from undrift.errors import GridError, ShapeError

__all__ = ["Brownian"]

_MASK = (1 << 64) - 1
_DEEPEST = 190  # the name of an interval fills three of the four words of a Philox counter


class Brownian:
    """Increments of one Brownian path per sample, as a source of randomness.

    Args:
        seed: any integer.
        samples: how many samples, or the indices of those in this batch.
        clock: strictly monotone values of the noise clock, one more than there are increments; empty for none.
        starts: how many ordinary draws come before the increments. The draw of the start from the prior is one; they are
            those of `PerSample(seed, samples)`.
        levels: a clock value is rounded by at most a share of about `2^-levels` of itself.

    Raises:
        GridError: the clock is not finite, negative, or not strictly monotone, or two values lie closer than its resolution.

    Checked by: tests/core/test_brownian.py
    """

    def __init__(self, seed: int, samples: int | Iterable[int], clock: Sequence[float], *, starts: int = 1, levels: int = 24):
        self.clock = [float(c) for c in clock]
        moves = np.diff(self.clock)
        if not np.isfinite(self.clock).all() or min(self.clock, default=0.0) < 0:
            raise GridError("a noise clock has finite values, none negative; leave out the ends of steps that draw no noise")
        if not ((moves > 0).all() or (moves < 0).all()):
            raise GridError("a noise clock is strictly monotone; take it from the solver: noise_clock(path, grid)")
        self._plain = PerSample(seed, samples)
        self.seed, self.indices, self.starts, self.levels = self._plain.seed, self._plain.indices, starts, levels
        self._walks = [self._walk(c) for c in self.clock]
        places = [walk[-1] for walk in self._walks]
        for k, (a, b) in enumerate(pairwise(places)):
            if a == b:
                raise GridError(
                    f"values {k} and {k + 1} of the noise clock, {self.clock[k]:g} and {self.clock[k + 1]:g}, lie closer than "
                    f"its resolution of 2^-{levels}; raise levels="
                )
        self._drawn, self._last = 0, None

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.indices)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """The next standardised increment, shape (B, *E); before them, `starts` ordinary draws.

        Raises:
            GridError: every increment of the clock has been given.
            ShapeError: the first axis is not the number of samples.
        """
        if self._drawn < self.starts:
            self._drawn += 1
            return self._plain.normal(shape, dtype=dtype, device=device)
        k = self._drawn - self.starts
        if k >= len(self.clock) - 1:
            raise GridError(
                f"increment {k + 1} was asked of a noise clock that has {max(len(self.clock) - 1, 0)}; take the clock from the "
                f"solver and grid that run, and count the draws before the first step (here starts={self.starts})"
            )
        if not shape or shape[0] != len(self):
            raise ShapeError(
                f"a draw of shape {tuple(shape)} was asked of {len(self)} Brownian paths; the first axis is the batch: "
                "make them with Brownian(seed, batch_size, clock)"
            )
        before = self._at(k, shape) if self._last is None else self._last
        self._last = self._at(k + 1, shape)
        self._drawn += 1
        length = abs(self._walks[k + 1][-1] - self._walks[k][-1])
        return torch.from_numpy((self._last - before) / math.sqrt(length)).to(device=device, dtype=dtype)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Ordinary uniform numbers, those of `PerSample(seed, samples)`."""
        return self._plain.uniform(shape, dtype=dtype, device=device)

    def replay(self) -> "Brownian":
        """The same paths, from the first draw."""
        return Brownian(self.seed, self.indices, self.clock, starts=self.starts, levels=self.levels)

    def _walk(self, c: float) -> list[float]:
        """Middles of the intervals on the way down to a clock value; the last entry is where the value is rounded to."""
        low, high = min(self.clock), max(self.clock)
        middles = []
        while low < c < high and high - low > 2.0**-self.levels * high:
            if len(middles) == _DEEPEST:
                raise GridError(
                    f"the value {c:g} of the noise clock is too small a share of {max(self.clock):g}, the largest; start the "
                    "grid nearer to it, or use less stochasticity"
                )
            middles.append(math.sqrt(low) * math.sqrt(high) if low > 0 else 0.5 * high)
            low, high = (middles[-1], high) if c >= middles[-1] else (low, middles[-1])
        return [*middles, low if c - low < high - c else high]

    def _at(self, k: int, shape: Sequence[int]) -> np.ndarray:
        """W at clock value k, shape (B, *E); 0 at the smallest."""
        *middles, place = self._walks[k]
        low, high, name = min(self.clock), max(self.clock), 1
        at_low, at_high = np.zeros(tuple(shape)), math.sqrt(high - low) * self._node(0, shape)
        for middle in middles:
            share = (middle - low) / (high - low)
            spread = math.sqrt(share * (high - middle))
            here = (1 - share) * at_low + share * at_high + spread * self._node(name, shape)
            right = self.clock[k] >= middle
            low, high, name = (middle, high, 2 * name + 1) if right else (low, middle, 2 * name)
            at_low, at_high = (here, at_high) if right else (at_low, here)
        return at_low if place == low else at_high

    def _node(self, name: int, shape: Sequence[int]) -> np.ndarray:
        """Standard normal numbers of an interval, shape (B, *E): a place of its own in each sample's stream."""
        words = np.array([0, name + 1 & _MASK, name + 1 >> 64 & _MASK, name + 1 >> 128], dtype=np.uint64)
        out = np.empty(tuple(shape))
        for row, i in zip(out.reshape(len(self), -1), self.indices, strict=True):
            key = np.array([self.seed & _MASK, i & _MASK], dtype=np.uint64)
            np.random.Generator(np.random.Philox(key=key, counter=words)).standard_normal(out=row)
        return out
