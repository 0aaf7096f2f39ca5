"""Tables: records are rows of a DataFrame, states are vectors of the columns' coordinates, each of about unit variance.

A column is learned as what it is: numbers, whole numbers, yes or no, levels, dates. Columns that hold nothing to learn are left
out, and `describe` says which and why: a constant comes back constant, an empty column empty; identifiers and free text do not
come back, because made-up ones would look like real ones.

Cells of one value that share an interval of scores (see `undrift.codecs.columns`) are spread over it by a hash of the whole
record, and equal records by the golden ratio, so a record's state does not depend on its neighbours.

Errors count rows from 1, the header not among them; errors on the separated text itself name the line of the file.

Checked by: tests/codecs/test_table.py
"""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.codecs.columns import Column, Date, column_from_config
from undrift.codecs.kinds import guessed
from undrift.codecs.text import read_text
from undrift.errors import DataError
from undrift.typing import State

__all__ = ["Table", "read_table"]

GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""2^64 divided by the golden ratio."""


@dataclass(frozen=True)
class Table:
    """Rows of a DataFrame.

    Attributes:
        columns: those that are learned.
        order: names of all columns that come back, in the order of the frame.
        left_out: column -> why it is not learned.
        constants: column left out -> (its value or None, pandas name of its type); these come back.
        notes: what else was done to the table on reading, in words.

    Checked by: tests/codecs/test_table.py
    """

    columns: tuple[Column, ...]
    order: tuple[Any, ...]
    left_out: dict[Any, str] = field(default_factory=dict)
    constants: dict[Any, tuple[Any, str]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @staticmethod
    def guess(frame: Any, kinds: Mapping[str, str] | None = None) -> "Table":
        """The codec that fits a DataFrame.

        Args:
            frame: the table, one record a row. `frame.attrs["name"]` is what errors call it.
            kinds: column -> "number", "integer", "boolean", "category", "date" or "skip", where the guess would be wrong.

        Raises:
            DataError: no DataFrame, fewer than two rows, two columns of one name, a kind that is unknown or of no column, no
                column to learn, or a cell that cannot be what its column is (names column and row).
        """
        name = _checked(frame)
        kinds = dict(kinds or {})
        for column in kinds:
            if column not in frame.columns:
                raise DataError(f"kinds names {column!r}, and {name} has no such column; it has {_listed(frame.columns)}")
        learned: list[Column] = []
        left_out, constants = {}, {}
        for column in frame.columns:
            try:
                found = guessed(frame[column], _plain(column), kinds.get(column))
            except DataError as error:
                raise DataError(f"{name}: {error}") from error
            if not isinstance(found, tuple):
                learned.append(found)
            else:
                left_out[_plain(column)] = found[0]
                if len(found) > 1:
                    constants[_plain(column)] = found[1:]
        if not learned:
            reasons = "; ".join(f"{column!r} is {why}" for column, why in left_out.items())
            raise DataError(f"{name} has no column to learn: {reasons}; say what a column is by kinds={{'column': 'category'}}")
        names = {column.name for column in learned}
        order = tuple(_plain(c) for c in frame.columns if _plain(c) in names or _plain(c) in constants)
        return Table(tuple(learned), order, left_out, constants, tuple(frame.attrs.get("notes", ())))

    @property
    def event_shape(self) -> tuple[int]:
        """(coordinates,)."""
        return (sum(column.width for column in self.columns),)

    def column(self, name: Any) -> Column | None:
        """The learned column of that name, or None."""
        return next((column for column in self.columns if column.name == name), None)

    def encode(self, frame: Any) -> State:
        """Rows to states, float32, shape (N, coordinates).

        Raises:
            DataError: a column is missing, or a cell is not what its column was.
            LabelError: a level that the model does not know.
        """
        name = _checked(frame, least=1)
        missing = [column.name for column in self.columns if column.name not in frame.columns]
        if missing:
            raise DataError(f"{name} has no column {missing[0]!r}, which the model learned; it has {_listed(frame.columns)}")
        cells = [column.parse(frame[column.name]) for column in self.columns]
        spread = spreads(np.stack(cells, 1))
        parts = [column.encode(part, spread[:, i]) for i, (column, part) in enumerate(zip(self.columns, cells, strict=True))]
        return torch.from_numpy(np.concatenate(parts, axis=1, dtype=np.float32))

    def decode(self, x: Tensor) -> Any:
        """States (N, coordinates) to a DataFrame: the columns, types and levels of the one that was learned."""
        import pandas as pd

        wide = x.detach().cpu().double().numpy()
        made, start = {}, 0
        for column in self.columns:
            made[column.name] = column.decode(wide[:, start : start + column.width])
            start += column.width
        for name, (value, dtype) in self.constants.items():
            made[name] = pd.Series([value] * len(wide), dtype=object).astype(dtype)  # type: ignore[call-overload]
        return pd.DataFrame({name: made[name] for name in self.order}, index=pd.RangeIndex(len(wide)))

    def log_jacobian(self) -> float:
        """Records of a table have no density that a state's could be turned into.

        Raises:
            DataError: always; says why, naming a column, and what to do.

        Checked by: tests/codecs/test_table.py::test_a_table_has_no_density_and_says_why
        """
        levels = next((column for column in self.columns if column.choices), None)
        numbers = [column.number if isinstance(column, Date) else column for column in self.columns]
        gaps = next((column for column in numbers if column.empty), None)
        if levels is not None:
            why = f"column {levels.name!r} has levels, which have probabilities and no density"
        elif gaps is not None:
            why = f"column {gaps.name!r} has empty cells, which have a probability and no density"
        else:
            why = (
                f"column {self.columns[0].name!r} is learned by its ranks, as normal scores: a map that is a straight line "
                "between the values on file, and constant where a value is repeated"
            )
        raise DataError(
            f"records of this table have no density in your units: {why}. For log likelihoods fit the numbers alone, as an "
            "array: fit(frame[columns].to_numpy())"
        )

    def describe(self) -> list[tuple[str, str]]:
        """The schema in words, for people."""
        learned = [(str(column.name), column.describe()) for column in self.columns]
        out = [(str(name), f"left out: {why}") for name, why in self.left_out.items()]
        return [*learned, *out, *(("note", note) for note in self.notes)]

    def config(self) -> dict[str, Any]:
        """JSON-able. Names of columns are text or whole numbers, so tables of names are lists of pairs."""
        return {
            "columns": [column.config() for column in self.columns],
            "order": list(self.order),
            "left_out": [list(pair) for pair in self.left_out.items()],
            "constants": [[name, *pair] for name, pair in self.constants.items()],
            "notes": list(self.notes),
        }

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Table":
        """The codec that `config` describes."""
        return Table(
            tuple(column_from_config(column) for column in config["columns"]),
            tuple(config["order"]),
            dict(config["left_out"]),
            {name: (value, dtype) for name, value, dtype in config["constants"]},
            tuple(config["notes"]),
        )


def spreads(cells: np.ndarray) -> np.ndarray:
    """A number in (0, 1) for every cell, evenly spread over the records: a hash of its record and column.

    Equal records are told apart by how many of them came before, times the golden ratio.

    Args:
        cells: shape (N, F), float64, NaN allowed.

    Returns:
        Shape (N, F).

    Checked by: tests/codecs/test_table.py::test_spreads_are_even_and_a_records_own
    """
    bits = np.where(np.isnan(cells), -1.5, cells + 0.0).view(np.uint64)  # one NaN, one zero
    record = np.zeros(len(cells), np.uint64)
    for column in bits.T:
        record = _mixed(record ^ column)
    order = np.argsort(record, kind="stable")
    first = np.r_[True, np.diff(record[order]) != 0]
    place = np.arange(len(cells))
    before = np.empty(len(cells), np.uint64)
    before[order] = place - np.maximum.accumulate(np.where(first, place, 0))
    salts = _mixed(np.arange(1, cells.shape[1] + 1, dtype=np.uint64))
    mixed = _mixed(record[:, None] + salts) + (before * GOLDEN)[:, None]
    return ((mixed >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53


def _mixed(bits: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64, wrapping (Steele et al. 2014)."""
    bits = bits + GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return bits ^ (bits >> np.uint64(31))


def read_table(path: str | Path) -> Any:
    """A DataFrame from a file: .csv, .tsv (both also .gz), .parquet.

    How text is read is said in `undrift.codecs.text`. `attrs["name"]` of the frame is the file's name, `attrs["notes"]` says
    what was done.

    Raises:
        DataError: no such file, another ending, an empty or damaged file, another encoding than UTF-8, a separator that
            cannot be told, or a line with more cells than the first; names the line.

    Checked by: tests/codecs/test_table.py
    """
    import pandas as pd

    path = Path(path)
    ending = "".join(path.suffixes[-2:] if path.suffix == ".gz" else path.suffixes[-1:]).lower()
    if not path.exists():
        raise DataError(f"{path} does not exist; give the path of a table")
    if ending not in (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet"):
        raise DataError(f"{path.name} ends in {ending!r}; tables are read from .csv, .tsv (or these with .gz) and .parquet")
    notes: tuple[str, ...] = ()
    try:
        if ending == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame, notes = read_text(path)
    except DataError:
        raise
    except UnicodeDecodeError as error:
        raise DataError(f"{path.name} is not UTF-8 text (byte {error.start}); save it as UTF-8") from error
    except pd.errors.EmptyDataError as error:
        raise DataError(f"{path.name} is empty; give a table with a header and at least two rows") from error
    except (ValueError, OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path.name} cannot be read as {ending[1:]} ({error}); save it again") from error
    if len(frame) == 0:
        raise DataError(f"{path.name} holds a header and no rows; give at least two rows")
    frame.attrs["name"] = path.name
    frame.attrs["notes"] = notes
    return frame


def _checked(frame: Any, least: int = 2) -> str:
    """The table's name; raise DataError unless it is a DataFrame of rows with distinct names."""
    if not hasattr(frame, "columns") or not hasattr(frame, "iloc"):
        raise DataError(f"a table is a pandas DataFrame, got {type(frame).__name__}; make one by pandas.DataFrame(records)")
    name = frame.attrs.get("name", "the table")
    if getattr(frame.columns, "nlevels", 1) > 1:
        flat = "frame.columns = ['_'.join(map(str, names)) for names in frame.columns]"
        raise DataError(f"{name} has column names of {frame.columns.nlevels} levels; give one name a column: {flat}")
    if len(frame) < least:
        raise DataError(f"{name} has {len(frame)} rows; give at least {least}")
    if not frame.columns.is_unique:
        raise DataError(f"{name} has two columns {frame.columns[frame.columns.duplicated()][0]!r}; rename one")
    return name


def _plain(name: Any) -> Any:
    """A column's name as JSON can hold it."""
    return name.item() if isinstance(name, np.generic) else name


def _listed(names: Any) -> str:
    return ", ".join(map(repr, list(names)[:12])) + (", ..." if len(names) > 12 else "")
