r"""Transformer: patches that look at each other, modulated by the noise level and the condition (DiT).

An image, volume or signal (C, \*S) is cut into patches of p points along each axis; each patch is a token, a vector of
`width` features (a linear map of its C p^d numbers, plus a code of its place). A set or a sequence of L vectors is an
event (C, L) cut into patches of one. Then come `depth` blocks, each a self-attention and a feed-forward part,

.. math::
    h &\leftarrow h + g_1 \odot \mathrm{Attention}\big((1 + a_1) \odot \mathrm{norm}(h) + b_1\big), \\
    h &\leftarrow h + g_2 \odot \mathrm{FeedForward}\big((1 + a_2) \odot \mathrm{norm}(h) + b_2\big),

where the six modulations (b_1, a_1, g_1, b_2, a_2, g_2), shared by all tokens, are linear in the embedding e of noise and
condition, and *start at zero* (adaLN-zero): each block starts as the identity and, its head being zero too, the network
as the zero function. The modulations of all blocks come from one matrix product.

The place (u_1, ..., u_d) of a patch is coded axis by axis by fixed sines and cosines, computed, neither drawn nor learned:

.. math:: (\sin \omega_j u_i, \cos \omega_j u_i)_{j=0..m-1}, \qquad \omega_j = 10000^{-j/m}, \quad m = \lfloor w / 2d \rfloor.

**Derivatives.** The fused attention of torch knows first derivatives in reverse mode. For forward mode (`torch.func.jvp`)
and second derivatives, call the network inside `torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`.

Sources: Peebles and Xie 2022, section 3.2; Vaswani et al. 2017, eq. 1 and section 3.5.
Checked by: tests/networks/test_networks.py, tests/networks/test_transformer.py
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from undrift.errors import ShapeError
from undrift.networks.embed import (
    NOISE_RANGE,
    Embedding,
    check_batch,
    check_conditions,
    embedding_width,
    seen,
    split,
    zero_init,
)
from undrift.typing import State

__all__ = ["Transformer"]


class TransformerBlock(nn.Module):
    """Self-attention and a feed-forward part of four times the width, each modulated and gated.

    Args:
        width: features of a token.
        heads: attention heads, a divisor of width.
        dropout: probability that a hidden feature of the feed-forward part is dropped while training.

    Source: Peebles and Xie 2022, figure 3 (adaLN-zero).
    Checked by: tests/networks/test_transformer.py::test_block_is_the_formula_written_out
    """

    def __init__(self, width: int, heads: int, dropout: float):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.first = nn.Linear(width, 4 * width)
        self.dropout = nn.Dropout(dropout)
        self.second = nn.Linear(4 * width, width)

    def forward(self, h: Float[Tensor, "b n w"], modulation: Float[Tensor, "b m"]) -> Float[Tensor, "b n w"]:
        """Tokens (B, N, width) and modulations (B, 6 width), in the order of the module's formula, to tokens."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = modulation[:, None].chunk(6, dim=-1)
        h = h + gate_1 * self._attend(self.norm(h) * (1 + scale_1) + shift_1)
        hidden = functional.gelu(self.first(self.norm(h) * (1 + scale_2) + shift_2), approximate="tanh")
        return h + gate_2 * self.second(self.dropout(hidden))

    def _attend(self, h: Tensor) -> Tensor:
        batch, count, width = h.shape
        query, key, value = self.qkv(h).reshape(batch, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return self.out(mixed.transpose(1, 2).reshape(batch, count, width))


class Transformer(nn.Module):
    """Transformer for images, volumes, signals, sequences and sets of one size.

    Args:
        event_shape: (C, *S), channels and one to three spatial sizes. A set or sequence of L vectors of length C is (C, L).
        patch: points of a patch along each axis, a divisor of every size.
        width: features of a token, even, at least 4.
        depth: number of blocks.
        heads: attention heads, a divisor of width.
        dropout: probability that a hidden feature is dropped while training.
        classes: number of classes K, or None for a network without labels. The null label is the index K.
        columns: for each column of cond 0 (a number) or its number of classes (at least 2); () for none.
        image: channels C' of a grid on the points of x that conditions it, 0 for none.
        ordered: tell each patch its place. False for sets: the network then permutes with its tokens.

    Attributes:
        noise_range: noise labels that it resolves.
        checkpoint: recompute each block in the backward pass instead of keeping its features: the same gradients,
            one forward pass more, memory for one block instead of all. False; set it after construction.

    Raises:
        ShapeError: event_shape has not one to three spatial sizes, patch divides them not, heads divides width not, or a
            size is too small.
        LabelError: classes is below 1, columns has a wrong entry, image is negative, or classes is given beside them.

    Source: Peebles and Xie 2022, section 3.
    Checked by: tests/networks/test_transformer.py
    """

    noise_range = NOISE_RANGE
    checkpoint: bool = False

    def __init__(
        self,
        event_shape: Sequence[int],
        patch: int = 1,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        dropout: float = 0.0,
        classes: int | None = None,
        columns: Sequence[int] = (),
        image: int = 0,
        ordered: bool = True,
    ):
        super().__init__()
        _check(tuple(event_shape), patch, width, depth, heads)
        check_conditions(classes, columns, image)
        self.event_shape: tuple[int | None, ...] = tuple(event_shape)
        self.patch, self.width, self.depth, self.heads, self.dropout = patch, width, depth, heads, dropout
        self.classes, self.columns, self.image, self.ordered = classes, tuple(columns), image, ordered
        channels, *space = event_shape
        self.tokens = tuple(size // patch for size in space)
        points, size = patch ** len(space), embedding_width(width)
        self.embedding = Embedding(size, classes, columns)
        self.modulation = zero_init(nn.Linear(size, (6 * depth + 2) * width))
        self.stem = nn.Linear((channels + 2 * image) * points, width)
        self.places: Tensor
        self.register_buffer("places", places(self.tokens, width) if ordered else torch.zeros(1, width), persistent=False)
        self.layers = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(depth))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.head = zero_init(nn.Linear(width, channels * points))

    def config(self) -> dict:
        """JSON-able constructor arguments: `Transformer(**net.config())` has the same architecture."""
        return {
            "event_shape": list(self.event_shape),
            "patch": self.patch,
            "width": self.width,
            "depth": self.depth,
            "heads": self.heads,
            "dropout": self.dropout,
            "classes": self.classes,
            "columns": list(self.columns),
            "image": self.image,
            "ordered": self.ordered,
        }

    def forward(self, x: Tensor, noise: Tensor, cond: Tensor | None = None) -> State:
        """Evaluate the network.

        Args:
            x: batch, shape (B, C, *S), scaled to about unit variance.
            noise: noise label, shape (B,), dimensionless, about 1/4 log(sigma/alpha).
            cond: class indices (B,), long, 0..K; or rows of columns (B, F), a grid (B, C', *S), or both in one row
                (B, F + C' * prod(S)), float, NaN where not asked or seen. None is the null label K, or NaN throughout.

        Returns:
            Shape and dtype of x.

        Raises:
            ShapeError: x, noise or cond has another shape than these.
            LabelError: cond was given to a network without any, or a value lies outside its range.

        Checked by: tests/networks/test_transformer.py::test_patches_are_cut_and_joined_in_place
        """
        check_batch(x, noise, "Transformer", self.event_shape)
        dtype = self.stem.weight.dtype
        asked, grid = split(cond, self.columns, self.image, x)
        full = x.to(dtype) if grid is None else torch.cat([x.to(dtype), seen(grid).to(dtype)], dim=1)
        *blocks, last = self.modulation(self.embedding(noise, asked)).split([6 * self.width] * self.depth + [2 * self.width], 1)
        h = self.stem(cut(full, self.patch)) + self.places.to(dtype)
        for layer, modulation in zip(self.layers, blocks, strict=True):
            if self.checkpoint and torch.is_grad_enabled():
                h = checkpoint(layer, h, modulation, use_reentrant=False)
            else:
                h = layer(h, modulation)
        shift, scale = last[:, None].chunk(2, dim=-1)
        return join(self.head(self.norm(h) * (1 + scale) + shift), self.patch, self.tokens).to(x.dtype)


def cut(x: Float[Tensor, "b c *s"], patch: int) -> Float[Tensor, "b n f"]:
    """Patches of a grid as tokens: (B, C, *S) to (B, N, C * patch^d), patches in row-major order."""
    axes = x.ndim - 2
    pieces = [part for size in x.shape[2:] for part in (size // patch, patch)]
    order = (0, *range(2, 2 + 2 * axes, 2), 1, *range(3, 3 + 2 * axes, 2))
    tokens = math.prod(pieces[::2])
    return x.reshape(*x.shape[:2], *pieces).permute(order).reshape(len(x), tokens, -1)


def join(h: Float[Tensor, "b n f"], patch: int, tokens: tuple[int, ...]) -> Float[Tensor, "b c *s"]:
    """Inverse of `cut`: tokens (B, N, C * patch^d) to (B, C, *S), where S = tokens * patch."""
    axes = len(tokens)
    order = (0, 1 + axes, *(i for axis in range(axes) for i in (1 + axis, 2 + axes + axis)))
    return h.reshape(len(h), *tokens, -1, *(patch,) * axes).permute(order).reshape(len(h), -1, *(n * patch for n in tokens))


def places(tokens: tuple[int, ...], width: int) -> Float[Tensor, "n w"]:
    """Fixed codes of the places of a grid of tokens, shape (N, width): sines, then cosines, axis by axis.

    Checked by: tests/networks/test_transformer.py::test_places_are_the_formula
    """
    count = width // (2 * len(tokens))
    frequencies = 10000.0 ** (-torch.arange(count, dtype=torch.float64) / count)
    axes = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in tokens), indexing="ij")
    angles = [axis.flatten()[:, None] * frequencies for axis in axes]
    code = torch.cat([wave for angle in angles for wave in (angle.sin(), angle.cos())], dim=1)
    return functional.pad(code, (0, width - code.shape[1])).float()


def _check(event: tuple[int, ...], patch: int, width: int, depth: int, heads: int) -> None:
    """Raise ShapeError unless the arguments describe a transformer."""
    if not 2 <= len(event) <= 4 or min(event) < 1:
        raise ShapeError(
            f"Transformer: event_shape is {event}; give channels and one to three sizes: (C, L) for a signal, a sequence or "
            "a set of L vectors, (C, H, W) for images, (C, D, H, W) for volumes (a plain vector takes an MLP)."
        )
    if patch < 1 or any(size % patch for size in event[1:]):
        raise ShapeError(f"Transformer: patch is {patch} and event_shape {event}; give a patch that divides {event[1:]}.")
    if width < 4 or width % 2 or width < 2 * (len(event) - 1):
        raise ShapeError(f"Transformer: width is {width}; give an even number of at least {max(4, 2 * (len(event) - 1))}.")
    if heads < 1 or width % heads or depth < 1:
        raise ShapeError(
            f"Transformer: width={width}, heads={heads}, depth={depth}; give at least one block, and heads that divide width."
        )
