"""What every entry of `benchmarks/sampler_overhead.py` shares: the floor, the network, and how a sampler is timed beside them.

An entry is a script `benchmarks/peers/<name>_overhead.py`, called as

    python NAME_overhead.py --out OUT.json --rounds 31 --calls 50 100 [--cold]

**The floor** is the least that any sampler with a network can do, `x = torch.add(x * a, net(x), alpha=b)`, as often as the
sampler calls the network. The network is `0.5 * x`, so that no number becomes denormal. One thread, no gradients, no compiler.
**A round** times the floor, then every sampler, each right after a run of its own that warms the caches, and divides by the
floor of that round; garbage is collected between rounds alone. **Memory.** glibc hands blocks as large as these states back to
the system, and page faults, more than any arithmetic, are then what is timed, by luck of the heap. It stops doing so once a
larger block was freed, which the activations of any real network are. So one block of 30 MB is freed before; `--cold` leaves
it out.
"""

import argparse
import gc
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

SHAPES = {"64x3x32x32": (64, 3, 32, 32), "1x3x32x32": (1, 3, 32, 32), "4096x2": (4096, 2)}
Run = Callable[[Tensor], Tensor]
"""From a start to the end, made anew for each number of calls."""


class Net:
    """The network, as it is timed and as its calls are counted."""

    made = 0

    @staticmethod
    def bare(x: Tensor) -> Tensor:
        """Half of x."""
        return x * 0.5

    @classmethod
    def counted(cls, x: Tensor) -> Tensor:
        """The same."""
        cls.made += 1
        return x * 0.5


def floor(net: Callable[[Tensor], Tensor], calls: int, x: Tensor) -> Tensor:
    """The least there is to do."""
    for _ in range(calls):
        x = torch.add(x * 0.5, net(x), alpha=0.98)
    return x


def seconds(go: Run, x: Tensor) -> float:
    """Of one run, right after another one."""
    go(x)
    begun = time.perf_counter()
    go(x)
    return time.perf_counter() - begun


def run(
    peer: str, entries: dict[str, Callable[[Callable[[Tensor], Tensor], int, Tensor], Run]], packages: tuple[str, ...]
) -> None:
    """Command line of an entry: time everything, write OUT.json.

    An entry makes its `Run` from the network, the calls it may make, and a start of the shape in question.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--calls", type=int, nargs="+", required=True)
    parser.add_argument("--cold", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    if not args.cold:
        block = torch.ones(7_500_000)
        del block
    records = []
    for name, shape in SHAPES.items():
        x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        for calls in args.calls:
            chosen, made = {}, {}
            for title, maker in entries.items():
                Net.made = 0
                end = maker(Net.counted, calls, x)(x)
                made[title] = Net.made
                if not bool(torch.isfinite(end).all()) or float(end.abs().max()) < 1e-30 or not 0 < Net.made <= calls:
                    raise RuntimeError(f"{title}: {Net.made} calls of {calls}, or numbers that are not normal")
                chosen[title] = maker(Net.bare, calls, x)
            found: dict[str, list[float]] = {title: [] for title in chosen}
            floors = []
            for _ in range(args.rounds):
                gc.collect()
                gc.disable()
                floors.append(seconds(partial(floor, Net.bare, calls), x) / calls)
                for title, go in chosen.items():
                    found[title].append(seconds(go, x) / made[title] / floors[-1])
                gc.enable()
            for title, ratios in found.items():
                low, middle, high = statistics.quantiles(ratios, n=4)
                records.append(
                    {"peer": peer, "name": title, "shape": name, "calls": calls, "made": made[title]}
                    | {"ratio": middle, "low": low, "high": high, "floor_us": 1e6 * statistics.median(floors)}
                )
    versions = {package: version(package) for package in ("torch", *packages)}
    args.out.write_text(json.dumps({"records": records, "versions": versions}))


def largest(calls: int, cost: Callable[[int], int]) -> int:
    """The largest number of steps that the calls allow."""
    return next(n for n in range(calls, 0, -1) if cost(n) <= calls)
