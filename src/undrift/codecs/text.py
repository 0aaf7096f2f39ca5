r"""Separated text as a DataFrame: which separator, which decimal mark, and which digits are codes.

**Separator.** The first lines are split by ",", ";" and tab, quotes respected. A separator fits that splits each of them into
the same number of cells, two at least. The usual one of the file's ending is taken, unless another fits and it does not, or
";" or tab fit and it is the comma, which then only is in the cells as a decimal mark ("0,5;1,5").

**Decimal commas.** A column of text whose cells are numbers with a decimal comma ("0,5", "1.234,5") becomes numbers. Between
commas as separators, "1,234" in quotes may as well be thousands: a column of such cells alone stays text.

**Codes.** A column where any cell has a leading zero and more digits ("00697") stays text, for numbers would lose the zero.

**Header.** A first line of numbers alone is none: the columns are then named "column 1", "column 2", ...

Whatever was decided is said in the notes.

Checked by: tests/codecs/test_text.py
"""

import csv
import gzip
import warnings
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from undrift.codecs.cells import EMPTY, decimal_commas, perhaps_thousands, with_points
from undrift.codecs.kinds import reads_as_numbers
from undrift.errors import DataError

__all__ = ["read_text"]

EMPTY_CELLS = ("", "NA", "NaN", "nan", "NULL", "null")
"""Texts of a file that are read as empty cells; "?" in a column of text is one, too."""

SEPARATORS = ("\t", ";", ",")
"""Those that are known; where several fit, the earlier is the likelier."""

LOOKED_AT = 50
"""Lines that a separator has to fit."""

BLOCK = 2**20
"""Bytes that are searched for leading zeros at once."""

CURE = "every line needs as many cells as the first; put cells that hold the separator in quotes"


def read_text(path: Path) -> tuple[Any, tuple[str, ...]]:
    """A DataFrame, and what was decided, in words.

    Args:
        path: of the file; .tsv in its name makes tab the usual separator, .gz at its end is unpacked.

    Raises:
        DataError: two columns of one name, a line with more cells than the first, or two separators that fit.

    Checked by: tests/codecs/test_text.py
    """
    import pandas as pd

    read: Any = pd.read_csv
    usual = "\t" if path.name.lower().removesuffix(".gz").endswith(".tsv") else ","
    separator = _separator(path, usual)
    notes = [] if separator == usual else [f"{path.name} is separated by {separator!r}"]
    options: dict[str, Any] = {"sep": separator, "keep_default_na": False, "skipinitialspace": True}
    first = read(path, header=None, nrows=1, dtype=str, **options).iloc[0]
    points: Any = first if separator == "," else with_points(first)
    values: Any = pd.to_numeric(points, errors="coerce")
    bare = bool(values.notna().all())
    if not bare and first.duplicated().any():
        raise DataError(f"{path.name} has two columns {first[first.duplicated()].iloc[0]!r}; rename one")
    options |= {"header": None if bare else 0, "na_values": list(EMPTY_CELLS), "index_col": False, "low_memory": False}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # pandas would drop the cells that are too many
            frame = read(path, **options)
    except pd.errors.ParserWarning as error:
        line, cells = _surplus(path, separator, len(first))
        raise DataError(f"{path.name}: line {line} has {cells} cells, and the first line has {len(first)}; {CURE}") from error
    except pd.errors.ParserError as error:
        raise DataError(f"{path.name}: {str(error).strip()}; {CURE}") from error
    if bare:
        frame.columns = [f"column {i + 1}" for i in range(frame.shape[1])]
        notes.append(f"{path.name} has no header; its columns are named 'column 1' to 'column {frame.shape[1]}'")
    _keep_codes(frame, path, separator, options, notes)
    _read_commas(frame, separator, notes)
    return frame, tuple(notes)


def _open(path: Path) -> Any:
    """The file's text; what is not UTF-8 is named when pandas reads it."""
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    return opener(path, "rt", encoding="utf-8-sig", errors="replace", newline="")


def _separator(path: Path, usual: str) -> str:
    """The separator of the module's head."""
    rows = {separator: _head(path, separator) for separator in SEPARATORS}
    fits = [s for s, lines in rows.items() if lines and len(lines[0]) > 1 and len({len(line) for line in lines}) == 1]
    if not fits:  # lines of different lengths, or one column: if the first line has one cell, look what else splits it
        width = {s: len(lines[0]) if lines else 1 for s, lines in rows.items()}
        return usual if width[usual] > 1 else max((usual, *SEPARATORS), key=lambda s: width[s])
    best = usual if usual in fits and usual != "," else fits[0]
    if "," in fits and best != "," and usual == ",":
        for cell in (cell for line in rows[best] for cell in line if "," in cell):
            if not decimal_commas([cell]).all():
                raise DataError(
                    f"{path.name} can be split at {best!r} and at ',' (see the cell {cell!r}); put cells that hold "
                    "the other one in quotes"
                )
    return best


def _head(path: Path, separator: str) -> list[list[str]]:
    """The cells of the first lines that are not blank; none where they cannot be split so."""
    with _open(path) as stream:
        try:
            lines = islice(csv.reader(stream, delimiter=separator, skipinitialspace=True), 2 * LOOKED_AT)
            return [line for line in lines if line][:LOOKED_AT]
        except csv.Error:
            return []


def _surplus(path: Path, separator: str, width: int) -> tuple[int, int]:
    """The first line with more than `width` cells, counted from 1, and how many it has."""
    with _open(path) as stream:
        reader = csv.reader(stream, delimiter=separator, skipinitialspace=True)
        for cells in reader:
            if len(cells) > width:
                return reader.line_num, len(cells)
    raise DataError(f"{path.name} has lines with more cells than the first; {CURE}")


def _keep_codes(frame: Any, path: Path, separator: str, options: dict[str, Any], notes: list[str]) -> None:
    """Bring back the text of columns of codes, which were read as whole numbers (or floating ones, where cells are empty)."""
    import pandas as pd

    kinds = [dtype.kind for dtype in frame.dtypes]
    whole = [kind in "iu" or (kind == "f" and bool((frame.iloc[:, i].dropna() % 1 == 0).all())) for i, kind in enumerate(kinds)]
    numbers = [i for i, fits in enumerate(whole) if fits]
    if not numbers or not _leading_zeros(path, separator):
        return
    read: Any = pd.read_csv
    raw = read(path, **(options | {"dtype": str, "usecols": numbers}))
    for place, i in enumerate(numbers):
        cells, name = raw.iloc[:, place], frame.columns[i]
        codes = cells.str.fullmatch(r"\s*0\d+\s*").fillna(False).to_numpy(dtype=bool)
        if codes.any():
            frame[name] = cells
            notes.append(f"column {name!r} holds codes such as {cells.iloc[int(codes.argmax())]!r}, so it is text")


def _leading_zeros(path: Path, separator: str) -> bool:
    """Whether any cell may begin with a zero and a digit: one quick pass over the bytes."""
    opens = np.zeros(256, dtype=bool)
    opens[list(f'{separator}\n\r\t "'.encode())] = True  # what may stand before a cell
    opener: Any = gzip.open if path.name.lower().endswith(".gz") else open
    tail = b"\n"
    with opener(path, "rb") as stream:
        while block := stream.read(BLOCK):
            text = np.frombuffer(tail + block, dtype=np.uint8)
            digit = text[2:] - np.uint8(48) < 10  # bytes below "0" wrap to large ones
            if (opens[text[:-2]] & (text[1:-1] == 48) & digit).any():
                return True
            tail = (tail + block)[-2:]
    return False


def _read_commas(frame: Any, separator: str, notes: list[str]) -> None:
    """Turn columns of numbers with decimal commas into numbers."""
    import pandas as pd

    done = []
    for name in frame.columns:
        cells = frame[name]
        if cells.dtype.kind in "iufb":
            continue
        filled = cells[cells.notna() & ~cells.isin(EMPTY)]
        if filled.empty or not filled.astype(str).str.contains(",", regex=False).any():
            continue
        if separator == "," and perhaps_thousands(filled):
            notes.append(f"column {name!r} stays text: {filled.iloc[0]!r} may be thousands or a decimal comma")
            continue
        commas = decimal_commas(filled)
        if not reads_as_numbers(float(commas.mean()), filled.nunique()):
            continue
        text = cells.astype(object)
        text[filled.index[commas]] = with_points(filled[commas])
        frame[name] = pd.to_numeric(text) if commas.all() and len(filled) == cells.notna().sum() else text
        done.append(name)
    if done:
        shown = ", ".join(map(repr, done[:8])) + (", ..." if len(done) > 8 else "")
        notes.append(f"numbers with decimal commas: {shown}")
