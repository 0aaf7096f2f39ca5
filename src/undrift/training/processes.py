"""Several processes, on one machine or many, started by `accelerate launch`: who is the first, and who draws which samples.

Checked by: tests/training/test_processes.py
"""

import os

import torch
from torch import Tensor

__all__ = ["gathered", "is_main", "my_rows"]


def _world() -> tuple[int, int]:
    """(rank, number of processes), as the launcher told them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the first, which writes files and talks to people."""
    return _world()[0] == 0


def my_rows(n: int) -> list[int]:
    """Which of n samples this process draws; together the processes draw each once."""
    rank, size = _world()
    return list(range(rank, n, size))


def gathered(part: Tensor, n: int) -> Tensor:
    """All n samples in order, from the rows that each process drew (`my_rows`); every process gets them.

    Args:
        part: this process's samples, shape (len(my_rows(n)), *E), on the CPU.
        n: how many there are in all.

    Checked by: tests/training/test_processes.py::test_two_processes_sample_what_one_does
    """
    size = _world()[1]
    if size == 1:
        return part
    from accelerate import PartialState
    from accelerate.utils import gather_object

    PartialState()  # joins the process group that the launcher describes
    parts: list[Tensor] = gather_object([part])
    whole = torch.empty(n, *part.shape[1:], dtype=part.dtype)
    for rank, some in enumerate(parts):
        whole[rank::size] = some
    return whole
