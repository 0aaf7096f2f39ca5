"""Randomness that is counted: what step k draws depends on (seed, k) alone, not on what was drawn before.

So a run that goes on after a kill needs no generator's state. Noise belongs to a *slot*, the place of a sample in the global
batch: blocks of 16 slots have a stream each, so the same slot gets the same noise however the batch is cut into micro-batches
or spread over processes. Noise is drawn on the device that trains, and a processor and a graphics card draw different bits.
(torch's generator of the processor takes 32 bits of a seed: among millions of blocks a few draw the same noise, at other steps
and for other samples, which does no harm.)

Checked by: tests/training/test_draws.py
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from undrift.core import Shared
from undrift.errors import ShapeError

__all__ = ["BLOCK", "Slots", "counted", "forked"]

BLOCK = 16
"""Slots that share a stream."""


def counted(seed: int, *where: str | int) -> int:
    """A seed of 63 bits for one place of a run, e.g. `counted(seed, "order", epoch)`."""
    return int.from_bytes(hashlib.blake2b(repr((seed, *where)).encode(), digest_size=8).digest(), "little") >> 1


@contextmanager
def forked(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """The global generators seeded for a block (layers draw first weights and dropout from them), and put back after.

    Args:
        seed: any integer.
        device: a CUDA device whose generator is to be treated likewise; the processor's alone if it is another or None.
    """
    generators = [torch.default_generator]
    if device is not None and device.type == "cuda":
        generators.append(torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index])
    kept = [g.get_state() for g in generators]
    for g in generators:
        g.manual_seed(seed)  # not torch.manual_seed, which reseeds every device
    try:
        yield
    finally:
        for g, state in zip(generators, kept, strict=True):
            g.set_state(state)


class Slots:
    """Source of randomness for the slots `start..stop-1` of a batch.

    Args:
        seed: of the step.
        start: first slot.
        stop: one past the last.
        device: where numbers are drawn.

    Checked by: tests/training/test_draws.py::test_a_slot_draws_the_same_however_the_batch_is_cut
    """

    def __init__(self, seed: int, start: int, stop: int, device: torch.device | str = "cpu"):
        self.seed, self.start, self.stop, self.device = seed, start, stop, torch.device(device)
        self._first = start // BLOCK
        self._blocks = [Shared(counted(seed, b), self.device) for b in range(self._first, -(-stop // BLOCK))]

    def normal(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent standard normal numbers, shape (B, *E), B = stop - start."""
        return self._draw("normal", shape, dtype, device)

    def uniform(self, shape: Sequence[int], *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Tensor:
        """Independent uniform numbers in [0, 1), shape (B, *E), B = stop - start."""
        return self._draw("uniform", shape, dtype, device)

    def replay(self) -> "Slots":
        """The same source, rewound to its seed."""
        return Slots(self.seed, self.start, self.stop, self.device)

    def _draw(self, kind: str, shape: Sequence[int], dtype: torch.dtype, device: torch.device | str) -> Tensor:
        if not shape or shape[0] != self.stop - self.start:
            raise ShapeError(
                f"a draw of shape {tuple(shape)} was asked for {self.stop - self.start} slots of a batch; the first axis of "
                "what an objective draws is the batch"
            )
        parts = [getattr(b, kind)((BLOCK, *shape[1:]), dtype=dtype, device=self.device) for b in self._blocks]
        offset = self.start - self._first * BLOCK
        return torch.cat(parts)[offset : offset + shape[0]].to(device)
