r"""Embeddings: what a network is told beside the state, as one vector per sample.

A noise level is a scalar, and a network reads a scalar badly; it reads smooth features of it well. For a noise label
c (B,), bounded and about 1/4 log(sigma/alpha), the features are

.. math:: \phi(c) = (\cos \omega_j c, \sin \omega_j c)_{j=1..m}, \qquad \omega_j = \omega_1 r^{j-1},

with geometric angular frequencies from 0.25 (half a turn takes longer than the whole range of c, so the features are
monotone in the noise) to 16 (a turn takes a factor of five in sigma: the finest change that needs telling apart). They
are fixed, not drawn, so that a network is a function of its configuration and its weights alone.

A class is a row of a table. The table has one row more than there are classes: the last one, the *null label*, stands
for "no class asked", and turns one network into a conditional and an unconditional model (Ho and Salimans 2022).

What a caller hands in is annotated as a plain `Tensor`: its shape is checked here, by errors that tell the cure.

Checked by: tests/networks/test_networks.py
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from undrift.errors import LabelError, ShapeError
from undrift.typing import PerSample

__all__ = ["ClassEmbedding", "Embedding", "FourierFeatures"]

LOWEST, HIGHEST = 0.25, 16.0


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
    """Noise label and class label as one vector: two layers on the Fourier features plus the class's row.

    Args:
        width: length of the result, even, at least 4.
        classes: number of classes, or None for a network without labels.

    Raises:
        ShapeError: width is odd or below 4.
        LabelError: classes is below 1.

    Checked by: tests/networks/test_networks.py::test_label_changes_the_output
    """

    def __init__(self, width: int, classes: int | None = None):
        super().__init__()
        self.classes = classes
        self.fourier = FourierFeatures(width)
        self.first = nn.Linear(width, width)
        self.label = None if classes is None else ClassEmbedding(classes, width)
        self.second = nn.Linear(width, width)
        self.act = nn.SiLU()

    def forward(self, noise: Tensor, cond: Tensor | None = None) -> Float[Tensor, "b w"]:
        """Vector that the blocks of a network are modulated with.

        Args:
            noise: one noise label per sample, shape (B,), dimensionless.
            cond: class indices, shape (B,), or None, which is the null label in every row.

        Returns:
            Shape (B, width).

        Raises:
            ShapeError: noise is not (B,), or cond has another shape than noise.
            LabelError: a label was given to a network without classes, or an index lies outside 0..K.
        """
        if noise.ndim != 1 or not noise.is_floating_point():
            raise ShapeError(
                f"noise has shape {tuple(noise.shape)} and dtype {noise.dtype}; give one float per sample, shape (B,): "
                "expand a single level with torch.full((len(x),), level)."
            )
        if cond is not None and self.label is None:
            raise LabelError("cond was given to a network without classes; build it with classes=K, or leave cond out.")
        if cond is not None and cond.shape != noise.shape:
            raise ShapeError(
                f"cond has shape {tuple(cond.shape)}, noise {tuple(noise.shape)}; give one class index per sample."
            )
        h = self.first(self.fourier(noise).to(self.first.weight.dtype))
        if self.label is not None:
            h = h + self.label(torch.full_like(noise, self.label.classes, dtype=torch.long) if cond is None else cond)
        return self.act(self.second(self.act(h)))


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
