"""From anybody's files or arrays to records, a codec that fits them, and their labels.

What is given decides what it is read as:

| given | read as |
|---|---|
| a folder | pictures; sub-folders or `labels.csv` are classes |
| .csv, .csv.gz, .tsv, .tsv.gz, .parquet; a DataFrame | a table |
| .npy (stays on disk), .npz; idx files of digits; an array or a tensor | images or arrays, by the rule below |

An array is images if its shape is (N, H, W) or (N, H, W, C) with C <= 4 and its values look like intensities: whole numbers
from 0 to 65535, or fractions that fill at least half of [0, 1] or [-1, 1]. Any other is an array of measurements (`Arrays`).
`kind=` overrules.

Errors number the records of arrays and pictures from 0, as numpy does, and the rows of tables from 1.
"""

import difflib
import gzip
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undrift.codecs.arrays import Arrays
from undrift.codecs.folder import PictureFolder
from undrift.codecs.images import Images, fractions
from undrift.codecs.labels import read_labels
from undrift.codecs.sources import InMemory, MemoryMapped, Source, looked_at
from undrift.errors import DataError

__all__ = ["READING", "SUPPORTED", "Opened", "check_reading", "open_data"]

READING = ("kind", "kinds", "size", "channels", "key", "skip_bad")
"""Options of `open_data` that say how data are read."""

TABLES = (".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
ARRAYS = (".npy", ".npz", "-ubyte", "-ubyte.gz")
SUPPORTED = (*TABLES, *ARRAYS)
"""How the names of files end that can be opened, beside folders of pictures."""

KINDS = ("images", "array", "table")
DATA_KEYS = ("x", "X", "data", "images", "x_train", "X_train", "arr_0")
LABEL_KEYS = ("y", "Y", "labels", "label", "y_train", "Y_train", "arr_1")
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


@dataclass(frozen=True)
class Opened:
    """Data that are ready to be learned from.

    Attributes:
        source: where records are read from.
        kind: "images", "array" or "table".
        codec: records <-> states, guessed from the records; None where they were opened with `least=1`.
        labels: one a record, or None.
    """

    source: Source
    kind: str
    codec: Any
    labels: list[Any] | None

    def describe(self) -> list[tuple[str, str]]:
        """What was recognised and decided, in words: pairs of a subject and what is said of it."""
        about = getattr(self.source, "describe", None)
        lines = about() if about else [("data", f"{self.source.name}, {len(self.source)} records")]
        if self.labels is not None and not any(subject == "classes" for subject, _ in lines):
            distinct = list(dict.fromkeys(self.labels))
            lines.append(
                ("labels", f"{len(distinct)} distinct: {', '.join(map(str, distinct[:8]))}{', ...' * (len(distinct) > 8)}")
            )
        return [*lines, ("kind", self.kind), *(self.codec.describe() if self.codec else ())]


def check_reading(names: Iterable[str]) -> None:
    """Refuse names that are no options of reading.

    Args:
        names: of options for `open_data`.

    Raises:
        DataError: an unknown one; lists those that are known, and the one that was probably meant.

    Checked by: tests/codecs/test_opening.py::test_unknown_options_are_named
    """
    for name in names:
        if name not in READING:
            close = difflib.get_close_matches(str(name), READING, 1)
            meant = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{name!r} is no option of reading data; there are {', '.join(READING)}{meant}")


def open_data(
    data: Any,
    labels: Any = None,
    *,
    kind: str | None = None,
    kinds: Mapping[str, str] | None = None,
    size: Any = None,
    channels: Any = None,
    key: str | None = None,
    skip_bad: bool = False,
    least: int = 2,
) -> Opened:
    """Open data of any supported form; see the module's table. Prints nothing.

    Args:
        data: path of a folder or a file; a numpy array, a torch tensor or nested lists of numbers; a DataFrame.
        labels: one a record (a list or an array), or the path of a .npy or .csv of them, or the name of an array in the same
            .npz; False for none, even where some lie beside the data; None to use what lies beside.
        kind: "images", "array" or "table" in place of what is recognised.
        kinds: of a table's columns, in place of what is recognised: {column: kind}.
        size: (H, W) or one number: what pictures of a folder are brought to, in pixels.
        channels: of pictures in a folder 1, 3 or 4; "first" or "last" reads an array as measurements with such an axis.
        key: name of the array in a .npz.
        skip_bad: leave out pictures that cannot be decoded.
        least: how many records there must be: 2 to learn from; 1 to have them changed by a model, no codec is guessed then.

    Returns:
        The source, what it was recognised as, the codec that fits, and the labels.

    Raises:
        DataError: nothing there, nothing in it, a form that is not supported (lists those that are), an option that the form
            does not have, or data that cannot be learned from.

    Checked by: tests/codecs/test_opening.py
    """
    options = {"kinds": kinds, "size": size, "channels": channels, "key": key, "skip_bad": skip_bad or None}
    if kind not in (None, *KINDS):
        raise DataError(f"kind={kind!r} is not known; give {', '.join(map(repr, KINDS))}, or leave it out")
    if isinstance(data, (str, Path)):
        path = _existing(Path(data).expanduser())
        if path.is_dir():
            _only(options, {"size", "channels", "skip_bad"}, "a folder of pictures")
            if kind not in (None, "images", "array"):
                raise DataError(f"{path} is a folder of pictures, it cannot be read as a {kind}; give one file of a table")
            folder = PictureFolder(path, labels, size=size, channels=channels, skip_bad=skip_bad, least=least)
            return _opened_array(folder, kind, None, least, pictures=True)
        end = _ending(path)
        if end in TABLES:
            return _opened_table(_table_source(path), labels, kind, options, least)
        _only(options, {"channels", "key"} if end == ".npz" else {"channels"}, f"a file {end}")
        return _opened_array(_array_source(path, end, labels, key), kind, channels, least)
    if hasattr(data, "iloc") and hasattr(data, "columns"):
        return _opened_table(InMemory(data, None, "the table"), labels, kind, options, least)
    _only(options, {"channels"}, "an array")
    array = _as_array(data)
    given = None if labels is False else read_labels(labels, len(array))
    return _opened_array(InMemory(array, given, "the array"), kind, channels, least)


def _opened_array(source: Any, kind: str | None, channels: Any, least: int, pictures: bool = False) -> Opened:
    if kind == "table":
        raise DataError(f"{source.name} is an array, not a table; put it in a DataFrame with named columns")
    if len(source) < least:
        raise DataError(f"{source.name} holds {len(source)} record; give at least {least}, (N, ...)")
    records, rows = looked_at(source)
    if kind is None:
        looks = pictures and records.dtype in (np.uint8, np.uint16)
        looks = looks or _looks_like_images(records[..., :1] if pictures and records.ndim == 4 else records)
        kind = "images" if channels is None and looks else "array"
    if kind == "images" and channels is not None:
        raise DataError(f"channels={channels!r} is for arrays; images of shape (N, H, W, C) have their channels last")
    if least < 2:
        return Opened(source, kind, None, source.labels)
    if kind == "images":
        return Opened(source, kind, Images.guess(records, rows), source.labels)
    if pictures and records.ndim == 4:
        channels = "last"
    return Opened(source, kind, Arrays.guess(records, channels, rows), source.labels)


def _opened_table(source: Any, labels: Any, kind: str | None, options: dict[str, Any], least: int) -> Opened:
    from undrift.codecs.table import Table

    _only(options, {"kinds"}, "a table")
    if kind not in (None, "table"):
        raise DataError(f"{source.name} is a table; to read it as kind={kind!r}, give the numbers in it as an array")
    if labels is not None and labels is not False:
        raise DataError("labels= is for pictures and arrays; put a table's labels in a column and name that as the condition")
    if len(source) < least:
        raise DataError(f"{source.name} holds {len(source)} rows; give at least {least}")
    if least < 2:
        return Opened(source, "table", None, None)
    records = source.records if isinstance(source, InMemory) else source.look()
    return Opened(source, "table", Table.guess(records, options["kinds"]), None)


def _looks_like_images(records: np.ndarray) -> bool:
    """The rule of the module's head, on records (N, *S)."""
    if not (records.ndim == 3 or (records.ndim == 4 and records.shape[3] <= 4)) or records.size == 0:
        return False
    if records.dtype.kind not in "iubf" or not np.isfinite(records.sum(dtype=np.float64)):
        return records.dtype.kind != "c"  # refused by name in the codec
    low, high = float(records.min()), float(records.max())
    whole = records.dtype.kind in "iub" or bool((records == np.round(records)).all())
    return low >= 0 and high <= 65535 if whole else fractions(low, high) is not None


def _array_source(path: Path, end: str, labels: Any, key: str | None) -> Any:
    if end == ".npy":
        source = MemoryMapped(path)
        source.labels = None if labels is False else read_labels(labels, len(source))
        return source
    if end == ".npz":
        array, beside = _read_npz(path, key, labels)
    else:
        array, beside = _read_idx(path), None
        twin = path.with_name(path.name.replace("images", "labels").replace("idx3", "idx1"))
        if labels is None and twin != path and twin.is_file():
            beside = _read_idx(twin)
    if labels is False:
        beside = None
    elif beside is None:
        beside = read_labels(labels, len(array))
    return InMemory(array, beside, path.name)


def _read_npz(path: Path, key: str | None, labels: Any) -> tuple[np.ndarray, np.ndarray | None]:
    """An array of a .npz and, where they are in it, its labels.

    The array is `key`, else the first of x, data, images, x_train, arr_0 that is there, else the only one. Labels are the
    array that `labels` names, else the first of y, labels, y_train, arr_1 with one number a record.
    """
    try:
        with open(path, "rb") as stream, np.load(stream, allow_pickle=False) as file:
            names = list(file.files)
            chosen = (
                key if key is not None else next((k for k in DATA_KEYS if k in names), names[0] if len(names) == 1 else None)
            )
            if chosen not in names:
                there = ", ".join(names) or "nothing"
                problem = "none of them is named like data" if key is None else f"there is no {key!r}"
                raise DataError(f"{path} holds {there}; {problem}: give key= with one of these names")
            array = file[chosen]
            if array.ndim == 0:
                raise DataError(f"{path}: {chosen} is a single value; give key= with the name of an array (N, ...)")
            if isinstance(labels, str) and labels in names:
                return array, file[labels]
            if labels is not None:
                return array, None
            for name in LABEL_KEYS:
                if name in names and name != chosen and (found := file[name]).shape in ((len(array),), (len(array), 1)):
                    return array, found.reshape(-1)
            return array, None
    except DataError:
        raise
    except (ValueError, TypeError, EOFError, OSError, zlib.error, zipfile.BadZipFile) as error:
        raise DataError(
            f"{path} cannot be read as .npz ({error}); write it again with numpy.savez from plain arrays"
        ) from error


def _read_idx(path: Path) -> np.ndarray:
    """An array of a file in the format of the MNIST digits: 0, 0, type, rank, sizes (big endian), values."""
    try:
        with open(path, "rb") as stream:
            content = gzip.decompress(stream.read()) if path.name.lower().endswith(".gz") else stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be unpacked ({error}); fetch it again") from error
    rank = content[3] if len(content) > 3 else 0
    if content[:2] != b"\0\0" or content[2] not in IDX_TYPES or len(content) < 4 + 4 * rank or rank == 0:
        raise DataError(f"{path} is no idx file: it does not begin with 0, 0, a type and a rank; fetch it again")
    shape = tuple(int(n) for n in np.frombuffer(content, ">u4", rank, 4))
    kind = np.dtype(IDX_TYPES[content[2]])
    if len(content) != 4 + 4 * rank + kind.itemsize * math.prod(shape):
        raise DataError(
            f"{path} says that it holds {shape} values of {kind} and is of another length; it was cut off: fetch it again"
        )
    return np.frombuffer(content, kind, offset=4 + 4 * rank).reshape(shape).astype(kind.newbyteorder("="))


def _table_source(path: Path) -> Any:
    if path.name.lower().endswith(".parquet"):
        from undrift.codecs.parquet import ParquetRows

        return ParquetRows(path)
    from undrift.codecs.table import read_table

    return InMemory(read_table(path), None, path.name)


def _as_array(data: Any) -> np.ndarray:
    if hasattr(data, "detach"):  # a torch tensor, on any device
        data = data.detach().cpu()
        data = data.float() if str(data.dtype) == "torch.bfloat16" else data
        return data.numpy()
    if isinstance(data, Mapping) or not (isinstance(data, Iterable) or hasattr(data, "__array__")):
        raise DataError(f"data of type {type(data).__name__} cannot be opened; give a path, an array, a tensor or a DataFrame")
    try:
        array = np.asarray(data)
    except ValueError as error:
        raise DataError(f"the records are not of one shape ({error}); bring them to one shape first") from error
    if array.ndim == 0 or len(array) == 0:
        raise DataError(f"an array of shape {array.shape} holds no records; give (N, ...) with N >= 2")
    if array.dtype.kind not in "iubf":
        raise DataError(f"the array holds {array.dtype} values; give numbers, integer or floating, or a DataFrame")
    return array


def _existing(path: Path) -> Path:
    if not path.exists():
        near = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], 3) if path.parent.is_dir() else []
        hint = (
            f"; did you mean {', '.join(near)}?"
            if near
            else f"; the folder {path.parent} does not exist" * (not path.parent.is_dir())
        )
        raise DataError(f"{path} does not exist{hint or '; check the path'}")
    if path.is_file() and path.stat().st_size == 0:
        raise DataError(f"{path} is empty; fetch or write it again")
    return path


def _ending(path: Path) -> str:
    """Which of the supported endings a file has."""
    name = path.name.lower()
    end = next((end for end in sorted(SUPPORTED, key=len, reverse=True) if name.endswith(end)), None)
    if end is None:
        raise DataError(f"{path} is of a kind that is not read; give a folder of pictures or a file {', '.join(SUPPORTED)}")
    return end


def _only(options: dict[str, Any], allowed: set[str], what: str) -> None:
    """Refuse options that would be ignored."""
    for name, value in options.items():
        if value is not None and name not in allowed:
            raise DataError(f"{name}={value!r} says nothing about {what}; leave it out")
