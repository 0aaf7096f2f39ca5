"""Part (b) of `benchmarks/samplers.py`: what a sampler costs beside the network.

A network that costs almost nothing (half of its input) leaves the sampler's own time. **The floor** is a loop that calls it as
often and makes one update, `torch.add(x * a, net(x), alpha=b)`: three elementwise operations a call, with the network's.
Every figure is a sampler's time a call over the floor's, from the same start, its plan included (undrift's coefficients,
diffusers' `set_timesteps`); ladders of times or noise levels are made before. One thread, float32, no gradients, no compiler.
Every run follows an untimed one of its own; floor and samplers alternate, and the median over the rounds is given with
the quartiles. A block of 30 MB is allocated and freed first, as any real network does: without one, the system takes the memory
of large states back after each call, and page faults are what is timed (`benchmarks/peers/overhead.py`).

The solvers are each library's DDIM (k-diffusion's Euler), its multistep of order 2 in the clean end, its Heun, and what it has
of order 3: undrift's default, UniPC of diffusers, `vAB` of azula, `dpmpp_3m_sde` without noise of k-diffusion. `trajectory` is
the loop, `sample` that with its check for NaN.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pictures import HERE, table

PEERS = ("azula", "diffusers", "kdiffusion")
ROWS = ("DDIM", "multistep", "Heun", "order 3")
LIMITS = {"64x3x32x32": 1.3, "1x3x32x32": 2.0, "4096x2": 2.0}
COLUMNS = ("undrift, trajectory", "undrift, sample", "azula", "diffusers", "k-diffusion")


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--timed-calls", type=int, nargs="+", default=[50, 100])
    parser.add_argument("--cold", action="store_true", help="without a large block freed beforehand")


def measure(args: argparse.Namespace, python: Path | None) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """All records and versions; one library after the other, alone."""
    records, versions = [], {}
    with tempfile.TemporaryDirectory() as temporary:
        for name in ("undrift", *(PEERS if python else ())):
            out = Path(temporary) / f"{name}.json"
            command = [python if name in PEERS else sys.executable, HERE / f"peers/{name}_overhead.py", "--out", out]
            command += ["--rounds", args.rounds, "--calls", *args.timed_calls, *(["--cold"] if args.cold else [])]
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
            if done.returncode:
                print(f"{name}: {(done.stderr.strip().splitlines() or ['?'])[-1]}", flush=True)
                continue
            made = json.loads(out.read_text())
            records += made["records"]
            versions |= made["versions"]
            print(f"{name}: timed", flush=True)
    return records, versions


def place(record: dict[str, Any]) -> tuple[str, str]:
    """Row and column of a record."""
    solver, _, kind = record["name"].partition(", ")
    return ("order 3" if solver == "default" else solver), ", ".join([record["peer"], *([kind] if kind else [])])


def part(args: argparse.Namespace, python: Path | None) -> list[str]:
    """The section's lines."""
    records, versions = measure(args, python)
    lines = ["## (b) Time beside the network", "", *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(), ""]
    lines += [f"{args.rounds} rounds. " + ", ".join(f"{k} {v}" for k, v in sorted(versions.items())) + ".", ""]
    for shape, limit in LIMITS.items():
        some = [r for r in records if r["shape"] == shape]
        if not some:
            continue
        low, high = min(r["floor_us"] for r in some), max(r["floor_us"] for r in some)
        cells = {(*place(r), r["calls"]): f"{r['ratio']:.2f} ({r['low']:.2f} to {r['high']:.2f})" for r in some}
        rows = [
            [f"{row}, {calls} calls", *(cells.get((row, column, calls), "-") for column in COLUMNS)]
            for row in ROWS
            for calls in args.timed_calls
        ]
        lines += [f"### {shape}: floor {low:.1f} to {high:.1f} us a call; aim, but for order 3: at most {limit:g}", ""]
        lines += table(["times the floor", *COLUMNS], rows)
    return lines
