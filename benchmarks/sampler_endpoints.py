"""Part (a) of `benchmarks/samplers.py`: how far from the true endpoint a solver ends with a given number of calls.

**Problems.** Mixtures of 25 Gaussians with full random covariances (weights Dirichlet(1), means standard normal, covariances
A A^T / d), scaled to a standard deviation of about 1, drawn afresh for each run; the denoiser is their exact posterior mean,
in float64. **Truth.** The probability-flow ODE of every Gaussian path is one ODE, from pure noise to data, and from each
noise it has one endpoint: DOP853 at a tolerance of 1e-10. Paths with alpha = 0 at t = 1 start at that noise. A solver that
starts elsewhere (EDM's at sigma = 80, discrete VP ladders at sigma / alpha = 157, ...) starts at its own level, at the state
of the true trajectory there: what is measured is the discretisation alone. Who would start below 79 is left out, for it would
be spared a part of the way. **Error.** Root of the mean squared difference over the coordinates, a number a sample; median
and root mean square over the samples, and of those the median over the mixtures. A coarse solution leads some samples to
another mode than theirs: one of them is enough to rule a root mean square, and the median does not see it. **Calls.** Every
evaluation of the denoiser is counted; who cannot make the number exactly makes the largest it can below.

**Peers.** Every one with its own solvers, ladders and settings, each in the best way it offers
(`benchmarks/peers/*_samplers.py` say how). Their 1,600 combinations were searched on other mixtures (`--search`); what was
among the best in any cell (`benchmarks/peers/samplers.json`), and what their authors set, runs here. "The best peer" of a
cell is picked *after* seeing these very errors, anew for every cell: no user could pick it beforehand. undrift's default is
one rule for all cells; tuned, it has seen this denoiser, but none of these noises.
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pictures import HERE, table

sys.path.insert(0, str(HERE / "peers"))

import endpoints

ENTRIES: dict[str, list[str]] = {  # peer: its script, and what the script wants to know first
    "azula": ["azula_samplers.py"],
    "diffusers": ["diffusers_samplers.py"],
    "k-diffusion": ["kdiffusion_samplers.py"],
    "deepinv": ["deepinv_samplers.py"],
    "flow_matching": ["flow_samplers.py", "flow_matching"],
    "torchcfm": ["flow_samplers.py", "torchcfm"],
}
OURS = "undrift"
SHORT_LIST = HERE / "peers/samplers.json"
MEASURES = {"rms": "root mean square", "median": "median"}
KEPT = 2  # settings of a cell that the search keeps for each peer
Record = dict[str, Any]
Who = tuple[str, str]
"""A peer, and the name of its entry."""
Errors = dict[Who, dict[tuple[int, int], float]]
"""Who -> (d, calls) -> error."""


def options(parser: argparse.ArgumentParser) -> None:
    """The options of this part."""
    parser.add_argument("--mixtures", type=int, default=5, help="problems for every d, where no seeds are given")
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 64])
    parser.add_argument("--calls", type=int, nargs="+", default=[5, 6, 8, 10, 15, 20, 30, 50])
    parser.add_argument("--batch", type=int, default=1024, help="start points for each mixture")
    parser.add_argument("--search", action="store_true", help="every setting of every peer; renews the short list")
    parser.add_argument("--only", nargs="+", choices=ENTRIES, default=list(ENTRIES), help="peers")
    parser.add_argument("--records", type=Path, help="where to keep every record, as JSON")


def measure(args: argparse.Namespace, python: Path | None) -> tuple[list[Record], dict[str, str]]:
    """All records and versions."""
    peers = [] if python is None else args.only
    short = json.loads(SHORT_LIST.read_text()) if SHORT_LIST.exists() and not args.search else {}
    names = [OURS, *peers]  # the longest first
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        with ProcessPoolExecutor(args.jobs) as pool:
            for d in args.dims:
                made = pool.map(endpoints.solved, repeat(d), args.seeds, repeat(args.batch))
                arrays = [problem.arrays(f"{d}_{i}") for i, problem in enumerate(made)]
                np.savez(folder / f"{d}.npz", **{key: value for each in arrays for key, value in each.items()})
                print(f"{len(arrays)} problems with d = {d} and their endpoints", flush=True)

        def one(name: str, d: int) -> dict[str, Any]:
            script, *first = ENTRIES.get(name, ["undrift_samplers.py"])
            out = folder / f"{name}-{d}.json"
            command = [python if name in peers else sys.executable, HERE / "peers" / script, *first]
            command += ["--problems", folder / f"{d}.npz", "--out", out, "--calls", *args.calls]
            command += ["--only", *short[name]] if name in short else []
            environment = os.environ | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
            done = subprocess.run([str(c) for c in command], env=environment, capture_output=True, text=True)
            if done.returncode:
                last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
                print(f"{name}, d = {d}: {last}", flush=True)
                return {"records": [{"peer": name, "name": "(the package)", "d": d, "calls": 0, "note": last}], "versions": {}}
            print(f"{name}, d = {d}: done", flush=True)
            return json.loads(out.read_text())

        jobs = [(name, d) for d in sorted(args.dims, reverse=True) for name in names]
        with ThreadPoolExecutor(args.jobs) as pool:
            answers = list(pool.map(lambda job: one(*job), jobs))
    records = [record for answer in answers for record in answer["records"]]
    return records, {key: value for answer in answers for key, value in answer["versions"].items()}


def errors(records: list[Record], key: str) -> Errors:
    """Median over the mixtures of a measure; infinite where any of them failed."""
    found: dict[tuple[str, str], dict[tuple[int, int], list[float]]] = defaultdict(lambda: defaultdict(list))
    for r in records:
        if r["calls"]:
            found[r["peer"], r["name"]][r["d"], r["calls"]].append(r.get(key, math.inf))
    return {
        who: {
            cell: statistics.median(values) if all(map(math.isfinite, values)) else math.inf for cell, values in cells.items()
        }
        for who, cells in found.items()
    }


def best(
    some: Errors, cell: tuple[int, int], peers: list[str], names: set[tuple[str, str]] | None = None
) -> tuple[float, str, str]:
    """(error, peer, name) of the best entry of a cell."""
    chosen = [
        (cells.get(cell, math.inf), peer, name)
        for (peer, name), cells in some.items()
        if peer in peers and (names is None or (peer, name) in names)
    ]
    return min(chosen, default=(math.inf, "", ""))


def keep(records: list[Record], args: argparse.Namespace) -> None:
    """The short list: for each peer, the best few of every cell by either measure, and a setting for each way to fail."""
    kept: dict[str, set[str]] = defaultdict(set)
    for key in MEASURES:
        some = errors(records, key)
        for peer in args.only:
            for cell in {cell for cells in some.values() for cell in cells}:
                ranked = sorted((cells.get(cell, math.inf), name) for (who, name), cells in some.items() if who == peer)
                kept[peer] |= {name for error, name in ranked[:KEPT] if math.isfinite(error)}
    for (peer, _), failed in complaints(records).items():
        if peer in args.only:
            kept[peer].add(min(r["name"] for r in failed))
    SHORT_LIST.write_text(json.dumps({peer: sorted(names) for peer, names in sorted(kept.items())}, indent=1) + "\n")
    print(f"wrote {SHORT_LIST}: {sum(map(len, kept.values()))} settings")


def figure(value: float) -> str:
    """Two digits that count."""
    if not math.isfinite(value):
        return "-"
    return f"{value:.2g}" if value >= 1e-3 else f"{value:.1e}".replace("e-0", "e-")


def ratio(theirs: float, ours: float) -> str:
    """How many times smaller ours is."""
    return f"**{theirs / ours:.2f}**" if math.isfinite(theirs) and math.isfinite(ours) else "-"


def headline(some: Errors, args: argparse.Namespace, peers: list[str]) -> list[str]:
    """The best peer of every cell beside undrift's default and tuned samplers."""
    rows = []
    for d in args.dims:
        for calls in args.calls:
            error, peer, name = best(some, (d, calls), peers)
            ours = [some.get((OURS, f"{kind} flow"), {}).get((d, calls), math.inf) for kind in ("default", "tuned")]
            who = f"{peer}: {name}" if math.isfinite(error) else "-"
            rows.append([str(d), str(calls), who, figure(error), *map(figure, ours), *(ratio(error, e) for e in ours)])
    header = [
        "d",
        "calls",
        "best peer",
        "its error",
        "undrift default",
        "undrift tuned",
        "best peer / default",
        "best peer / tuned",
    ]
    return table(header, rows)


def by_peer(
    some: Errors, args: argparse.Namespace, d: int, groups: list[tuple[str, str, set[tuple[str, str]] | None]]
) -> list[str]:
    """The best entry of each group in each column."""
    rows = []
    for title, peer, names in groups:
        found = [best(some, (d, calls), [peer], names) for calls in args.calls]
        rows.append([title, *(f"{figure(error)} ({name})" if math.isfinite(error) else "-" for error, _, name in found)])
    return table([f"d = {d}", *(f"{calls} calls" for calls in args.calls)], rows)


def by_solver(some: Errors) -> Errors:
    """The samplers of undrift, each on the best of its paths and grids in every cell."""
    found: Errors = {}
    for (peer, name), cells in some.items():
        if peer == OURS:
            mine = found.setdefault((peer, name.split(",")[0]), {})
            for cell, error in cells.items():
                mine[cell] = min(error, mine.get(cell, math.inf))
    return found


def ours(some: Errors, args: argparse.Namespace) -> list[str]:
    """Every sampler of undrift, a table for each d."""
    lines = []
    for d in args.dims:
        rows = [
            [name, *(figure(cells.get((d, calls), math.inf)) for calls in args.calls)]
            for (_, name), cells in by_solver(some).items()
        ]
        lines += table([f"d = {d}", *(f"{calls} calls" for calls in args.calls)], rows)
    return lines


def complaints(records: list[Record]) -> dict[tuple[str, str], list[Record]]:
    """The records of what went wrong, by peer and complaint; the numbers in a complaint make no difference."""
    kinds: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for r in records:
        if "note" in r and r["note"] != "needs more calls":
            kinds[r["peer"], re.sub(r"[-+.e\d]*\d", "", r["note"])].append(r)
    return kinds


def troubles(records: list[Record]) -> list[str]:
    """What went wrong, as a list."""
    lines = []
    for (peer, _), where in sorted(complaints(records).items()):
        names = sorted({r["name"] for r in where})
        shown = "; ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
        calls = ", ".join(map(str, sorted({r["calls"] for r in where})))
        lines.append(f"- {peer}, {shown} (calls {calls}): " + " ".join(where[0]["note"].split()))
    return [*(lines or ["- nothing"]), ""]


class Panel(NamedTuple):
    """A panel of a picture: title, axis label, the axis' highest value, a level to mark, and the lines, value by calls."""

    title: str
    label: str
    top: float
    mark: float | None
    lines: dict[Who, dict[int, float]]


def picture(panels: list[Panel], calls: list[int], peers: list[str], file: Path) -> None:
    """Lines against calls: peers grey and thin, their best of each number of calls black, ours bold."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.ticker import NullLocator

    same = len({panel.label for panel in panels}) == 1
    drawing, axes = plt.subplots(1, len(panels), figsize=(6 * len(panels), 5.5), squeeze=False, sharey=same)
    floor = math.inf
    bold = {"default flow": ("undrift, default", "#c1272d", "o"), "tuned flow": ("undrift, tuned", "#0b5fa5", "s")}
    for axis, (title, label, top, mark, lines) in zip(axes[0], panels, strict=True):
        labels = {"peer": "peers, a line for each setting", "own": "undrift's other solvers, best grid"}
        floor = floor if same else math.inf
        for (peer, name), line in lines.items():
            heights = [line.get(n, math.inf) for n in calls]
            heights = [h if h < 1.5 * top else math.nan for h in heights]  # a little beyond the axis, to leave it slanting
            if peer not in peers and name not in bold and name.startswith(("default", "tuned")):
                continue  # the same solvers on another path
            floor = min([floor, *(h for h in heights if h > 0)])
            if peer in peers:
                axis.plot(calls, heights, color="0.75", linewidth=0.6, zorder=1, label=labels.pop("peer", None))
            elif name in bold:
                word, color, marker = bold[name]
                axis.plot(calls, heights, color=color, linewidth=2.6, marker=marker, markersize=5, zorder=5, label=word)
            else:
                axis.plot(calls, heights, color="#e8a87c", linewidth=0.9, zorder=2, label=labels.pop("own", None))
        if peers:
            theirs = [line for (peer, _), line in lines.items() if peer in peers]
            lowest = [min((line.get(n, math.inf) for line in theirs), default=math.inf) for n in calls]
            style = {"color": "black", "linewidth": 1.6, "linestyle": "--", "zorder": 4}
            axis.plot(calls, lowest, label="best peer of each number of calls", **style)
        axis.set(xscale="log", yscale="log", xlabel="denoiser calls", title=title, ylabel=label, ylim=(floor / 1.5, top))
        if mark is not None:
            axis.axhline(mark, color="0.4", linewidth=0.8, linestyle=":")
        axis.set_xticks(calls, [str(n) for n in calls])
        axis.xaxis.set_minor_locator(NullLocator())
        axis.grid(visible=True, which="major", color="0.92", linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0][0].legend(frameon=False, loc="lower left")
    drawing.tight_layout()
    drawing.savefig(file, dpi=110)
    plt.close(drawing)


def panels(some: Errors, dims: list[int]) -> list[Panel]:
    """One for each d; the others of undrift's solvers on their best grid."""
    lines = {who: cells for who, cells in some.items() if who[0] != OURS}
    return [
        Panel(
            f"d = {d}",
            "root-mean-square error of the endpoint, unit of the data",
            2.0,
            None,
            {who: {n: e for (at, n), e in cells.items() if at == d} for who, cells in (lines | by_solver(some)).items()},
        )
        for d in dims
    ]


def part(args: argparse.Namespace, python: Path | None) -> list[str]:
    """Measure, draw, and write the section."""
    records, versions = measure(args, python)
    if args.records:
        args.records.write_text(json.dumps({"records": records, "versions": versions}))
    peers = [] if python is None else list(args.only)
    if args.search:
        keep(records, args)
    by_rms = errors(records, "rms")
    picture(panels(by_rms, args.dims), args.calls, peers, args.out.with_suffix(".png"))
    lines = ["## (a) Error of the endpoint", "", (__doc__ or "").split("\n\n", 1)[1].strip(), ""]
    lines += [
        f"{len(args.seeds)} mixtures for each d, {args.batch} noises for each; {sum(who[0] in peers for who in by_rms)} "
        f"settings of {len(peers)} peers. "
        + ", ".join(f"{name} {version}" for name, version in sorted(versions.items()))
        + ".",
        "",
        f"![Error of the endpoint against calls]({args.out.with_suffix('.png').name})",
        "",
    ]
    for key, word in MEASURES.items():
        lines += [
            f"### {word.capitalize()} over the samples, on the straight flow",
            "",
            *headline(errors(records, key), args, peers),
        ]
    own = {(r["peer"], r["name"]) for r in records if r.get("default")}
    groups = [
        (f"{peer}, {what}", peer, names) for peer in peers for what, names in (("best", None), ("as set by its authors", own))
    ]
    lines += [
        "### The best of each peer, root mean square",
        "",
        '"As set by its authors": the best of its solvers with their own settings and ladders. A dash: none can do with so few '
        "calls, or none that could worked.",
        "",
        *(line for d in args.dims for line in by_peer(by_rms, args, d, groups)),
        "### undrift, root mean square",
        "",
        "The default and the tuned sampler by path; every deterministic solver on its best path and grid in each column.",
        "",
        *ours(by_rms, args),
    ]
    tuning = [r for r in records if "tuning_calls" in r]
    if tuning:
        spent = {key: statistics.median(r[key] for r in tuning) for key in ("tuning_calls", "tuning_seconds")}
        words = (
            f"Tuning took {spent['tuning_calls']:.0f} calls with a batch of its own, {spent['tuning_seconds']:.2g} s (medians)."
        )
        lines += [words, ""]
    return [*lines, "### What went wrong", "", *troubles(records)]
