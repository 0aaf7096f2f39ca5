"""What every entry of `benchmarks/pictures.py` reads and writes; the entry's environment needs torch and numpy only.

An entry is a script `benchmarks/peers/<name>_pictures.py`, called as

    python NAME_pictures.py --train IN.npz --out OUT.npz --seed 0 --seconds 60 --calls 50 --threads 2 --clock wall

IN.npz holds `images` (N, 1, H, W) float32 in [-1, 1], `labels` (N,) and `asked` (M,), the labels of the samples to draw.
OUT.npz holds `samples` (M, 1, H, W) in the same unit, and `about`, JSON about the run: see `Task.save`. An unconditional
entry adds `"conditional": false` to it.

The clock starts when training starts: importing and building the network are free for everyone, anything compiled or
warmed up inside the loop is not. `--clock cpu` counts the process's processor time divided by its threads instead of wall
time, so that other work on the machine counts against nobody. Network calls are counted by a hook on the network itself.
"""

import argparse
import json
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor, nn


@dataclass
class Task:
    """The data and the budget.

    Attributes:
        images: shape (N, 1, H, W), float32 in [-1, 1].
        labels: shape (N,), int64, 0..9.
        asked: shape (M,), int64: what the samples should show.
        seconds: budget of training.
        calls: budget of network calls for one sample.
        recipe: the entry's settings.
        out: where OUT.npz goes.
        clock: "wall" or "cpu".
        threads: that torch may use.
    """

    images: Tensor
    labels: Tensor
    asked: Tensor
    seconds: float
    calls: int
    recipe: dict
    out: str = ""
    clock: str = "wall"
    threads: int = 1

    def now(self) -> float:
        """Seconds on the clock asked for."""
        return time.perf_counter() if self.clock == "wall" else time.process_time() / self.threads

    def batches(self, size: int) -> Iterator[tuple[float, Tensor, Tensor]]:
        """Shuffled epochs until the budget is spent: (share of the budget used, images, labels)."""
        start = self.now()
        self.steps, self.train_seconds = 0, 0.0
        while True:
            order = torch.randperm(len(self.images))
            for part in order[: len(order) // size * size].split(size):
                used = (self.now() - start) / self.seconds
                if used >= 1:
                    self.train_seconds = self.now() - start
                    return
                yield used, self.images[part], self.labels[part]
                self.steps += 1

    def count_calls(self, network: nn.Module, width: int = 1) -> None:
        """Count forward passes of `network` in evaluation mode; one pass serves `width` guided copies of a sample."""
        self.counted = 0

        def hook(*_: object) -> None:
            self.counted += width

        network.register_forward_hook(hook)
        self.parameters = sum(p.numel() for p in network.parameters())

    def chunks(self, size: int = 600) -> Iterator[Tensor]:
        """The labels asked for, a batch at a time; times the sampling."""
        start = self.now()
        self.rounds = math.ceil(len(self.asked) / size)
        yield from self.asked.split(size)
        self.sample_seconds = self.now() - start

    def save(self, samples: Tensor, *packages: str) -> None:
        """Write OUT.npz; refuses to if more network calls were made than allowed."""
        calls = self.counted / self.rounds
        if calls > self.calls:
            raise SystemExit(f"{calls} network calls a sample were made, {self.calls} are allowed")
        about = {
            "steps": self.steps,
            "train_seconds": round(self.train_seconds, 2),
            "sample_seconds": round(self.sample_seconds, 2),
            "calls": calls,
            "parameters": self.parameters,
            "versions": {name: version_of(name) for name in ("torch", *packages)},
            "recipe": self.recipe,
        }
        np.savez(self.out, samples=samples.float().numpy(), about=json.dumps(about))


def version_of(package: str) -> str:
    """Installed version; a package that runs from its source folder has none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(source tree)"


def layout(network: nn.Module, channels_last: bool) -> nn.Module:
    """Convolution weights in the memory layout asked for; channels last is often the faster one on processors."""
    return network.to(memory_format=torch.channels_last) if channels_last else network


def cosine(used: float, warm_up: float = 0.02) -> float:
    """Learning-rate factor when this share of the budget is used: linear warm-up, cosine to zero."""
    return used / warm_up if used < warm_up else 0.5 + 0.5 * math.cos(math.pi * (used - warm_up) / (1 - warm_up))


def read_task(recipe: dict) -> Task:
    """Parse the command line, seed torch, set the threads and load the data."""
    parser = argparse.ArgumentParser()
    for name in ("--train", "--out"):
        parser.add_argument(name, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--calls", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--settings", type=json.loads, default={}, help="JSON that overrides entries of the recipe")
    args = parser.parse_args()
    unknown = set(args.settings) - set(recipe)
    if unknown:
        raise SystemExit(f"unknown settings {sorted(unknown)}; there are {sorted(recipe)}")
    torch.manual_seed(args.seed)
    torch.set_num_threads(args.threads)
    data = np.load(args.train)
    tensors = [torch.from_numpy(data[key]) for key in ("images", "labels", "asked")]
    return Task(*tensors, args.seconds, args.calls, recipe | args.settings, args.out, args.clock, args.threads)
