"""Training a U-Net on this processor: undrift beside its peers, in interleaved rounds of one run.

    python benchmarks/training.py                          # every contestant; makes the peers' environment on first use
    python benchmarks/training.py --only undrift azula --seconds 20
    python benchmarks/training.py --race --seconds 600     # also: seconds to the best peer's held-out loss

**Contestants.** About 6.5 million parameters, 32 x 32 RGB, batches of 32; parameters and forward FLOPs agree within 5 %, or
the run stops. Each peer in eager float32, eager bfloat16 (`torch.autocast`), `torch.compile` in float32, and both; ours as it
trains (bfloat16, channels last, eager), in float32, and with `torch.compile` on top. **Step.** Rows of a uint8 array to
floats, EDM's loss, backward, clipping, fused AdamW, a fused moving average: the same code for everybody
(`peers_training/contestant.py`), with the fastest parts that PyTorch has, so that only the network and its mode differ.
**Rounds.** Every contestant is a process; they take turns of about a second while the others sleep, so a slow quarter of an
hour hits everybody. Median over steps, and the range of the rounds' medians. **Memory.** Peak resident memory of the process,
compiler included where there is one. **Race.** Held-out loss (the mode's own precision, averaged weights, the same times and
noise for everybody) over the seconds of training; the mark is what the best peer ends with.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
DATA = ROOT.parent / "shared/data/sign_digits/sign_digits_32.npz"
PEERS = ("azula", "diffusers", "lucidrains")
MODES = {"undrift": ("bf16", "fp32", "compile-bf16"), **dict.fromkeys(PEERS, ("fp32", "bf16", "compile", "compile-bf16"))}
PINS = ("torch=={torch}", "azula==0.11.1", "diffusers==0.42.1", "denoising-diffusion-pytorch==2.3.4")
BATCH = 32


class Contestant:
    """A process that trains on request."""

    def __init__(self, network: str, mode: str, python: Path, data: Path, args: argparse.Namespace):
        self.name, self.network, self.mode = f"{network} {mode}", network, mode
        self.rounds: list[list[float]] = []
        self.curve: list[tuple[float, float]] = []
        environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads), "PYTHONPATH": str(ROOT / "src")}
        script = HERE / "peers_training/contestant.py"
        self.process = subprocess.Popen(
            [python, script, network, mode, data, str(args.threads), str(args.learning_rate)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def ask(self, order: str) -> dict:
        """Send one line, read one line."""
        stdin, stdout = self.process.stdin, self.process.stdout
        if stdin is None or stdout is None:
            raise RuntimeError("the contestant has no pipes")
        stdin.write(order + "\n")
        stdin.flush()
        answer = stdout.readline()
        if not answer:
            raise RuntimeError(f"{self.name} ended; its complaint is above")
        return json.loads(answer)

    def turn(self, seconds: float) -> None:
        """Train for about so long. The first step of a turn wakes the memory up again and is not counted."""
        steps = max(3, round(seconds / self.pace())) if self.rounds else 3
        self.rounds.append(self.ask(f"steps {steps}")["seconds"][1:])

    def pace(self) -> float:
        """Seconds of a step, median."""
        return statistics.median(s for each in self.rounds for s in each)

    def spread(self) -> tuple[float, float]:
        """Lowest and highest median of a round, images a second."""
        medians = [BATCH / statistics.median(each) for each in self.rounds]
        return min(medians), max(medians)


def environment(folder: Path) -> Path:
    """The peers' interpreter; the environment is made on first use."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        print(f"making the peers' environment in {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        pins = [pin.format(torch=torch.__version__.split("+")[0]) for pin in PINS]
        subprocess.run([python, "-m", "pip", "install", "--quiet", *pins], check=True)
        # lucidrains' package asks for torchvision, which its network does not use and diffusers would then import
        subprocess.run([python, "-m", "pip", "uninstall", "--quiet", "--yes", "torchvision"], check=True)
    return python


def split(folder: Path) -> Path:
    """A fifth of the photographs is held out."""
    if not DATA.exists():
        sys.exit("the photographs (shared/data/sign_digits) are not beside the checkout")
    images = np.load(DATA)["x"]
    order, file = np.random.default_rng(0).permutation(len(images)), folder / "images.npz"
    np.savez(file, train=images[order[len(images) // 5 :]], held=images[order[: len(images) // 5]])
    return file


def check_sizes(facts: dict[str, dict]) -> None:
    for what in ("parameters", "flops"):
        sizes = {name: fact[what] for name, fact in facts.items()}
        if max(sizes.values()) > 1.05 * min(sizes.values()):
            sys.exit(f"{what} differ by more than 5 %: {sizes}")


def race(contestants: list[Contestant], seconds: float) -> None:
    """Held-out loss over each contestant's own seconds of training."""
    for one in contestants:
        one.curve, spent = [], 0.0
    while any(not one.curve or one.curve[-1][0] < seconds for one in contestants):
        for one in contestants:
            spent = one.curve[-1][0] if one.curve else sum(map(sum, one.rounds))
            if spent < seconds:
                spent += sum(one.ask(f"steps {max(3, round(seconds / 40 / one.pace()))}")["seconds"])
                one.curve.append((spent, one.ask("held")["held"]))
                print(f"{one.name:24s} {spent:7.0f} s  held-out loss {one.curve[-1][1]:.4f}", flush=True)


def table(contestants: list[Contestant], facts: dict[str, dict]) -> list[str]:
    lines = ["| network | mode | images/s | range | ms a step | peak GiB | parameters | forward GFLOP an image |"]
    lines.append("|---|---|---:|---:|---:|---:|---:|---:|")
    for one in sorted(contestants, key=lambda one: one.pace()):
        low, high = one.spread()
        fact = facts[one.name]
        lines.append(
            f"| {one.network} | {one.mode} | {BATCH / one.pace():.1f} | {low:.1f}-{high:.1f} | {1e3 * one.pace():.0f} | "
            f"{fact['peak'] / 2**30:.2f} | {fact['parameters'] / 1e6:.2f} M | {fact['flops'] / 1e9:.2f} |"
        )
    return lines


def verdict(contestants: list[Contestant], facts: dict[str, dict]) -> list[str]:
    """Ours by default beside the best peer's best mode."""
    ours = next((one for one in contestants if one.name == "undrift bf16"), None)
    peers = [one for one in contestants if one.network != "undrift"]
    if ours is None or not peers:
        return []
    best = min(peers, key=lambda one: one.pace())
    lines = [
        "",
        f"undrift as it trains does {best.pace() / ours.pace():.2f} times the images a second of the best peer's best mode "
        f"({best.name}), at {facts[ours.name]['peak'] / facts[best.name]['peak']:.2f} of its peak memory.",
    ]
    if ours.curve:
        last = min(peers, key=lambda one: one.curve[-1][1])
        mark = last.curve[-1][1]
        reached = next((f"{spent:.0f} s" for spent, loss in ours.curve if loss <= mark), "not reached")
        lines.append(f"Held-out loss {mark:.4f}: {last.name} after {last.curve[-1][0]:.0f} s, undrift: {reached}.")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=30.0, help="of training for each contestant")
    parser.add_argument("--only", nargs="+", default=list(MODES), choices=list(MODES))
    parser.add_argument("--modes", nargs="+", help="only these modes; `bf16-last` is bfloat16 with channels last")
    parser.add_argument("--race", action="store_true", help="go on to --seconds with held-out losses")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--peers", type=Path, default=ROOT / ".venv-peers-training", help="the peers' environment")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/training.md")
    args = parser.parse_args()
    python = environment(args.peers) if set(args.only) & set(PEERS) else Path(sys.executable)
    with tempfile.TemporaryDirectory() as folder:
        data, contestants = split(Path(folder)), []
        for network in args.only:
            for mode in args.modes or MODES[network]:
                one = Contestant(network, mode, Path(sys.executable) if network == "undrift" else python, data, args)
                contestants.append(one)
                one.turn(0)  # allocations and the compiler
                one.rounds.clear()
        turns = max(3, round((30.0 if args.race else args.seconds) / 1.5))
        for turn in range(turns):
            for one in contestants:
                one.turn(1.5)
            paces = ", ".join(f"{one.name} {BATCH / one.pace():.1f}" for one in contestants)
            print(f"round {turn + 1} of {turns}: {paces}", flush=True)
        facts = {one.name: one.ask("facts") for one in contestants}
        check_sizes(facts)
        if args.race:
            race(contestants, args.seconds)
        for one in contestants:
            one.process.communicate()
    text = [*table(contestants, facts), *verdict(contestants, facts)]
    print("\n".join(text))
    model = next((line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "")  # noqa: SIM115
    head = [
        "# Training a U-Net: undrift beside its peers",
        "",
        f"`python benchmarks/training.py` on {model or platform.processor()}, {args.threads} threads, PyTorch "
        f"{torch.__version__}. Images a second of whole training steps at batch 32: median, and the range of the medians of "
        "interleaved rounds.",
        "",
    ]
    args.out.write_text("\n".join([*head, *text, ""]))


if __name__ == "__main__":
    main()
