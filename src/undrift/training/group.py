"""The processes that train together: one, several, or several machines, with the same code.

`accelerate launch` (or torchrun) says in the environment who is who; Accelerate opens the process group. Alone, nothing is
imported and nothing is sent.

Checked by: tests/training/test_distributed.py
"""

import os
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from undrift.errors import DataError

__all__ = ["Group"]


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
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return Group(0, 1, device)
        from accelerate import PartialState

        state = PartialState(cpu=device.type == "cpu")
        got = torch.device(state.device or device)
        if got.type != device.type:
            raise DataError(
                f"training was asked to run on {device}, and the launcher gave process {state.process_index} {got}; launch "
                "with `--cpu`, or ask for that device"
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
