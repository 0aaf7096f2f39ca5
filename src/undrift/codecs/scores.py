r"""Normal scores: any column of numbers as a standard normal one, and back.

With F the empirical distribution function of the column, n its number of cells,

.. math:: z = \Phi^{-1}(u), \qquad u = F(v) \text{ if } v \text{ is rare}, \; u \in (F(v-), F(v)) \text{ if } v \text{ is tied}.

A spike (zeros, a cap, a whole number) owns an interval of u, over which its cells are spread, and all of the interval decodes
to the value exactly. Between the stored knots z is linear in v. Beyond the observed range z goes on along the chord over that
range, which no shape of the tails makes steep; decoding never leaves it.

Checked by: tests/codecs/test_columns.py
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

__all__ = ["Quantiles"]

KNOTS = 1000
"""Knots of a distribution function at most: ties first, quantiles for the rest."""

MARGIN = 0.01
"""Share of a tie's interval left free at both ends: rounding to float32 does not cross it."""


@dataclass(frozen=True)
class Quantiles:
    """An empirical distribution function by its knots.

    Attributes:
        values: ascending.
        low: cells below each value, in halves of a cell: F(v-) = low / (2 count). A rare value has low = high, its mid rank.
        high: cells up to each value, likewise.
        count: number of cells.
    """

    values: tuple[float, ...]
    low: tuple[int, ...]
    high: tuple[int, ...]
    count: int

    @staticmethod
    def of(cells: np.ndarray) -> "Quantiles":
        """The distribution function of cells, shape (n,), float64, finite, n >= 1.

        Few values (at most `KNOTS`, three cells each or more) are all ties; else the values that occur more than once are, the
        commonest `KNOTS` / 2 of them, and the rest are knots evenly spread in rank, both ends included.

        Checked by: tests/codecs/test_columns.py::test_a_spike_owns_its_interval
        """
        values, counts = np.unique(cells, return_counts=True)
        n, below = len(cells), np.cumsum(counts) - counts
        tied = counts > 1
        if len(values) <= KNOTS and n >= 3 * len(values):
            tied[:] = True
        elif tied.sum() > KNOTS // 2:
            tied[:] = False
            tied[np.argsort(-counts, kind="stable")[: KNOTS // 2]] = True
        rare = np.flatnonzero(~tied)
        kept = (
            rare[np.unique(np.linspace(0, len(rare) - 1, min(len(rare), KNOTS // 2)).round().astype(int))]
            if len(rare)
            else rare
        )
        chosen = np.sort(np.concatenate([np.flatnonzero(tied), kept]))
        middle = 2 * below + counts
        low, high = np.where(tied, 2 * below, middle), np.where(tied, 2 * (below + counts), middle)
        values, low, high = (tuple(part[chosen].tolist()) for part in (values, low, high))
        return Quantiles(values, low, high, n)

    @cached_property
    def _ends(self) -> tuple[np.ndarray, np.ndarray]:
        """F at both ends of each knot, kept a quarter of a cell away from 0 and 1."""
        limit = 0.25 / self.count
        low, high = (np.clip(np.array(end) / (2 * self.count), limit, 1 - limit) for end in (self.low, self.high))
        return low, high

    def scores(self, cells: np.ndarray, spread: np.ndarray | float = 0.5) -> np.ndarray:
        """Normal scores.

        Args:
            cells: shape (N,), float64, finite.
            spread: where in its interval a tied cell goes, in [0, 1], shape (N,) or one for all.

        Returns:
            Shape (N,), float64.
        """
        from scipy.special import ndtri

        values, (low, high) = np.array(self.values), self._ends
        k = np.searchsorted(values, cells).clip(0, len(values) - 1)
        tie = low[k] + (high[k] - low[k]) * (MARGIN + (1 - 2 * MARGIN) * spread)
        scores = ndtri(tie)
        inside = (cells != values[k]) & (cells > values[0]) & (cells < values[-1])
        j = k[inside]
        share = (cells[inside] - values[j - 1]) / (values[j] - values[j - 1])
        start, end = ndtri(high[j - 1]), ndtri(low[j])
        scores[inside] = start + share * (end - start)
        return self._beyond(cells, scores)

    def _beyond(self, cells: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """Scores with those of cells outside the observed range set: on along the chord over that range."""
        from scipy.special import ndtri

        values, (low, high) = np.array(self.values), self._ends
        first, last = ndtri((low + high) / 2)[[0, -1]]
        slope = (last - first) / (values[-1] - values[0]) if len(values) > 1 else 0.0
        under, over = cells < values[0], cells > values[-1]
        scores[under] = first + slope * (cells[under] - values[0])
        scores[over] = last + slope * (cells[over] - values[-1])
        return scores

    def cells(self, scores: np.ndarray) -> np.ndarray:
        """Values of normal scores, shape (N,), within the observed range."""
        from scipy.special import ndtri

        ends = ndtri(np.stack(self._ends, 1).reshape(-1))
        return np.interp(scores, ends, np.repeat(self.values, 2))
