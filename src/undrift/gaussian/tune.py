r"""The best route for one model: solver, clock and grid chosen by measured error against a fine solution.

A fine solution from some starts is the teacher. Candidates are the solvers of `default` on several grids, and for each grid the
weights that a least-squares fit gives it, step after step, on the states that the fitted solver itself reaches:

.. math:: \min_{a, b} \sum_k \omega_k \Big| x^*_{i+1} - a\, x_0 - \sum_{j \le i} b_j \hat x_0(x_j, t_j) \Big|_k^2
          + \lambda |b - b^{base}|^2

Samples that a coarse solution leads to another mode would rule a mean of squares; the weights
:math:`\omega_k = 1 / (\mathrm{median}\,|r|^2 + |r_k|^2)` give them little (a Cauchy loss). What was fitted on one
half of the starts is judged on the other, and the default is among the candidates: there the choice is never worse than it in
the median, nor by more than 5 % in the root mean square.

Sources: fine-grid distillation of a solver: Watson et al. 2021 (2106.03802); of its weights: Frankel et al. 2025 (2502.17423).
Checked by: tests/gaussian/test_tune.py; measured by `benchmarks/samplers.py`
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Deterministic
from undrift.errors import ShapeError
from undrift.gaussian.default import Route, default
from undrift.gaussian.denoiser import rows
from undrift.gaussian.solvers.fitted import Fitted
from undrift.gaussian.solvers.multistep import Multistep
from undrift.grids import Grid, bend, graded, spaced
from undrift.laws import Point
from undrift.protocols import Denoiser, Sampler
from undrift.simulate import Step, last, trajectory

__all__ = ["CURVE", "Error", "Tuned", "discretisation", "tune"]

TRIED = ((0.1, 1.0), (0.2, 1.0), (0.3, 1.0), (0.15, 1.25), (0.15, 0.8), (0.25, 1.25))
"""Grids tried: the share of `graded`, and the exponent of `bend` that crowds steps near noise; then those around the best."""
CURVE = (4, 6, 8, 10, 15, 20, 30, 50)
"""Calls at which the default's error is measured too."""
PLAIN = (
    Multistep("v_flow", order=2),
    Multistep("velocity", order=3, corrector=True),
    Multistep("v_flow", order=3, corrector=True, points=3),
    Multistep("v_flow", order=3, corrector=True, points=4),
)
"""Solvers tried as they are on each of these grids; those of `default`."""
RIDGE, SWEEPS = 1e-2, 4


@dataclass(frozen=True)
class Error:
    """Distance of endpoints to the fine solution: root mean square over the numbers of a sample, codec units.

    Attributes:
        calls: network calls.
        median: over samples.
        rms: over samples.
    """

    calls: int
    median: float
    rms: float


@dataclass(frozen=True)
class Tuned(Route):
    """The route chosen, and what was measured on the way.

    Attributes:
        error: of this route, on starts that it was not fitted to.
        default: of the default route of as many calls, on the same starts.
        curve: of the default route at other numbers of calls.
        cost: network calls spent for each start.
    """

    error: Error
    default: Error
    curve: tuple[Error, ...]
    cost: int

    def to_config(self) -> dict[str, Any]:
        """Plain numbers and names, for JSON."""
        config = {"calls": self.error.calls, "cost": self.cost, "times": list(self.grid.times)}
        config |= {"errors": [[e.calls, e.median, e.rms] for e in (self.error, self.default, *self.curve)]}
        if isinstance(self.sampler, Fitted):
            return config | {"rows": [list(row) for row in self.sampler.rows]}
        return config | {"multistep": asdict(self.sampler)}  # type: ignore[call-overload]

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Tuned":
        """What `to_config` gave."""
        grid = Grid(tuple(config["times"]))
        weights = config.get("rows")
        sampler = Multistep(**config["multistep"]) if weights is None else Fitted(grid, tuple(tuple(row) for row in weights))
        own, plain, *curve = (Error(*numbers) for numbers in config["errors"])
        return Tuned(sampler, grid, own, plain, tuple(curve), config["cost"])

    def __str__(self) -> str:
        """The figures as a table, for people."""
        known = sorted((e.calls, e.median, e.rms) for e in (self.default, *self.curve))
        lines = [f"{'calls':>7}  {'median error':>12}  {'root mean square':>16}"]
        lines += [f"{n:>7}  {median:>12.3g}  {rms:>16.3g}" for n, median, rms in known]
        lines += [f"{self.error.calls:>7}  {self.error.median:>12.3g}  {self.error.rms:>16.3g}  tuned"]
        return "\n".join(lines)


@torch.no_grad()
def tune(
    denoiser: Denoiser,
    start: Tensor,
    calls: int,
    *,
    grid: tuple[float, float] = (1.0, 0.0),
    curve: tuple[int, ...] = CURVE,
    progress: Callable[[Iterator[Any], str, int], Iterator[Any]] = lambda items, title, total: items,
) -> Tuned:
    """Choose solver, clock and grid for a number of calls.

    Args:
        denoiser: on a Gaussian path; guided or not. One that holds something per sample has a method `rows`.
        start: states at the first time, shape (B, *E), at least 8: half to fit to, half to judge by. Some
            thousand numbers in all are enough.
        calls: network calls of the route, >= 1.
        grid: first and last time.
        curve: other numbers of calls at which the default is measured.
        progress: wraps an iterator with its title and length, for a bar.

    Returns:
        The route with its measured error; `cost` says what was spent for each start: some 100 + 40 calls, and half of those
        in `curve`. Errors below about 1e-5 are the fine solution's own.

    Raises:
        ShapeError: fewer than 8 starts.
        GridError: no call.
    """
    if len(start) < 8:
        raise ShapeError(f"tuning fits to half of its starts and judges by the rest; give at least 8, not {len(start)}")
    usual = default(denoiser.path, calls, *grid)
    half = len(start) // 2
    spent = max(100, 6 * calls)
    teacher = _Teacher.of(denoiser, start, spent, grid, progress)
    ends, unseen = teacher.end[half:], start[half:]
    everyone = torch.arange(len(start))
    fitted, judged = _of(denoiser, everyone[:half]), _of(denoiser, everyone[half:])

    def judge(sampler: Sampler, on: Grid) -> Error:
        nonlocal spent
        spent += -(-sampler.calls(on) // 2)
        return _error(sampler.calls(on), last(_run(judged, sampler, on, unseen)), ends)

    plain = judge(usual.sampler, usual.grid)
    best, route, centre = plain, usual, TRIED[0]
    seen: set[tuple[float, float]] = set()

    def consider(share: float, noise: float) -> None:
        nonlocal best, route, centre, spent
        if (share, noise) in seen:
            return
        seen.add((share, noise))
        fine, crowded = graded(share), bend(noise=noise)
        on = spaced(denoiser.path.schedule, calls, *grid, clock="flow", shape=lambda u: crowded(fine(u)))
        spent += -(-calls // 2)
        for sampler in (_fit(fitted, on, usual.sampler, teacher), *PLAIN):
            error = judge(sampler, on)
            if error.median < best.median and error.rms <= 1.05 * plain.rms:
                best, route, centre = error, Route(sampler, on), (share, noise)

    if calls > 1:
        for share, noise in progress(iter(TRIED), "grids", len(TRIED)):
            consider(share, noise)
        for step in (1.15, 1.07):
            share, noise = centre
            for move in ((share * step**2, noise), (share / step**2, noise), (share, noise * step), (share, noise / step)):
                consider(*move)
    measured = []
    for n in curve:
        if n != calls:
            other = default(denoiser.path, n, *grid)
            measured.append(judge(other.sampler, other.grid))
    return Tuned(route.sampler, route.grid, best, plain, tuple(measured), spent)


@torch.no_grad()
def discretisation(denoiser: Denoiser, route: Route, start: Tensor) -> Tensor:
    """How far a route's samples are from those of twice the calls: an estimate of their discretisation error by step doubling.

    Args:
        denoiser: on a Gaussian path.
        route: a route with a deterministic sampler; a fitted one is doubled by the default.
        start: states at its first time, shape (B, *E).

    Returns:
        Root mean square over the numbers of each sample, codec units, shape (B,). For a solver of order k it is 1 - 2^-k of the
        error.

    Raises:
        GridError: the sampler draws noise.

    Checked by: tests/gaussian/test_tune.py
    """
    fine = default(denoiser.path, 2 * route.calls, route.grid.times[0], route.grid.times[-1])
    if not isinstance(route.sampler, Fitted):
        fine = Route(route.sampler, _halved(route.grid))
    return _distance(*(last(_run(denoiser, way.sampler, way.grid, start)) for way in (route, fine)))


def _distance(a: Tensor, b: Tensor) -> Tensor:
    """Root mean square difference over the numbers of a sample, shape (B,), float64."""
    return (a - b).flatten(1).double().square().mean(1).sqrt()


def _error(calls: int, got: Tensor, want: Tensor) -> Error:
    off = _distance(got, want)
    return Error(calls, float(off.median()), float(off.square().mean().sqrt()))


def _run(denoiser: Denoiser, sampler: Sampler, grid: Grid, x: Tensor) -> Iterator[Step]:
    return trajectory(denoiser, sampler, grid, x, rng=Deterministic())


def _halved(grid: Grid) -> Grid:
    """Every step cut in two, halfway in t."""
    pairs = grid.pairs()
    return Grid((*(u for t, s in pairs for u in (t, 0.5 * (t + s))), grid.times[-1]))


def _of(denoiser: Any, which: Tensor) -> Any:
    """The denoiser of some of the starts."""
    return rows(denoiser, which) if hasattr(denoiser, "rows") else denoiser


@dataclass(frozen=True)
class _Teacher:
    """A fine solution y = x / (alpha + sigma) by its values and slopes over the flow clock w, first half of the starts alone.

    Attributes:
        denoiser: whose path it is on.
        clock: w of every fine time, falling, shape (n + 1,).
        values: y, n + 1 states.
        slopes: dy / dw = noise - clean end at all but the last.
        end: endpoints of all starts.
    """

    denoiser: Any
    clock: Tensor
    values: list[Tensor]
    slopes: list[Tensor]
    end: Tensor

    @classmethod
    def of(cls, denoiser: Any, start: Tensor, calls: int, grid: tuple[float, float], progress: Any) -> "_Teacher":
        """By the default route of many calls."""
        route, half = default(denoiser.path, calls, *grid), len(start) // 2
        alpha, sigma = _levels(denoiser.path, route.grid.times)
        values, slopes, end = [start[:half] / float(alpha[0] + sigma[0])], [], start
        for step in progress(_run(denoiser, route.sampler, route.grid, start), "fine solution", route.grid.steps + 1):
            if step.index:
                i, end = step.index, step.x
                before = values[-1] * float(alpha[i - 1] + sigma[i - 1])
                clean = step.law.mean[:half]
                slopes.append((before - float(alpha[i - 1] + sigma[i - 1]) * clean) / float(sigma[i - 1]))
                values.append(end[:half] / float(alpha[i] + sigma[i]))
        return cls(denoiser, sigma / (alpha + sigma), values, slopes, end)

    def at(self, alpha: float, sigma: float) -> Tensor:
        """The state at a noise level, by the cubic through values and slopes (at the end without its slope)."""
        w = sigma / (alpha + sigma)
        i = int((self.clock >= w).sum().clamp(1, len(self.slopes))) - 1
        width = float(self.clock[i + 1] - self.clock[i])
        u = (w - float(self.clock[i])) / width
        a, b, p = self.values[i], self.values[i + 1], self.slopes[i] * width
        if i + 1 < len(self.slopes):
            q = self.slopes[i + 1] * width
            y = a + u * p + u**2 * (3 * (b - a) - 2 * p - q) + u**3 * (2 * (a - b) + p + q)
        else:
            y = a + u * p + u**2 * (b - a - p)
        return y * (alpha + sigma)


def _levels(path: Any, times: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    t = torch.tensor(times, dtype=torch.float64)
    return path.schedule.alpha(t), path.schedule.sigma(t)


def _fit(denoiser: Any, grid: Grid, base: Sampler, teacher: _Teacher) -> Fitted:
    """Weights of every step, fitted one after the other on the states that they lead to."""
    start = teacher.values[0] * float(sum(level[0] for level in _levels(denoiser.path, grid.times)))
    known, parts, made = _unrolled(denoiser.path, grid, base), [start], []
    products = _bordered(torch.empty(len(start), 0, 0, dtype=torch.float64), parts)
    x = start
    for i, (alpha, sigma) in enumerate(zip(*(level[1:].tolist() for level in _levels(denoiser.path, grid.times)), strict=True)):
        parts.append(denoiser(x, torch.tensor(grid.times[i], dtype=torch.float64)).mean)
        products = _bordered(products, parts)
        weights = known[i + 1, : i + 2].clone()
        off = teacher.at(alpha, sigma).double() - _mixed(parts, weights).double()
        weights += _least_squares(products, torch.stack([_dot(part, off) for part in parts], 1), _dot(off, off))
        made.append(tuple(weights.tolist()))
        x = _mixed(parts, weights)
    return Fitted(grid, tuple(made))


def _unrolled(path: Any, grid: Grid, sampler: Sampler) -> Tensor:
    """The states of a sampler as sums of the start and the answers: row i is x_i, shape (n + 1, n + 1), float64."""

    class Unit:
        """Answers with one unit vector after the other, so that a state is its own list of weights."""

        def __init__(self) -> None:
            self.path, self.asked = path, 0

        def __call__(self, x_t: Tensor, t: Tensor) -> Any:
            self.asked += 1
            return Point(torch.eye(grid.steps + 1, dtype=torch.float64)[None, self.asked])

    first = torch.eye(grid.steps + 1, dtype=torch.float64)[None, 0]
    return torch.cat([step.x for step in _run(Unit(), sampler, grid, first)])


def _mixed(parts: list[Tensor], weights: Tensor) -> Tensor:
    x = parts[0] * float(weights[0])
    for part, weight in zip(parts[1:], weights[1:].tolist(), strict=True):
        x = x.add_(part, alpha=weight)
    return x


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Inner products per sample, shape (B,), float64 on the CPU, where the small systems are solved."""
    return (a.flatten(1).double() * b.flatten(1).double()).sum(1).cpu()


def _bordered(products: Tensor, parts: list[Tensor]) -> Tensor:
    """Inner products of the parts, per sample, with those of the newest added."""
    new = torch.stack([_dot(part, parts[-1]) for part in parts], 1)
    size = len(parts)
    out = products.new_empty(len(new), size, size)
    out[:, :-1, :-1] = products
    out[:, -1, :] = out[:, :, -1] = new
    return out


def _least_squares(products: Tensor, aims: Tensor, squares: Tensor) -> Tensor:
    """The change of weights, by reweighted least squares with a ridge in the scale of what is left, shape (k,)."""
    change = aims.new_zeros(aims.shape[1])
    eye = torch.eye(len(change), dtype=torch.float64, device=aims.device)
    for _ in range(SWEEPS):
        left = (squares - 2 * aims @ change + torch.einsum("i,bij,j->b", change, products, change)).clamp_min(0)
        middle = left.median().clamp_min(1e-300)
        omega = 1 / (middle + left)
        omega = omega / omega.sum()
        gram = torch.einsum("b,bij->ij", omega, products)
        ridge = RIDGE * middle + 1e-12 * gram.diagonal().mean()
        change = torch.linalg.solve(gram + ridge * eye, omega @ aims)
    return change
