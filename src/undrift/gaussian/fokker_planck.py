r"""Densities on a grid of cells: the Fokker-Planck equation of every process of a Gaussian path.

Forward in time, and backward, the processes with stochasticity lambda share all marginals,

.. math:: \partial_\tau p = -\nabla \cdot (b\, p) + \tfrac12 \lambda^2 g^2 \Delta p, \qquad
          b = \pm \big[f x - \tfrac12 (1 \mp \lambda^2)\, g^2\, \nabla \log p_t\big],

upper signs with t, lower signs against it: the forward SDE (lambda = 1, no score), the reverse SDE (lambda = 1) and the
probability flow (lambda = 0).

Between two cells of width h the flux is that of the stationary solution across the face (Scharfetter and Gummel; Chang and
Cooper), with rates of jumping

.. math:: i \to i \pm 1:\ \frac{D}{h^2} B\Big(\mp \frac{b h}{D}\Big), \qquad B(z) = \frac{z}{e^z - 1},
          \quad D = \tfrac12 \lambda^2 g^2 .

So the cells are a Markov chain: its rates are not negative, and no mass leaves. Its law is followed by uniformisation, a
Poisson-weighted sum of powers of a stochastic matrix, with the rates of the middle of each time step. Every term is a
probability: densities cannot go negative, and mass is kept to rounding, at any step.

Errors: second order in h and in the time step; first order in h without diffusion, where the flux is upwind.

Sources: Risken 1984; Scharfetter and Gummel 1969; Chang and Cooper 1970; Jensen 1953 (uniformisation).
Checked by: tests/gaussian/test_fokker_planck.py
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import GridError, ShapeError
from undrift.grids import Grid
from undrift.schedules import Schedule
from undrift.typing import State, Time

__all__ = ["Box", "FokkerPlanck", "total_variation"]

_JUMPS = 200.0  # expected jumps of one sum: its e^-200 and its weights are far inside float64


@dataclass(frozen=True)
class Box:
    """Equal cells over an interval, or a rectangle.

    Attributes:
        low: lower corner, d numbers, codec units.
        high: upper corner.
        cells: number of cells along each axis.

    Raises:
        GridError: not one or two axes, an empty side, or fewer than two cells along one.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    cells: tuple[int, ...]

    def __post_init__(self) -> None:
        if not len(self.low) == len(self.high) == len(self.cells) or len(self.low) not in (1, 2):
            raise GridError(f"a box has one or two axes, each with a low, a high and a number of cells, got {self}")
        if not all(a < b for a, b in zip(self.low, self.high, strict=True)) or min(self.cells) < 2:
            raise GridError(f"a box needs low < high and at least two cells along each axis, got {self}")

    @property
    def widths(self) -> tuple[float, ...]:
        """Width of a cell along each axis."""
        return tuple((b - a) / n for a, b, n in zip(self.low, self.high, self.cells, strict=True))

    @property
    def volume(self) -> float:
        """Length or area of a cell."""
        return math.prod(self.widths)

    def points(self, faces: int | None = None) -> Tensor:
        """Centres of the cells, or of the inner faces across one axis, shape (*cells, d); one less along that axis."""
        axes = []
        for k, (start, width, count) in enumerate(zip(self.low, self.widths, self.cells, strict=True)):
            first = 1.0 if k == faces else 0.5
            axes.append(start + width * torch.arange(first, count, dtype=torch.float64))
        return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)

    def density(self, log_prob: Callable[[State], Tensor]) -> Tensor:
        """A log density, (B, d) -> (B,), at the centres, scaled to mass 1, shape (*cells,)."""
        centres = self.points()
        p = log_prob(centres.reshape(-1, len(self.cells))).exp().reshape(self.cells)
        return p / (p.sum() * self.volume)

    def histogram(self, x: State) -> Tensor:
        """Density of particles, shape (B, d), as their share in each cell per volume; those outside count for none."""
        if x.ndim != 2 or x.shape[1] != len(self.cells):
            raise ShapeError(f"particles in this box have shape (B, {len(self.cells)}), got {tuple(x.shape)}")
        low, width = torch.tensor(self.low, dtype=torch.float64), torch.tensor(self.widths, dtype=torch.float64)
        index = ((x.detach().cpu().double() - low) / width).floor().long()
        index = index[((index >= 0) & (index < torch.tensor(self.cells))).all(1)]
        flat = index[:, 0] if index.shape[1] == 1 else index[:, 0] * self.cells[1] + index[:, 1]
        counts = torch.bincount(flat, minlength=math.prod(self.cells)).double().reshape(self.cells)
        return counts / (x.shape[0] * self.volume)


def total_variation(p: Tensor, q: Tensor, box: Box) -> float:
    """Half the integral of |p - q| over the box."""
    return 0.5 * float((p - q).abs().sum()) * box.volume


@dataclass(frozen=True)
class FokkerPlanck:
    """The equation of one family of processes on a box whose walls reflect.

    Attributes:
        schedule: f and g^2.
        box: the cells; take it so wide that hardly any mass meets a wall.
        score: (B, d), t -> (B, d), such as `lambda x, t: gaussian.score(denoiser, x, t)`; None serves the forward SDE alone.
        stochasticity: lambda >= 0.

    Raises:
        GridError: negative stochasticity.
    """

    schedule: Schedule
    box: Box
    score: Callable[[State, Time], State] | None = None
    stochasticity: float = 1.0

    def __post_init__(self) -> None:
        if not self.stochasticity >= 0:
            raise GridError(f"FokkerPlanck's stochasticity is >= 0, got {self.stochasticity:g}")

    def solve(self, p: Tensor, grid: Grid) -> Iterator[tuple[float, Tensor]]:
        """Follow a density along a grid, yielding (t, density) at the start and after every step.

        A rising grid runs the process from data to noise, a falling one from noise to data.

        Args:
            p: density at the grid's first time, shape (*cells,), float64.
            grid: the times. A step costs at least 2 D dt / h^2 sweeps over the cells per axis.

        Raises:
            ShapeError: p does not match the box.
            GridError: a score is needed and there is none, or a drift is not finite; names the step.
        """
        if p.shape != self.box.cells or p.dtype != torch.float64:
            raise ShapeError(f"a density on this box is float64 of shape {self.box.cells}, got {p.dtype} {tuple(p.shape)}")
        yield grid.times[0], p
        for t, s in grid.pairs():
            p = _follow(p, self.rates(t, s), abs(s - t))
            yield s, p

    def rates(self, t: float, s: float) -> list[tuple[Tensor, Tensor]]:
        """Rates of jumping up and down across the inner faces of each axis, frozen halfway from t to s, per unit of time."""
        middle = torch.tensor(0.5 * (t + s), dtype=torch.float64)
        f, g2, sign = float(self.schedule.f(middle)), float(self.schedule.g2(middle)), 1.0 if s > t else -1.0
        pull, spread = 0.5 * (1 - sign * self.stochasticity**2) * g2, 0.5 * self.stochasticity**2 * g2
        if pull != 0 and self.score is None:
            raise GridError(
                "this process needs a score: give score=lambda x, t: gaussian.score(denoiser, x, t); without one there is the "
                "forward SDE alone, stochasticity=1 on a rising grid"
            )
        rates = []
        for k, width in enumerate(self.box.widths):
            x = self.box.points(faces=k)
            drift = f * x[..., k]
            if pull != 0 and self.score is not None:
                drift = drift - pull * self.score(x.reshape(-1, x.shape[-1]), middle)[:, k].reshape(drift.shape)
            drift = sign * drift
            if not bool(torch.isfinite(drift).all()):
                raise GridError(f"the drift from t = {t:g} to s = {s:g} on {self.schedule!r} is not finite; stay inside (0, 1)")
            rates.append((_jump(drift, spread, width), _jump(-drift, spread, width)))
        return rates


def _jump(drift: Tensor, diffusion: float, width: float) -> Tensor:
    """(D / h^2) B(-b h / D); its limit without diffusion is upwind, max(b, 0) / h."""
    if diffusion == 0:
        return drift.clamp_min(0) / width
    z = -drift * width / diffusion
    weight = torch.where(z == 0, 1.0, z / torch.expm1(z))  # expm1 may be infinite: the weight is then 0, as it should
    return diffusion / width**2 * weight


def _follow(p: Tensor, rates: list[tuple[Tensor, Tensor]], duration: float) -> Tensor:
    """The law of the chain after `duration`: sum over k of Poisson(k; q duration) (I + A / q)^k p."""
    leave = torch.zeros_like(p)
    for k, (up, down) in enumerate(rates):
        n = p.shape[k]
        leave.narrow(k, 0, n - 1).add_(up)
        leave.narrow(k, 1, n - 1).add_(down)
    fastest = float(leave.max())
    if fastest == 0:
        return p
    pieces = math.ceil(fastest * duration / _JUMPS)
    jumps = fastest * duration / pieces
    stay, moves = 1 - leave / fastest, [(up / fastest, down / fastest) for up, down in rates]
    count = torch.arange(math.ceil(jumps + 9 * math.sqrt(jumps) + 20), dtype=torch.float64)  # the tail is below 1e-16
    weights = torch.softmax(count * math.log(jumps) - torch.lgamma(count + 1), 0).tolist()
    for _ in range(pieces):
        total = p * weights[0]
        for weight in weights[1:]:
            new = p * stay
            for k, (up, down) in enumerate(moves):
                n = p.shape[k]
                new.narrow(k, 1, n - 1).add_(p.narrow(k, 0, n - 1) * up)
                new.narrow(k, 0, n - 1).add_(p.narrow(k, 1, n - 1) * down)
            p = new
            total.add_(p, alpha=weight)
        p = total
    return p
