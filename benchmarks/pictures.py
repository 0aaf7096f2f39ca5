"""Pictures with labels: undrift's recipe beside the best recipe of its peers, in one run.

    python benchmarks/pictures.py                      # digits, one minute; makes the peers' environment on first use
    python benchmarks/pictures.py --data fashion       # Fashion-MNIST, ten minutes
    python benchmarks/pictures.py --only diffusers --seeds 0 --seconds 10

**Data.** `digits`: the 1797 real 8x8 digits that scikit-learn bundles, two stratified halves by a fixed seed: every recipe
trains on the first, the judge and every distance use the second. `fashion`: Fashion-MNIST 28x28, from ../shared/data beside the
checkout; 50,000 of the training pictures train, the other 10,000 and the test set are held out. Pixels are in [-1, 1].
**Budget.** The same seconds of training on the same number of threads, at most the same network calls a sample, the same
labels asked for. **Measure.** One judge, `undrift.evidence.evaluate`; samples are rounded to the grey levels of the data. Runs
alternate (every recipe once a seed), so a slow quarter of an hour hits everybody. The median over seeds is reported,
and each seed.

A recipe is one script, `benchmarks/peers/<name>_pictures.py`; `benchmarks/peers/interface.py` says what it reads and
writes. Peers run in an environment of their own, with the versions of `benchmarks/peers-pictures.txt`; undrift runs in
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
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from undrift.codecs import open_data
from undrift.evidence import Evidence, Judge, evaluate, split_half

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ENTRIES = ("undrift", "diffusers", "azula", "kdiffusion")
SPLIT_SEED = 0
JUDGE_SEED = 0


def make_environment(folder: Path) -> Path:
    """The peers' interpreter; the environment is made on first use."""
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    pins = HERE / "peers-pictures.txt"
    done = folder / "peers-pictures.txt"
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
    command = [*args.prefix.split(), python, HERE / "peers" / f"{name}_pictures.py", "--train", folder / "train.npz"]
    for key in ("seconds", "calls", "threads", "clock"):
        command += [f"--{key}", getattr(args, key)]
    environment = os.environ | {"OMP_NUM_THREADS": str(args.threads), "MKL_NUM_THREADS": str(args.threads)}
    before = busy_elsewhere()
    command += ["--settings", json.dumps(SETTINGS[args.data].get(name, {}))]
    subprocess.run([str(c) for c in [*command, "--out", out, "--seed", seed]], check=True, env=environment)
    others = busy_elsewhere() - before
    with np.load(out) as made:
        return torch.from_numpy(made["samples"]), json.loads(str(made["about"])) | {"others": others}


def rounded(samples: torch.Tensor, levels: int) -> torch.Tensor:
    """Samples as a user would keep them: on the grey levels of the data, still in [-1, 1]."""
    return ((samples.clamp(-1, 1) + 1) * levels / 2).round() * 2 / levels - 1


@dataclass(frozen=True)
class Pictures:
    """Pictures in [-1, 1], shape (N, 1, H, W), for training and for judging.

    Attributes:
        train: with their labels.
        held_out: with their labels.
        asked: labels of the samples to draw.
        levels: steps between the grey levels of the data.
        about: what they are, in a sentence.
    """

    train: tuple[torch.Tensor, torch.Tensor]
    held_out: tuple[torch.Tensor, torch.Tensor]
    asked: torch.Tensor
    levels: int
    about: str


def digits() -> Pictures:
    """scikit-learn's digits, cut in two stratified halves."""
    from sklearn.datasets import load_digits

    pixels, labels = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    images = pixels.float().view(-1, 1, 8, 8) / 8 - 1
    train, held_out = split_half(labels, SPLIT_SEED)
    about = f"1797 real 8x8 digits, cut in two stratified halves (seed {SPLIT_SEED})."
    return Pictures((images[train], labels[train]), (images[held_out], labels[held_out]), labels, 16, about)


def fashion() -> Pictures:
    """Fashion-MNIST; 2000 samples, 200 of each class, are asked for."""
    folder = ROOT.parent / "shared/data/fashion_mnist"
    sets = []
    for part in ("train", "t10k"):
        opened = open_data(folder / f"{part}-images-idx3-ubyte.gz")
        images = torch.from_numpy(opened.source.take(np.arange(len(opened.source))))
        sets.append((images[:, None].float() / 127.5 - 1, torch.tensor(opened.labels)))
    (images, labels), test = sets
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SPLIT_SEED))
    train, rest = order[:50000], order[50000:]
    held_out = tuple(torch.cat([a[rest], b]) for a, b in zip((images, labels), test, strict=True))
    about = "Fashion-MNIST 28x28: 50,000 training pictures; held out are the other 10,000 and the 10,000 of the test set."
    return Pictures((images[train], labels[train]), held_out, torch.arange(10).repeat(200), 255, about)


DATA = {"digits": (digits, 60.0), "fashion": (fashion, 600.0)}
"""Data set -> its pictures, and the usual seconds of training."""

SETTINGS: dict[str, dict[str, dict]] = {
    "digits": {},
    "fashion": {
        "undrift": {"levels": 255},
        "azula": {"channels": [32, 64, 128], "blocks": [1, 1, 1], "embedding": 64},
        "diffusers": {"channels": [32, 64, 128]},
        "kdiffusion": {"channels": [32, 64, 128], "depths": [1, 1, 1], "attention": [False, False, True]},
    },
}
"""What replaces settings of the digits' recipes."""


def sheet(file: Path, samples: torch.Tensor, labels: torch.Tensor, each: int = 14) -> None:
    """A picture of samples (N, 1, H, W) in [-1, 1]: the first `each` of every class, a row a class."""
    from PIL import Image

    rows = [torch.cat(list(samples[labels == c][:each, 0]), 1) for c in labels.unique()]
    grey = ((torch.cat(rows) + 1) * 127.5).round().byte().numpy()
    image = Image.fromarray(grey)
    image.resize((2 * image.width, 2 * image.height), Image.Resampling.NEAREST).save(file, optimize=True)


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)] + [""]


def report(results: dict[str, list[tuple[Evidence, dict]]], args: argparse.Namespace, about_data: str) -> str:
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
    command = f"python benchmarks/pictures.py --data {args.data} --seconds {args.seconds:g} --calls {args.calls}"
    command += f" --threads {args.threads} --clock {args.clock}"
    if tuple(results) != ENTRIES:
        command += f" --only {' '.join(results)}"
    versions = {k: v for runs in results.values() for k, v in runs[0][1]["versions"].items()}
    lines = [
        f"# {args.data.capitalize()}: minutes of training: {args.seconds / 60:g}",
        "",
        f"Written by `{command} --seeds {' '.join(map(str, args.seeds))}`; every row is of the same run.",
        f"Processor: {cpu()}, {args.threads} threads. Python {platform.python_version()}, "
        + ", ".join(f"{k} {v}" for k, v in sorted(versions.items()))
        + ".",
        "",
        f"{about_data} Recipes train on {some.train}; the judge and the distances use the {some.held_out} held out. "
        f"{some.samples} samples, the same labels asked of everybody, "
        f"at most {args.calls} network calls each; distances at matched size ({some.matched}), data unit: pixels in "
        "[-1, 1]. The floor is what training pictures themselves reach (for the memorised fraction: what fresh real data "
        "would give). A distance at the floor is as good as this data can show; below it, it is chance or copying, which "
        "the memorised fraction tells apart.",
        "",
        f"## Median of {len(args.seeds)} seeds" if len(args.seeds) > 1 else "## One seed",
        "",
        *table(["recipe", *header, *cost], medians),
        "## Each seed",
        "",
        *table(["recipe", "seed", *names, "steps", "others, s"], seeds),
        "*others, s*: processor seconds that other programs took on this machine during the run; near zero on a quiet one.",
        "",
        "## Settings",
        "",
        "Each recipe is a script in `benchmarks/peers/`. All were tuned on the digits with this measure and other training "
        "seeds: undrift's network, noise law and learning rate over about fifteen runs, each peer's network size and sampler "
        "over four or five. For Fashion-MNIST the peers' networks have the widths of undrift's default there. Samples are "
        "rounded to the grey levels of the data.",
        "",
        *[f"- **{entry}**: `{json.dumps(runs[0][1]['recipe'])}`" for entry, runs in results.items()],
        "",
        "## Samples",
        "",
        f"The first of each class, seed {args.seeds[0]}; nothing was picked.",
        "",
        *[f"{entry}\n\n![Samples of {entry}, a row a class]({args.data}-{entry}.png)\n" for entry in results],
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=DATA, default="digits")
    parser.add_argument("--seconds", type=float, help="of training, for each recipe and seed; 60 for digits, 600 for fashion")
    parser.add_argument("--calls", type=int, default=50, help="network calls a sample, at most")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="cpu: processor seconds / threads")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES))
    parser.add_argument("--peers-env", type=Path, default=ROOT / ".venv-peers", help="made on first use")
    parser.add_argument("--prefix", default="", help="command to put before each run, such as 'nice -n 5'")
    parser.add_argument("--out", type=Path, help="docs/benchmarks/DATA.md by default")
    parser.add_argument("--keep", type=Path, help="folder for the samples of every entry and seed")
    args = parser.parse_args()
    load, usual = DATA[args.data]
    args.seconds = args.seconds or usual
    args.out = args.out or ROOT / "docs" / "benchmarks" / f"{args.data}.md"
    args.out.parent.mkdir(parents=True, exist_ok=True)

    entries = []
    for name in args.only:
        if (HERE / "peers" / f"{name}_pictures.py").exists():
            entries.append(name)
        else:
            print(f"skipped: {name}, because benchmarks/peers/{name}_pictures.py does not exist", flush=True)
    peers = make_environment(args.peers_env) if set(entries) - {"undrift"} else Path()

    pictures = load()
    judge = Judge.fit(*pictures.held_out, seed=JUDGE_SEED)

    results: dict[str, list[tuple[Evidence, dict]]] = {name: [] for name in entries}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.savez(folder / "train.npz", images=pictures.train[0], labels=pictures.train[1], asked=pictures.asked)
        for seed in args.seeds:
            for name in entries:
                python = Path(sys.executable) if name == "undrift" else peers
                samples, about = run_entry(name, python, seed, args, folder)
                asked = pictures.asked if about.get("conditional", True) else None
                made = rounded(samples, pictures.levels)
                if seed == args.seeds[0]:
                    sheet(args.out.with_name(f"{args.data}-{name}.png"), made, pictures.asked)
                if args.keep:
                    args.keep.mkdir(parents=True, exist_ok=True)
                    np.savez_compressed(args.keep / f"{name}-{seed}.npz", x=made, y=pictures.asked)
                evidence = evaluate(made, asked, *pictures.train, *pictures.held_out, judge, seed=0)
                results[name].append((evidence, about))
                line = ", ".join(f"{f.name} {f.value:.4f} ({f.floor:.4f})" for f in evidence.figures)
                print(f"{name} seed {seed}: {line}; {about['steps']} steps", flush=True)
    args.out.write_text(report(results, args, pictures.about))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
