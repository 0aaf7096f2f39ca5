r"""Columns of a table as coordinates of about unit variance, and back on their own lattice, in their own type.

**Numbers** become normal scores (`codecs.scores`). Where all values are multiples of a step (whole numbers, cents,
quarters), decoding rounds to it. Dates are numbers of microseconds. Empty cells are marked by a coordinate of their own (+1
empty, -1 filled; the number itself is then at its median, 0).

**Categories**, K levels, an empty cell being a level of its own: one coordinate, -1 or +1, where K = 2; else
:math:`\sqrt2 (e_k - p)`, e_k the unit vector and p the shares of the levels, and the largest entry decodes. Any two levels are
2 apart, whatever K.

Checked by: tests/codecs/test_columns.py
"""

import difflib
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from undrift.codecs.cells import empty_cells, iso, lattice, microseconds, numbers
from undrift.codecs.scores import Quantiles
from undrift.errors import DataError, LabelError

__all__ = ["Category", "Column", "Date", "Number", "column_from_config", "unknown"]

SQRT2 = 2**0.5


@dataclass(frozen=True)
class Number:
    """A column of numbers.

    Attributes:
        name: of the column.
        dtype: pandas name of its type.
        quantiles: its distribution function.
        decimals: the values are whole numbers of 10^-decimals, None if they are continuous.
        unit: and, counted in those, they lie on origin + unit * integers.
        origin: see unit.
        empty: share of empty cells; a column without any has no coordinate for them.
        kind: "number", "integer" or "date".
    """

    name: Any
    dtype: str
    quantiles: Quantiles
    decimals: int | None = None
    unit: int = 1
    origin: int = 0
    empty: float = 0.0
    kind: str = "number"

    @staticmethod
    def of(name: Any, dtype: str, cells: np.ndarray, kind: str | None = None) -> "Number":
        """The column of these cells, shape (N,), NaN where empty."""
        filled = cells[~np.isnan(cells)]
        decimals, unit, origin = lattice(filled)
        return Number(
            name, dtype, Quantiles.of(filled), decimals, unit, origin,
            float(np.isnan(cells).mean()), kind or ("integer" if decimals == 0 else "number"),
        )  # fmt: skip

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return 1 + (self.empty > 0)

    @property
    def choices(self) -> int:
        """0: a number, for networks that are conditioned on it."""
        return 0

    def parse(self, series: Any) -> np.ndarray:
        """Cells as float64, NaN where empty, shape (N,).

        Raises:
            DataError: a cell that is no finite number; names its row.
        """
        return self.checked(numbers(series, self.name))

    def checked(self, cells: np.ndarray) -> np.ndarray:
        """The cells; raise DataError at an empty one in a column that had none."""
        if not self.empty and np.isnan(cells).any():
            raise _unforeseen(self.name, np.isnan(cells))
        return cells

    def encode(self, cells: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Parsed cells (N,) to coordinates (N, width); `spread` (N,) in (0, 1) places ties."""
        gone = np.isnan(cells)
        score = np.zeros(len(cells))
        score[~gone] = self.quantiles.scores(cells[~gone], spread[~gone])
        return np.stack([score, np.where(gone, 1.0, -1.0)], 1) if self.empty else score[:, None]

    def values(self, x: np.ndarray) -> np.ndarray:
        """Coordinates (N, width) to cells as float64, NaN where empty."""
        cells = self.quantiles.cells(x[:, 0])
        if self.decimals is not None:
            scale = 10.0**self.decimals
            cells = (np.rint((cells * scale - self.origin) / self.unit) * self.unit + self.origin) / scale
        return np.where(x[:, 1] > 0, np.nan, cells) if self.empty else cells

    def decode(self, x: np.ndarray) -> Any:
        """Coordinates (N, width) to a pandas Series of the column's type."""
        import pandas as pd

        cells = self.values(x)
        if self.dtype[0] in "IUF":  # pandas' own types, whose empty cell is NA
            return pd.Series(cells).astype("Float64").astype(self.dtype)  # type: ignore[call-overload]
        return pd.Series(cells.astype(self.dtype))

    def condition(self, cells: np.ndarray) -> np.ndarray:
        """Parsed cells (N,) as one number each, for networks that are conditioned on them; NaN where empty."""
        gone = np.isnan(cells)
        out = np.full(len(cells), np.nan)
        out[~gone] = self.quantiles.scores(cells[~gone])
        return out

    def asked(self, values: list[Any]) -> np.ndarray:
        """Values that somebody asks for, None or NaN where nothing is asked, as `condition` gives them.

        Raises:
            LabelError: not a finite number.
        """
        cells = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            try:
                cells[i] = np.nan if value is None else float(value)
            except (TypeError, ValueError) as error:
                raise LabelError(f"{self.name!r} is a column of numbers, and {value!r} was asked; give a number") from error
            if np.isinf(cells[i]):
                raise LabelError(f"{self.name!r} was asked to be {value!r}; give a finite number")
        return self.condition(cells)

    def describe(self) -> str:
        """The column in words."""
        low, high = self.quantiles.values[0], self.quantiles.values[-1]
        step = 0.0 if self.decimals is None else self.unit / 10**self.decimals
        coarse = step != 1 and step * 10000 > high - low  # a finer step is nobody's
        words = "whole numbers" if self.kind == "integer" else "numbers"
        return f"{words}, {low:g} to {high:g}{f', steps of {step:g}' if coarse else ''}{empties(self.empty)}"

    def config(self) -> dict[str, Any]:
        """JSON-able."""
        return {"column": "Number", **asdict(self)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Number":
        """The column that `config` describes."""
        knots = config["quantiles"]
        values, low, high = (tuple(knots[key]) for key in ("values", "low", "high"))
        return Number(**{**config, "quantiles": Quantiles(values, low, high, knots["count"])})


@dataclass(frozen=True)
class Date:
    """A column of dates: numbers of microseconds since 1970.

    Attributes:
        number: the column as numbers.
        format: how text is written (`strftime`), None for a column of pandas' dates.
        zone: time zone, or None.
    """

    number: Number
    format: str | None = None
    zone: str | None = None
    choices: ClassVar[int] = 0
    kind: ClassVar[str] = "date"

    @property
    def name(self) -> Any:
        """Of the column."""
        return self.number.name

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return self.number.width

    def parse(self, series: Any) -> np.ndarray:
        """Cells as microseconds, NaN where empty, shape (N,).

        Raises:
            DataError: a cell that is no date of the column's format; names its row.
        """
        return self.number.checked(microseconds(series, self.format, self.name))

    def encode(self, cells: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """As `Number.encode`."""
        return self.number.encode(cells, spread)

    def decode(self, x: np.ndarray) -> Any:
        """Coordinates (N, width) to dates as they came."""
        import pandas as pd

        cells = self.number.values(x)
        gone = np.isnan(cells)
        dates = pd.Series(np.where(gone, 0, cells).astype(np.int64).view("M8[us]"))
        if self.format is not None:
            text = dates.dt.strftime(self.format).astype(object)
            text[gone] = None
            return text.astype(self.number.dtype)
        dates[gone] = pd.NaT
        if self.zone is not None:
            dates = dates.dt.tz_localize("UTC").dt.tz_convert(self.zone)
        return dates.astype(self.number.dtype)

    def condition(self, cells: np.ndarray) -> np.ndarray:
        """As `Number.condition`."""
        return self.number.condition(cells)

    def asked(self, values: list[Any]) -> np.ndarray:
        """Dates that somebody asks for (text or dates, in the column's zone where they have none), None where nothing is asked.

        Raises:
            LabelError: not a date.
        """
        import pandas as pd

        cells = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            if value is None or value is pd.NaT or value != value:
                continue
            try:
                exact = isinstance(value, str) and self.format is not None
                when = pd.Timestamp(pd.to_datetime(value, format=self.format)) if exact else pd.Timestamp(value)
            except (ValueError, TypeError) as error:
                raise LabelError(f"{self.name!r} is a column of dates, and {value!r} was asked; give a date") from error
            if self.zone is not None and when.tzinfo is None:  # a time without a zone is the column's own
                when = when.tz_localize(self.zone, ambiguous=True, nonexistent="shift_forward")
            plain = when.tz_convert(None) if when.tzinfo else when
            cells[i] = float(plain.to_datetime64().astype("M8[us]").astype(np.int64))
        return self.number.condition(cells)

    def describe(self) -> str:
        """The column in words."""
        first, last = (iso(self.number.quantiles.values[i]) for i in (0, -1))
        return f"dates, {first} to {last}{f', written {self.format}' if self.format else ''}{empties(self.number.empty)}"

    def config(self) -> dict[str, Any]:
        """JSON-able: dates as ISO text."""
        number = asdict(self.number)
        number["quantiles"]["values"] = [iso(value) for value in self.number.quantiles.values]
        return {"column": "Date", "number": number, "format": self.format, "zone": self.zone}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Date":
        """The column that `config` describes."""
        knots = config["number"]["quantiles"]
        values = [float(np.datetime64(text, "us").astype(np.int64)) for text in knots["values"]]
        number = Number.from_config({**config["number"], "quantiles": {**knots, "values": values}})
        return Date(number, config["format"], config["zone"])


@dataclass(frozen=True)
class Category:
    """A column of levels.

    Attributes:
        name: of the column.
        dtype: pandas name of its type.
        levels: its levels, sorted or in the column's own order: text, whole numbers or booleans.
        counts: cells of each level, and then of empty cells if there are any.
        categories: all levels of a pandas category column, in order; None for another column.
        ordered: whether these are ordered.
    """

    name: Any
    dtype: str
    levels: tuple[Any, ...]
    counts: tuple[int, ...]
    categories: tuple[Any, ...] | None = None
    ordered: bool = False

    @property
    def kind(self) -> str:
        """Is it "boolean" or "category"?"""
        return "boolean" if all(isinstance(level, bool) for level in self.levels) else "category"

    @property
    def choices(self) -> int:
        """Number of levels, an empty cell among them if there are any."""
        return len(self.counts)

    @property
    def empty(self) -> float:
        """Share of empty cells."""
        return self.counts[-1] / sum(self.counts) if len(self.counts) > len(self.levels) else 0.0

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return 1 if self.choices == 2 else self.choices

    def parse(self, series: Any) -> np.ndarray:
        """Cells as indices of levels, as float64, shape (N,); an empty cell is the last one.

        Where levels are text, whole numbers stand for their digits: a file without any "01234" has its codes read as numbers.

        Raises:
            LabelError: a level that the model does not know.
            DataError: an empty cell in a column that had none.
        """
        import pandas as pd

        gone = empty_cells(series)
        if series.dtype.kind in "iu" and all(isinstance(level, str) for level in self.levels):
            series = series.astype(str)
        codes = pd.Index(list(self.levels), dtype=object).get_indexer(series.astype(object).where(~gone, None)).astype(float)
        strange = (codes < 0) & ~gone
        if strange.any():
            row = int(strange.argmax())
            raise unknown("level", series.iloc[row], self.levels, f" in row {row + 1} of column {self.name!r}")
        if gone.any() and not self.empty:
            raise _unforeseen(self.name, gone)
        codes[gone] = len(self.levels)
        return codes

    def encode(self, cells: np.ndarray, spread: np.ndarray) -> np.ndarray:
        """Indices (N,) to coordinates (N, width)."""
        if self.choices == 2:
            return 2 * cells[:, None] - 1
        return SQRT2 * (np.eye(self.choices)[cells.astype(int)] - self._shares)

    @cached_property
    def _shares(self) -> np.ndarray:
        return np.array(self.counts) / sum(self.counts)

    def decode(self, x: np.ndarray) -> Any:
        """Coordinates (N, width) to a pandas Series of the column's type."""
        import pandas as pd

        codes = (x[:, 0] > 0).astype(int) if self.choices == 2 else (x / SQRT2 + self._shares).argmax(1)
        cells = np.array([*self.levels, None], dtype=object)[codes]
        if self.categories is not None:
            return pd.Series(pd.Categorical(cells, categories=list(self.categories), ordered=self.ordered))
        return pd.Series(cells, dtype=object).astype(self.dtype)  # type: ignore[call-overload]

    def condition(self, cells: np.ndarray) -> np.ndarray:
        """Indices (N,), as they are."""
        return cells

    def asked(self, values: list[Any]) -> np.ndarray:
        """Levels that somebody asks for as indices, None or NaN where nothing is asked.

        Raises:
            LabelError: an unknown level.
        """
        index = {level: float(i) for i, level in enumerate(self.levels)}
        out = np.full(len(values), np.nan)
        for i, value in enumerate(values):
            value = value.item() if isinstance(value, np.generic) else value
            if value is None or value != value:
                continue
            if value not in index:
                raise unknown("level", value, self.levels, f" of {self.name!r}")
            out[i] = index[value]
        return out

    def describe(self) -> str:
        """The column in words."""
        known = ", ".join(map(str, self.levels[:8])) + (", ..." if len(self.levels) > 8 else "")
        return f"{'yes or no' if self.kind == 'boolean' else f'{len(self.levels)} levels'}: {known}{empties(self.empty)}"

    def config(self) -> dict[str, Any]:
        """JSON-able."""
        return {"column": "Category", **asdict(self)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Category":
        """The column that `config` describes."""
        lists = {key: None if config[key] is None else tuple(config[key]) for key in ("levels", "counts", "categories")}
        return Category(**{**config, **lists})


Column = Number | Date | Category


def column_from_config(config: dict[str, Any]) -> Column:
    """The column that its `config` describes."""
    kinds = {"Number": Number, "Date": Date, "Category": Category}
    return kinds[config["column"]].from_config({key: value for key, value in config.items() if key != "column"})


def unknown(what: str, value: Any, known: Any, where: str = "") -> LabelError:
    """The error for a name that is not known: lists those that are, and the one that was probably meant."""
    close = difflib.get_close_matches(str(value), [str(name) for name in known], 1)
    listed = ", ".join(map(repr, list(known)[:12])) + (", ..." if len(known) > 12 else "")
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return LabelError(f"unknown {what} {value!r}{where}; this model knows {listed}{meant}")


def _unforeseen(name: Any, gone: np.ndarray) -> DataError:
    """The error for an empty cell in a column that had none."""
    row = int(gone.argmax()) + 1
    return DataError(f"column {name!r} has an empty cell in row {row}, and had none when the model was fitted; fill it")


def empties(share: float) -> str:
    """Empty cells in words."""
    return f", {100 * share:.3g} % empty" if share else ""
