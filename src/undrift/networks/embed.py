r"""Embeddings: what a network is told beside the state, as one vector per sample.

A noise level is a scalar, and a network reads a scalar badly; it reads smooth features of it well. For a noise label
c (B,), bounded and about 1/4 log(sigma/alpha), the features are

.. math:: \phi(c) = (\cos \omega_j c, \sin \omega_j c)_{j=1..m}, \qquad \omega_j = \omega_1 r^{j-1},

with geometric angular frequencies from 0.25 (a quarter of a turn takes longer than either half of `NOISE_RANGE`, so the
lowest sine is monotone in the noise) to 16 (a turn takes a factor of five in sigma: the finest change that needs telling
apart). They are fixed, not drawn, so that a network is a function of its configuration and its weights alone.

A class is a row of a table. The table has one row more than there are classes: the last one, the *null label*, stands
for "no class asked", and turns one network into a conditional and an unconditional model (Ho and Salimans 2022).

Conditions of several kinds come as one float tensor, in which NaN stands for "not asked" (`split` says how it is laid
out). Its *columns*, numbers and classes, are a vector more (`columns.ColumnEmbedding`). A *grid* on the points of x is read
as what was seen (0 where nothing was) beside a mask of where it was seen (`seen`).

What a caller hands in is annotated as a plain `Tensor`: its shape is checked here, by errors that tell the cure.

Checked by: tests/networks/test_networks.py, tests/networks/test_embed.py
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from undrift.errors import LabelError, ShapeError
from undrift.networks.columns import ColumnEmbedding
from undrift.typing import PerSample

__all__ = ["NOISE_RANGE", "ClassEmbedding", "Embedding", "FourierFeatures", "seen", "split"]

LOWEST, HIGHEST = 0.25, 16.0
NOISE_RANGE = (-2.5, 2.5)
"""Noise labels that every network resolves: 1/4 log(sigma/alpha) for sigma/alpha from 4.5e-5 to 22000.

Checked by: tests/networks/test_embed.py::test_noise_range_is_resolved
"""


class FourierFeatures(nn.Module):
    """Cosines and sines of a scalar label at fixed geometric frequencies.

    Args:
        width: number of features, even, at least 4.

    Raises:
        ShapeError: width is odd or below 4.

    Source: Vaswani et al. 2017, section 3.5; Karras et al. 2022 (EDM), appendix F.
    Checked by: tests/networks/test_networks.py::test_fourier_features_are_the_formula
    """

    def __init__(self, width: int):
        super().__init__()
        if width < 4 or width % 2:
            raise ShapeError(f"FourierFeatures: width is {width}; give an even number of at least 4, half are sines.")
        steps = torch.arange(width // 2, dtype=torch.float64) / (width // 2 - 1)
        self.frequencies: Tensor
        self.register_buffer("frequencies", (LOWEST * (HIGHEST / LOWEST) ** steps).float())

    def forward(self, noise: PerSample) -> Float[Tensor, "b w"]:
        """Features of each label, computed in float32 or better whatever the dtype of the network.

        Args:
            noise: one noise label per sample, shape (B,), dimensionless.

        Returns:
            Features in [-1, 1], shape (B, width), all cosines first.
        """
        exact = torch.promote_types(noise.dtype, torch.float32)
        angles = noise.to(exact)[:, None] * self.frequencies.to(exact)
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class ClassEmbedding(nn.Module):
    """A table of `classes` + 1 rows; the last row is the null label.

    Args:
        classes: number of classes K, at least 1. The null label is the index K.
        width: length of a row.

    Raises:
        LabelError: classes is below 1.

    Source: Ho and Salimans 2022 (classifier-free guidance), section 3.
    Checked by: tests/networks/test_networks.py::test_no_label_is_the_null_label
    """

    def __init__(self, classes: int, width: int):
        super().__init__()
        if classes < 1:
            raise LabelError(f"ClassEmbedding: classes is {classes}; give at least 1, or None for no labels at all.")
        self.classes = classes
        self.table = nn.Embedding(classes + 1, width)

    def forward(self, cond: Tensor) -> Float[Tensor, "b w"]:
        """Row of each label.

        The range is checked on the CPU only: elsewhere the check would synchronise the device at every call, and the
        look-up itself stops on an index outside the table.

        Args:
            cond: class indices, shape (B,), long, 0..K with K the null label.

        Returns:
            Shape (B, width).

        Raises:
            LabelError: cond is not long, or an index lies outside 0..K.
        """
        if cond.dtype != torch.long:
            raise LabelError(f"cond has dtype {cond.dtype}; class indices are torch.long, convert with cond.long().")
        if cond.device.type == "cpu" and cond.numel():
            low, high = cond.aminmax()
            if low < 0 or high > self.classes:
                raise LabelError(
                    f"cond spans {int(low)}..{int(high)}; this network knows the classes 0..{self.classes - 1} and the "
                    f"null label {self.classes}: map your labels to these indices."
                )
        return self.table(cond)


class Embedding(nn.Module):
    """Noise label and conditions as one vector: two layers on the Fourier features plus the conditions' vector.

    Args:
        width: length of the result, even, at least 4.
        classes: number of classes, or None for a network without labels.
        columns: for each column of cond 0 (a number) or its number of classes (at least 2); () for none.

    Raises:
        ShapeError: width is odd or below 4.
        LabelError: classes is below 1, columns has a wrong entry, or both are given.

    Checked by: tests/networks/test_networks.py::test_label_changes_the_output, tests/networks/test_embed.py
    """

    def __init__(self, width: int, classes: int | None = None, columns: Sequence[int] = ()):
        super().__init__()
        check_conditions(classes, columns)
        self.classes, self.columns = classes, tuple(columns)
        self.fourier = FourierFeatures(width)
        self.first = nn.Linear(width, width)
        self.label = None if classes is None else ClassEmbedding(classes, width)
        self.column = ColumnEmbedding(columns, width) if columns else None
        self.second = nn.Linear(width, width)
        self.act = nn.SiLU()

    def forward(self, noise: Tensor, cond: Tensor | None = None) -> Float[Tensor, "b w"]:
        """Vector that the blocks of a network are modulated with.

        Args:
            noise: one noise label per sample, shape (B,), dimensionless.
            cond: class indices (B,), or rows of columns (B, F); None is the null label, or NaN, in every row.

        Returns:
            Shape (B, width).

        Raises:
            ShapeError: noise is not (B,), or cond has not one row per sample.
            LabelError: a condition was given to a network without any, or a value lies outside its range.
        """
        if noise.ndim != 1 or not noise.is_floating_point():
            raise ShapeError(
                f"noise has shape {tuple(noise.shape)} and dtype {noise.dtype}; give one float per sample, shape (B,): "
                "expand a single level with torch.full((len(x),), level)."
            )
        h = self.first(self.fourier(noise).to(self.first.weight.dtype))
        if self.label is not None:
            if cond is not None and cond.shape != noise.shape:
                raise ShapeError(
                    f"cond has shape {tuple(cond.shape)}, noise {tuple(noise.shape)}; give one class index per sample."
                )
            if cond is None:  # `torch.full`, not `full_like`: under vmap the labels are no batch, and can be checked
                cond = torch.full(noise.shape, self.label.classes, dtype=torch.long, device=noise.device)
            h = h + self.label(cond)
        elif self.column is not None:
            if cond is None:
                cond = torch.full((len(noise), len(self.columns)), math.nan, device=noise.device)
            if cond.shape[:1] != noise.shape:
                raise ShapeError(f"cond has shape {tuple(cond.shape)} for {len(noise)} samples; give one row per sample.")
            h = h + self.column(cond)
        elif cond is not None:
            raise LabelError(
                "cond was given to a network without classes; build it with classes=K, or leave cond out (columns=... and "
                "image=... make one that reads numbers and grids)."
            )
        return self.act(self.second(self.act(h)))


def check_conditions(classes: int | None, columns: Sequence[int] = (), image: int = 0) -> None:
    """Raise LabelError unless these can be the conditions of one network.

    Args:
        classes: number of classes, or None.
        columns: for each column 0 or its number of classes.
        image: channels of the grid, 0 for none.
    """
    if image < 0:
        raise LabelError(f"image is {image}; give the number of channels of the grid that conditions x, 0 for none.")
    if classes is not None and (columns or image):
        raise LabelError(
            f"classes={classes} was given with columns={tuple(columns)}, image={image}; make the class a column: "
            f"columns=({classes}, ...), which says it as a float and 'not asked' as NaN."
        )


def split(cond: Tensor | None, columns: Sequence[int], image: int, x: Tensor) -> tuple[Tensor | None, Tensor | None]:
    """Condition of a network as (what its `Embedding` reads, the grid on the points of x).

    Columns alone are (B, F), a grid alone is (B, C', *S), both are (B, F + C' * prod(S)): columns first, then the grid,
    flattened. Without columns and grid, cond is passed on as it is (class indices, or None).

    Args:
        cond: the condition, or None for nothing asked and nothing seen.
        columns: F entries, the network's `columns`.
        image: C', the network's `image`.
        x: the state, shape (B, C, *S).

    Returns:
        Columns (B, F) or None where there are none, and grid (B, C', *S), or None where there is none; NaN throughout
        where cond is None.

    Raises:
        ShapeError: cond has another shape.
        LabelError: cond is not float.

    Checked by: tests/networks/test_embed.py::test_split_reads_columns_first_and_then_the_grid
    """
    if not image:
        return cond, None
    batch, count, space = len(x), len(columns), x.shape[2:]
    shape = (batch, image, *space)
    size = image * math.prod(space)
    if cond is None:
        return (torch.full((batch, count), math.nan, device=x.device) if count else None), x.new_full(shape, math.nan)
    wanted = (batch, count + size) if count else shape
    if cond.shape != wanted:
        parts = f"{count} columns, then a grid of {tuple(shape[1:])}, flattened" if count else "a grid on the points of x"
        raise ShapeError(f"cond has shape {tuple(cond.shape)}, this network reads {wanted}: {parts}; NaN is not asked.")
    if not cond.is_floating_point():
        raise LabelError(f"cond has dtype {cond.dtype}; columns and grids are float (NaN is not asked), use cond.float().")
    if not count:
        return None, cond
    return cond[:, :count], cond[:, count:].reshape(shape)


def seen(grid: Tensor) -> Tensor:
    """A partly seen grid as channels that a network can read: the values, 0 where NaN, and then a mask, 1 where seen.

    Args:
        grid: shape (B, C', *S), NaN where nothing was seen.

    Returns:
        Shape (B, 2 C', *S), dtype of grid.

    Checked by: tests/networks/test_embed.py::test_seen_is_values_and_mask
    """
    blind = grid.isnan()
    return torch.cat([torch.where(blind, 0.0, grid), (~blind).to(grid.dtype)], dim=1)


def embedding_width(width: int) -> int:
    """Length of the embedding that modulates layers of `width` features: a quarter, at least min(width, 64); even.

    What it has to carry (a noise level, a row of conditions) does not grow with the width; at full length, modulating two
    layers would cost as much as the layers.
    """
    return max(min(width, 64), width // 8 * 2)


def film_layer(size: int, blocks: int, width: int) -> nn.Linear:
    """FiLM's a and b of all blocks in one product of the embedding; block i has chunks 2i and 2i + 1, and a begins about 1."""
    layer = nn.Linear(size, 2 * blocks * width)
    with torch.no_grad():
        layer.bias.view(blocks, 2, width)[:, 0] += 1
    return layer


def zero_init(layer: nn.Module) -> nn.Module:
    """Set every parameter of a layer to zero, so that its branch is silent at the start of training."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def check_batch(x: Tensor, noise: Tensor, network: str, event: tuple[int | None, ...]) -> None:
    """Raise unless x is a float batch of events and noise one label per sample.

    Args:
        x: batch of states, shape (B, *E).
        noise: noise labels, shape (B,).
        network: name of the network, for the message.
        event: E, with None where any size will do.

    Raises:
        ShapeError: x is not (B, *E) or not float, or noise is not (B,).
    """
    wanted = "(B, " + ", ".join("any" if size is None else str(size) for size in event) + ")"
    fits = x.ndim == 1 + len(event) and all(
        have > 0 if want is None else have == want for have, want in zip(x.shape[1:], event, strict=True)
    )
    if not fits or not x.is_floating_point():
        raise ShapeError(
            f"{network}: x has shape {tuple(x.shape)} and dtype {x.dtype}, this network takes float {wanted}; reshape "
            f"x, or build the {network} for the shape you have."
        )
    if noise.shape != x.shape[:1]:
        raise ShapeError(
            f"{network}: noise has shape {tuple(noise.shape)} for {len(x)} samples; give one noise label per sample, "
            f"shape ({len(x)},): expand a single level with torch.full((len(x),), level)."
        )


def norm_groups(width: int) -> int:
    """Number of groups for a group norm: groups of at least eight channels, as many as divide the width evenly."""
    return math.gcd(width, max(1, width // 8))
