"""A source without some of its rows: what is held out is never trained on, and every other row keeps its number.

Checked by: tests/codecs/test_kept.py
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from undrift.codecs.sources import Source

__all__ = ["Kept"]


class Kept:
    """The records of a source but for those held out.

    Args:
        source: all records.
        held: numbers of the rows that are left out.
    """

    def __init__(self, source: Source, held: np.ndarray):
        self.source = source
        self._kept = np.ones(len(source), dtype=bool)
        self._kept[held] = False
        self.name, self.labels = source.name, source.labels

    def __len__(self) -> int:
        return int(self._kept.sum())

    def take(self, rows: np.ndarray) -> Any:
        """Records of these rows, by their numbers in the whole source."""
        return self.source.take(rows)

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The source's own order, without the rows held out."""
        for rows in self.source.order(rng):
            rest = rows[self._kept[rows]]
            if len(rest):
                yield rest

    def digest(self) -> str:
        """Of the whole source."""
        return self.source.digest()
