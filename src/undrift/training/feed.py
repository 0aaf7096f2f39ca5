"""Where batches come from: memory, or a source too large for it that a thread reads ahead.

Samples are counted from 0 over all epochs, N to an epoch, and step k takes samples k B to (k + 1) B - 1; a batch may cross from
one epoch into the next. The order of epoch e comes from (seed, e) alone. So the position in the data follows from the step, and
going on from it computes row numbers and reads nothing.

Checked by: tests/training/test_feed.py
"""

import queue
import threading
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from undrift.errors import DataError, UndriftError
from undrift.training.draws import counted

__all__ = ["Batch", "Feed", "Held", "Streamed", "batches", "row_batches"]

Batch = tuple[np.ndarray, Tensor, Tensor | None]
"""Row numbers, encoded records (B, *E), conditions or None."""


@runtime_checkable
class Feed(Protocol):
    """Encoded records by number.

    Attributes:
        ahead: batches that a thread should read ahead; 0 for none.
    """

    ahead: int

    def __len__(self) -> int:
        """How many records there are in an epoch."""
        ...

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """One epoch: every row once, in pieces."""
        ...

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Encoded records (B, *E) of these rows, and their conditions or None."""
        ...


class Held:
    """Encoded records in memory.

    Args:
        x: shape (N, *E), on the CPU.
        cond: conditions, shape (N, ...), or None.

    Raises:
        DataError: no records, another number of conditions, or records that are not on the CPU.
    """

    def __init__(self, x: Tensor, cond: Tensor | None = None):
        if len(x) == 0:
            raise DataError("there is nothing to train on: the data have no rows")
        if x.device.type != "cpu":
            raise DataError(
                f"training moves batches to its device itself, and the data are on {x.device}; move them with .cpu()"
            )
        if cond is not None and len(cond) != len(x):
            raise DataError(f"{len(cond)} conditions were given for {len(x)} samples; give one for each")
        self.x, self.cond, self.ahead = x, cond, 0

    def __len__(self) -> int:
        return len(self.x)

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """A permutation."""
        yield rng.permutation(len(self.x))

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Copies of these rows."""
        chosen = torch.from_numpy(rows)
        return self.x[chosen], None if self.cond is None else self.cond[chosen]


class Streamed:
    """Records read and encoded as they are needed, by a thread that is `ahead` batches ahead.

    Args:
        source: as `codecs.sources.Source`.
        codec: encodes records.
        conditions: as `codecs.conditions.Conditions`, or None.
        ahead: batches read ahead.

    Raises:
        DataError: (from `batch`) records that cannot be read; names the source.
    """

    def __init__(self, source: Any, codec: Any, conditions: Any = None, ahead: int = 3):
        self.source, self.codec, self.conditions, self.ahead = source, codec, conditions, ahead

    def __len__(self) -> int:
        return len(self.source)

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The source's own order, shuffled as far as reading it fast allows."""
        return self.source.order(rng)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Read and encode."""
        try:
            records = self.source.take(rows)
        except UndriftError:
            raise
        except OSError as error:
            raise DataError(
                f"{error.filename or self.source.name} cannot be read while training ({error}); bring it back and go on from "
                "the last snapshot"
            ) from error
        cond = None
        if self.conditions is not None:
            labels = self.source.labels
            cond = self.conditions.of(records if labels is None else [labels[int(i)] for i in rows])
        return self.codec.encode(records), cond


def row_batches(feed: Feed, size: int, seed: int, step: int = 0) -> Iterator[np.ndarray]:
    """Row numbers of the global batches of steps `step`, `step + 1`, ..., without end.

    Args:
        feed: gives an epoch's order.
        size: rows in a batch.
        seed: of the run.
        step: the first step.

    Checked by: tests/training/test_feed.py::test_rows_go_on_where_they_were
    """
    if len(feed) == 0:
        raise DataError("there is nothing to train on: the data have no rows")
    epoch, skip = divmod(step * size, len(feed))
    kept: list[np.ndarray] = []
    held = 0
    while True:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(counted(seed, "order", epoch))))
        for piece in feed.order(rng):
            rest = piece[skip:]
            skip = max(0, skip - len(piece))
            kept.append(rest)
            held += len(rest)
            if held >= size:
                rows = np.concatenate(kept)
                full = held - held % size
                for start in range(0, full, size):
                    yield rows[start : start + size]
                kept, held = [rows[full:]], held - full
        epoch += 1


def batches(feed: Feed, rows: Iterator[np.ndarray]) -> Iterator[Batch]:
    """Batches of these rows, in this order; where the feed wants it, a thread reads ahead.

    The thread holds `feed.ahead` batches at most. What goes wrong in it is raised here, when its batch is due; closing the
    iterator ends it.

    Checked by: tests/training/test_feed.py
    """
    if feed.ahead == 0:
        for some in rows:
            yield (some, *feed.batch(some))
        return
    ready: queue.Queue[Batch | BaseException] = queue.Queue(feed.ahead)
    stop = threading.Event()

    def put(item: Batch | BaseException) -> None:
        while not stop.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def read() -> None:
        try:
            for some in rows:
                if stop.is_set():
                    return
                put((some, *feed.batch(some)))
            put(StopIteration())
        except BaseException as error:  # raised again by the loop, which it would otherwise leave waiting for ever
            put(error)

    thread = threading.Thread(target=read, name="undrift-reader", daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join(timeout=60)
