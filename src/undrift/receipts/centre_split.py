r"""Too-strong guidance splits the centre: an artefact of coarse steps, and not of guidance.

Three unit Gaussians at -mu, 0, mu; the target is the middle one. With guidance eta = w - 1 an Euler-Maruyama step of length
delta in dX = -X/2 dtau + dW is

.. math:: x' = x (1 - \tfrac\delta2) - \delta \eta \alpha\, m(x) + \text{noise}, \qquad m(x) = \sum_k q_k(x)\, \mu_k

Its fixed point 0 overshoots: with :math:`m'(0) = \alpha V`, V the variance of the centre under q(0), it is stable iff

.. math:: \delta \eta < \frac{2 - \delta / 2}{\alpha^2 V}, \qquad
          V = \frac{2 \mu^2 r}{1 + 2 r}, \qquad r = e^{-\alpha^2 \mu^2 / 2}

for every alpha on the way (about 2 for mu = 2). Beyond, the state jumps from side to side on the orbit where m is mu,

.. math:: x = \pm\, \frac{\delta\, \eta\, \alpha\, \mu}{2 - \delta / 2}

and the target's samples land on two heaps where the data have nothing. (The last step's own noise, of variance delta, hides a
young orbit: with the coarsest steps two heaps are seen somewhat later than the formula says.)

The same strength with finer steps leaves one heap. So does the ODE at the coarse step: its push is half as large, and nothing
kicks a state that the early steps have drawn to the very centre.

Source: Wu et al. 2024 (2403.01639), section 4; survey (2404.07771), figure 7; the orbit and the threshold are worked out here.
Checked by: tests/receipts/test_centre_split.py
"""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from undrift.core import Shared
from undrift.gaussian import EulerMaruyama
from undrift.grids import uniform
from undrift.receipts.three import Three
from undrift.simulate import sample

__all__ = ["CentreSplit", "Split", "centre_split", "orbit", "threshold"]

TARGET = 1
SOLVERS = {"SDE": EulerMaruyama(1.0), "ODE": EulerMaruyama(0.0)}


def orbit(delta: float, push: float, mu: float, alpha: float) -> float:
    """Distance from 0 of the orbit of period two: push alpha mu / (2 - delta / 2), with push = delta eta.

    Checked by: tests/receipts/test_centre_split.py::test_the_orbit_is_one_of_the_step_itself
    """
    return push * alpha * mu / (2 - delta / 2)


def threshold(delta: float, mu: float, steps: int) -> float:
    """The push delta eta at which the centre first loses its stability somewhere on the way.

    Checked by: tests/receipts/test_centre_split.py::test_the_threshold_is_where_the_slope_of_the_step_passes_minus_one
    """

    def limit(alpha: float) -> float:
        r = math.exp(-0.5 * alpha**2 * mu**2)
        return (2 - delta / 2) / (alpha**2 * 2 * mu**2 * r / (1 + 2 * r))

    return min(limit(math.exp(-0.5 * delta * k)) for k in range(1, steps + 1))


@dataclass(frozen=True)
class Split:
    """One sampler at one strength.

    Attributes:
        sampler: "SDE" or "ODE".
        steps: number of equal steps.
        delta: their length in tau.
        eta: w - 1.
        spread: E|x|.
        dip: density at 0 as a share of the greatest density: 1 for one heap, near 0 for two.
        orbit: where the formula has the heaps, at the alpha of the last step.
        stable: whether delta eta is below the threshold of Euler-Maruyama.
    """

    sampler: str
    steps: int
    delta: float
    eta: float
    spread: float
    dip: float
    orbit: float
    stable: bool

    @property
    def heaps(self) -> int:
        """1 or 2: two where the density at the centre is less than half of the greatest."""
        return 1 if self.dip > 0.5 else 2


@dataclass(frozen=True)
class CentreSplit:
    """What `centre_split` measured.

    Attributes:
        coarse: 50 steps of Euler-Maruyama at delta eta = 1, 4, 8.
        cures: the same strengths with finer steps, and with the ODE.
        phases: a map over steps and delta eta.
        samples: coarse samples by delta eta, for the picture.
        mu: distance of the outer centres.
        n: samples of a figure.
    """

    coarse: tuple[Split, ...]
    cures: tuple[Split, ...]
    phases: tuple[Split, ...]
    samples: dict[float, Tensor]
    mu: float
    n: int

    claim = "Guidance eta with steps delta splits the centre once delta eta passes about 2; finer steps or the ODE do not."

    def rows(self) -> list[tuple[str, ...]]:
        """A table of strings."""
        out = [("sampler", "steps", "delta eta", "eta", "E|x|", "orbit", "heaps", "formula says")]
        for s in (*self.coarse, *self.cures):
            says = "-" if s.sampler == "ODE" else "1" if s.stable else "2"
            at = f"{s.orbit:.2f}" if says == "2" else "-"
            figures = (f"{s.delta * s.eta:.3g}", f"{s.eta:.4g}", f"{s.spread:.2f}", at)
            out.append((s.sampler, str(s.steps), *figures, str(s.heaps), says))
        return out

    def picture(self, file: Path) -> Path:
        """Histograms of the coarse samples, and the phase map, as a PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 4.2), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for s, colour in zip(self.coarse, ("#1b9e77", "#d95f02", "#7570b3"), strict=True):
            push = s.delta * s.eta
            left.hist(
                self.samples[round(push, 6)].numpy(), bins=144, range=(-12, 12), density=True, color=colour, alpha=0.7,
                label=f"delta eta = {push:.0f}: E|x| = {s.spread:.2f}",
            )  # fmt: skip
            if not s.stable:
                left.plot([-s.orbit, s.orbit], [0, 0], "^", color=colour, ms=8, clip_on=False)
        left.set_xlabel("x (triangles: the orbit's formula)")
        left.set_ylabel("density")
        left.set_title(f"target 0, Euler-Maruyama, {self.coarse[0].steps} steps", fontsize=9)
        left.legend(fontsize=8)
        for heaps, marker in ((1, "o"), (2, "X")):
            some = [s for s in self.phases if s.heaps == heaps]
            name = "one heap" if heaps == 1 else "two heaps"
            colour = "#1b9e77" if heaps == 1 else "#7570b3"
            right.plot([s.delta for s in some], [s.delta * s.eta for s in some], marker, color=colour, ls="", label=name)
        line = sorted({(s.delta, threshold(s.delta, self.mu, s.steps)) for s in self.phases})
        right.plot(*zip(*line, strict=True), color="black", label="threshold (formula)")
        right.set_xscale("log")
        right.set_xlabel("step delta")
        right.set_ylabel("delta eta")
        right.set_title("where the centre splits", fontsize=9)
        right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=3, frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
        return file


def centre_split(
    n: int = 20_000, map_n: int = 2000, map_steps: tuple[int, ...] = (25, 50, 100, 200), seed: int = 0
) -> CentreSplit:
    """Coarse steps against fine ones and the ODE at the same strength. About 5 seconds.

    Args:
        n: samples of a figure.
        map_n: samples of a point of the map, and of a cure.
        map_steps: numbers of steps of the map.
        seed: of the noise.

    Returns:
        Frozen data.

    Checked by: tests/receipts/test_centre_split.py::test_the_printed_figures,
        tests/receipts/test_centre_split.py::test_finer_steps_and_the_ode_leave_one_heap,
        tests/receipts/test_centre_split.py::test_the_map_follows_the_formula
    """
    three, coarse, samples = Three(), [], {}
    delta = three.horizon / 50
    for push in (1.0, 4.0, 8.0):
        samples[push] = _draw(three, "SDE", 50, push / delta, n, seed)
        coarse.append(_split(three, "SDE", 50, push / delta, samples[push]))
    cures = []
    for push in (4.0, 8.0):
        eta = push / delta
        for sampler, steps in (("SDE", 400), ("ODE", 50), ("ODE", 400)):
            cures.append(_split(three, sampler, steps, eta, _draw(three, sampler, steps, eta, map_n, seed)))
    phases = [
        _split(
            three,
            "SDE",
            steps,
            push * steps / three.horizon,
            _draw(three, "SDE", steps, push * steps / three.horizon, map_n, seed),
        )
        for steps in map_steps
        for push in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0)
    ]
    return CentreSplit(tuple(coarse), tuple(cures), tuple(phases), samples, three.mu, n)


def _draw(three: Three, sampler: str, steps: int, eta: float, n: int, seed: int) -> Tensor:
    """Samples, shape (n,)."""
    denoiser, grid = three.guided(TARGET, 1 + eta), uniform(None, steps)
    x = sample(denoiser, SOLVERS[sampler], grid, (n, 1), seed=seed, dtype=torch.float64, rng=lambda: Shared(seed))
    return x[:, 0]


def _split(three: Three, sampler: str, steps: int, eta: float, x: Tensor) -> Split:
    delta = three.horizon / steps
    spread = float(x.abs().mean())
    bins = torch.histc(x, 41, -2.05 * spread, 2.05 * spread)  # in units of the spread: a tenth of it each
    smooth = (bins[:-2] + bins[1:-1] + bins[2:]) / 3
    dip = float(smooth[19] / smooth.max())
    alpha = math.exp(-0.5 * delta)
    push = delta * eta
    return Split(
        sampler, steps, delta, eta, spread, dip, orbit(delta, push, three.mu, alpha), push < threshold(delta, three.mu, steps)
    )
