"""Records written to files as people keep them: pictures in a folder, tables as CSV or Parquet, arrays as .npy.

Every file is written under a temporary name first, so a kill or a full disk leaves no half of one.

Checked by: tests/codecs/test_saving.py
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from undrift.core import write
from undrift.errors import DataError

__all__ = ["save_records", "suffixes"]


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
        DataError: records of this kind are not written with that ending.
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
    """One PNG a picture, numbered, in a folder made if missing."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    digits = len(str(len(images)))
    for i, image in enumerate(images):
        name = "" if names is None else "-" + "".join(c if c.isalnum() else "_" for c in str(names[i]))
        out = io.BytesIO()
        Image.fromarray(image).save(out, "PNG")
        write(folder / f"{i:0{digits}d}{name}.png", out.getvalue())
    return folder
