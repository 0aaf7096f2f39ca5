r"""U-Net: residual convolutions at several resolutions, joined by skips, modulated by the noise level and the class.

Level i works at 1/2^i of the input's size. The encoder halves the size with a convolution of stride 2 (n becomes
ceil(n/2)), the decoder doubles it by nearest-neighbour upsampling *to the size of the skip that it meets*, so any size,
odd or even, works and no pixel is invented: padding to a multiple of 2^levels would add a border that the data never
shows and whose width depends on the size. The convolution that narrows the features runs before the upsampling, at a
fraction 1/2^spatial of the cost; the block that follows smooths the result.

A block is h + f(h) with f = conv . dropout . SiLU . FiLM . norm . conv . SiLU . norm. FiLM (adaptive group norm) is

.. math:: \mathrm{FiLM}(h) = (1 + a(e)) \, h + b(e),

with a, b linear in the embedding e of noise and class. The last convolution of every block and of the network start at
zero, so each block starts as its shortcut and the network as the zero function.

Checked by: tests/networks/test_networks.py
"""

import itertools
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from undrift.errors import ShapeError
from undrift.networks.embed import Embedding, check_batch, norm_groups, zero_init
from undrift.typing import State

__all__ = ["UNet"]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


class ResidualBlock(nn.Module):
    """Two convolutions around a FiLM-modulated group norm, plus a shortcut.

    Args:
        inward: channels of the input.
        outward: channels of the output.
        embedding: length of the vector that modulates the block.
        spatial: 1, 2 or 3.
        dropout: probability that a feature is dropped while training.
    """

    def __init__(self, inward: int, outward: int, embedding: int, spatial: int, dropout: float):
        super().__init__()
        conv = CONVOLUTIONS[spatial]
        self.norm_in = nn.GroupNorm(norm_groups(inward), inward)
        self.conv_in = conv(inward, outward, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outward)
        self.norm_out = nn.GroupNorm(norm_groups(outward), outward, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(conv(outward, outward, 3, padding=1))
        self.shortcut = nn.Identity() if inward == outward else conv(inward, outward, 1)

    def forward(self, h: Float[Tensor, "b c *s"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d *s"]:
        """Features (B, inward, *S) and embedding (B, E) to features (B, outward, *S)."""
        branch = self.conv_in(functional.silu(self.norm_in(h)))
        scale, shift = self.film(embedding).view(len(h), -1, *(1,) * (h.ndim - 2)).chunk(2, dim=1)
        branch = torch.addcmul(shift, self.norm_out(branch), 1 + scale)
        return self.shortcut(h) + self.conv_out(self.dropout(functional.silu(branch)))


class AttentionBlock(nn.Module):
    """Self-attention over all positions, plus a shortcut. Heads have 32 channels, or one head takes all.

    Args:
        width: channels.
        spatial: 1, 2 or 3.

    Source: Vaswani et al. 2017, eq. 1; Dhariwal and Nichol 2021, section 3.
    """

    def __init__(self, width: int, spatial: int):
        super().__init__()
        conv = CONVOLUTIONS[spatial]
        self.heads = width // 32 if width % 32 == 0 else 1
        self.norm = nn.GroupNorm(norm_groups(width), width)
        self.qkv = conv(width, 3 * width, 1, bias=False)
        self.out = zero_init(conv(width, width, 1))

    def forward(self, h: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Features (B, C, *S) to features (B, C, *S); the cost grows with the square of the number of positions."""
        qkv = self.qkv(self.norm(h)).reshape(len(h), 3, self.heads, h.shape[1] // self.heads, -1)
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        mixed = functional.scaled_dot_product_attention(query, key, value)
        return h + self.out(mixed.transpose(-1, -2).reshape(h.shape))


class UNet(nn.Module):
    """U-Net for sequences, images and volumes of any size and any number of channels.

    Args:
        channels: channels of the data.
        spatial: number of spatial dimensions, 1, 2 or 3.
        widths: channels of each level, finest first; their number is the number of levels.
        blocks: residual blocks per level in the encoder, and again in the decoder.
        attention: levels that attend after each of their blocks, 0 the finest; () for none.
        dropout: probability that a feature is dropped while training.
        classes: number of classes K, or None for a network without labels. The null label is the index K.

    Attributes:
        event_shape: (channels, None, ...), None for each spatial dimension.

    Raises:
        ShapeError: spatial is not 1, 2 or 3; channels, blocks or a width is below 1; no width; attention names a level
            that is not there.
        LabelError: classes is below 1.

    Source: Ronneberger et al. 2015; Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3 (adaptive group
        norm).
    Checked by: tests/networks/test_networks.py
    """

    def __init__(
        self,
        channels: int,
        spatial: int = 2,
        widths: Sequence[int] = (64, 128),
        blocks: int = 2,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        classes: int | None = None,
    ):
        super().__init__()
        _check(channels, spatial, widths, blocks, attention)
        self.spatial, self.widths, self.blocks, self.dropout = spatial, tuple(widths), blocks, dropout
        self.channels, self.attention, self.classes = channels, tuple(attention), classes
        self.event_shape: tuple[int | None, ...] = (channels, *(None,) * spatial)
        conv, top = CONVOLUTIONS[spatial], widths[0]
        size = 4 * max(8, top // 2 * 2) if top < 32 else 4 * (top // 2 * 2)
        self.embedding = Embedding(size, classes)
        self.stem = conv(channels, top, 3, padding=1)
        self.encoder = nn.ModuleList(self._level(i, width, size) for i, width in enumerate(widths))
        self.down = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(conv(b, a, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(self._level(i, 2 * width, size) for i, width in enumerate(widths[:-1]))
        self.norm = nn.GroupNorm(norm_groups(top), top)
        self.head = zero_init(conv(top, channels, 3, padding=1))

    def _level(self, level: int, inward: int, embedding: int) -> nn.ModuleList:
        """Blocks of one level, the first of which takes `inward` channels."""
        width, layers = self.widths[level], nn.ModuleList()
        for i in range(self.blocks):
            layers.append(ResidualBlock(width if i else inward, width, embedding, self.spatial, self.dropout))
            if level in self.attention:
                layers.append(AttentionBlock(width, self.spatial))
        return layers

    def config(self) -> dict:
        """JSON-able constructor arguments: `UNet(**net.config())` has the same architecture."""
        return {
            "channels": self.channels,
            "spatial": self.spatial,
            "widths": list(self.widths),
            "blocks": self.blocks,
            "attention": list(self.attention),
            "dropout": self.dropout,
            "classes": self.classes,
        }

    def forward(self, x: Tensor, noise: Tensor, cond: Tensor | None = None) -> State:
        """Evaluate the network.

        Args:
            x: batch, shape (B, channels, *S), S of length `spatial` with any sizes, scaled to about unit variance.
            noise: noise label, shape (B,), dimensionless, about 1/4 log(sigma/alpha).
            cond: class indices, shape (B,), long, 0..K; None is the null label K in every row.

        Returns:
            Shape and dtype of x.

        Raises:
            ShapeError: x, noise or cond has another shape than these.
            LabelError: cond was given to a network without classes, or lies outside 0..K.

        Checked by: tests/networks/test_networks.py::test_overfits_a_tiny_regression
        """
        check_batch(x, noise, "UNet", self.event_shape)
        embedding = self.embedding(noise, cond)
        h, skips = self.stem(x.to(self.stem.weight.dtype)), []
        for i, level in enumerate(self.encoder):
            h = _run(level, h, embedding)
            if i < len(self.down):
                skips.append(h)
                h = self.down[i](h)
        for i in reversed(range(len(self.down))):
            skip = skips[i]
            h = functional.interpolate(self.up[i](h), size=skip.shape[2:], mode="nearest")
            h = _run(self.decoder[i], torch.cat([h, skip], dim=1), embedding)
        return self.head(functional.silu(self.norm(h))).to(x.dtype)


def _run(level: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
    """Pass features through the blocks of one level; only residual blocks are modulated."""
    for layer in level.children():
        h = layer(h, embedding) if isinstance(layer, ResidualBlock) else layer(h)
    return h


def _check(channels: int, spatial: int, widths: Sequence[int], blocks: int, attention: Sequence[int]) -> None:
    """Raise ShapeError unless the arguments describe a U-Net."""
    if spatial not in CONVOLUTIONS:
        raise ShapeError(
            f"UNet: spatial is {spatial}; give 1 for sequences, 2 for images, 3 for volumes (vectors take an MLP)."
        )
    if not widths or min(widths) < 1 or channels < 1 or blocks < 1:
        raise ShapeError(
            f"UNet: channels={channels}, widths={tuple(widths)}, blocks={blocks}; give at least one width, and "
            "positive numbers throughout."
        )
    if any(not 0 <= level < len(widths) for level in attention):
        raise ShapeError(
            f"UNet: attention names the levels {tuple(attention)}, the levels of widths={tuple(widths)} are "
            f"0..{len(widths) - 1}, 0 the finest."
        )
