"""Where records are read from: in memory, from a mapped file, or one by one from a folder.

A source numbers its records 0..N-1. Training asks for one epoch's row numbers in pieces (`order`), cuts them into batches, and
takes the records of a batch (`take`). So a source never needs to hold what it reads, and the same generator gives the same
epoch. The whole of the randomness of `order` comes from the generator that it is given.

Errors call records of arrays and pictures by these numbers, from 0; rows of tables as `undrift.codecs.table` says.
"""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np

from undrift.errors import DataError

__all__ = ["InMemory", "MemoryMapped", "Source", "check_numbers", "looked_at"]

PIECE = 2**14
"""Rows in a piece of an epoch's order."""

HASHED = 2**26
"""Bytes of content that a digest reads; of more, it reads the head, the tail and rows spread between."""

CACHED = 2**30
"""Bytes of a mapped file that the system's page cache is expected to hold."""

PAGE = 4096
"""Bytes that a mapped file is read by."""

POOL = 2**25
"""Bytes of rows that are shuffled together where reading row by row would be slow."""


@runtime_checkable
class Source(Protocol):
    """Records by number.

    Attributes:
        name: what errors call it.
        labels: one label a record, or None.
    """

    @property
    def name(self) -> str:
        """What errors call it."""
        ...

    @property
    def labels(self) -> list[Any] | None:
        """One label a record, or None."""
        ...

    def __len__(self) -> int:
        """How many records there are."""
        ...

    def take(self, rows: np.ndarray) -> Any:
        """The records of these rows, in this order."""
        ...

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One epoch: every row once, in pieces, shuffled as far as fast reading allows."""
        ...

    def digest(self) -> str:
        """Tells other data from these, cheaply."""
        ...


class InMemory:
    """Records held in memory: an array, shape (N, *S), or a DataFrame. Shuffled without limits.

    Args:
        records: the records.
        labels: one a record, or None.
        name: what errors call it.

    Raises:
        DataError: no records, or another number of labels than of records.

    Checked by: tests/codecs/test_sources.py
    """

    def __init__(self, records: Any, labels: Iterable[Any] | None = None, name: str = "the data"):
        if len(records) == 0:
            raise DataError(f"{name} holds no records; give at least two")
        self.records = records
        self.name = name
        self.labels = checked_labels(labels, len(records), name)

    def __len__(self) -> int:
        return len(self.records)

    def take(self, rows: np.ndarray) -> Any:
        """The records of these rows, in this order: a copy."""
        return self.records.iloc[rows] if hasattr(self.records, "iloc") else self.records[rows]

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One permutation of all rows, in pieces."""
        yield from pieces(rng.permutation(len(self)))

    def digest(self) -> str:
        """sha256 of shape, types, labels and content (of 64 MiB at most; of more, of rows spread evenly)."""
        content = _digest_frame(self.records) if hasattr(self.records, "iloc") else digest_array(self.records)
        return hashlib.sha256(f"{content} {self.labels}".encode()).hexdigest()

    def describe(self) -> list[tuple[str, str]]:
        """Where records come from, in words."""
        return [("data", f"{self.name}, {len(self)} records in memory")]


class MemoryMapped:
    """Rows of a .npy file that stays on disk: `take` copies the rows that it is asked for and nothing else.

    Order of an epoch. A row of a page (4096 bytes) or more is read at no loss wherever it lies, and a file of 1 GiB or less
    soon lies in the system's page cache: both are shuffled without limits. A big file of small rows would be read a page for
    every row, many times over, so whole pages are shuffled first and then the rows among 32 MiB of such pages: neighbours on
    disk are apart in training, and every page is read once an epoch.

    Args:
        path: of the file, shape (N, *S).
        labels: one a row, or None.

    Raises:
        DataError: no .npy file, one that holds Python objects, or no rows.

    Checked by: tests/codecs/test_sources.py
    """

    def __init__(self, path: str | Path, labels: Iterable[Any] | None = None):
        self.path = Path(path)
        self.name = self.path.name
        try:
            array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(
                f"{self.path} cannot be read as .npy ({error}); write it again with numpy.save from a plain numeric array"
            ) from error
        if not isinstance(array, np.memmap) or array.ndim == 0 or len(array) == 0:
            raise DataError(f"{self.path} holds no rows, its shape is {array.shape}; give an array of shape (N, ...), N >= 2")
        self.array = array
        self.labels = checked_labels(labels, len(array), self.name)

    def __len__(self) -> int:
        return len(self.array)

    def take(self, rows: np.ndarray) -> np.ndarray:
        """The rows, in this order: a copy in memory, in the machine's byte order."""
        return np.asarray(self.array[rows]).astype(self.array.dtype.newbyteorder("="), copy=False)

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One epoch; see the class."""
        width = self.array.nbytes // len(self.array)
        if width >= PAGE or self.array.nbytes <= CACHED:
            yield from pieces(rng.permutation(len(self)))
        else:
            yield from blockwise(len(self), PAGE // max(width, 1), POOL // PAGE, rng)

    def digest(self) -> str:
        """sha256 of shape, type, labels and rows spread evenly."""
        return hashlib.sha256(f"{digest_array(self.array)} {self.labels}".encode()).hexdigest()

    def describe(self) -> list[tuple[str, str]]:
        """Where records come from, in words."""
        return [("data", f"{self.path}, {len(self)} records of shape {self.array.shape[1:]}, read from disk as needed")]


def pieces(rows: np.ndarray) -> Iterator[np.ndarray]:
    """Rows cut into pieces of at most `PIECE`."""
    for start in range(0, len(rows), PIECE):
        yield rows[start : start + PIECE]


def blockwise(n: int, block: int, pool: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Rows 0..n-1, each once: blocks of neighbours in random order, the rows of `pool` blocks shuffled together."""
    blocks = rng.permutation(-(-n // block))
    for start in range(0, len(blocks), pool):
        rows = (blocks[start : start + pool, None] * block + np.arange(block)).reshape(-1)
        rows = rows[rows < n]  # the last block may be short
        rng.shuffle(rows)
        yield from pieces(rows)


def looked_at(source: Source, most: int = 2048) -> tuple[Any, np.ndarray]:
    """The records that a codec is guessed from: all that are in memory, else at most `most` spread evenly.

    Returns:
        The records and their rows.
    """
    n = len(source)
    if isinstance(source, InMemory):
        return source.records, np.arange(n)
    rows = np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
    return source.take(rows), rows


def checked_labels(labels: Iterable[Any] | None, n: int, name: str) -> list[Any] | None:
    """Labels as a list of n.

    Raises:
        DataError: another number of them.
    """
    if labels is None:
        return None
    listed = labels.tolist() if hasattr(labels, "tolist") else list(labels)  # type: ignore[union-attr]
    if not isinstance(listed, list) or len(listed) != n:
        count = len(listed) if isinstance(listed, list) else 1
        raise DataError(f"{count} labels were given for the {n} records of {name}; give one for each")
    return listed


def check_numbers(records: np.ndarray, what: str, rows: np.ndarray | None = None) -> None:
    """Refuse what is not real numbers, and NaN and infinity with their row and count.

    Args:
        records: shape (N, ...).
        what: what errors call them, in the plural.
        rows: the row of each record in the data that it was taken from.

    Raises:
        DataError: as said.
    """
    if records.dtype.kind in "iub":
        return
    if records.dtype.kind != "f":
        cure = "; stack real and imaginary part as two channels" if records.dtype.kind == "c" else ", integer or floating"
        raise DataError(f"{what} hold {records.dtype} values; give numbers{cure}")
    with np.errstate(invalid="ignore", over="ignore"):
        total = records.sum(dtype=np.float64)  # one pass and no array of flags in the usual case
    if np.isfinite(total):
        return
    step = max(1, HASHED // max(1, records[:1].nbytes))
    flat = records.reshape(len(records), -1)
    bad = np.concatenate([~np.isfinite(flat[i : i + step]).all(1) for i in range(0, len(flat), step)])
    if bad.any():
        first = int(bad.argmax())
        row = first if rows is None else int(rows[first])
        raise DataError(
            f"{int(bad.sum())} of {len(records)} {what} hold NaN or infinity (first: {what.removesuffix('s')} {row}); "
            "drop or repair them"
        )


def digest_array(array: np.ndarray) -> str:
    """sha256 of an array's shape, type and content, of at most `HASHED` bytes of it."""
    digest = hashlib.sha256(f"{array.shape} {array.dtype.str} ".encode())
    if array.nbytes <= HASHED:
        digest.update(np.ascontiguousarray(array).tobytes())
    else:
        width = max(1, array.nbytes // len(array))
        for row in _spread(len(array), max(2, min(1024, HASHED // width))):
            digest.update(np.ascontiguousarray(array[row]).tobytes())
    return digest.hexdigest()


def _digest_frame(frame: Any) -> str:
    """sha256 of a DataFrame's columns, types and content, of at most a million cells or 1024 rows."""
    from pandas.core.util.hashing import hash_pandas_object

    digest = hashlib.sha256(f"{len(frame)} {[(str(c), str(t)) for c, t in frame.dtypes.items()]}".encode())
    part = frame if frame.size <= 10**6 else frame.iloc[_spread(len(frame), 1024)]
    hashes: Any = hash_pandas_object(part, index=False)
    digest.update(hashes.to_numpy().tobytes())
    return digest.hexdigest()


def _spread(n: int, most: int) -> np.ndarray:
    """At most `most` rows of n, spread evenly, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(n, most)).round().astype(np.int64))
