"""Handwritten digits in one minute of training: undrift's recipe beside the best recipe of its peers, in one run.

    python benchmarks/digits.py                      # everything: makes the peers' environment on first use
    python benchmarks/digits.py --only diffusers --seeds 0 --seconds 10

**Data.** The 1797 real 8x8 digits that scikit-learn bundles, pixels in [-1, 1]. **Split.** Two stratified halves by a
permutation of each class with a fixed seed (`undrift.evidence.split_half(labels, SPLIT_SEED)`); every recipe trains on
the first, the judge and every distance use the second. **Budget.** The same seconds of training on the same number of
threads, at most the same network calls a sample, and 1797 samples with the labels of the whole data set. **Measure.**
One judge, `undrift.evidence.evaluate`; everybody's samples are rounded to the 17 grey levels of the data. Runs
alternate (every recipe once a seed), so a slow quarter of an hour hits everybody. The median over seeds is reported,
and each seed.

A recipe is one script, `benchmarks/peers/<name>_digits.py`; `benchmarks/peers/interface.py` says what it reads and
writes. Peers run in an environment of their own, with the versions of `benchmarks/peers-digits.txt`; undrift runs in
this one.
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
from sklearn.datasets import load_digits

from undrift.evidence import Evidence, Judge, evaluate, split_half

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENTRIES = ("undrift", "diffusers", "azula", "kdiffusion")
SPLIT_SEED = 0
JUDGE_SEED = 0


def make_environment(folder: Path) -> Path:
    """The peers' interpreter; the environment is made on first use."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = HERE / "peers-digits.txt"
    done = folder / "peers-digits.txt"
    if not done.exists() or done.read_text() != pins.read_text():
        print(f"making the peers' environment in {folder} ...", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        torch_pin = next(line for line in pins.read_text().splitlines() if line.startswith("torch=="))
        # torch with what it needs; the rest exactly as listed, because azula and k-diffusion ask for packages
        # (torchvision, CLIP, wandb, ...) that none of the imported modules uses.
        for what in ([torch_pin], ["--no-deps", "-r", pins]):
            subprocess.run([python, "-m", "pip", "install", "--quiet", *what], check=True)
        done.write_text(pins.read_text())
    return python


def cpu() -> str:
    """Model of the processor, without the machine's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def busy_elsewhere() -> float:
    """Processor seconds spent by others than this process and its children so far; NaN where it cannot be told."""
    stat = Path("/proc/stat")
    if not stat.exists():
        return float("nan")
    user, nice, system = (int(ticks) for ticks in stat.read_text().split()[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK") - sum(os.times()[:4])


def run_entry(name: str, python: Path, seed: int, args: argparse.Namespace, folder: Path) -> tuple[torch.Tensor, dict]:
    """One training and sampling; returns the samples and what the entry says about itself."""
    out = folder / f"{name}-{seed}.npz"
    command = [*args.prefix.split(), python, HERE / "peers" / f"{name}_digits.py", "--train", folder / "train.npz"]
    for key in ("seconds", "calls", "threads", "clock"):
        command += [f"--{key}", getattr(args, key)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    before = busy_elsewhere()
    subprocess.run([str(c) for c in [*command, "--out", out, "--seed", seed]], check=True, env=environment)
    others = busy_elsewhere() - before
    with np.load(out) as made:
        return torch.from_numpy(made["samples"]), json.loads(str(made["about"])) | {"others": others}


def as_digits(samples: torch.Tensor) -> torch.Tensor:
    """Samples as a user would keep them: the 17 grey levels of the data, still in [-1, 1]."""
    return ((samples.clamp(-1, 1) + 1) * 8).round() / 8 - 1


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)] + [""]


def report(results: dict[str, list[tuple[Evidence, dict]]], args: argparse.Namespace) -> str:
    """The page: floor, medians, each seed, settings."""
    some = next(iter(results.values()))[0][0]
    names = [figure.name for figure in some.figures]
    header = [f"{f.name} ({'↓' if f.better == 'lower' else '↑'}, {f.unit})" for f in some.figures]

    def median(runs: list[tuple[Evidence, dict]], name: str) -> float:
        return statistics.median(evidence[name].value for evidence, _ in runs)

    cost = ["steps", "network calls", "parameters", "training, s", "sampling, s"]
    medians = [["**floor: real data**", *(f"**{f.floor:.4f}**" for f in some.figures), *[""] * len(cost)]]
    for entry, runs in results.items():
        about = [about for _, about in runs]

        def middle(key: str, about: list[dict] = about) -> float:
            return statistics.median(a[key] for a in about)

        spent = [middle(key) for key in ("steps", "calls", "parameters", "train_seconds", "sample_seconds")]
        values = [f"{median(runs, name):.4f}" for name in names]
        medians.append([entry, *values, *(f"{number:.0f}" for number in spent)])
    seeds = [
        [entry, str(seed), *(f"{evidence[name].value:.4f}" for name in names), str(about["steps"]), f"{about['others']:.0f}"]
        for entry, runs in results.items()
        for seed, (evidence, about) in zip(args.seeds, runs, strict=True)
    ]
    command = f"python benchmarks/digits.py --seconds {args.seconds:g} --calls {args.calls} --threads {args.threads}"
    command += f" --clock {args.clock}"
    versions = {k: v for runs in results.values() for k, v in runs[0][1]["versions"].items()}
    lines = [
        "# Digits: one minute of training" if args.seconds == 60 else f"# Digits: {args.seconds:g} s of training",
        "",
        f"Written by `{command} --seeds {' '.join(map(str, args.seeds))}`; every row is of the same run.",
        f"Processor: {cpu()}, {args.threads} threads. Python {platform.python_version()}, "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        + ".",
        "",
        f"1797 real 8x8 digits, cut in two stratified halves (seed {SPLIT_SEED}). Recipes train on {some.train} of them; "
        f"the judge and the distances use the other {some.held_out}. {some.samples} samples with the labels of the whole "
        f"set, at most {args.calls} network calls each; distances at matched size ({some.matched}), data unit: pixels in "
        "[-1, 1]. The floor is what the training half itself reaches (for the memorised fraction: what fresh real data "
        "would give). A distance at the floor is as good as this data can show; below it, it is chance or copying, which "
        "the memorised fraction tells apart.",
        "",
        f"## Median of {len(args.seeds)} seeds",
        "",
        *table(["recipe", *header, *cost], medians),
        "## Each seed",
        "",
        *table(["recipe", "seed", *names, "steps", "others, s"], seeds),
        "*others, s*: processor seconds that other programs took on this machine during the run; near zero on a quiet one.",
        "",
        "## Settings",
        "",
        "Each recipe is a script in `benchmarks/peers/`. All were tuned on this split with this measure and other training "
        "seeds: undrift's network, noise law and learning rate over about fifteen runs, each peer's network size and sampler "
        "over four or five. Everybody's samples are rounded to the 17 levels of the data.",
        "",
        *[f"- **{entry}**: `{json.dumps(runs[0][1]['recipe'])}`" for entry, runs in results.items()],
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of training, for each recipe and seed")
    parser.add_argument("--calls", type=int, default=50, help="network calls a sample, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor seconds / threads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--peers-env", type=Path, default=ROOT / ".venv-peers", help="made on first use")
    parser.add_argument("--prefix", default="", help="command to put before each run, such as 'nice -n 5'")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks" / "digits.md")
    args = parser.parse_args()

    entries = []
    for name in args.only:
        if (HERE / "peers" / f"{name}_digits.py").exists():
            entries.append(name)
        else:
            print(f"skipped: {name}, because benchmarks/peers/{name}_digits.py does not exist", flush=True)
    peers = make_environment(args.peers_env) if set(entries) - {"undrift"} else Path()

    pixels, labels = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    images = pixels.float().view(-1, 1, 8, 8) / 8 - 1
    train, held_out = split_half(labels, SPLIT_SEED)
    judge = Judge.fit(images[held_out], labels[held_out], seed=JUDGE_SEED)
    halves = images[train], labels[train], images[held_out], labels[held_out]

    results: dict[str, list[tuple[Evidence, dict]]] = {name: [] for name in entries}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.savez(folder / "train.npz", images=images[train], labels=labels[train], asked=labels)
        for seed in args.seeds:
            for name in entries:
                python = Path(sys.executable) if name == "undrift" else peers
                samples, about = run_entry(name, python, seed, args, folder)
                asked = labels if about.get("conditional", True) else None
                evidence = evaluate(as_digits(samples), asked, *halves, judge, seed=0)
                results[name].append((evidence, about))
                line = ", ".join(f"{f.name} {f.value:.4f} ({f.floor:.4f})" for f in evidence.figures)
                print(f"{name} seed {seed}: {line}; {about['steps']} steps", flush=True)
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(report(results, args))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
