"""Records written to files as people keep them: pictures in a folder, tables as CSV or Parquet, arrays as .npy.

Every file is written under a temporary name first, so a kill or a full disk leaves no half of one.

A picture bears a mark of ours. In a folder that is there already, pictures with the mark are replaced, the old ones after the
new ones are written; whatever else is in it stays.

Checked by: tests/codecs/test_saving.py
"""

import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undrift.core import write
from undrift.errors import DataError

__all__ = ["save_records", "suffixes"]

NUMBERED = re.compile(r"\d+(-.*)?\.png")
"""Names of our pictures."""

MARK = ("Software", "undrift")
"""Text in a PNG of ours."""


def suffixes(records: Any) -> tuple[str, ...]:
    """Endings that `save_records` knows for these records; the first is the usual one, "" is a folder of pictures."""
    if hasattr(records, "columns"):
        return (".csv", ".parquet")
    return ("", ".npy", ".npz") if _pictures(records) else (".npy", ".npz")


def save_records(records: Any, file: Path, names: Sequence[Any] | None = None) -> Path:
    """Write records.

    Args:
        records: a DataFrame, or an array (N, ...).
        file: where: .csv or .parquet for a table; .npy, .npz, or a folder (no ending) of PNG files for pictures.
        names: of each record, part of a picture's file name (its class, say).

    Returns:
        The file, or the folder.

    Raises:
        DataError: records of this kind are not written with that ending, or a picture would take the place of one that was not
            written by this function.
        OSError: the disk is full or the folder cannot be written; nothing half-written is left.

    Checked by: tests/codecs/test_saving.py
    """
    known = suffixes(records)
    if file.suffix not in known:
        wanted = ", ".join(end or "a folder" for end in known)
        raise DataError(f"{file} ends in {file.suffix!r}; these records are written as {wanted}")
    if file.suffix == "":
        return _pictures_into(records, file, names)
    file.parent.mkdir(parents=True, exist_ok=True)
    out = io.BytesIO()
    if file.suffix == ".csv":
        out.write(records.to_csv(index=False).encode())
    elif file.suffix == ".parquet":
        records.to_parquet(out, index=False)
    elif file.suffix == ".npy":
        np.save(out, records, allow_pickle=False)
    else:
        if names is None:
            np.savez_compressed(out, x=records)
        else:
            np.savez_compressed(out, x=records, y=np.asarray(names))
    write(file, out.getvalue())
    return file


def _pictures(records: Any) -> bool:
    """Whether PNG can hold each record: 8 or 16 bits, gray, or 8 bits and 3 or 4 channels."""
    if records.dtype == np.uint16:
        return records.ndim == 3
    return records.dtype == np.uint8 and (records.ndim == 3 or (records.ndim == 4 and records.shape[3] in (3, 4)))


def _pictures_into(images: np.ndarray, folder: Path, names: Sequence[Any] | None) -> Path:
    """One PNG a picture, numbered, in a folder made if missing; takes the place of the pictures of an earlier call."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    digits = len(str(len(images)))
    words = [""] * len(images) if names is None else ["-" + _word(names[i]) for i in range(len(images))]
    files = [folder / f"{i:0{digits}d}{word}.png" for i, word in enumerate(words)]
    folder.mkdir(parents=True, exist_ok=True)
    there = [file for file in folder.iterdir() if NUMBERED.fullmatch(file.name) and file.is_file()]
    old = {file for file in there if _ours(file)}
    foreign = sorted(set(files) & (set(there) - old))
    if foreign:
        raise DataError(f"{foreign[0]} is there already, and no sample written here; give another folder")
    mark = PngInfo()
    mark.add_text(*MARK)
    for file, image in zip(files, images, strict=True):
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG", pnginfo=mark)
        write(file, out.getvalue())
    for file in old.difference(files):
        file.unlink()
    return folder


def _word(name: Any) -> str:
    """A name as part of a file's name."""
    return "".join(c if c.isalnum() else "_" for c in str(name))


def _ours(file: Path) -> bool:
    """Whether a PNG bears our mark, which is written right behind its header."""
    with open(file, "rb") as stream:
        return "\0".join(MARK).encode() in stream.read(128)
