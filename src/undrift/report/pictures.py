"""PNG pictures of samples: a grid by class, the way from noise to sample, the nearest training images."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["class_grid", "neighbours", "noise_to_sample"]


def class_grid(images: np.ndarray, classes: Sequence[Any], file: Path, title: str) -> Path:
    """Samples in columns, one row per class.

    Args:
        images: shape (K, M, H, W) or (K, M, H, W, C): M samples of each of K classes.
        classes: their names.
        file: where to write.
        title: above the picture.

    Returns:
        The file.
    """
    rows = [(str(name), list(row)) for name, row in zip(classes, images, strict=True)]
    return _sheet(rows, [""] * images.shape[1], file, title)


def noise_to_sample(path: np.ndarray, levels: Sequence[float], classes: Sequence[Any], file: Path, title: str) -> Path:
    """The way of a few samples from noise (left) to data (right).

    Args:
        path: shape (T, M, H, W[, C]): T stops of M samples.
        levels: noise level sigma / alpha at each stop, codec units.
        classes: class of each sample.
        file: where to write.
        title: above the picture.
    """
    rows = [(str(name), list(path[:, i])) for i, name in enumerate(classes)]
    heads = [f"σ = {level:.2g}" if level > 0 else "sample" for level in levels]
    return _sheet(rows, heads, file, title)


def neighbours(samples: np.ndarray, nearest: np.ndarray, distances: np.ndarray, file: Path, title: str) -> Path:
    """Samples (top) above the nearest training images (bottom), with their distance.

    Args:
        samples: shape (M, H, W[, C]).
        nearest: the nearest training image of each, same shape.
        distances: shape (M,), codec units.
        file: where to write.
        title: above the picture.
    """
    heads = [f"{d:.2f}" for d in distances]
    return _sheet([("sample", list(samples)), ("nearest in\ntraining", list(nearest))], heads, file, title)


def _sheet(rows: list[tuple[str, list[np.ndarray]]], heads: list[str], file: Path, title: str) -> Path:
    """Tiles with row names on the left and heads on top."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tiles = [tile for _, row in rows for tile in row]
    low, high = min(float(t.min()) for t in tiles), max(float(t.max()) for t in tiles)
    columns = max(len(row) for _, row in rows)
    width, height = 0.75 * columns + 1.1, 0.75 * len(rows) + 0.7
    figure = Figure(figsize=(width, height), dpi=120, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), columns, squeeze=False, gridspec_kw={"wspace": 0.06, "hspace": 0.06})
    figure.subplots_adjust(left=1 / width, right=1 - 0.1 / width, bottom=0.1 / height, top=1 - 0.6 / height)
    for line, (name, row) in zip(axes, rows, strict=True):
        for j, axis in enumerate(line):
            axis.set_axis_off()
            if j < len(row):
                tile = np.clip((row[j].astype(np.float64) - low) / max(high - low, 1e-12), 0, 1)
                axis.imshow(tile, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        line[0].text(-0.15, 0.5, name, transform=line[0].transAxes, ha="right", va="center", fontsize=9)
    for axis, head in zip(axes[0], heads, strict=False):
        axis.set_title(head, fontsize=8)
    figure.suptitle(title, fontsize=10, y=1 - 0.12 / height)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, bbox_inches="tight")
    return file
