"""Tables on disk: rows of a Parquet file, read by row groups as they are needed.

A Parquet file is a list of row groups, and a group is the least that can be read: a file of one group is read as a whole. An
epoch shuffles the groups, and the rows within windows of a few groups: rows that lie together on disk are far apart in
training, and every group is read once an epoch. Groups in use are kept as Arrow tables up to a bound in bytes; nothing else of
the file is held.

Checked by: tests/codecs/test_parquet.py
"""

import hashlib
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from undrift.codecs.sources import blockwise, pieces
from undrift.errors import DataError

__all__ = ["ParquetRows"]

KEPT = 2**28
"""Bytes of row groups that are kept."""

WINDOW = 4
"""Row groups whose rows are shuffled together, where so many fit."""

LEVELS = 1000
"""Distinct texts of a column up to which `look` brings a row of each."""


class ParquetRows:
    """Rows of a Parquet file that stays on disk; a record is a row of a DataFrame.

    Args:
        path: of the file.
        kept: bytes of row groups kept in memory; at least one group is, and a window of groups is.

    Raises:
        DataError: no Parquet file, or no rows.

    Checked by: tests/codecs/test_parquet.py
    """

    labels: list[Any] | None = None

    def __init__(self, path: str | Path, kept: int = KEPT):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = Path(path)
        self.name = self.path.name
        try:
            self._file = pq.ParquetFile(self.path, memory_map=False, pre_buffer=False)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"{self.path} cannot be read as Parquet ({error}); write it again") from error
        meta = self._file.metadata
        sizes = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
        bytes_ = [meta.row_group(i).total_byte_size for i in range(meta.num_row_groups)]
        self.ends = np.cumsum(sizes, dtype=np.int64)
        if meta.num_rows == 0:
            raise DataError(f"{self.name} holds no rows; give at least two")
        # Bytes as stored; in memory a group may be a few times larger, so a window is counted four times over.
        self.window = int(np.clip(kept // (4 * max(1, max(bytes_))), 1, WINDOW))
        self._groups: OrderedDict[int, Any] = OrderedDict()
        self._kept = kept

    def __len__(self) -> int:
        return int(self.ends[-1])

    def take(self, rows: np.ndarray) -> Any:
        """The rows, in this order, as a DataFrame; reads the groups that they lie in.

        Raises:
            DataError: a row outside 0..N-1.
        """
        import pandas as pd

        rows = np.asarray(rows, dtype=np.int64)
        if len(rows) and not 0 <= rows.min() <= rows.max() < len(self):
            raise DataError(f"{self.name} has rows 0 to {len(self) - 1}, and {rows.min()} to {rows.max()} were asked for")
        group = np.searchsorted(self.ends, rows, side="right")
        parts, places = [], []
        for i in np.unique(group):
            here = np.flatnonzero(group == i)
            parts.append(self._group(int(i)).take(rows[here] - self._start(int(i))).to_pandas())
            places.append(here)
        if not parts:
            return self._file.schema_arrow.empty_table().to_pandas()
        frame = parts[0] if len(parts) == 1 else pd.concat(parts, ignore_index=True)
        back = np.empty(len(rows), np.int64)
        back[np.concatenate(places)] = np.arange(len(rows))
        frame = frame.iloc[back].reset_index(drop=True)
        frame.attrs["name"] = self.name
        return frame

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One epoch: groups in random order, the rows of a window of groups shuffled together."""
        if len(self.ends) <= self.window:
            yield from pieces(rng.permutation(len(self)))
            return
        sizes = np.diff(self.ends, prepend=0)
        if (sizes[:-1] == sizes[0]).all() and sizes[-1] <= sizes[0]:
            yield from blockwise(len(self), int(sizes[0]), self.window, rng)
            return
        groups = rng.permutation(len(self.ends))
        for start in range(0, len(groups), self.window):
            rows = np.concatenate(
                [np.arange(self._start(int(i)), int(self.ends[i])) for i in groups[start : start + self.window]]
            )
            rng.shuffle(rows)
            yield from pieces(rows)

    def look(self, most: int = 100_000, seed: int = 0) -> Any:
        """Rows to guess a codec from: at most `most` at random, and a row of every rare text and of an empty cell.

        The whole file is read once, a group at a time: a random sample alone would miss rare levels, which training would then
        meet as unknown ones. It brings a row of each text of a column with at most 1000 of them, of the least and the greatest
        number of a column, and of an empty cell.

        Checked by: tests/codecs/test_parquet.py::test_look_brings_every_level_and_an_empty_cell
        """
        rng = np.random.Generator(np.random.Philox(seed))
        n = len(self)
        if n <= most:
            return self.take(np.arange(n))
        chosen = np.sort(rng.choice(n, most, replace=False))
        return self.take(np.union1d(chosen, self._rare()))

    def _rare(self) -> np.ndarray:
        """A row of each text, of both ends and of an empty cell of each column."""
        seen: dict[str, dict[Any, int]] = {field.name: {} for field in self._file.schema_arrow}
        ends: dict[str, list[tuple[float, int]]] = {name: [] for name in seen}
        for i in range(len(self.ends)):
            frame = self._file.read_row_group(i, use_threads=False).to_pandas()
            start = self._start(i)
            for name, known in seen.items():
                column = frame[name]
                if column.isna().any() and None not in known:
                    known[None] = start + int(column.isna().to_numpy().argmax())
                if column.dtype.kind in "iufM":
                    if column.notna().any():
                        for row in (int(column.argmin()), int(column.argmax())):
                            ends[name].append((column.iloc[row], start + row))
                elif len(known) <= LEVELS:
                    first = column[~column.duplicated() & column.notna()]
                    for row, value in zip(first.index, first, strict=True):
                        known.setdefault(value, start + int(row))
        rows = [row for known in seen.values() if len(known) <= LEVELS + 1 for row in known.values()]
        rows += [pick(found)[1] for found in ends.values() if found for pick in (min, max)]
        return np.array(rows, dtype=np.int64)

    def digest(self) -> str:
        """sha256 of the file's size, its footer (schema, sizes and statistics of all groups) and its first MiB."""
        size = self.path.stat().st_size
        digest = hashlib.sha256(str(size).encode())
        with self.path.open("rb") as file:
            digest.update(file.read(2**20))
            file.seek(max(0, size - 8))
            footer = int.from_bytes(file.read(4), "little") + 8
            file.seek(max(0, size - footer))
            digest.update(file.read(footer))
        return digest.hexdigest()

    def describe(self) -> list[tuple[str, str]]:
        """Where records come from, in words."""
        return [("data", f"{self.path}, {len(self)} rows in {len(self.ends)} groups, read from disk as needed")]

    def _start(self, group: int) -> int:
        """First row of a group."""
        return int(self.ends[group - 1]) if group else 0

    def _group(self, i: int) -> Any:
        """A row group, kept until others push it out."""
        if i in self._groups:
            self._groups.move_to_end(i)
            return self._groups[i]
        table = self._file.read_row_group(i, use_threads=False)
        self._groups[i] = table
        while len(self._groups) > 1 and sum(group.nbytes for group in self._groups.values()) > self._kept:
            self._groups.popitem(last=False)
        return table
