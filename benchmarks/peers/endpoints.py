"""What every entry of `benchmarks/samplers.py` shares: exact mixtures, the true endpoints, and how an entry is run and scored.

The entry's environment needs torch, numpy and scipy. An entry is a script `benchmarks/peers/<name>_samplers.py`, called as

    python NAME_samplers.py --problems IN.npz --out OUT.json --calls 5 6 8 10 [--only NAME ...]

IN.npz holds the problems (`Problem.arrays`), OUT.json the records (`score`) and the versions.

**The ODE.** With x_t = alpha x_0 + sigma z, y = x_t / sqrt(alpha^2 + sigma^2) and the angle theta = atan2(sigma, alpha), the
probability-flow ODE of every Gaussian path is one and the same,

    dy / dtheta = cos(theta) E[z | x_t] - sin(theta) E[x_0 | x_t],

from theta = pi/2 (pure noise) to 0 (data), and regular at both ends. So there is one true trajectory from each noise to one
endpoint. A solver that starts at a finite noise level is given the state of *that* trajectory at its own level, and so has the
same endpoint to reach: what is measured is its discretisation, and nothing else.
"""

import argparse
import json
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.integrate import solve_ivp
from torch import Tensor

F64 = torch.float64
LOWEST_START = 79.0  # sigma / alpha: who starts lower is spared a part of the way


@dataclass
class Problem:
    """A mixture of Gaussians with full covariances, in the eigenbases of its components.

    Attributes:
        log_weights: shape (K,).
        means: of the components, each in its own eigenbasis, shape (K, d).
        values: eigenvalues of the covariances, shape (K, d).
        bases: eigenvectors of all components side by side, shape (d, K * d).
        noise: states at pure noise, shape (B, d).
        end: where the ODE takes them, shape (B, d).
        seed: it was drawn with.
        calls: of the posterior mean so far, each for the whole batch.
        states: of the trajectory, by angle.
        facts: what an entry wants its next record to say.
    """

    log_weights: Tensor
    means: Tensor
    values: Tensor
    bases: Tensor
    noise: Tensor
    end: Tensor = field(default_factory=lambda: torch.empty(0))
    seed: int = 0
    calls: int = 0
    states: dict[float, Tensor] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def d(self) -> int:
        """Numbers in a state."""
        return self.noise.shape[1]

    def clean_and_noise(self, x: Tensor, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """E[x_0 | x] and E[z | x] for x = alpha x_0 + sigma z, shape (B, d) each; counts as one call.

        One of the two is summed over the components, the other follows from x; which one, so that nothing cancels.
        """
        self.calls += 1
        alpha, sigma = float(alpha), float(sigma)
        shape = (len(x), *self.values.shape)
        parts = torch.addmm((-alpha * self.means).flatten(), x, self.bases).view(shape)
        variances = alpha**2 * self.values + sigma**2
        squares = (parts * variances.rsqrt()).square_().sum(2)
        weights = torch.softmax(self.log_weights - 0.5 * (variances.log().sum(1) + squares), 1)[..., None]
        if sigma > 1e-3 * alpha:
            own = torch.addcmul(self.means, alpha * self.values / variances, parts).mul_(weights)
            clean = own.flatten(1) @ self.bases.mT
            return clean, (x - alpha * clean) / sigma
        noise = parts.mul_(sigma / variances).mul_(weights).flatten(1) @ self.bases.mT
        return (x - sigma * noise) / alpha, noise

    def clean(self, x: Tensor, alpha: float, sigma: float) -> Tensor:
        """E[x_0 | x], shape (B, d)."""
        return self.clean_and_noise(x, alpha, sigma)[0]

    def true(self, y: Tensor, start: float, stop: float, tolerance: float = 1e-10) -> Tensor:
        """The state at angle `stop` on the trajectory through y at angle `start`, both divided by hypot(alpha, sigma)."""

        def slope(angle: float, flat: np.ndarray) -> np.ndarray:
            clean, noise = self.clean_and_noise(torch.from_numpy(flat).view_as(y), math.cos(angle), math.sin(angle))
            return (math.cos(angle) * noise - math.sin(angle) * clean).flatten().numpy()

        made = solve_ivp(slope, (start, stop), y.flatten().numpy(), "DOP853", rtol=tolerance, atol=tolerance)
        if not made.success:
            raise RuntimeError(f"the reference was not found: {made.message}")
        return torch.from_numpy(made.y[:, -1].copy()).view_as(y)

    def start(self, alpha: float, sigma: float) -> Tensor:
        """The state at this noise level on the trajectory from `noise`, shape (B, d), in the unit of alpha x_0 + sigma z."""
        alpha, sigma = float(alpha), float(sigma)
        if sigma < LOWEST_START * alpha:
            raise ValueError(f"starts at a noise level of {sigma / alpha:.3g}, which spares it a part of the way")
        angle, calls = math.atan2(sigma, alpha), self.calls
        if angle not in self.states:
            far = angle < math.pi / 2
            self.states[angle] = self.true(self.noise, math.pi / 2, angle, 1e-12) if far else self.noise
        self.calls = calls
        return math.hypot(alpha, sigma) * self.states[angle]

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        """For a file of problems."""
        keys = ("log_weights", "means", "values", "bases", "noise", "end")
        return {f"{name}.{key}": getattr(self, key).numpy() for key in keys} | {f"{name}.seed": np.array(self.seed)}


def draw(d: int, seed: int, batch: int, components: int = 25) -> Problem:
    """A fresh mixture of standard deviation about 1 and noise for it; `end` is left open.

    Weights Dirichlet(1), means standard normal about their mean, covariances A A^T / d with A standard normal.
    """
    rng = np.random.default_rng([seed, d])
    weights = rng.dirichlet(np.ones(components))
    means = rng.normal(size=(components, d))
    roots = rng.normal(size=(components, d, d)) / math.sqrt(d)
    covariances = roots @ roots.transpose(0, 2, 1)
    means -= weights @ means
    variance = weights @ (means**2).mean(1) + weights @ np.trace(covariances, axis1=1, axis2=2) / d
    means, covariances = means / math.sqrt(variance), covariances / variance
    values, bases = np.linalg.eigh(covariances)
    own = np.einsum("kd,kde->ke", means, bases)
    flat = np.ascontiguousarray(bases.transpose(1, 0, 2).reshape(d, -1))
    noise = rng.normal(size=(batch, d))
    return Problem(*(torch.from_numpy(a) for a in (np.log(weights), own, values, flat, noise)), seed=seed)


def solved(d: int, seed: int, batch: int) -> Problem:
    """A fresh problem with its true endpoints."""
    problem = draw(d, seed, batch)
    problem.end, problem.calls = problem.true(problem.noise, math.pi / 2, 0.0), 0
    return problem


def load(file: Path) -> list[Problem]:
    """The problems of a file."""
    with np.load(file) as made:
        names = dict.fromkeys(key.split(".")[0] for key in made.files)
        keys = ("log_weights", "means", "values", "bases", "noise", "end")
        return [Problem(*(torch.from_numpy(made[f"{n}.{k}"]) for k in keys), seed=int(made[f"{n}.seed"])) for n in names]


@dataclass(frozen=True)
class Entry:
    """A solver with its settings.

    Attributes:
        name: solver and settings.
        run: (problem, calls allowed) -> endpoints, shape (B, d), or None if it cannot be done within so few calls.
        default: the settings that its library sets, or the nearest that this problem allows.
    """

    name: str
    run: Callable[[Problem, int], Tensor | None]
    default: bool = False


def score(entry: Entry, problem: Problem, calls: int) -> dict[str, Any]:
    """One record: the error's median and root mean square over the samples, the calls made, and what went wrong."""
    record: dict[str, Any] = {"name": entry.name, "d": problem.d, "seed": problem.seed, "calls": calls}
    problem.calls, problem.facts = 0, {}
    try:
        end = entry.run(problem, calls)
    except Exception as error:  # whatever a peer raises belongs into the record
        return record | {"made": problem.calls, "note": f"{type(error).__name__}: {error}"[:300]}
    record |= {"made": problem.calls} | problem.facts
    if end is None:
        return record | {"note": "needs more calls"}
    if problem.calls > calls:
        return record | {"note": f"made {problem.calls} calls"}
    errors = (end.to(F64) - problem.end).square().mean(1).sqrt()
    if not bool(torch.isfinite(errors).all()):
        return record | {"note": f"{int((~torch.isfinite(errors)).sum())} of {len(errors)} endpoints are not finite"}
    return record | {"median": float(errors.median()), "rms": float(errors.square().mean().sqrt())}


def largest(calls: int, cost: Callable[[int], int]) -> int:
    """The largest n of steps with cost(n) <= calls, or 0."""
    return next((n for n in range(calls, 0, -1) if cost(n) <= calls), 0)


def version_of(package: str) -> str:
    """Installed version."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "(source tree)"


def run(peer: str, entries: Iterable[Entry], packages: Iterable[str]) -> None:
    """Command line of an entry: score everything, write OUT.json."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--problems", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--calls", type=int, nargs="+", required=True)
    parser.add_argument("--only", nargs="*", help="entries by name, beside those with their library's own settings")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    chosen = [entry for entry in entries if args.only is None or entry.default or entry.name in args.only]
    records = [
        {"peer": peer, "default": entry.default} | score(entry, problem, calls)
        for problem in load(args.problems)
        for entry in chosen
        for calls in args.calls
    ]
    versions = {name: version_of(name) for name in ("torch", *packages)}
    args.out.write_text(json.dumps({"records": records, "versions": versions}))
