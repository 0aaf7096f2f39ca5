"""Any entry of `benchmarks/samplers.py`, run on a trained network in place of an exact mixture.

    python on_network.py --problem IN.npz --net NET.pt2 --out OUT.npz --calls 5 6 8 10 --entry azula_samplers.py

The network is an exported program, which needs torch alone. Its labels and preconditioning are functions of the noise level,
so it serves every Gaussian path, from pure noise to data: above the highest level of its training, where its label would leave
all that it has seen, it is told that level, and the ODE stays smooth. Below the lowest, it is told the true one down to the
floor of its label, as undrift's denoisers are. States are float64, the network float32. The start of a
solver at a finite noise level is the state of the fine solution there, as for the mixtures.
"""

import argparse
import importlib
import json
import math
import sys
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from endpoints import Problem, score
from torch import Tensor

BATCH = 64
EMPTY = torch.empty(0)


@dataclass
class Learned(Problem):
    """The probability-flow ODE of a network with EDM's preconditioning.

    Attributes:
        net: (inputs (64, *E), labels (64,)) -> outputs.
        about: `shape` of a record, `data_std`, `floor` of the label, `top`, the highest noise level that it knows.
    """

    net: Any = None
    about: dict[str, Any] = field(default_factory=dict)

    def clean_and_noise(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """Posterior means of the clean end and of the noise, both from the network's answer: nothing is divided by sigma."""
        self.calls += 1
        alpha, sigma, spread = float(alpha), float(sigma), self.about["data_std"]
        power = alpha**2 * spread**2 + sigma**2
        made = self.answer(x / math.sqrt(power), min(math.atan2(sigma, alpha), math.atan(self.about["top"])))
        clean = alpha * spread**2 / power * x + sigma * spread / math.sqrt(power) * made
        return clean, sigma / power * x - alpha * spread / math.sqrt(power) * made

    def answer(self, inputs: Tensor, angle: float) -> Tensor:
        """What the network says when told this noise level, in batches of the size that it was exported for."""
        signal, noise, floor = math.cos(angle) ** 2, math.sin(angle) ** 2, self.about["floor"]
        label = math.log((noise + floor**2 * signal) / (signal + floor**2 * noise)) / 8
        inputs = inputs.float().reshape(-1, *self.about["shape"])
        padded = torch.cat([inputs, inputs.new_zeros(-len(inputs) % BATCH, *self.about["shape"])])
        labels = torch.full((BATCH,), label)
        return torch.cat([self.net(part, labels) for part in padded.split(BATCH)])[: len(inputs)].flatten(1).double()

    def true(self, y: Tensor, start: float, stop: float, tolerance: float = 0.0, steps: int = 8) -> Tensor:
        """By Runge and Kutta's fourth order in the angle, with ever smaller steps towards data."""

        def slope(y: Tensor, angle: float) -> Tensor:
            clean, noise = self.clean_and_noise(y, math.cos(angle), math.sin(angle))
            return math.cos(angle) * noise - math.sin(angle) * clean

        for now, then in pairwise((stop + (start - stop) * np.linspace(1, 0, steps + 1) ** 3).tolist()):
            h = then - now
            a = slope(y, now)
            b = slope(y + 0.5 * h * a, now + 0.5 * h)
            c = slope(y + 0.5 * h * b, now + 0.5 * h)
            d = slope(y + h * c, then)
            y = y + h / 6 * (a + 2 * b + 2 * c + d)
        return y


def load(file: Path, net: Path) -> Learned:
    """The problem of a file."""
    with np.load(file) as made:
        noise, end, about = torch.from_numpy(made["noise"]), torch.from_numpy(made["end"]), json.loads(str(made["about"]))
    return Learned(*[EMPTY] * 4, noise, end, seed=about["seed"], net=torch.export.load(net).module(), about=about)


def main() -> None:
    """Run entries; keep errors and endpoints."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--problem", type=Path, required=True)
    parser.add_argument("--net", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calls", type=int, nargs="+", required=True)
    parser.add_argument("--entry", nargs="+", required=True)
    parser.add_argument("--only", nargs="*", help="entries by name, beside those with their library's own settings")
    parser.add_argument("--drop", nargs="*", default=[], help="entries by name")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    script, *first = args.entry
    entries = importlib.import_module(script.removesuffix(".py")).entries(*first)
    problem, records, ends = load(args.problem, args.net), [], {}
    for entry in entries:
        if entry.name in args.drop or not (args.only is None or entry.default or entry.name in args.only):
            continue
        for calls in args.calls:
            kept: list[Tensor] = []

            def run(problem: Problem, calls: int, kept: list[Tensor] = kept, run: Any = entry.run) -> Tensor | None:
                end = run(problem, calls)
                kept += [] if end is None else [end]
                return end

            record = score(type(entry)(entry.name, run, entry.default), problem, calls)
            if "rms" in record:
                ends[str(len(records))] = kept[0].float().numpy()
            records.append(record | {"default": entry.default})
    np.savez(args.out, records=np.array(json.dumps(records)), **ends)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
