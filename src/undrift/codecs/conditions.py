"""What a model may be asked for: named conditions over columns of a table, or over the class of a record.

One record's conditions are a row of F numbers: a number is its normal score, a level its index, NaN is "not asked". A table's
state holds all columns, the conditioned ones too, so that asking for nothing gives whole records; a network is told some
columns of the same record beside it. In training `silenced` hides some of them, so that any subset may be asked for later.

A number outside the range of training is allowed: its score goes on along the chord over that range, and the network
extrapolates as well as it can.

Checked by: tests/codecs/test_conditions.py
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from undrift.codecs.columns import Category, Column, column_from_config, unknown
from undrift.codecs.labels import Labels
from undrift.codecs.table import Table
from undrift.errors import DataError, LabelError

__all__ = ["Conditions", "silenced"]


@dataclass(frozen=True)
class Conditions:
    """Named conditions.

    Attributes:
        asks: the columns, in the order of a row of conditions.
        labels: they are one class a record, kept beside the records, and not columns of a table.

    Checked by: tests/codecs/test_conditions.py
    """

    asks: tuple[Column, ...]
    labels: bool = False

    @staticmethod
    def of_table(table: Table, names: str | Sequence[str]) -> "Conditions":
        """Conditions over columns of a table.

        Raises:
            LabelError: a column that the table does not have, does not learn, or that is named twice; or no column.
        """
        names = [names] if isinstance(names, str) else list(names)
        if not names:
            raise LabelError("no column was named to condition on; name at least one")
        if len(set(names)) < len(names):
            raise LabelError(f"condition={names} names a column twice; name it once")
        asks = []
        for name in names:
            if name in table.left_out:
                raise LabelError(
                    f"column {name!r} cannot be asked for: it is left out ({table.left_out[name]}); kinds= overrules"
                )
            column = table.column(name)
            if column is None:
                raise unknown("column", name, [column.name for column in table.columns])
            asks.append(column)
        return Conditions(tuple(asks))

    @staticmethod
    def of_labels(name: str, labels: Iterable[Any]) -> "Conditions":
        """One condition: the class of a record.

        Args:
            name: what it is called in `where`.
            labels: those of the records, text or whole numbers.

        Raises:
            DataError: fewer than two classes, or a label that is neither text nor a whole number.
        """
        labels = list(labels)
        known = Labels.guess(labels)
        counts = known.encode(labels).bincount(minlength=len(known.names))
        return Conditions((Category(name, "object", known.names, tuple(counts.tolist())),), labels=True)

    @property
    def columns(self) -> tuple[int, ...]:
        """For networks: 0 for a number, else the number of levels."""
        return tuple(column.choices for column in self.asks)

    @property
    def names(self) -> tuple[Any, ...]:
        """What may be asked for."""
        return tuple(column.name for column in self.asks)

    def levels(self, name: Any) -> tuple[Any, ...]:
        """The levels of a condition of that name; () for a number, or a name that is none."""
        return next((c.levels for c in self.asks if c.name == name and isinstance(c, Category)), ())

    def of(self, records: Any) -> Float[Tensor, "n f"]:
        """Conditions of records, for training, float32, shape (N, F); NaN where a number's cell is empty.

        Args:
            records: a DataFrame with the columns; for classes, one label a record.

        Raises:
            DataError: a column is missing, or a cell is not what its column was.
            LabelError: a level or class that is not known.
        """
        if self.labels:
            return Labels(self.asks[0].levels).encode(records)[:, None].float()  # type: ignore[union-attr]
        for name in self.names:
            if name not in records.columns:
                raise DataError(f"the records have no column {name!r}, which the model is conditioned on")
        rows = [column.condition(column.parse(records[column.name])) for column in self.asks]
        return torch.from_numpy(np.stack(rows, 1).astype(np.float32))

    def encode(self, where: Any, n: int) -> Float[Tensor, "n f"]:
        """What is asked for, as n rows of conditions, float32, shape (n, F); NaN where nothing is.

        Args:
            where: a mapping or DataFrame from names to one value for all samples, or a list (array, Series) of one for each;
                None or NaN in it asks for nothing. A number may lie outside the range of training.
            n: number of samples.

        Raises:
            LabelError: an unknown name (lists the known) or level, or a value of another kind than its column.
            DataError: another number of values than of samples.
        """
        out = np.full((n, len(self.asks)), np.nan)
        for name, values in self._listed(where, n).items():
            i = self.names.index(name)
            many = isinstance(values, list)
            out[:, i] = self.asks[i].asked(values if many else [values])
        return torch.from_numpy(out.astype(np.float32))

    def write(self, records: Any, where: Any, n: int | None = None, rows: Sequence[int] | None = None) -> Any:
        """Decoded records with what was asked for written in exactly as it was asked.

        A column keeps its type where the values fit it.

        Args:
            records: a DataFrame; labels are not part of other records, which are given back as they are.
            where: as in `encode`.
            n: number of samples that `where` was given for; as many as there are records by default.
            rows: which of the n samples the records are; all by default.
        """
        if self.labels:
            return records
        n = len(records) if n is None else n
        chosen = np.arange(n) if rows is None else np.asarray(rows)
        if len(chosen) != len(records):
            raise DataError(f"{len(records)} records were given for {len(chosen)} samples; say which they are by rows=")
        records = records.copy()
        for name, values in self._listed(where, n).items():
            each = [values[i] for i in chosen] if isinstance(values, list) else [values] * len(chosen)
            records[name] = _written(records[name], each)
        return records

    def _listed(self, where: Any, n: int) -> dict[Any, Any]:
        """Name -> one value, or a list of n."""
        import pandas as pd

        if not hasattr(where, "keys"):
            raise LabelError(f"where={where!r} names nothing; give a mapping: where={{{self.names[0]!r}: ...}}")
        listed = {}
        for name in where:
            if name not in self.names:
                raise unknown("condition", name, self.names)
            values = where[name]
            if isinstance(values, (pd.Series, pd.Index, np.ndarray, Tensor)):
                values = values.tolist()
            if isinstance(values, (list, tuple)):
                if len(values) != n:
                    raise DataError(f"{name!r} has {len(values)} values for {n} samples; give one for all, or one each")
                values = list(values)
            listed[name] = values
        return listed

    def describe(self) -> list[tuple[str, str]]:
        """What may be asked for, in words."""
        return [(str(column.name), column.describe()) for column in self.asks]

    def config(self) -> dict[str, Any]:
        """JSON-able."""
        return {"asks": [column.config() for column in self.asks], "labels": self.labels}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Conditions":
        """The conditions that `config` describes."""
        return Conditions(tuple(column_from_config(column) for column in config["asks"]), config["labels"])


def _written(series: Any, values: list[Any]) -> Any:
    """A column with values written in where they are given; of its own type where they fit."""
    import pandas as pd

    asked = np.array([not pd.isna(value) for value in values])
    mixed = series.astype(object)
    mixed[asked] = pd.Series(values, index=series.index, dtype=object)[asked]
    try:
        typed = mixed.astype(series.dtype)
    except (ValueError, TypeError):
        return mixed.infer_objects()
    same = [typed.iloc[i] == values[i] or not isinstance(values[i], (int, float)) for i in np.flatnonzero(asked)]
    return typed if all(same) else mixed.infer_objects()


def silenced(cond: Tensor, u: Tensor, rate: float) -> Tensor:
    """Conditions with some of them hidden (NaN), so that a network learns to be asked for any subset.

    A row is hidden as a whole with probability `rate`. Else, where F >= 2, with probability 1/2 each of its entries is hidden
    with probability 1/2; and else nothing is. A row is thus fully told with probability (1 - rate) (1 + 2^-F) / 2 for F >= 2,
    and 1 - rate for F = 1.

    Args:
        cond: shape (B, F), float.
        u: uniform on [0, 1), shape (B, F + 2).
        rate: in [0, 1].

    Returns:
        Shape (B, F).

    Checked by: tests/codecs/test_conditions.py::test_silence_has_the_rates_it_says
    """
    count = cond.shape[1]
    if u.shape != (len(cond), count + 2):
        raise DataError(
            f"conditions of shape {tuple(cond.shape)} take uniforms of {(len(cond), count + 2)}, got {tuple(u.shape)}"
        )
    hidden = (u[:, :1] < rate).expand(-1, count)
    if count > 1:
        hidden = hidden | ((u[:, 1:2] < 0.5) & (u[:, 2:] < 0.5))
    return torch.where(hidden, torch.nan, cond)
