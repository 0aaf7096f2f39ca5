r"""U-Net: residual convolutions at several resolutions, joined by skips, modulated by the noise level and the class.

Level i works at 1/2^i of the input's size. The encoder halves the size with a convolution of stride 2 (n becomes
ceil(n/2)), the decoder doubles it by nearest-neighbour upsampling *to the size of the skip that it meets*, so any size,
odd or even, works and no pixel is invented: padding to a multiple of 2^levels would add a border that the data never
shows and whose width depends on the size. The convolution that narrows the features runs before the upsampling, at a
fraction 1/2^spatial of the cost; the block that follows smooths the result.

A block is h + f(h) with f = conv . dropout . SiLU . FiLM . norm . conv . SiLU . norm. FiLM (adaptive group norm) is

.. math:: \mathrm{FiLM}(h) = (1 + a(e)) \, h + b(e),

with a, b linear in the embedding e of noise and condition. A grid that conditions x enters as further channels: its values, and
a mask of what was seen. The last convolution of every block and of the network start at
zero, so each block starts as its shortcut and the network as the zero function.

Training in bfloat16 is the caller's choice, `torch.autocast("cpu", torch.bfloat16)` around the call; weights, the embedding and
what comes out stay float32 (`docs/performance.md`).

Checked by: tests/networks/test_networks.py, tests/networks/test_unet_speed.py
"""

import itertools
from collections.abc import Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from undrift.errors import ShapeError
from undrift.networks.embed import NOISE_RANGE, Embedding, check_batch, check_conditions, seen, split, zero_init
from undrift.networks.kernels import groups_of, norm_silu
from undrift.typing import State

__all__ = ["UNet"]

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}

FEW = 64
"""Up to so many positions attention is written out: the fused kernel's way back costs twenty times as much there."""


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
        self.norm_in = nn.GroupNorm(groups_of(inward), inward)
        self.conv_in = conv(inward, outward, 3, padding=1)
        self.film = nn.Linear(embedding, 2 * outward)
        self.norm_out = nn.GroupNorm(groups_of(outward), outward, affine=False)
        self.dropout = nn.Dropout(dropout)
        self.conv_out = zero_init(conv(outward, outward, 3, padding=1))
        self.shortcut = nn.Identity() if inward == outward else conv(inward, outward, 1)

    def forward(self, h: Float[Tensor, "b c *s"], embedding: Float[Tensor, "b e"]) -> Float[Tensor, "b d *s"]:
        """Features (B, inward, *S) and embedding (B, E) to features (B, outward, *S)."""
        branch = self.conv_in(_norm_silu(self.norm_in, h))
        scale, shift = self.film(embedding).chunk(2, dim=1)
        branch = norm_silu(branch, 1 + scale, shift, self.norm_out.num_groups, self.norm_out.eps)
        return self.conv_out(self.dropout(branch)).add_(self.shortcut(h))


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
        self.norm = nn.GroupNorm(groups_of(width), width)
        self.qkv = conv(width, 3 * width, 1, bias=False)
        self.out = zero_init(conv(width, width, 1))

    def forward(self, h: Float[Tensor, "b c *s"]) -> Float[Tensor, "b c *s"]:
        """Features (B, C, *S) to features (B, C, *S); the cost grows with the square of the number of positions."""
        qkv = self.qkv(self.norm(h)).reshape(len(h), 3, self.heads, h.shape[1] // self.heads, -1)
        query, key, value = qkv.transpose(-1, -2).unbind(1)
        if qkv.shape[-1] > FEW:
            mixed = functional.scaled_dot_product_attention(query, key, value)
        else:
            mixed = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(-1) @ value
        return h + self.out(mixed.transpose(-1, -2).reshape(h.shape))


class UNet(nn.Module):
    """U-Net for sequences, images and volumes of any size and any number of channels.

    Args:
        channels: channels of the data.
        spatial: number of spatial dimensions, 1, 2 or 3.
        widths: channels of each level, finest first; their number is the number of levels.
        blocks: residual blocks per level in the encoder, and again in the decoder; one number, or one for each level. A fine
            level with 0 blocks only changes the size and lends its skip.
        attention: levels that attend after each of their blocks, 0 the finest; () for none.
        dropout: probability that a feature is dropped while training.
        classes: number of classes K, or None for a network without labels. The null label is the index K.
        columns: for each column of cond 0 (a number) or its number of classes; () for none.
        image: channels of a grid that conditions x, on the same points; 0 for none.

    Attributes:
        event_shape: (channels, None, ...), None for each spatial dimension.
        noise_range: noise labels that it resolves.
        checkpoint: whether training computes the inside of each block again on the way back instead of keeping it: the same
            gradients for one forward pass more and a fraction of the memory. Set it after construction.

    Raises:
        ShapeError: spatial is not 1, 2 or 3; channels, blocks or a width is below 1; no width; attention names a level
            that is not there.
        LabelError: classes is below 1, or conditions that do not go together.

    Source: Ronneberger et al. 2015; Ho et al. 2020, appendix B; Dhariwal and Nichol 2021, section 3 (adaptive group
        norm).
    Checked by: tests/networks/test_networks.py
    """

    noise_range = NOISE_RANGE

    def __init__(
        self,
        channels: int,
        spatial: int = 2,
        widths: Sequence[int] = (64, 128),
        blocks: int | Sequence[int] = 2,
        attention: Sequence[int] = (),
        dropout: float = 0.0,
        classes: int | None = None,
        columns: Sequence[int] = (),
        image: int = 0,
    ):
        super().__init__()
        _check(channels, spatial, widths, blocks, attention)
        check_conditions(classes, columns, image)
        self.spatial, self.widths, self.dropout = spatial, tuple(widths), dropout
        self.blocks = blocks if isinstance(blocks, int) else tuple(blocks)
        self.channels, self.attention, self.classes = channels, tuple(attention), classes
        self.columns, self.image, self.checkpoint = tuple(columns), image, False
        self.event_shape: tuple[int | None, ...] = (channels, *(None,) * spatial)
        conv, top = CONVOLUTIONS[spatial], widths[0]
        size = 4 * max(8, top // 2 * 2) if top < 32 else 4 * (top // 2 * 2)
        self.embedding = Embedding(size, classes, self.columns)
        self.stem = conv(channels + 2 * image, top, 3, padding=1)
        self.encoder = nn.ModuleList(self._level(i, width, size) for i, width in enumerate(widths))
        self.down = nn.ModuleList(conv(a, b, 3, stride=2, padding=1) for a, b in itertools.pairwise(widths))
        self.up = nn.ModuleList(conv(b, a, 3, padding=1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(self._level(i, 2 * width, size) for i, width in enumerate(widths[:-1]))
        last = top if self._depth(0) or len(widths) == 1 else 2 * top
        self.norm = nn.GroupNorm(groups_of(last), last)
        self.head = zero_init(conv(last, channels, 3, padding=1))
        if spatial == 2:
            for kernel in self.parameters():  # and through them every batch of features
                if kernel.ndim == 4:
                    kernel.data = kernel.data.contiguous(memory_format=torch.channels_last)

    def _level(self, level: int, inward: int, embedding: int) -> nn.ModuleList:
        """Blocks of one level, the first of which takes `inward` channels."""
        width, layers = self.widths[level], nn.ModuleList()
        for i in range(self._depth(level)):
            layers.append(ResidualBlock(width if i else inward, width, embedding, self.spatial, self.dropout))
            if level in self.attention:
                layers.append(AttentionBlock(width, self.spatial))
        return layers

    def _depth(self, level: int) -> int:
        return self.blocks if isinstance(self.blocks, int) else self.blocks[level]

    def config(self) -> dict:
        """JSON-able constructor arguments: `UNet(**net.config())` has the same architecture."""
        return {
            "channels": self.channels,
            "spatial": self.spatial,
            "widths": list(self.widths),
            "blocks": self.blocks if isinstance(self.blocks, int) else list(self.blocks),
            "attention": list(self.attention),
            "dropout": self.dropout,
            "classes": self.classes,
            "columns": list(self.columns),
            "image": self.image,
        }

    def forward(self, x: Tensor, noise: Tensor, cond: Tensor | None = None) -> State:
        """Evaluate the network.

        Args:
            x: batch, shape (B, channels, *S), S of length `spatial` with any sizes, scaled to about unit variance.
            noise: noise label, shape (B,), dimensionless, about 1/4 log(sigma/alpha).
            cond: class indices, shape (B,), long, 0..K; or rows of columns (B, F); or a grid (B, image, *S); or both,
                (B, F + image * prod(S)), columns first, then the grid, flattened. None asks for nothing in every row.

        Returns:
            Shape and dtype of x.

        Raises:
            ShapeError: x, noise or cond has another shape than these.
            LabelError: cond was given to a network without classes, or lies outside 0..K.

        Checked by: tests/networks/test_networks.py::test_overfits_a_tiny_regression
        """
        check_batch(x, noise, "UNet", self.event_shape)
        asked, grid = split(cond, self.columns, self.image, x)
        device = x.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            embedding = self.embedding(noise, asked)
        whole = x if grid is None else torch.cat([x, seen(grid).to(x.dtype)], dim=1)
        h, skips = self.stem(whole.to(self.stem.weight.dtype)), []
        for i, level in enumerate(self.encoder):
            h = self._through(level, h, embedding)
            if i < len(self.down):
                skips.append(h)
                h = self.down[i](h)
        for i in reversed(range(len(self.down))):
            skip = skips[i]
            h = functional.interpolate(self.up[i](h), size=skip.shape[2:], mode="nearest")
            h = self._through(self.decoder[i], torch.cat([h, skip], dim=1), embedding)
        return self.head(_norm_silu(self.norm, h)).to(x.dtype)

    def _through(self, level: nn.Module, h: Tensor, embedding: Tensor) -> Tensor:
        """Pass features through the blocks of one level; only residual blocks are modulated."""
        for layer in level.children():
            given = (h, embedding) if isinstance(layer, ResidualBlock) else (h,)
            again = self.checkpoint and torch.is_grad_enabled()
            h = checkpoint(layer, *given, use_reentrant=False) if again else layer(*given)
        return h


def _norm_silu(norm: nn.GroupNorm, h: Tensor) -> Tensor:
    return norm_silu(h, norm.weight, norm.bias, norm.num_groups, norm.eps)


def _check(channels: int, spatial: int, widths: Sequence[int], blocks: int | Sequence[int], attention: Sequence[int]) -> None:
    """Raise ShapeError unless the arguments describe a U-Net."""
    if spatial not in CONVOLUTIONS:
        raise ShapeError(
            f"UNet: spatial is {spatial}; give 1 for sequences, 2 for images, 3 for volumes (vectors take an MLP)."
        )
    depths = (blocks,) * len(widths) if isinstance(blocks, int) else tuple(blocks)
    least = 1 if isinstance(blocks, int) else 0
    if not widths or min(widths) < 1 or channels < 1 or min(depths, default=0) < least:
        raise ShapeError(
            f"UNet: channels={channels}, widths={tuple(widths)}, blocks={blocks}; give at least one width, and "
            "positive numbers throughout."
        )
    if len(depths) != len(widths) or depths[-1] < 1:
        raise ShapeError(
            f"UNet: blocks={blocks} for widths={tuple(widths)}; give one number, or one for each of the {len(widths)} levels, "
            "at least 1 for the last."
        )
    if any(not 0 <= level < len(widths) for level in attention):
        raise ShapeError(
            f"UNet: attention names the levels {tuple(attention)}, the levels of widths={tuple(widths)} are "
            f"0..{len(widths) - 1}, 0 the finest."
        )
