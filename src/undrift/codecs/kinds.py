"""What a column is, guessed from its cells; every guess can be overruled by name.

The guess, in order: nothing but empty cells, one value only; dates; booleans; numbers (whole numbers that number the rows are
an identifier); text that reads as numbers, as dates, as few levels, as identifiers (every cell another), as free text.

Checked by: tests/codecs/test_table.py
"""

import re
from typing import Any

import numpy as np

from undrift.codecs.cells import decimal_commas, empty_cells, microseconds, numbers
from undrift.codecs.columns import Category, Column, Date, Number
from undrift.errors import DataError

__all__ = ["KINDS", "guessed", "reads_as_numbers"]

KINDS = ("number", "integer", "boolean", "category", "date", "skip")
"""What a column can be said to be."""

FEW, MANY = 20, 200
"""Distinct texts that are always levels, and that may be, where each occurs five times."""

MOST = 1000
"""Levels of a category at most."""

FORMATS = (
    "%Y-%m-%d", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M", "%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%Y/%m/%d", "%d.%m.%Y",
    "%m/%d/%Y", "%d/%m/%Y", "%Y-%m",
)  # fmt: skip
"""Ways of writing a date; the first that every cell is written in."""

MOSTLY = 0.8
"""Share of cells that read as numbers, from which on the others are taken for mistakes."""


def guessed(series: Any, name: Any, kind: str | None = None) -> Column | tuple[Any, ...]:
    """The column of a pandas Series.

    Args:
        series: its cells.
        name: of the column.
        kind: one of `KINDS`, or None to guess.

    Returns:
        The column; or (why it is left out), or (why, value, dtype) for one that comes back as it was.

    Raises:
        DataError: an unknown kind, a type that is none of these, or a cell that is not of its column's kind.
    """
    if kind is not None and kind not in KINDS:
        raise DataError(f"column {name!r} was said to be {kind!r}; it can be {', '.join(KINDS)}")
    if kind == "skip":
        return ("skipped, as asked",)
    dtype = str(series.dtype)
    if series.dtype.kind in "mc":
        raise DataError(f"column {name!r} holds {dtype} values; make them numbers, or leave it out: kinds={{{name!r}: 'skip'}}")
    gone = empty_cells(series)
    filled = series[~gone]
    if len(filled) == 0:
        return ("every cell is empty", None, dtype)
    try:
        distinct = filled.nunique()
    except TypeError as error:
        kind_of, skip = type(filled.iloc[0]).__name__, f"kinds={{{name!r}: 'skip'}}"
        raise DataError(f"column {name!r} holds {kind_of} cells; make them text or numbers, or {skip}") from error
    if distinct == 1 and not gone.any():
        value = filled.iloc[0]
        return (f"every cell is {value}", _jsonable(value, series), dtype)
    if kind is not None:
        return _as(kind, series, name, gone, filled)
    if isinstance_category(series):
        return _category(series, name, gone, filled)
    if series.dtype.kind == "M":
        return _date(series, name, None)
    if series.dtype.kind == "b" or all(isinstance(value, (bool, np.bool_)) for value in filled.unique()[:3]):
        return _category(series, name, gone, filled)
    if series.dtype.kind in "iuf":
        return _number(series, name, distinct)
    return _text(series, name, distinct, gone, filled)


def _as(kind: str, series: Any, name: Any, gone: np.ndarray, filled: Any) -> Column:
    """The column as what it was said to be."""
    if kind in ("number", "integer"):
        cells = numbers(series, name)
        column = Number.of(name, _numeric(series), cells)
        if kind == "integer" and column.decimals != 0:
            row = int((cells != np.round(cells)).argmax()) + 1
            raise DataError(f"column {name!r} was said to be whole numbers, and row {row} holds {cells[row - 1]:g}")
        return column
    if kind == "date":
        return _date(series, name, None if series.dtype.kind == "M" else _format(filled, name, needed=True))
    if kind == "boolean" and filled.nunique() > 2:
        raise DataError(f"column {name!r} was said to be yes or no, and holds {filled.nunique()} values")
    return _category(series, name, gone, filled)


def _number(series: Any, name: Any, distinct: int) -> Column | tuple[str]:
    cells = numbers(series, name)
    if distinct == len(cells) >= 10 and _counts_rows(cells, name):
        return ("an identifier: every row has another whole number",)
    return Number.of(name, str(series.dtype), cells)


def _counts_rows(cells: np.ndarray, name: Any) -> bool:
    """Whether distinct cells number the rows: whole, and without a gap, or in a column that is called so."""
    whole = bool((cells == np.round(cells)).all())
    called = re.search(r"(^|[\W_])(id|uuid|key|index|row)$|^unnamed: 0$", str(name), re.IGNORECASE) is not None
    return whole and (called or float(cells.max() - cells.min()) == len(cells) - 1)


def _text(series: Any, name: Any, distinct: int, gone: np.ndarray, filled: Any) -> Column | tuple[str]:
    import pandas as pd

    text = filled.astype(str)
    read: Any = pd.to_numeric(text, errors="coerce")
    share = float(read.notna().mean())
    codes = text.str.match(r"\s*[+-]?0\d").any()  # 01234 is a code, not a number
    if not codes and reads_as_numbers(share, distinct):
        return _number(pd.Series(numbers(series, name)), name, distinct)  # raises where a cell is no number
    format = None if distinct < 2 else _format(filled, name, needed=False)
    if format is not None:
        return _date(series, name, format)
    likely = "" if codes or not decimal_commas(text).all() else "; if they are numbers, write 0.5 for 0,5"
    if distinct == len(series) >= 10:
        return (f"identifiers: every row has another text{likely}",)
    if distinct <= FEW or (distinct <= MANY and 5 * distinct <= len(filled)):
        return _category(series, name, gone, filled)
    return (f"free text: {distinct} different texts in {len(filled)} cells{likely}",)


def reads_as_numbers(share: float, distinct: int) -> bool:
    """Whether a column of text is numbers, and the cells that are none are mistakes.

    Args:
        share: of its cells that are numbers.
        distinct: texts.
    """
    return share == 1 or (share >= MOSTLY and distinct > FEW)


def _category(series: Any, name: Any, gone: np.ndarray, filled: Any) -> Category:
    counts = filled.value_counts()
    categories = ordered = None
    if isinstance_category(series):
        counts = counts[counts > 0]
        categories = tuple(_level(level, name) for level in series.cat.categories)
        ordered = bool(series.cat.ordered)
        levels = [level for level in series.cat.categories if level in counts.index]
    else:
        levels = sorted(counts.index, key=lambda level: (str(type(level)), level))
    if len(levels) > MOST:
        raise DataError(f"column {name!r} has {len(levels)} levels, more than {MOST}; leave it out: kinds={{{name!r}: 'skip'}}")
    cells = [int(counts[level]) for level in levels] + ([int(gone.sum())] if gone.any() else [])
    plain = tuple(_level(level, name) for level in levels)
    return Category(name, str(series.dtype), plain, tuple(cells), categories, bool(ordered))


def _date(series: Any, name: Any, format: str | None) -> Date:
    zone = getattr(series.dtype, "tz", None)
    number = Number.of(name, str(series.dtype), microseconds(series, format, name), "date")
    return Date(number, format, None if zone is None else str(zone))


def _format(filled: Any, name: Any, needed: bool) -> str | None:
    """The way in which every cell is written, exactly; None if there is none.

    Raises:
        DataError: there is none, and one is needed.
    """
    import pandas as pd

    text = filled.astype(str)
    for format in FORMATS:
        if pd.isna(pd.to_datetime(text.iloc[0], format=format, errors="coerce")):
            continue
        dates: Any = pd.to_datetime(text, format=format, errors="coerce")
        if dates.notna().all() and (dates.dt.strftime(format) == text).all():
            return format
    if needed:
        raise DataError(
            f"column {name!r} was said to be dates, and its cells ({filled.iloc[0]!r}, ...) are not all written in one of the "
            f"known ways: {', '.join(FORMATS)}; turn them into dates by pandas.to_datetime"
        )
    return None


def isinstance_category(series: Any) -> bool:
    """Whether a Series is of pandas' category type."""
    return str(series.dtype) == "category"


def _numeric(series: Any) -> str:
    return str(series.dtype) if series.dtype.kind in "iuf" else "float64"


def _level(level: Any, name: Any) -> Any:
    """A level as JSON can hold it."""
    value = level.item() if isinstance(level, np.generic) else level
    if not isinstance(value, (str, bool, int, float)):
        raise DataError(f"column {name!r} holds {type(value).__name__} cells ({value!r}); make them text, numbers or dates")
    return value


def _jsonable(value: Any, series: Any) -> Any:
    """A constant as JSON can hold it."""
    value = value.item() if isinstance(value, np.generic) and series.dtype.kind != "M" else value
    return value if isinstance(value, (str, bool, int, float)) else str(value)
