"""The records of a run: opened as its recipe says, split into those to train on and those held out, and fed.

Checked by: tests/test_fitting.py
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.codecs import open_data
from undrift.codecs.conditions import Conditions
from undrift.codecs.kept import Kept
from undrift.codecs.opening import Opened, check_reading
from undrift.errors import DataError
from undrift.recipes import Recipe
from undrift.training import Feed, Held, Streamed

__all__ = ["conditions_of", "example_of", "feed_of", "held_count", "held_out_rows", "opened_data", "reopen"]

IN_MEMORY = 1 << 30
"""Bytes of encoded data up to which they are kept in memory; larger sources are streamed."""

MEASURED = 1 << 27
"""Bytes of encoded records that scale and spectrum are measured on."""


def opened_data(data: Any, labels: Any, reading: Mapping[str, Any] | None) -> Opened:
    """`codecs.open_data` with options from a mapping.

    Raises:
        DataError: an option that it does not know.
    """
    options = dict(reading or {})
    check_reading(options)
    return open_data(data, labels, **options)


def reopen(plan: Recipe, data: Any = None, labels: Any = None) -> Opened:
    """The data of a recipe, checked to be what they were.

    Raises:
        DataError: they were given in memory and are not given again, are gone, or have changed.
    """
    if data is None and plan.data.path is None:
        raise DataError("this run was fitted on records in memory; give them again: data=, and labels= if there were any")
    where = (plan.data.path, plan.data.labels) if data is None else (data, labels)
    opened = opened_data(*where, plan.data.reading)
    if opened.source.digest() != plan.data.digest:
        raise DataError(
            f"{opened.source.name} is not what this run was fitted on ({plan.data.rows} records then, {len(opened.source)} "
            "now); bring the data back, or fit anew"
        )
    return opened


def conditions_of(opened: Opened, codec: Any, condition: str | Sequence[str] | None) -> Conditions | None:
    """What may be asked for: columns of a table, or the class."""
    names = [condition] if isinstance(condition, str) else list(condition or ())
    if opened.kind == "table":
        return Conditions.of_table(codec, names) if names else None
    if names and names != ["class"]:
        raise DataError(
            f"condition={names} names columns, and {opened.source.name} is no table; its one condition is the class"
        )
    return None if opened.labels is None else Conditions.of_labels("class", opened.labels)


def held_count(rows: int, share: float | None) -> int:
    """How many records are kept from training."""
    if share is not None:
        return max(0, min(round(rows * share), rows - 2))
    return min(max(rows // 10, 100), 10000) if rows >= 500 else 0


def held_out_rows(rows: int, held: int, seed: int) -> np.ndarray:
    """The rows that are kept from training, ascending: the same for the same numbers."""
    stream = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed & (2**63 - 1), 0x4E1D])))
    return np.sort(stream.permutation(rows)[:held])


def feed_of(opened: Opened, codec: Any, conditions: Conditions | None, held: np.ndarray) -> Feed:
    """Batches for training: in memory where they fit."""
    source = Kept(opened.source, held) if len(held) else opened.source
    if len(opened.source) * math.prod(codec.event_shape) * 4 > IN_MEMORY:
        return Streamed(source, codec, conditions)
    rows = np.setdiff1d(np.arange(len(opened.source)), held)
    parts, conds = [], []
    for some in np.array_split(rows, max(1, math.ceil(len(rows) / 4096))):
        records = source.take(some)
        parts.append(codec.encode(records))
        if conditions is not None:
            conds.append(conditions.of(records if opened.labels is None else [opened.labels[i] for i in some]))
    return Encoded(source, rows, Held(torch.cat(parts), torch.cat(conds) if conds else None))


class Encoded:
    """Records encoded once and kept, in the source's own order and numbers: the same run as one that streams them."""

    ahead = 0

    def __init__(self, source: Any, rows: np.ndarray, held: Held):
        self.source, self.rows, self.held = source, rows, held

    def __len__(self) -> int:
        return len(self.held)

    def order(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        return self.source.order(rng)

    def batch(self, rows: np.ndarray) -> tuple[Tensor, Tensor | None]:
        return self.held.batch(np.searchsorted(self.rows, rows))


def example_of(feed: Feed, codec: Any) -> Tensor:
    """Encoded records to measure scale and spectrum on, at most `MEASURED` bytes of them."""
    most = max(256, MEASURED // (4 * math.prod(codec.event_shape)))
    rows: list[np.ndarray] = []
    for piece in feed.order(np.random.Generator(np.random.Philox(0))):
        rows.append(piece)
        if sum(map(len, rows)) >= most:
            break
    return feed.batch(np.concatenate(rows)[:most])[0]
