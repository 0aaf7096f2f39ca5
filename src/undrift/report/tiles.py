"""Records small enough to look at: pictures as PNG inside the page, signals as lines, volumes as central slices.

How an array is shown follows from the shape S of one record (`form`):

- "points": one or two numbers; all samples go into one chart.
- "signal": a vector, or up to six channels of at least eight values each, (C, L) with L >= 4 C.
- "picture": any other matrix; and every record of pictures, (H, W) or (H, W, C) with one, three or four channels.
- "slices": a volume (D, H, W), by its central slice across each axis; of anything larger, the first entry of the leading axes.
"""

import base64
import io
from dataclasses import dataclass
from typing import Any

import numpy as np

from undrift.errors import DataError
from undrift.report.charts import signal

__all__ = ["Tile", "columns", "form", "limits", "tiles"]


@dataclass(frozen=True)
class Tile:
    """One record to look at: pictures as data addresses, or an SVG.

    Attributes:
        images: of one record, each a `data:` address of a PNG.
        svg: a drawing instead.
        coarse: whether a pixel is to be shown as a square.
    """

    images: tuple[str, ...] = ()
    svg: str = ""
    coarse: bool = False


def form(kind: str, shape: tuple[int, ...]) -> str:
    """How records of that shape are shown: "points", "signal", "picture" or "slices"; see above.

    Checked by: tests/report/test_tiles.py::test_forms
    """
    if kind == "images":
        return "picture"
    if len(shape) <= 1:
        return "points" if int(np.prod(shape)) <= 2 else "signal"
    if len(shape) == 2:
        channels, length = shape
        return "signal" if channels <= 6 and length >= max(8, 4 * channels) else "picture"
    return "slices"


def limits(records: np.ndarray) -> tuple[float, float]:
    """The values that are shown as black and white: 0 and 255 for bytes, the extremes of what is finite for anything else."""
    if records.dtype == np.uint8:
        return 0.0, 255.0
    seen = records[np.isfinite(records)]
    low, high = (float(seen.min()), float(seen.max())) if seen.size else (0.0, 1.0)
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def tiles(
    records: np.ndarray,
    kind: str,
    between: tuple[float, float],
    name: str,
    style: str = "gen",
    pixels: int = 350_000,
    only_first: bool = False,
) -> list[Tile]:
    """Each record as a tile.

    Args:
        records: shape (M, *S).
        kind: "images" or "arrays".
        between: what is shown as black and as white; the lower and upper edge of a line plot.
        name: what they are, for people who hear it.
        style: colour class of signals.
        pixels: all tiles together hold at most that many; larger pictures are averaged down.
        only_first: of a volume, the slice across its first axis alone.

    Raises:
        DataError: pictures that are neither (H, W) nor (H, W, 1 | 3 | 4).

    Checked by: tests/report/test_tiles.py::test_the_picture_is_found_again, tests/report/test_tiles.py::test_slices_are_central
    """
    how = form(kind, records.shape[1:])
    if how in ("signal", "points"):
        return [Tile(svg=signal(np.atleast_1d(record), *between, style, f"{name} {i + 1}")) for i, record in enumerate(records)]
    planes = [_planes(record, how, only_first) for record in records]
    count = sum(len(each) for each in planes)
    return [
        Tile(tuple(_png(p, between, pixels // max(count, 1)) for p in each), coarse=max(each[0].shape) < 160) for each in planes
    ]


def _planes(record: np.ndarray, how: str, only_first: bool) -> list[np.ndarray]:
    if how == "picture":
        if record.ndim > 3 or (record.ndim == 3 and record.shape[-1] not in (1, 3, 4)):
            raise DataError(f"a picture has shape (H, W) or (H, W, 1 | 3 | 4); got {record.shape}; give channels last")
        return [record[..., 0] if record.ndim == 3 and record.shape[-1] == 1 else record]
    while record.ndim > 3:
        record = record[0]
    slices = [np.take(record, record.shape[axis] // 2, axis) for axis in range(3)]
    return slices[:1] if only_first else slices


def _png(plane: np.ndarray, between: tuple[float, float], pixels: int) -> str:
    """A plane, (H, W) or (H, W, C), as the address of a PNG; NaN is black."""
    from PIL import Image

    low, high = between
    shade = np.clip((plane.astype(np.float64) - low) / (high - low), 0, 1)
    image = Image.fromarray(np.round(255 * np.where(np.isnan(shade), 0, shade)).astype(np.uint8))
    if image.width * image.height > pixels:
        factor = (pixels / (image.width * image.height)) ** 0.5
        image = image.resize((max(1, int(factor * image.width)), max(1, int(factor * image.height))), Image.Resampling.BOX)
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(out.getvalue()).decode()


def columns(records: Any) -> dict[str, np.ndarray]:
    """Columns of a table, by name: a DataFrame, or a mapping from names to values.

    Raises:
        DataError: neither.
    """
    names = getattr(records, "columns", None)
    if names is None and not hasattr(records, "keys"):
        raise DataError(f"a table is a DataFrame or a mapping from names to values; got {type(records).__name__}")
    return {str(name): np.asarray(records[name]) for name in (records.keys() if names is None else names)}
