"""Class names as indices, and back; and class names from a table beside a folder."""

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from undrift.codecs.sources import checked_labels
from undrift.errors import DataError, LabelError

__all__ = ["Labels", "read_classes", "read_labels"]

FILE_COLUMNS = ("file", "filename", "file_name", "image", "path", "name", "id")
CLASS_COLUMNS = ("class", "label", "labels", "category", "target", "y")
"""Names of columns that are understood."""


@dataclass(frozen=True)
class Labels:
    """A fixed list of class names; index K, the number of classes, says nothing.

    Attributes:
        names: class names in order; text or whole numbers.

    Checked by: tests/codecs/test_labels.py
    """

    names: tuple[Any, ...]

    @staticmethod
    def guess(labels: Iterable[Any]) -> "Labels":
        """The sorted distinct labels.

        Raises:
            DataError: fewer than two classes, or a label that is neither text nor a whole number.
        """
        plain = [_plain(label) for label in labels]
        names = sorted(set(plain), key=lambda name: (isinstance(name, str), name))
        if len(names) < 2:
            raise DataError(f"labels name {len(names)} class; give at least two, or fit without labels")
        return Labels(tuple(names))

    def encode(self, labels: Iterable[Any]) -> Int[Tensor, "n"]:
        """Names to indices, shape (N,), long.

        Raises:
            LabelError: a name that the model does not know; lists those it does.
        """
        index = {name: i for i, name in enumerate(self.names)}
        plain = [_plain(label) for label in labels]
        unknown = [label for label in plain if label not in index]
        if unknown:
            known = ", ".join(map(repr, self.names[:12])) + (", ..." if len(self.names) > 12 else "")
            raise LabelError(f"unknown class {unknown[0]!r}; this model knows {known}")
        return torch.tensor([index[label] for label in plain], dtype=torch.long)

    def decode(self, indices: Sequence[int] | Tensor) -> list[Any]:
        """Indices to names; the null index becomes None."""
        return [self.names[int(i)] if int(i) < len(self.names) else None for i in indices]


def _plain(label: Any) -> Any:
    """A label as plain Python text or integer."""
    value = label.item() if getattr(label, "size", 0) == 1 or (hasattr(label, "numel") and label.numel() == 1) else label
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, (str, int)):
        raise DataError(f"a class label is text or a whole number, got {label!r} ({type(label).__name__})")
    return value


def read_classes(table: Path, names: list[str], folder: Path) -> list[Any]:
    """The class of each file, from a CSV with a column of files and a column of classes.

    Raises:
        DataError: columns that are not understood, a file named twice, that is missing, or that is not named.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in csv.reader(stream) if line]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as a table of classes ({error}); write it as CSV in UTF-8") from error
    wanted = set(names)

    def plain(file: str) -> str:
        file = file.strip().replace("\\", "/").removeprefix("./")
        return file.removeprefix(f"{folder.name}/") if file not in wanted else file

    head = [cell.strip().lower() for cell in lines[0]] if lines else []
    if len(head) == 2 and plain(lines[0][0]) in wanted:
        file_at, class_at, body = 0, 1, lines
    else:
        file_at = next((head.index(c) for c in FILE_COLUMNS if c in head), 0 if len(head) == 2 else None)
        class_at = next((head.index(c) for c in CLASS_COLUMNS if c in head), 1 if len(head) == 2 else None)
        body = lines[1:]
    if file_at is None or class_at is None or file_at == class_at:
        raise DataError(
            f"{table} has the columns {', '.join(head) or 'none'}; it needs 'file' (a picture's path in the folder) and 'class'"
        )
    short = next((i for i, line in enumerate(body) if len(line) <= max(file_at, class_at)), None)
    if short is not None:
        raise DataError(
            f"{table} has too few cells in line {short + 1 + len(lines) - len(body)}; each line names a file and a class"
        )
    classes: dict[str, str] = {}
    for line in body:
        file = plain(line[file_at])
        if file in classes:
            raise DataError(f"{table} names {file} twice; keep one line a picture")
        classes[file] = line[class_at].strip()
    missing = [
        file for file in classes if file not in wanted and not (folder / file).is_file()
    ]  # what was left out may be named
    unnamed = [name for name in names if name not in classes]
    for files, problem, cure in (
        (missing, f"names {len(missing)} files that are not in {folder}", "correct the names, or open with labels=False"),
        (
            unnamed,
            f"has no class for {len(unnamed)} of {len(names)} pictures in {folder}",
            "add them, or open with labels=False",
        ),
    ):
        if files:
            raise DataError(f"{table} {problem}: {', '.join(files[:3])}{', ...' if len(files) > 3 else ''}; {cure}")
    return _typed([classes[name] for name in names], str(table))


def _typed(cells: list[str], where: str) -> list[Any]:
    """Cells as whole numbers if all are, else as numbers if all are, else as text."""
    for kind in (int, float):
        try:
            return [kind(cell) for cell in cells]
        except ValueError:
            continue
    if "" in cells:
        raise DataError(f"{where} has {cells.count('')} empty classes; fill them")
    return list(cells)


def read_labels(labels: Any, n: int) -> list[Any] | None:
    """Labels of n records, from a list, an array, or a file .npy or .csv (one column, or one named class or label).

    Raises:
        DataError: a file that is missing or not understood, or another number of labels than of records.
    """
    if not isinstance(labels, (str, Path)):
        return checked_labels(labels, n, "the data")
    path = Path(labels).expanduser()
    if not path.is_file():
        raise DataError(f"labels={str(labels)!r} is no file; give a .npy or .csv with one label a record, or a list")
    try:
        if path.suffix.lower() == ".npy":
            return checked_labels(np.load(path, allow_pickle=False), n, "the data")
        with open(path, newline="", encoding="utf-8-sig") as stream:
            lines = [line for line in csv.reader(stream) if line]
    except (ValueError, EOFError, OSError, csv.Error) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} cannot be read as labels ({error}); give a .npy or a .csv in UTF-8") from error
    head = [cell.strip().lower() for cell in lines[0]] if lines else []
    at = next((head.index(c) for c in CLASS_COLUMNS if c in head), 0 if len(head) == 1 else None)
    if at is None:
        raise DataError(f"{path} has the columns {', '.join(head) or 'none'}; give one column, or name one of them 'class'")
    body = lines[1:] if head[at] in CLASS_COLUMNS or len(lines) == n + 1 else lines
    if any(len(line) <= at for line in body):
        raise DataError(f"{path} has lines with too few cells; each line needs a label")
    return _typed([str(label).strip() for label in checked_labels([line[at] for line in body], n, "the data") or []], str(path))
