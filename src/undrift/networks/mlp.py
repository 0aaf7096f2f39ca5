r"""Residual MLP: a network for vectors, modulated by the noise level and the class.

A vector has no neighbourhoods, so every layer sees all of it. After a linear stem of `width` features come `blocks`
residual blocks h + f(h), f = linear . dropout . SiLU . FiLM . linear . SiLU . norm, with
:math:`\mathrm{FiLM}(h) = (1 + a(e)) h + b(e)`, a and b linear in the embedding e of noise and class. The last layer of
every block and of the network start at zero, so each block starts as the identity and the network as the zero function.

Checked by: tests/networks/test_networks.py
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from undrift.errors import ShapeError
from undrift.networks.embed import Embedding, check_batch, zero_init
from undrift.typing import State

__all__ = ["MLP"]


class ResidualLayer(nn.Module):
    """Two linear layers with FiLM between them, plus the identity.

    Args:
        width: features.
        embedding: length of the vector that modulates the layer.
        dropout: probability that a feature is dropped while training.
    """

    def __init__(self, width: int, embedding: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.first = nn.Linear(width, width)
        self.film = nn.Linear(embedding, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.second = zero_init(nn.Linear(width, width))

    def forward(self, h: Float[Tensor, "b w"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b w"]:
        """Features (B, width) and embedding (B, E) to features (B, width)."""
        scale, shift = self.film(embedding).chunk(2, dim=-1)
        branch = torch.addcmul(shift, self.first(functional.silu(self.norm(h))), 1 + scale)
        return h + self.second(self.dropout(functional.silu(branch)))


class MLP(nn.Module):
    """Residual MLP for vectors.

    Args:
        features: length d of a vector.
        width: features of every hidden layer, even, at least 4.
        blocks: number of residual blocks.
        dropout: probability that a feature is dropped while training.
        classes: number of classes K, or None for a network without labels. The null label is the index K.

    Attributes:
        event_shape: (features,).

    Raises:
        ShapeError: features or blocks is below 1, or width is odd or below 4.
        LabelError: classes is below 1.

    Source: He et al. 2016 (residual blocks); Perez et al. 2018 (FiLM), eq. 2.
    Checked by: tests/networks/test_networks.py
    """

    def __init__(
        self,
        features: int,
        width: int = 256,
        blocks: int = 3,
        dropout: float = 0.0,
        classes: int | None = None,
    ):
        super().__init__()
        if features < 1 or blocks < 1 or width < 4 or width % 2:
            raise ShapeError(
                f"MLP: features={features}, width={width}, blocks={blocks}; give at least 1 feature and 1 block, and "
                "an even width of at least 4."
            )
        self.features, self.width, self.blocks, self.dropout, self.classes = features, width, blocks, dropout, classes
        self.event_shape: tuple[int | None, ...] = (features,)
        self.embedding = Embedding(width, classes)
        self.stem = nn.Linear(features, width)
        self.layers = nn.ModuleList(ResidualLayer(width, width, dropout) for _ in range(blocks))
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
        }

    def forward(self, x: Tensor, noise: Tensor, cond: Tensor | None = None) -> State:
        """Evaluate the network.

        Args:
            x: batch, shape (B, features), scaled to about unit variance.
            noise: noise label, shape (B,), dimensionless, about 1/4 log(sigma/alpha).
            cond: class indices, shape (B,), long, 0..K; None is the null label K in every row.

        Returns:
            Shape and dtype of x.

        Raises:
            ShapeError: x, noise or cond has another shape than these.
            LabelError: cond was given to a network without classes, or lies outside 0..K.

        Checked by: tests/networks/test_networks.py::test_overfits_a_tiny_regression
        """
        check_batch(x, noise, "MLP", self.event_shape)
        embedding = self.embedding(noise, cond)
        h = self.stem(x.to(self.stem.weight.dtype))
        for layer in self.layers:
            h = layer(h, embedding)
        return self.head(functional.silu(self.norm(h))).to(x.dtype)
