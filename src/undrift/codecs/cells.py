"""Cells of a table as numbers: what is empty, what is no number, and on which lattice numbers lie.

Checked by: tests/codecs/test_table.py
"""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from undrift.errors import DataError

__all__ = [
    "EMPTY",
    "decimal_commas",
    "empty_cells",
    "iso",
    "lattice",
    "microseconds",
    "numbers",
    "perhaps_thousands",
    "with_points",
]

EMPTY = ("", "?")
"""Texts that stand for an empty cell."""

COMMA = re.compile(r"\s*[+-]?(\d+|\d{1,3}(\.\d{3})+)(,\d+)?([eE][+-]?\d+)?\s*")
"""A number with a decimal comma, and points between thousands if there are any; a whole number is one, too."""

THOUSANDS = re.compile(r"\s*[+-]?[1-9]\d{0,2}(,\d{3})*\s*")
"""A number that may have commas between thousands; 0,123 has not."""


def lattice(cells: np.ndarray) -> tuple[int | None, int, int]:
    """(decimals, unit, origin) of cells that are whole numbers of 10^-decimals, decimals <= 6; (None, 1, 0) of others.

    Checked by: tests/codecs/test_columns.py::test_values_on_a_lattice_come_back_on_it
    """
    for decimals in range(7):
        if np.abs(cells).max() * 10.0**decimals >= 2**53:
            break
        if (np.round(cells, decimals) == cells).all():
            whole = np.rint(np.unique(cells) * 10.0**decimals).astype(np.int64)
            return decimals, int(np.gcd.reduce(np.diff(whole))) if len(whole) > 1 else 1, int(whole[0])
    return None, 1, 0


def empty_cells(series: Any) -> np.ndarray:
    """Which cells are empty: NaN, None, NaT, and text that `EMPTY` lists. Shape (N,), bool."""
    gone = series.isna().to_numpy(dtype=bool)
    if series.dtype == object or series.dtype.kind not in "iufbM":
        gone = gone | series.isin(EMPTY).to_numpy(dtype=bool)
    return gone


def numbers(series: Any, name: Any) -> np.ndarray:
    """Cells as float64, NaN where empty.

    Raises:
        DataError: text that is no number, or infinity; names the row.
    """
    import pandas as pd

    gone = empty_cells(series)
    plain = series if series.dtype.kind in "iufb" else series.astype(object).where(~gone, np.nan)
    read: Any = pd.to_numeric(plain, errors="coerce")
    cells = read.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = np.isnan(cells) & ~gone
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"column {name!r} is numbers in {int((~bad & ~gone).sum())} cells, and row {row + 1} holds {series.iloc[row]!r} "
            f"({int(bad.sum())} such cells); correct or empty them, or say what the column is: kinds={{{name!r}: 'category'}}"
        )
    infinite = np.isinf(cells)
    if infinite.any():
        row, count = int(infinite.argmax()) + 1, int(infinite.sum())
        raise DataError(f"column {name!r} holds infinity in row {row} ({count} such cells); empty those cells")
    return cells


def microseconds(series: Any, format: str | None, name: Any) -> np.ndarray:
    """Dates as microseconds since 1970 in UTC, float64, NaN where empty.

    Raises:
        DataError: a cell that is no date; names the row.
    """
    import pandas as pd

    gone = empty_cells(series)
    if series.dtype.kind != "M":
        parsed: Any = pd.to_datetime(series.astype(object).where(~gone, None), format=format, errors="coerce")
        bad = parsed.isna().to_numpy() & ~gone
        if bad.any():
            row = int(bad.argmax())
            raise DataError(f"column {name!r} holds {series.iloc[row]!r} in row {row + 1}, which is no date written {format}")
        series = parsed
    if getattr(series.dtype, "tz", None) is not None:
        series = series.dt.tz_convert(None)
    cells = series.to_numpy().astype("M8[us]").astype(np.int64).astype(np.float64)
    return np.where(gone, np.nan, cells)


def iso(microseconds: float) -> str:
    """A date as ISO text."""
    return str(np.datetime64(int(microseconds), "us")).removesuffix(".000000").removesuffix("T00:00:00")


def decimal_commas(texts: Iterable[Any]) -> np.ndarray:
    """Which texts are numbers written with a decimal comma, or whole ones; shape (N,), bool.

    Checked by: tests/codecs/test_text.py::test_decimal_commas_are_told_from_thousands
    """
    return np.array([COMMA.fullmatch(str(text)) is not None for text in texts], dtype=bool)


def perhaps_thousands(texts: Iterable[Any]) -> bool:
    """Whether the commas of all these numbers may be between thousands."""
    return all(THOUSANDS.fullmatch(str(text)) for text in texts)


def with_points(texts: Any) -> Any:
    """A Series of numbers with decimal commas, with points."""
    text = texts.astype(str)
    return text.str.replace(".", "", regex=False).str.replace(",", ".", regex=False).str.strip()
