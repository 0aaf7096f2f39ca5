"""Posterior samplers against exact posteriors, every method in one run, and a peer's beside them.

    python benchmarks/posteriors.py                          # fresh problems; writes docs/benchmarks/posteriors.md
    python benchmarks/posteriors.py --seed 7 --dims 8 80     # the same problems again, some of the cells

**Problems.** A mixture of 25 Gaussians of unit covariance, means (8i, 8j, 8i, 8j, ...) for i, j in -2..2, random weights;
m noisy looks y = A x + noise z in orthonormal directions, with random singular values and random noise (the problem of Cardoso
et al. 2023, 2308.07983). The posterior is a mixture known in closed form. Everything is drawn from one seed, and a new one each
time unless one is given. Data are divided by their standard deviation, as a codec would.

**What a method is given.** The exact posterior *mean* of x_0 given x_t, as a perfectly trained network would give it, and no
more; `condition` alone is given the whole law and is the yardstick for that. Nothing is tuned to the problem.

**Measure.** Sliced W2, in the unit of the means, between n draws and a large exact set. `floor` is what n exact draws reach
(mean of several sets), `ignored y` what the prior reaches. The excess is W2 - floor.

**Linear-Gaussian.** A prior N(m, C) in 4 dimensions, two looks: error of mean and covariance of many draws, in posterior
standard deviations, beside what exact draws of that number show.

**Peer.** azula runs its own implementations on its own schedule with its own settings in an environment of its own, on the same
problems, one thread each (`benchmarks/peers/azula_posteriors.py`). deepinv cannot be imported without torchvision.
"""

import argparse
import json
import math
import os
import platform
import secrets
import statistics
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pictures import HERE, ROOT, cpu, make_environment, table
from undrift import gaussian, grids
from undrift.core import Covariance, Shared
from undrift.evidence import sliced_w2
from undrift.guidance import Likelihood
from undrift.inverse import METHODS, gaussian_likelihood, posterior
from undrift.laws import Mixture, Normal, Point
from undrift.operators import Matrix
from undrift.schedules import VP

F64 = torch.float64
PATH = gaussian.Path(VP())
REFERENCE, FLOORS = 4000, 4
COLUMN = "d = {}, {} steps"
Record = dict[str, Any]
PEER = {  # ours: theirs (1 = one conjugate-gradient or GMRES step in m > 1, their default)
    "dps": "dps",
    "pigdm": "pgdm",
    "tmpd": "tmpd",
    "mmps": "mmps_solved",
    "diffpir": "diffpir_solved",
    "repaint": "repaint",
    "tds": "tds",
}


@dataclass(frozen=True)
class MeanOfMixture:
    """E[X_0 | x_t] for a mixture of isotropic Gaussians of one variance: what a perfect network would answer.

    Attributes:
        path: the path.
        means: shape (K, d).
        log_weights: shape (K,).
        variance: of every component.
    """

    path: Any
    means: Tensor
    log_weights: Tensor
    variance: float

    def __call__(self, x_t: Tensor, t: Tensor) -> Point:
        """One softmax over the components; what all components share has cancelled."""
        alpha, sigma = float(self.path.schedule.alpha(t)), float(self.path.schedule.sigma(t))
        noisy = alpha**2 * self.variance + sigma**2
        squares = self.means.square().sum(-1)
        logits = self.log_weights + (alpha * (x_t @ self.means.mT) - 0.5 * alpha**2 * squares) / noisy
        gain = alpha * self.variance / noisy
        return Point(gain * x_t + (1 - gain * alpha) * (torch.softmax(logits, -1) @ self.means))


@dataclass(frozen=True)
class Problem:
    """One mixture and one measurement, data divided by `unit`."""

    prior: Mixture
    posterior: Mixture
    likelihood: Likelihood
    mean_only: MeanOfMixture
    unit: float
    arrays: dict[str, Any]


def make(d: int, m: int, seed: int) -> Problem:
    """A problem of d numbers and m looks."""
    rng = torch.Generator().manual_seed(seed)
    steps = range(-2, 3)
    means = torch.stack([torch.tensor([8.0 * i, 8.0 * j] * (d // 2), dtype=F64) for i in steps for j in steps])
    weights = torch.distributions.Exponential(torch.ones(25, dtype=F64)).icdf(torch.rand(25, dtype=F64, generator=rng))
    weights = weights / weights.sum()
    centre = weights @ means
    unit = math.sqrt(float((weights @ (means - centre).square()).mean()) + 1)
    left = torch.linalg.qr(torch.randn(m, m, dtype=F64, generator=rng))[0]
    right = torch.linalg.qr(torch.randn(d, m, dtype=F64, generator=rng))[0]
    singular = torch.rand(m, dtype=F64, generator=rng)
    a = left @ torch.diag(singular) @ right.mT
    noise = float(singular.max() * torch.rand((), dtype=F64, generator=rng).clamp_min(0.05))
    k = int(torch.multinomial(weights, 1, generator=rng))
    x_0 = means[k] + torch.randn(d, dtype=F64, generator=rng)
    y = a @ x_0 + noise * torch.randn(m, dtype=F64, generator=rng)
    small = (means - centre) / unit
    prior = Mixture.of(weights, small, Covariance.isotropic(torch.full((25,), unit**-2, dtype=F64), d))
    likelihood = gaussian_likelihood((y - a @ centre) / unit, Matrix(a), noise / unit)
    arrays = {"means": means.numpy(), "log_weights": weights.log().numpy(), "A": a.numpy(), "y": y.numpy(), "noise": noise}
    mean_only = MeanOfMixture(PATH, small, weights.log(), unit**-2)
    return Problem(prior, likelihood.absorb(prior), likelihood, mean_only, unit, arrays)


def peers(python: Path, problem: Problem, n: int, steps: int, seed: int, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Samples of the peer's methods, and its notes."""
    source, target = folder / "problem.npz", folder / "out.npz"
    np.savez(source, **problem.arrays, n=n, steps=steps, seed=seed)
    command = [str(python), str(HERE / "peers/azula_posteriors.py"), str(source), str(target), *PEER.values()]
    subprocess.run(command, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, stdout=subprocess.DEVNULL)
    with np.load(target) as made:
        return {key: made[key] for key in made.files if key != "notes"}, json.loads(str(made["notes"]))


def measure(args: argparse.Namespace, python: Path | None) -> list[Record]:
    """One record per problem, steps and method."""
    records: list[Record] = []
    cells = [(d, m, i) for d in args.dims for m in args.measurements for i in range(args.problems)]
    begun = time.time()
    for done, (d, m, i) in enumerate(cells):
        seed = (args.seed * 1_000_003 + d * 10_007 + m * 101 + i) % 2**31
        p = make(d, m, seed)
        reference = p.posterior.expand(REFERENCE).sample(Shared(1))

        def distance(x: Tensor, p: Problem = p, reference: Tensor = reference) -> float:
            return p.unit * sliced_w2(reference, x, projections=256) if bool(torch.isfinite(x).all()) else math.inf

        floor = statistics.mean(distance(p.posterior.expand(args.n).sample(Shared(2 + j))) for j in range(FLOORS))
        base = {"d": d, "m": m, "problem": i, "floor": floor, "ignored": distance(p.prior.expand(args.n).sample(Shared(9)))}
        for steps in args.steps:
            grid = grids.uniform(None, steps)
            for name in args.methods or METHODS:
                model = gaussian.Exact(PATH, p.prior) if name == "condition" else p.mean_only
                start = time.perf_counter()
                found = posterior(
                    model, p.likelihood, grid, args.n, method=name, event=(d,), seed=seed, data_std=1.0, dtype=F64
                )
                spent = time.perf_counter() - start
                calls = METHODS[name].calls(grid)
                record = {"method": name, "steps": steps, "w2": distance(found.samples), "seconds": spent, "calls": calls}
                if found.particles is not None:
                    record["log_z_error"] = float(found.particles.log_evidence - p.likelihood.lift(p.prior))
                records.append(base | record)
            if python is not None:
                with tempfile.TemporaryDirectory() as folder:
                    made, notes = peers(python, p, args.n, steps, seed % 2**31, Path(folder))
                for name in PEER.values():
                    if "error" not in notes.get(name, {"error": ""}) and f"{name}.samples" in made:
                        # Their samples are in the unit of the means, uncentred: bring them to ours.
                        centre = p.arrays["means"].T @ np.exp(p.arrays["log_weights"])
                        x = torch.from_numpy((made[f"{name}.samples"] - centre) / p.unit)
                        w2, seconds, calls = distance(x), float(made[f"{name}.seconds"]), int(made[f"{name}.calls"])
                    else:
                        w2, seconds, calls = math.inf, math.nan, 0
                    record = {"method": f"azula {name}", "steps": steps, "w2": w2, "seconds": seconds, "calls": calls}
                    records.append(base | record)
        left = (time.time() - begun) / (done + 1) * (len(cells) - done - 1)
        print(f"{done + 1}/{len(cells)} problems (d = {d}, m = {m}), about {left / 60:.1f} min left", flush=True)
    return records


def bias(args: argparse.Namespace) -> list[list[str]]:
    """Rows of the linear-Gaussian table."""
    rng = torch.Generator().manual_seed(args.seed)
    d, n = 4, args.draws
    root = torch.randn(d, d, dtype=F64, generator=rng) / 2
    cov, mean = root @ root.mT + 0.1 * torch.eye(d, dtype=F64), torch.randn(d, dtype=F64, generator=rng)
    full = Covariance.full(cov[None])
    prior = Normal(mean[None], full)
    a = torch.randn(2, d, dtype=F64, generator=rng)
    likelihood = gaussian_likelihood(a @ mean + torch.randn(2, dtype=F64, generator=rng), Matrix(a), 0.4)
    exact = likelihood.absorb(prior)
    white = torch.linalg.inv(torch.linalg.cholesky(exact.covariance()[0]))

    def errors(x: Tensor) -> tuple[float, float]:
        z = (x - exact.mean) @ white.mT
        return float(z.mean(0).norm()), float((torch.cov(z.mT) - torch.eye(d, dtype=F64)).norm())

    draws = torch.randn(n, d, dtype=F64, generator=rng) @ torch.linalg.cholesky(exact.covariance()[0]).mT + exact.mean
    rows = [["**exact draws**", "", *(f"**{e:.3f}**" for e in errors(draws) * len(args.bias_steps))]]
    model = gaussian.Exact(PATH, prior)

    @dataclass(frozen=True)
    class Mean:
        path: Any = PATH

        def __call__(self, x_t: Tensor, t: Tensor) -> Point:
            return Point(model(x_t, t).mean)

    std = math.sqrt(float(cov.diagonal().mean()))
    for name, method in METHODS.items():
        row = [name, method.exact]
        for steps in args.bias_steps:
            grid = grids.uniform(None, steps)
            found = posterior(
                model if name == "condition" else Mean(), likelihood, grid, n, method=name, event=(d,), seed=1, data_std=std,
                particles=n, dtype=F64,
            )  # fmt: skip
            row += [f"{e:.3f}" if e < 1000 else "> 999" for e in errors(found.samples)]
        rows.append(row)
    return rows


def mean(records: list[Record], key: str, name: str | None, d: int, steps: int) -> float:
    """Mean of a figure over the problems of a column, of one method (or of all: for floors)."""
    some = [r[key] for r in records if (r["d"], r["steps"]) == (d, steps) and name in (None, r["method"])]
    return statistics.mean(some) if some else math.nan


def figure(value: float) -> str:
    """Two digits, or that it ran away."""
    return f"{value:.2f}" if value < 1000 else "> 999"


def distances(records: list[Record], names: list[str], columns: list[tuple[int, int]]) -> list[str]:
    """W2 of every method."""
    rows = [
        [f"**{what}**", *(f"**{mean(records, key, None, *c):.2f}**" for c in columns)]
        for what, key in (("floor: exact draws", "floor"), ("ignored y", "ignored"))
    ]
    rows += [[name, *(figure(mean(records, "w2", name, *c)) for c in columns)] for name in names]
    return table(["", *(COLUMN.format(*c) for c in columns)], rows)


def excess(records: list[Record], names: list[str], columns: list[tuple[int, int]]) -> list[str]:
    """`auto` beside the best of our methods, and the exact law beside the floor."""
    ours = [n for n in names if n not in ("auto", "condition") and not n.startswith("azula")]
    rows = []
    for c in columns:
        floor = mean(records, "floor", None, *c)
        gaps = {name: mean(records, "w2", name, *c) - floor for name in (*ours, "auto")}
        best = min(ours, key=lambda name: gaps[name])
        law = mean(records, "w2", "condition", *c) / floor
        ratio = figure(gaps["auto"] / gaps[best]) if gaps[best] > 0 else "at the floor"
        rows.append([COLUMN.format(*c), best, figure(gaps[best]), figure(gaps["auto"]), ratio, figure(law)])
    return table(["", "best method", "its excess", "excess of auto", "ratio", "condition / floor"], rows)


def beside(records: list[Record], names: list[str], columns: list[tuple[int, int]], dims: list[int]) -> list[str]:
    """The same method, ours and the peer's: error and time."""

    def cost(name: str, d: int) -> float:
        some = (r for r in records if r["method"] == name and r["d"] == d)
        return statistics.median(1e3 * r["seconds"] / max(r["calls"], 1) for r in some)

    rows = []
    for ours, theirs in PEER.items():
        pair = (ours, f"azula {theirs}")
        if all(name in names for name in pair):
            errors = [" / ".join(figure(mean(records, "w2", name, *c)) for name in pair) for c in columns]
            rows.append([" / ".join(pair), *errors, *(" / ".join(f"{cost(name, d):.2f}" for name in pair) for d in dims)])
    return table(
        ["ours / theirs", *(f"W2, {COLUMN.format(*c)}" for c in columns), *(f"ms a call, d = {d}" for d in dims)], rows
    )


def page(records: list[Record], gaussian_rows: list[list[str]], args: argparse.Namespace) -> str:
    """The page."""
    names = list(dict.fromkeys(r["method"] for r in records))
    columns = [(d, steps) for d in args.dims for steps in args.steps]
    grid = grids.uniform(None, 100)
    costs = [[name, str(row.calls(grid)), str(row.products(grid, 4)), row.source] for name, row in METHODS.items()]
    lines = ["# Posterior samplers against exact posteriors", "", (__doc__ or "").split("\n\n", 2)[2].strip(), ""]
    lines += [
        f"Seed {args.seed}; {args.problems} problems for each of m = {', '.join(map(str, args.measurements))} in every column; "
        f"n = {args.n} samples, drawn from {4 * args.n} particles where a method of ours has them. {cpu()}, one thread, torch "
        f"{torch.__version__}, Python {platform.python_version()}.",
        "",
        "## Sliced W2 to the exact posterior",
        "",
        "Mean over the problems of a column. `auto` is for those in doubt: twisted particles.",
        "",
        *distances(records, names, columns),
        "Excess over the floor of `auto`, which is not given the posterior, beside that of the best of our methods; and the W2 "
        "of the exact law in units of the floor:",
        "",
        *excess(records, names, columns),
    ]
    if any(name.startswith("azula") for name in names):
        lines += [
            "## Side by side with azula",
            "",
            f"The same method on the same problems: mean W2, and milliseconds for a denoiser call of the whole batch (median): "
            f"{args.n} samples, but {4 * args.n} particles for our `tds` against {args.n} for theirs.",
            "",
            *beside(records, names, columns, args.dims),
        ]
    lines += [
        "## Bias on a linear-Gaussian problem",
        "",
        f"Error of the mean (norm) and of the covariance (Frobenius) of {args.draws} draws, in posterior standard deviations. "
        '"Exact for" is what a method claims in the limit of many steps.',
        "",
        *table(
            ["method", "exact for", *(f"{what}, {s} steps" for s in args.bias_steps for what in ("mean", "covariance"))],
            gaussian_rows,
        ),
        "## What each costs",
        "",
        *table(["method", "calls, 100 steps", "Jacobian products at most, m = 4", "source"], costs),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    """Run the benchmark and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=None, help="of the problems; fresh by default")
    parser.add_argument("--dims", type=int, nargs="+", default=[8, 80, 800])
    parser.add_argument("--measurements", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, nargs="+", default=[20, 100])
    parser.add_argument("--problems", type=int, default=3, help="per cell")
    parser.add_argument("--n", type=int, default=500, help="samples per method")
    parser.add_argument("--draws", type=int, default=50_000, help="of the linear-Gaussian table")
    parser.add_argument("--bias-steps", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--methods", nargs="*", help="some of METHODS; all by default")
    parser.add_argument("--no-peers", action="store_true")
    parser.add_argument(
        "--peers-env", type=Path, default=ROOT / ".venv-peers", help="the peers' environment; made on first use"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "docs/benchmarks/posteriors.md")
    args = parser.parse_args()
    args.seed = secrets.randbelow(10**6) if args.seed is None else args.seed
    torch.set_num_threads(1)
    print(f"seed {args.seed}", flush=True)
    records = measure(args, None if args.no_peers else make_environment(args.peers_env))
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(page(records, bias(args), args))
    print(f"wrote {args.out}")


if __name__ == "__main__":
    main()
