r"""Residual MLP: a network for vectors, modulated by the noise level and the condition.

A vector has no neighbourhoods, so every layer sees all of it. After a linear stem of `width` features come `blocks`
residual blocks h + f(h), f = linear . dropout . SiLU . FiLM . linear . SiLU . norm, with

.. math:: \mathrm{FiLM}_i(h) = a_i(e) \odot h + b_i(e),

a_i and b_i linear in the embedding e of noise and condition, a_i about 1 at the start. The last layer of every block and
of the network start at zero, so each block starts as the identity and the network as the zero function.

**Cost.** A linear layer of width w costs w^2 products a row, FiLM 2 w len(e): at len(e) = w it would cost as much as the
two layers that it modulates. What e has to carry (a noise level, a row of conditions) does not grow with the width, so e
is a quarter as long (never shorter than 64, or the width). All a_i and b_i come from one matrix product of e.

Checked by: tests/networks/test_networks.py, tests/networks/test_mlp.py
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from undrift.errors import ShapeError
from undrift.networks.embed import NOISE_RANGE, Embedding, check_batch, embedding_width, film_layer, zero_init
from undrift.typing import State

__all__ = ["MLP"]


class ResidualLayer(nn.Module):
    """Two linear layers with FiLM between them, plus the identity.

    Args:
        width: features.
        dropout: probability that a feature is dropped while training.
    """

    def __init__(self, width: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)
        self.second = zero_init(nn.Linear(width, width))

    def forward(
        self, h: Float[Tensor, "b w"], scale: Float[Tensor, "b w"], shift: Float[Tensor, "b w"]
    ) -> Float[Tensor, "b w"]:
        """Features (B, width) and FiLM's a and b (B, width) to features (B, width)."""
        branch = self.first(functional.silu(self.norm(h))) * scale + shift
        return h + self.second(self.dropout(functional.silu(branch)))


class MLP(nn.Module):
    """Residual MLP for vectors.

    Args:
        features: length d of a vector.
        width: features of every hidden layer, even, at least 4.
        blocks: number of residual blocks.
        dropout: probability that a feature is dropped while training.
        classes: number of classes K, or None for a network without labels. The null label is the index K.
        columns: for each column of cond 0 (a number) or its number of classes (at least 2); () for none.

    Attributes:
        event_shape: (features,).
        noise_range: noise labels that it resolves.
        checkpoint: recompute each block in the backward pass instead of keeping its features: the same gradients,
            one forward pass more, memory for one block instead of all. False; set it after construction.

    Raises:
        ShapeError: features or blocks is below 1, or width is odd or below 4.
        LabelError: classes is below 1, columns has a wrong entry, or both are given.

    Source: He et al. 2016 (residual blocks); Perez et al. 2018 (FiLM), eq. 2; Chen T. et al. 2016 (checkpoints).
    Checked by: tests/networks/test_mlp.py
    """

    noise_range = NOISE_RANGE
    checkpoint: bool = False

    def __init__(
        self,
        features: int,
        width: int = 256,
        blocks: int = 3,
        dropout: float = 0.0,
        classes: int | None = None,
        columns: Sequence[int] = (),
    ):
        super().__init__()
        if features < 1 or blocks < 1 or width < 4 or width % 2:
            raise ShapeError(
                f"MLP: features={features}, width={width}, blocks={blocks}; give at least 1 feature and 1 block, and "
                "an even width of at least 4."
            )
        self.features, self.width, self.blocks, self.dropout = features, width, blocks, dropout
        self.classes, self.columns = classes, tuple(columns)
        self.event_shape: tuple[int | None, ...] = (features,)
        size = embedding_width(width)
        self.embedding = Embedding(size, classes, self.columns)
        self.film = film_layer(size, blocks, width)
        self.stem = nn.Linear(features, width)
        self.layers = nn.ModuleList(ResidualLayer(width, dropout) for _ in range(blocks))
        self.norm = nn.LayerNorm(width)
        self.head = zero_init(nn.Linear(width, features))

    def config(self) -> dict:
        """JSON-able constructor arguments: `MLP(**net.config())` has the same architecture."""
        return {
            "features": self.features,
            "width": self.width,
            "blocks": self.blocks,
            "dropout": self.dropout,
            "classes": self.classes,
            "columns": list(self.columns),
        }

    def forward(self, x: Tensor, noise: Tensor, cond: Tensor | None = None) -> State:
        """Evaluate the network.

        Args:
            x: batch, shape (B, features), scaled to about unit variance.
            noise: noise label, shape (B,), dimensionless, about 1/4 log(sigma/alpha).
            cond: class indices, shape (B,), long, 0..K, or rows of columns, shape (B, F), float, NaN where not asked;
                None is the null label K, or NaN, in every row.

        Returns:
            Shape and dtype of x.

        Raises:
            ShapeError: x, noise or cond has another shape than these.
            LabelError: cond was given to a network without any, or a value lies outside its range.

        Checked by: tests/networks/test_mlp.py::test_forward_and_gradients_are_the_formula
        """
        check_batch(x, noise, "MLP", self.event_shape)
        film = self.film(self.embedding(noise, cond)).chunk(2 * self.blocks, dim=1)
        dtype = self.stem.weight.dtype
        h = self.stem(x.to(dtype)).to(dtype)  # under autocast too, the sum over the blocks is kept in full
        for layer, scale, shift in zip(self.layers, film[::2], film[1::2], strict=True):
            if self.checkpoint and torch.is_grad_enabled():
                h = checkpoint(layer, h, scale, shift, use_reentrant=False)
            else:
                h = layer(h, scale, shift)
        return self.head(functional.silu(self.norm(h))).to(x.dtype)
