"""Part (c) of `benchmarks/samplers.py`: how many calls a trained network needs.

**Network.** undrift's own for scikit-learn's 8x8 digits, trained here for some minutes (`--minutes`) or taken from a run
(`--run`); every solver, undrift's too, runs the same exported program from the same noise. **Fine solution.** Runge and
Kutta's fourth order in atan2(sigma, alpha), some hundred steps; half as many tell how far to trust it. **Endpoint error.** As
in part (a), in codec units (pixels in [-1, 1]): root mean square and median over the samples of the distance to the fine
solution. **Samples.** Sliced W2 (512 directions) of the samples to as many real digits, divided by that of the fine solution:
1.00 is what the network itself can do. A solver is *there* from the first number of calls from which on, at every larger one
too, that ratio is at most 1.05. Beside it stands the distance of real digits to other real digits.

**Entries.** The short list of part (a) runs on a few samples first; of each peer, what was best there with some number of calls
runs on all of them, beside what its authors set. So do undrift's default, tuned for this network, and each of its deterministic
solvers on the grid that was best for it there.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pictures import HERE, table
from sampler_endpoints import ENTRIES, OURS, SHORT_LIST, Panel, Who, figure, picture, ratio

NEAR = 1.05
SAME = [f"{kind} {path}" for kind in ("default", "tuned") for path in ("EDM", "trigonometric")]  # as on the flow
TUNED = ["tuned flow"]  # nothing to choose
Record = dict[str, Any]


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--run", type=Path, help="a run on the digits; trained here by default")
    parser.add_argument("--minutes", type=float, default=2.0, help="of training")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--pilot", type=int, default=64, help="samples that choose each peer's entries")
    parser.add_argument("--fine", type=int, default=160, help="steps of the fine solution, four calls each")


def digits() -> np.ndarray:
    """The 1797 digits as pictures of bytes, in an order of their own."""
    from sklearn.datasets import load_digits

    images = np.rint(load_digits(return_X_y=True)[0].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    return images[np.random.default_rng(0).permutation(len(images))]


def export(model: Any, file: Path) -> dict[str, Any]:
    """The network as a program for batches of 64; what else is needed to run it."""
    import inspect

    import on_network  # pyright: ignore[reportMissingImports]

    from undrift.gaussian.denoiser import noise_label

    shape, denoiser = model.codec.event_shape, model.denoiser
    if denoiser.head != "edm":
        raise SystemExit(f"this benchmark runs networks with the head edm, and the run's is {denoiser.head}")
    example = torch.zeros(on_network.BATCH, *shape), torch.zeros(on_network.BATCH)
    torch.export.save(torch.export.export(denoiser.net, example), file)
    floor = inspect.signature(noise_label).parameters["floor"].default
    start = torch.ones((), dtype=torch.float64)
    top = float(denoiser.path.schedule.sigma(start) / denoiser.path.schedule.alpha(start))
    return {"shape": list(shape), "data_std": denoiser.data_std, "floor": floor, "top": min(top, 1e3), "seed": 0}


def agree(model: Any, problem: Any) -> float:
    """Largest difference of the exported denoiser from the model's own, or of its parts' sum from the state."""
    path, off = model.denoiser.path, 0.0
    for t in (0.0, 1e-3, 0.05, 0.3, 0.6, 0.9):
        time = torch.tensor(t, dtype=torch.float64)
        alpha, sigma = float(path.schedule.alpha(time)), float(path.schedule.sigma(time))
        x = math.hypot(alpha, sigma) * problem.noise[:64]
        own = model.denoiser(x.float().reshape(-1, *model.codec.event_shape), time).mean.flatten(1)
        clean, noise = problem.clean_and_noise(x, alpha, sigma)
        off = max(off, float((own - clean).abs().max()), float((alpha * clean + sigma * noise - x).abs().max()))
    return off


def run_all(
    args: argparse.Namespace, folder: Path, problem: Path, jobs: list[tuple[str, list[str] | None]], python: Path | None
) -> list[tuple[Record, np.ndarray | None]]:
    """Records and endpoints of entries."""

    def one(job: tuple[str, list[str] | None]) -> list[tuple[Record, np.ndarray | None]]:
        peer, only = job
        out = folder / f"{problem.stem}-{peer}.npz"
        command = [sys.executable if peer == OURS else python, HERE / "peers/on_network.py", "--problem", problem]
        command += ["--net", folder / "net.pt2", "--out", out, "--calls", *args.calls]
        command += ["--entry", *ENTRIES.get(peer, ["undrift_samplers.py"])]
        command += [] if only is None else ["--only", *only]
        command += ["--drop", *SAME, *(TUNED if problem.stem == "pilot" else [])] if peer == OURS else []
        environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
            print(f"{peer}: {last}", flush=True)
            return [({"peer": peer, "name": "(the package)", "calls": 0, "note": last}, None)]
        print(f"{problem.stem}: {peer} done", flush=True)
        with np.load(out) as made:
            records = json.loads(str(made["records"]))
            return [({"peer": peer} | r, made.get(str(i))) for i, r in enumerate(records)]

    with ThreadPoolExecutor(args.jobs) as pool:
        return [pair for answer in pool.map(one, jobs) for pair in answer]


def chosen(pilot: list[Record]) -> dict[str, list[str]]:
    """Of each peer, the entries with the least error at some number of calls, in either measure; of ours, a grid a solver."""
    kept: dict[str, set[str]] = {OURS: set()}
    for key in ("rms", "median"):
        for peer, calls in {(r["peer"], r["calls"]) for r in pilot if r["peer"] != OURS}:
            able = [r for r in pilot if (r["peer"], r["calls"]) == (peer, calls) and key in r]
            if able:
                kept.setdefault(peer, set()).add(min(able, key=lambda r: r[key])["name"])
    scores: dict[str, list[float]] = {}
    for r in pilot:
        if r["peer"] == OURS and "rms" in r:
            scores.setdefault(r["name"], []).append(math.log(r["rms"]))
    most = max(map(len, scores.values()), default=0)
    for solver in {name.split(",")[0] for name in scores}:
        grids = {name: sum(s) + 10 * (most - len(s)) for name, s in scores.items() if name.split(",")[0] == solver}
        kept[OURS].add(min(grids, key=lambda name: grids[name]))
    return {peer: sorted(names) for peer, names in kept.items()}


def there(ratios: dict[int, float]) -> str:
    """The first number of calls from which on every ratio is at most 1.05."""
    first = None
    for calls in sorted(ratios, reverse=True):
        if not ratios[calls] <= NEAR:
            break
        first = calls
    return "-" if first is None else str(first)


def part(args: argparse.Namespace, python: Path | None) -> list[str]:
    """The section's lines."""
    import undrift
    from undrift.evidence import sliced_w2

    sys.path.insert(0, str(HERE / "peers"))
    import on_network  # pyright: ignore[reportMissingImports]

    torch.set_grad_enabled(False)
    data = digits()
    if args.run is None:
        with torch.enable_grad():
            model = undrift.fit(data, minutes=args.minutes, held_out=0.1, seed=0, progress=False)
    else:
        model = undrift.load(args.run)
    real = model.codec.encode(data).flatten(1).double()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        about = export(model, folder / "net.pt2")
        noise = torch.randn(args.samples, real.shape[1], generator=torch.Generator().manual_seed(args.seeds[0])).double()

        def keep(name: str, noise: torch.Tensor, end: torch.Tensor) -> Path:
            np.savez(folder / name, noise=noise.numpy(), end=end.numpy(), about=np.array(json.dumps(about)))
            return folder / name

        problem = on_network.load(keep("all.npz", noise, noise), folder / "net.pt2")
        apart = agree(model, problem)
        if apart > 1e-4:
            raise SystemExit(f"the exported network is off the model's by {apart:g}")
        fine = problem.true(noise, math.pi / 2, 0.0, steps=args.fine)
        coarser = problem.true(noise[: args.pilot], math.pi / 2, 0.0, steps=args.fine // 2)
        trust = (coarser - fine[: args.pilot]).square().mean(1).sqrt()
        print(f"fine solution; with half its steps off by {float(trust.median()):.1e} (median)", flush=True)
        short = json.loads(SHORT_LIST.read_text())
        few = keep("pilot.npz", noise[: args.pilot], fine[: args.pilot])
        peers = [] if python is None else list(args.only)
        trials = [(OURS, None), *((peer, short.get(peer)) for peer in peers)]
        found = chosen([record for record, _ in run_all(args, folder, few, trials, python)])
        print(f"{sum(map(len, found.values()))} entries chosen", flush=True)
        made = run_all(args, folder, keep("all.npz", noise, fine), list(found.items()), python)
    w2: Callable[[torch.Tensor], float] = lambda x: sliced_w2(x, real[: args.samples])  # noqa: E731
    least = w2(fine)
    half = len(real) // 2
    yardstick = sliced_w2(real[:half], real[half:])
    rows: dict[Who, dict[int, Record]] = {}
    for record, end in made:
        if end is not None:
            record["ratio"] = w2(torch.from_numpy(end).double()) / least
            rows.setdefault((record["peer"], record["name"]), {})[record["calls"]] = record
    trained = f"{args.minutes:g} minutes of training" if args.run is None else "a run that was given"
    lines = [
        "## (c) Calls that a trained network needs",
        "",
        *(__doc__ or "").split("\n\n", 1)[1].strip().splitlines(),
        "",
        f"{args.samples} samples, one network ({trained}). The fine solution, with {4 * args.fine} calls, is off that with "
        f"half as many by {figure(float(trust.median()))} in the median and {figure(float(trust.square().mean().sqrt()))} in "
        f"the root mean square ({args.pilot} samples). Its sliced W2 to the data is {least:.4f}; two halves of the data are at "
        f"{yardstick:.4f}, with {half} and {len(real) - half} digits.",
        "",
    ]
    series = {
        key: {who: {calls: r[key] for calls, r in by_calls.items()} for who, by_calls in rows.items()}
        for key in ("rms", "median", "ratio")
    }
    drawing = args.out.with_name(f"{args.out.stem}-network.png")
    shown = [
        ("median", "endpoints", "median error of the endpoint, pixels in [-1, 1]", 1.0, None),
        ("ratio", "samples", "sliced W2 to the data over that of the fine solution", 4.0, NEAR),
    ]
    picture([Panel(*words, series[key]) for key, *words in shown], args.calls, peers, drawing)
    lines += [f"![Error and sliced W2 against calls]({drawing.name})", ""]
    for title, key in (("root mean square of the error", "rms"), ("median of the error", "median")):
        lines += [f"### Beside the peers, {title}, pixels in [-1, 1]", "", *headline(series[key], args)]
    lines += ["### Sliced W2 to the data, as a multiple of the fine solution's", ""]
    lines += table(
        ["sampler", *(f"{calls} calls" for calls in args.calls), "there from (calls)"],
        [
            [
                ": ".join(who),
                *(f"{series['ratio'][who][calls]:.3f}" if calls in series["ratio"][who] else "-" for calls in args.calls),
                there({calls: series["ratio"][who].get(calls, math.inf) for calls in args.calls}),
            ]
            for who in sorted(rows, key=lambda who: (who[0] != OURS, who))
        ],
    )
    return lines


def headline(errors: dict[Who, dict[int, float]], args: argparse.Namespace) -> list[str]:
    """The best peer of every number of calls beside undrift's default and tuned samplers."""
    out = []
    for calls in args.calls:
        theirs = min(((e[calls], *who) for who, e in errors.items() if who[0] != OURS and calls in e), default=(math.inf, "-"))
        ours = [errors.get((OURS, f"{kind} flow"), {}).get(calls, math.inf) for kind in ("default", "tuned")]
        out.append([str(calls), ": ".join(theirs[1:]), *map(figure, (theirs[0], *ours)), *(ratio(theirs[0], e) for e in ours)])
    header = ["calls", "best peer", "its error", "undrift default", "undrift tuned", "best peer / default", "best peer / tuned"]
    return table(header, out)
