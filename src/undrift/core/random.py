"""Randomness with a name: every draw comes from an object that the caller made from a seed.

Three kinds share one interface (`normal`, `uniform`, `replay`). `Shared(seed)` is one fast generator for the whole batch.
`PerSample(seed, indices)` gives every sample a counter-based stream of its own (Philox, keyed by seed and sample index),
so sample i of seed s draws the same bits whatever the batch size, the number of processes or the order of the work.
`Deterministic()` refuses, where a result must not depend on noise.

None of them touches a global generator.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from undrift.errors import GridError, ShapeError

_MASK = (1 << 64) - 1


@runtime_checkable
class Random(Protocol):
    """What a law or a sampler may ask of a source of randomness."""

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent standard normal numbers."""
        ...

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent uniform numbers in [0, 1)."""
        ...

    def replay(self) -> "Random":
        """The same source, rewound to its seed."""
        ...


class Shared:
    """One generator for the whole batch: fastest, and a sample depends on the batch that it is drawn in.

    Args:
        seed: any integer.
        device: where numbers are drawn; they are moved if asked for elsewhere.
    """

    def __init__(self, seed: int, device: torch.device | str = "cpu"):
        self.seed, self.device = int(seed), torch.device(device)
        self._generator = torch.Generator(self.device).manual_seed(self.seed & _MASK)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent standard normal numbers, shape `shape`."""
        return torch.randn(shape, generator=self._generator, dtype=dtype, device=self.device).to(device)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent uniform numbers in [0, 1), shape `shape`."""
        return torch.rand(shape, generator=self._generator, dtype=dtype, device=self.device).to(device)

    def replay(self) -> "Shared":
        """The same source, rewound to its seed."""
        return Shared(self.seed, self.device)


class Deterministic:
    """For samplers that must draw nothing: whoever asks it is refused.

    Raises:
        GridError: on any draw.
    """

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Refused."""
        raise GridError("this sampler draws noise, and here it must not; use a deterministic one, such as Multistep()")

    uniform = normal

    def replay(self) -> "Deterministic":
        """Itself."""
        return self


class PerSample:
    """A stream per sample: sample i of a seed draws the same bits in any batch, process or order.

    Args:
        seed: any integer.
        samples: how many samples, or the indices of those in this batch (sample 7 alone is `[7]`).

    Source: Salmon et al. 2011 (Philox); keys are (seed, index), so streams never overlap.
    Checked by: tests/core/test_random.py::test_noise_is_the_same_in_any_batch
    """

    def __init__(self, seed: int, samples: int | Iterable[int]):
        self.seed = int(seed)
        self.indices = [int(i) for i in (range(samples) if isinstance(samples, (int, np.integer)) else samples)]
        self._streams = [
            np.random.Generator(np.random.Philox(key=np.array([self.seed & _MASK, i & _MASK], dtype=np.uint64)))
            for i in self.indices
        ]

    def __len__(self) -> int:
        """Number of samples."""
        return len(self._streams)

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent standard normal numbers, shape (B, *E) with B the number of samples."""
        return self._draw("standard_normal", shape, dtype, device)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent uniform numbers in [0, 1), shape (B, *E) with B the number of samples."""
        numbers = self._draw("random", shape, dtype, device)
        return numbers.clamp_max(1 - torch.finfo(dtype).eps / 2)  # rounding to half precision must not make a 1

    def replay(self) -> "PerSample":
        """The same source, rewound to its seed."""
        return PerSample(self.seed, self.indices)

    def _draw(self, method: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
        if not shape or shape[0] != len(self._streams):
            raise ShapeError(
                f"a draw of shape {tuple(shape)} was asked of {len(self._streams)} per-sample streams; the first axis is "
                "the batch: make the streams with PerSample(seed, batch_size), or use Shared(seed) for anything else"
            )
        # float32 and float64 draw different bits; half precisions round a float32 draw, so they see the same noise.
        kind = np.float64 if dtype == torch.float64 else np.float32
        out = np.empty(tuple(shape), dtype=kind)
        rows = out.reshape(len(self._streams), math.prod(shape[1:]))
        for stream, row in zip(self._streams, rows, strict=True):
            getattr(stream, method)(out=row, dtype=kind)
        return torch.from_numpy(out).to(device=device, dtype=dtype)
