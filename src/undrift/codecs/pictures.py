"""One picture file: what its header says, and its pixels on a given grid.

A file is read as it is meant to be seen: the camera's orientation applied, palettes expanded, transparency kept apart. Then it
is scaled until it covers the grid and the middle is cut out, with an antialiasing filter in one step, so that proportions are
kept and no grid of artefacts appears.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undrift.errors import DataError

__all__ = ["SUFFIXES", "Header", "Layout", "header", "pixels", "rounded_size"]

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".npy")
"""Files that are taken for pictures; .npy holds one array of shape (H, W) or (H, W, C)."""

GRAY = ("1", "L", "LA", "La", "I", "F")
"""Modes of Pillow without colour, beside those that start with I;16."""

SIDEWAYS = (5, 6, 7, 8)
"""EXIF orientations that exchange height and width."""


@dataclass(frozen=True)
class Header:
    """What a file's header says.

    Attributes:
        height: of the picture as it is seen, in pixels.
        width: as height.
        channels: 1 or 3 without transparency; the last axis of an array; the number of pages of gray pages.
        alpha: whether it has a channel of transparency.
        dtype: numpy name of the type of its values.
        array: whether it is a .npy file.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    dtype: str
    array: bool


@dataclass(frozen=True)
class Layout:
    """What every picture of a folder is brought to.

    Attributes:
        height: in pixels.
        width: in pixels.
        channels: with transparency, if that is kept.
        alpha: whether the last channel is transparency.
        drop_alpha: whether a picture's transparency may be thrown away; else one that is not opaque is an error.
        dtype: numpy name.
        array: whether the files are .npy.
    """

    height: int
    width: int
    channels: int
    alpha: bool
    drop_alpha: bool
    dtype: str
    array: bool

    @property
    def shape(self) -> tuple[int, ...]:
        """(H, W) of one gray channel, else (H, W, C)."""
        return (self.height, self.width) if self.channels == 1 else (self.height, self.width, self.channels)


def header(file: Path) -> Header:
    """Read a file's header, and enough of its end to see that it was not cut off.

    Raises:
        DataError: no picture, or a damaged one; the message has the reason alone.
    """
    if file.suffix.lower() == ".npy":
        array = _load_array(file, mmap=True)
        channels = 1 if array.ndim == 2 else array.shape[2]
        return Header(array.shape[0], array.shape[1], channels, False, array.dtype.name, True)
    from PIL import Image

    try:
        with Image.open(file) as image:
            width, height = image.size
            # Pillow decodes a whole .png to find an orientation behind the pixels, so only one before them is looked for here.
            if (image.format != "PNG" or "exif" in image.info) and image.getexif().get(0x0112) in SIDEWAYS:
                width, height = height, width
            mode, pages = image.mode, _pages(image) if image.format == "TIFF" else 1
            deep = mode.startswith("I")
            alpha = not deep and (mode in ("LA", "La", "RGBA", "RGBa", "PA") or "transparency" in image.info)
            if not _ends_well(file, image.format or ""):
                image.load()  # the quick look is only a suspicion: what decodes is good
    except MemoryError:
        raise
    except Exception as error:  # Pillow's plugins raise many kinds: OSError, SyntaxError, struct.error, EOFError, ValueError
        raise DataError(_reason(error)) from error
    channels = 1 if mode in GRAY or mode.startswith("I;16") else 3
    if pages > 1:
        if channels != 1 or alpha:
            raise DataError(f"it has {pages} pages that are not gray; keep one page")
        channels = pages
    dtype = "float32" if mode == "F" else "uint16" if deep else "uint8"
    return Header(height, width, channels, alpha, dtype, False)


def pixels(file: Path, layout: Layout) -> np.ndarray:
    """A file's pixels as the layout wants them, shape `layout.shape`.

    Raises:
        DataError: the file cannot be decoded, or does not fit the layout; the message has the reason alone.
    """
    if layout.array:
        array = _load_array(file, mmap=False)
        array = array[..., None] if array.ndim == 2 else array
        if array.dtype.name != layout.dtype or array.shape[2] != layout.channels:
            raise DataError(f"it has changed: it is now of shape {array.shape}, {array.dtype}")
        return _fit_array(array, layout).reshape(layout.shape)
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as image:
            pages = layout.channels if image.format == "TIFF" and not layout.alpha and _pages(image) > 1 else 1
            if image.format == "JPEG":  # the decoder skips detail that the filter would average away
                side = 4 * max(layout.height, layout.width)
                image.draft(None, (side, side))
            parts = []
            for page in range(pages):
                if pages > 1:
                    image.seek(page)
                seen = ImageOps.exif_transpose(image)
                parts.append(_fit_picture(seen if pages == 1 else seen.copy(), layout if pages == 1 else _gray(layout)))
    except (DataError, MemoryError):
        raise
    except Exception as error:  # as in `header`
        raise DataError(_reason(error)) from error
    return parts[0].reshape(layout.shape) if pages == 1 else np.stack(parts, -1)


def _gray(layout: Layout) -> Layout:
    return Layout(layout.height, layout.width, 1, False, layout.drop_alpha, layout.dtype, False)


def _pages(image: Any) -> int:
    return getattr(image, "n_frames", 1)


def _fit_picture(image: Any, layout: Layout) -> np.ndarray:
    """A decoded picture in the layout's channels, type and size; shape (H, W) or (H, W, C)."""
    deep = image.mode.startswith("I")
    if deep:
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise DataError(f"its values go from {values.min()} to {values.max()}; pictures have at most 16 bits")
        if layout.dtype == "uint8":
            values = values >> 8
        gray = _fit_array(values.astype(layout.dtype)[..., None], layout)[..., 0]
        return gray if layout.channels == 1 else _coloured(gray, layout)
    if image.mode == "F":
        return _fit_array(np.asarray(image, dtype=np.float32)[..., None], layout)[..., 0]
    alpha = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    colour = layout.channels - layout.alpha == 3
    if alpha:
        image = image.convert("RGBA" if colour or image.mode in ("P", "RGB") else "LA")
        if not layout.alpha and not layout.drop_alpha and image.getextrema()[-1][0] < 255:
            raise DataError(
                "it is not opaque, though the pictures looked at on opening were; give channels=4 to keep transparency, "
                "channels=3 or channels=1 to drop it"
            )
    target = {(True, True): "RGBA", (True, False): "RGB", (False, True): "LA", (False, False): "L"}[colour, layout.alpha]
    if alpha and not layout.alpha:
        image = image.convert("RGB" if image.mode == "RGBA" else "L")
    if image.mode != target:
        image = image.convert(target)
    if image.size != (layout.width, layout.height):
        from PIL import Image

        box = _cover(image.height, image.width, layout)
        image = image.resize((layout.width, layout.height), Image.Resampling.LANCZOS, box=box)
    values = np.asarray(image)
    return values.astype(np.uint16) * 257 if layout.dtype == "uint16" else values


def _coloured(gray: np.ndarray, layout: Layout) -> np.ndarray:
    """Gray values in every colour, opaque."""
    parts = [gray] * (layout.channels - layout.alpha)
    return np.stack([*parts, np.full_like(gray, 255)] if layout.alpha else parts, -1)


def _cover(height: int, width: int, layout: Layout) -> tuple[float, float, float, float]:
    """The largest box of the layout's proportions in the middle of a picture: (left, top, right, bottom)."""
    scale = min(height / layout.height, width / layout.width)
    tall, wide = layout.height * scale, layout.width * scale
    left, top = (width - wide) / 2, (height - tall) / 2
    return left, top, min(left + wide, width), min(top + tall, height)


def _fit_array(array: np.ndarray, layout: Layout) -> np.ndarray:
    """An array (H, W, C) of any numbers on the layout's grid, a channel at a time.

    The filter is a tent: its weights are positive, so no value leaves the range of the original.
    """
    if array.shape[:2] == (layout.height, layout.width):
        return array
    from PIL import Image

    box = _cover(array.shape[0], array.shape[1], layout)
    planes = [
        np.asarray(
            Image.fromarray(np.ascontiguousarray(array[..., c], dtype=np.float32)).resize(
                (layout.width, layout.height), Image.Resampling.BILINEAR, box=box
            )
        )
        for c in range(array.shape[2])
    ]
    values = np.stack(planes, -1)
    return (np.rint(values) if array.dtype.kind in "iub" else values).astype(array.dtype)


def _load_array(file: Path, mmap: bool) -> np.ndarray:
    try:
        array = np.load(file, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise DataError(_reason(error)) from error
    if array.ndim not in (2, 3) or array.size == 0 or array.dtype.kind not in "iubf":
        raise DataError(f"it holds {array.dtype} of shape {array.shape}; a picture is numbers of shape (H, W) or (H, W, C)")
    return array


def _ends_well(file: Path, format: str) -> bool:
    """Whether a file's last bytes are those that its format ends with; True for formats that have none."""
    marks = {"PNG": b"IEND", "JPEG": b"\xff\xd9", "GIF": b";", "WEBP": b""}
    if format not in marks:
        return True
    with open(file, "rb") as stream:
        if format == "WEBP":
            start = stream.read(8)
            return int.from_bytes(start[4:8], "little") + 8 <= file.stat().st_size
        size = stream.seek(0, 2)
        stream.seek(max(0, size - 64))
        return marks[format] in stream.read()


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if type(error).__name__ == "UnidentifiedImageError":
        return "it is no picture that can be recognised"
    return text[:160] or type(error).__name__


def rounded_size(height: int, width: int, cap: int) -> tuple[int, int]:
    """A size scaled down until its longer side is `cap`, in whole eights; as it is where it is not longer."""
    scale = cap / max(height, width)
    if scale >= 1:
        return height, width
    return max(8, 8 * math.floor(height * scale / 8 + 0.5)), max(8, 8 * math.floor(width * scale / 8 + 0.5))
