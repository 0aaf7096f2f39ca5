"""The processes that train together: one, several, or several machines, with the same code.

`accelerate launch --multi_gpu` (or torchrun) says in the environment who is who; Accelerate opens the process group, also for
processes without a graphics card. Alone, nothing is imported and nothing is sent. Samples are shared out without any message:
a sample's noise is its own, so a process draws its rows (`my_rows`) and they are put together at the end (`gathered`).

Checked by: tests/training/test_distributed.py, tests/cli/test_launch.py
"""

import atexit
import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undrift.errors import DataError

__all__ = ["Group", "gathered", "is_main", "my_rows"]


def _world() -> tuple[int, int]:
    """(rank, number of processes), as the launcher told them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Whether this process is the first, which writes files and talks to people."""
    return _world()[0] == 0


def my_rows(n: int) -> list[int]:
    """Which of n samples this process draws; a process too many draws the last one again, and `gathered` drops it.

    Checked by: tests/training/test_distributed.py::test_rows_are_shared_out_once
    """
    rank, size = _world()
    return list(range(rank, n, size)) or [n - 1]


def gathered(part: Tensor, n: int) -> Tensor:
    """All n samples in order, from the rows that each process drew (`my_rows`); every process gets them.

    Args:
        part: this process's samples, shape (len(my_rows(n)), *E), on the CPU.
        n: how many there are in all.

    Checked by: tests/training/test_distributed.py::test_two_processes_sample_what_one_does
    """
    size = _world()[1]
    if size == 1:
        return part
    from accelerate.utils import gather_object

    _joined(cpu=True)  # unless training did: what is sent lies on the CPU
    parts: list[Tensor] = gather_object([part])
    whole = torch.empty(n, *part.shape[1:], dtype=part.dtype)
    for rank, some in enumerate(parts[:n]):
        whole[rank::size] = some
    return whole


@dataclass(frozen=True)
class Group:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: which this one is.
        size: how many there are.
        device: where this one computes.
    """

    rank: int
    size: int
    device: torch.device

    @staticmethod
    def join(device: torch.device | str) -> "Group":
        """Join the processes that the environment tells of.

        Raises:
            DataError: the device asked for is not the one that this process was given.
        """
        device = torch.device(device)
        if _world()[1] == 1:
            return Group(0, 1, device)
        state = _joined(cpu=device.type == "cpu")
        got = torch.device(state.device or device)
        if got.type != device.type:
            raise DataError(
                f"training was asked to run on {device}, and process {state.process_index} was given {got}; ask for that "
                f"device (device={got.type!r}, or --device {got.type})"
            )
        return Group(state.process_index, state.num_processes, got)

    def wrapped(self, module: nn.Module) -> nn.Module:
        """The module, made to average its gradients over the processes."""
        return module if self.size == 1 else nn.parallel.DistributedDataParallel(module)

    def summed(self, values: Tensor) -> Tensor:
        """The sum over processes."""
        if self.size > 1:
            values = values.clone()
            torch.distributed.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether it is so in any process."""
        return flag if self.size == 1 else bool(self.summed(torch.tensor(float(flag), device=self.device)) > 0)

    def meet(self) -> None:
        """Wait for the other processes."""
        self.any(False)

    def first(self, value: Any) -> Any:
        """What the first process says."""
        if self.size == 1:
            return value
        box = [value]
        torch.distributed.broadcast_object_list(box, device=self.device)
        return box[0]

    def gathered(self, values: Tensor) -> Tensor:
        """One row a process."""
        if self.size == 1:
            return values[None]
        parts = [torch.empty_like(values) for _ in range(self.size)]
        torch.distributed.all_gather(parts, values.contiguous())
        return torch.stack(parts)

    def share(self, values: Tensor) -> None:
        """Overwrite a tensor with the first process's."""
        if self.size > 1:
            whole = values.detach().contiguous()
            torch.distributed.broadcast(whole, 0)
            values.detach().copy_(whole)


def _joined(cpu: bool) -> Any:
    """Accelerate's view of the processes, in whose group this one is from now on until it ends."""
    from accelerate import PartialState

    atexit.unregister(_leave)
    atexit.register(_leave)  # a process that ends while its messages' threads run is ended by the system, as broken
    return PartialState(cpu=cpu)


def _leave() -> None:
    """Leave the process group, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
