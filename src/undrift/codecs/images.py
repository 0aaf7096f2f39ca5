"""Images as tensors in [-1, 1], and back in the units and on the levels of the originals."""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.typing import State

__all__ = ["Images"]


@dataclass(frozen=True)
class Images:
    """Arrays of shape (N, H, W) or (N, H, W, C) with values in [low, high].

    Attributes:
        shape: shape of one image as the user has it, (H, W) or (H, W, C).
        low: value that becomes -1.
        high: value that becomes +1.
        levels: number of equally spaced values in [low, high] if the data are quantised (integers), None if continuous.
            Decoding rounds to the nearest level: what could not have been recorded is never returned.

    Checked by: tests/codecs/test_images.py
    """

    shape: tuple[int, ...]
    low: float
    high: float
    levels: int | None = None

    @staticmethod
    def guess(images: np.ndarray) -> "Images":
        """The codec that fits an array: 0..255 for uint8, else the range of the data; whole numbers are quantised.

        Args:
            images: shape (N, H, W) or (N, H, W, C), N >= 2.

        Raises:
            DataError: another shape, fewer than two images, NaN or infinity (names the first bad image), or a constant.
        """
        images = np.asarray(images)
        if images.ndim not in (3, 4) or len(images) < 2:
            raise DataError(
                f"images come as (N, H, W) or (N, H, W, C) with N >= 2, got shape {images.shape}; one image alone is "
                "images[None], channels go last"
            )
        _check_finite(images)
        if images.min() == images.max():
            raise DataError(f"every pixel of the images is {float(images.min()):g}; there is nothing to learn")
        low, high = (0.0, 255.0) if images.dtype == np.uint8 else (float(images.min()), float(images.max()))
        whole = np.issubdtype(images.dtype, np.integer) or bool((images == np.round(images)).all())
        levels = round(high - low) + 1 if whole and high - low < 2**16 else None
        return Images(tuple(images.shape[1:]), low, high, levels)

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
        _check_finite(images)
        if images.size and not self.low <= float(images.min()) <= float(images.max()) <= self.high:
            raise DataError(
                f"images hold values from {images.min():g} to {images.max():g}; this model was fitted on "
                f"[{self.low:g}, {self.high:g}]: bring them to that range"
            )
        x = torch.from_numpy(np.array(images, dtype=np.float64)).reshape(len(images), *self.shape)
        x = x.permute(0, 3, 1, 2) if len(self.shape) == 3 else x[:, None]
        return ((x - self.low) * (2 / (self.high - self.low)) - 1).float().contiguous()

    def decode(self, x: Tensor) -> np.ndarray:
        """States to images in the user's units and layout; clipped to [low, high], rounded to the levels."""
        x = x.detach().cpu().double().clamp(-1, 1)
        x = x.permute(0, 2, 3, 1) if len(self.shape) == 3 else x[:, 0]
        unit = (x + 1) / 2
        if self.levels is not None:
            unit = (unit * (self.levels - 1)).round() / (self.levels - 1)
        images = (unit * (self.high - self.low) + self.low).numpy()
        return (
            np.round(images).astype(np.uint8)
            if self._bytes
            else images.astype(np.float64 if max(abs(self.low), abs(self.high)) > 2**24 else np.float32)
        )

    @property
    def _bytes(self) -> bool:
        return (self.low, self.high, self.levels) == (0.0, 255.0, 256)

    def config(self) -> dict[str, Any]:
        """JSON-able constructor arguments."""
        return {**asdict(self), "shape": list(self.shape)}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Images":
        """The codec that `config` describes."""
        return Images(**{**config, "shape": tuple(config["shape"])})


def _check_finite(images: np.ndarray) -> None:
    if np.issubdtype(images.dtype, np.integer) or images.dtype == bool:
        return
    if not np.issubdtype(images.dtype, np.floating):
        raise DataError(f"images hold {images.dtype} values; give numbers, integer or floating")
    bad = ~np.isfinite(images).reshape(len(images), -1).all(1)
    if bad.any():
        raise DataError(
            f"{int(bad.sum())} of {len(images)} images hold NaN or infinity (first: image {int(bad.argmax())}); drop or "
            "repair them"
        )
