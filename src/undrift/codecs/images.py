r"""Images as tensors in [-1, 1], and back in the units, on the levels and in the type of the originals.

.. math:: x = \frac{v - c}{h}, \quad c = \frac{v_{\max} + v_{\min}}{2}, \quad h = \frac{v_{\max} - v_{\min}}{2}

Images of 8 or 16 bits are scaled by their bit depth, others by their usual range ([0, 1] or [-1, 1]) or that of the data.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.codecs.sources import check_numbers
from undrift.errors import DataError
from undrift.typing import State

__all__ = ["Images", "flipped"]

DEEP = ("uint8", "uint16")
"""Types whose values, and half-way between them, float32 holds exactly."""

WHOLE = 2**16
"""A range of more whole numbers than this is treated as continuous."""


@dataclass(frozen=True)
class Images:
    """Arrays of shape (N, H, W) or (N, H, W, C), any number of channels, with values in [low, high].

    Attributes:
        shape: shape of one image as the user has it, (H, W) or (H, W, C).
        low: value that becomes -1.
        high: value that becomes +1.
        levels: number of equally spaced values in [low, high] if the data are quantised (integers), None if continuous.
            Decoding rounds to the nearest level: what could not have been recorded is never returned.
        dtype: numpy name of the type of the records; decoding gives it back.

    Checked by: tests/codecs/test_images.py
    """

    shape: tuple[int, ...]
    low: float
    high: float
    levels: int | None = None
    dtype: str = "float32"

    @staticmethod
    def guess(images: np.ndarray, rows: np.ndarray | None = None) -> "Images":
        """The codec that fits an array, or a sample of one.

        The range is 0..255 for uint8; 0..2^k - 1 for uint16, k the smallest depth of at least 8 bits that holds every value (a
        scanner's 12 bits are not spread over 16); [0, 1] or [-1, 1] for fractions that fill at least half of it; else the range
        of the data. Whole numbers are quantised.

        Args:
            images: shape (N, H, W) or (N, H, W, C), N >= 2.
            rows: the row of each image in the source that it was taken from, shape (N,); errors name it.

        Raises:
            DataError: another shape, fewer than two images, NaN or infinity (names the first bad image), or a constant.
        """
        images = np.asarray(images)
        if images.ndim not in (3, 4) or len(images) < 2:
            raise DataError(
                f"images come as (N, H, W) or (N, H, W, C) with N >= 2, got shape {images.shape}; one image alone is "
                "images[None], channels go last"
            )
        if 0 in images.shape:
            raise DataError(
                f"the images hold no pixels, their shape is {images.shape}; give at least one pixel and one channel"
            )
        check_numbers(images, "images", rows)
        low, high = float(images.min()), float(images.max())
        if low == high:
            raise DataError(f"every pixel of the images is {low:g}; there is nothing to learn")
        whole = images.dtype.kind in "iub" or bool((images == np.round(images)).all())
        if images.dtype == np.uint8:
            low, high = 0.0, 255.0
        elif images.dtype == np.uint16:
            low, high = 0.0, float(2 ** max(8, int(high).bit_length()) - 1)
        elif not whole:
            low, high = fractions(low, high) or (low, high)
        levels = round(high - low) + 1 if whole and high - low < WHOLE else None
        return Images(tuple(images.shape[1:]), low, high, levels, images.dtype.name)

    @property
    def event_shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        height, width = self.shape[:2]
        return (self.shape[2] if len(self.shape) == 3 else 1, height, width)

    def encode(self, images: np.ndarray) -> State:
        """Images to states in [-1, 1], float32, shape (N, C, H, W).

        Raises:
            DataError: another shape than the codec's, a value outside [low, high], NaN or infinity.
        """
        images = np.asarray(images)
        if images.shape[1:] != self.shape:
            raise DataError(f"images have shape {images.shape[1:]} each, this model was fitted on {self.shape}; resize them")
        check_numbers(images, "images")
        bytes_fit = images.dtype == np.uint8 and self.low <= 0 and self.high >= 255
        if not bytes_fit and images.size and not self.low <= float(images.min()) <= float(images.max()) <= self.high:
            outside = ((images < self.low) | (images > self.high)).reshape(len(images), -1).any(1)
            raise DataError(
                f"images hold values from {images.min():g} to {images.max():g} (first outside: image {int(outside.argmax())}); "
                f"this model was fitted on [{self.low:g}, {self.high:g}]: bring them to that range"
            )
        # v - c is exact in float32 for 8 and 16 bits, so one rounding is left; other types take the subtraction in float64.
        exact = images.dtype.name in DEEP and self.dtype in DEEP
        work = torch.float32 if exact else torch.float64
        x = torch.from_numpy(_writable(images if exact else images.astype(np.float64)))
        x = x.permute(0, 3, 1, 2) if len(self.shape) == 3 else x[:, None]
        x = x.to(work, memory_format=torch.contiguous_format, copy=True)  # the cast and the change of layout are one pass
        return x.sub_((self.low + self.high) / 2).mul_(2 / (self.high - self.low)).float().contiguous()

    def decode(self, x: Tensor) -> np.ndarray:
        """States to images in the user's units, layout and type; clipped to [low, high], rounded to the levels."""
        exact = self.dtype in DEEP
        x = x.detach().cpu()
        x = (x.float() if exact else x.double()).clamp(-1, 1)
        if exact or self.levels is None:
            x = x.mul_((self.high - self.low) / 2).add_((self.low + self.high) / 2)
        else:
            level = x.add_(1).mul_((self.levels - 1) / 2).round_()
            x = level.mul_((self.high - self.low) / (self.levels - 1)).add_(self.low)
        if exact or np.dtype(self.dtype).kind in "iub":
            x = x.round_()
        images = x.numpy().astype(self.dtype)  # narrow first: the change of layout then moves fewer bytes
        return np.ascontiguousarray(np.moveaxis(images, 1, -1)) if len(self.shape) == 3 else images[:, 0]

    def log_jacobian(self) -> float:
        """Log of the factor by which volumes shrink on encoding, nats an image: -log h for every number.

        The density of images in the user's units is that of states times this factor.

        Checked by: tests/codecs/test_images.py::test_the_jacobian_is_that_of_encoding
        """
        return math.prod(self.event_shape) * math.log(2 / (self.high - self.low))

    def describe(self) -> list[tuple[str, str]]:
        """The schema in words, for people."""
        channels, height, width = self.event_shape
        grid = f"{height} x {width} pixels, {channels} channel" + ("s" if channels > 1 else "")
        steps = f"{self.levels} levels" if self.levels else "continuous"
        return [("images", grid), ("values", f"{self.low:g} to {self.high:g}, {steps}, {self.dtype}")]

    def config(self) -> dict[str, Any]:
        """JSON-able constructor arguments."""
        return {**asdict(self), "shape": list(self.shape)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Images":
        """The codec that `config` describes."""
        return Images(**{**config, "shape": tuple(config["shape"])})


def fractions(low: float, high: float) -> tuple[float, float] | None:
    """The usual range, [0, 1] or [-1, 1], of values that lie within it and fill at least half of it; None of others."""
    usual = (0.0, 1.0) if low >= 0 else (-1.0, 1.0)
    return usual if low >= usual[0] and high <= 1 and high - low >= (usual[1] - usual[0]) / 2 else None


def flipped(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image mirrored left to right with probability 1/2: what training may see in place of `images`.

    A pure function of its arguments, for whoever feeds the training: drawn after `Source.take`, before `Images.encode`.

    Args:
        images: shape (N, H, W) or (N, H, W, C).
        rng: one draw an image is taken from it.
    """
    mirror = rng.random(len(images)) < 0.5
    return np.where(mirror.reshape(-1, *[1] * (images.ndim - 1)), images[:, :, ::-1], images)


def _writable(images: np.ndarray) -> np.ndarray:
    """An array that torch takes without a warning: writable, in the machine's byte order, with positive strides."""
    plain = images.flags.writeable and images.dtype.isnative and min(images.strides, default=0) >= 0
    return images if plain else np.array(images, dtype=images.dtype.newbyteorder("="))
