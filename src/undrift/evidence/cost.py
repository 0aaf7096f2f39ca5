"""What a model costs: parameters, operations, network calls, time and memory.

Operations are those of matrix products, convolutions and attention (a multiplication and an addition count two), as torch
counts them while the network runs once; what is elementwise is left out, as is usual.

Checked by: tests/evidence/test_cost.py
"""

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from undrift.errors import DataError

__all__ = ["Cost", "cost", "flops", "parameters"]


@dataclass(frozen=True)
class Cost:
    """What sampling took.

    Attributes:
        parameters: numbers of the network.
        flops_per_call: floating-point operations of one network call for one sample.
        network_calls_per_sample: of the sampler, guidance included.
        sampling_seconds: for all samples.
        samples_per_second: of all samples.
        peak_memory_mib: on a CUDA device the most that was allocated while sampling; else the most that this process ever
            held, as the system tells (nothing is known on Windows: None).
    """

    parameters: int
    flops_per_call: int
    network_calls_per_sample: int
    sampling_seconds: float
    samples_per_second: float
    peak_memory_mib: float | None

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of numbers, for `json.dump`."""
        return asdict(self)


def cost(net: nn.Module, inputs: tuple[Any, ...], draw: Callable[[], Any], *, samples: int, calls: int) -> Cost:
    """Draw samples once, and measure.

    Args:
        net: the network.
        inputs: what it is called with, for one sample (batch size 1).
        draw: draws all samples.
        samples: how many that is, at least 1.
        calls: network calls that one sample takes.

    Raises:
        DataError: no samples.

    Checked by: tests/evidence/test_cost.py::test_cost_of_a_known_network
    """
    if samples < 1:
        raise DataError(f"samples = {samples}; the cost of drawing is measured on at least one")
    operations = flops(net, *inputs)
    device = next((p.device for p in net.parameters()), torch.device("cpu"))
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
    start = time.perf_counter()
    draw()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - start
    return Cost(parameters(net), operations, calls, seconds, samples / seconds, _peak(device))


def parameters(net: nn.Module) -> int:
    """How many numbers the network has; a finished model's are frozen, and count."""
    return sum(p.numel() for p in net.parameters())


def flops(net: nn.Module, *inputs: Any) -> int:
    """Floating-point operations of one call of the network.

    Checked by: tests/evidence/test_cost.py::test_operations_by_hand
    """
    from torch.utils.flop_counter import FlopCounterMode

    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        net(*inputs)
    return counter.get_total_flops()


def _peak(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return None
    import resource

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / 2**20 if sys.platform == "darwin" else most / 2**10  # bytes there, KiB elsewhere
