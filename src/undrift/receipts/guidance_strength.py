r"""Guidance raises confidence and lowers entropy; *when* one guides decides at what price.

Three unit Gaussians at -2, 0, 2 of equal weight; the target is the right one. dX = -X/2 dtau + dW with tau up to 8, equal
Euler steps, from N(0, sigma_1^2), with the exact score under guidance of strength eta = w - 1.

* *Confidence* is E[P(right | X)], P the classifier posterior of clean data.
* *Entropy* is the differential entropy of the samples' law, in nats. Without guidance it is that of N(2, 1), 1.4189.

Both are computed from the sampler's exact law on the line (`receipts.line`), so no Monte Carlo error is left; what remains is
the size of the steps. The figures in `PRINTED` were first measured from samples.

The second question is open in the survey: is a strength that changes with time better? A schedule dominates constant strengths
where, at equal confidence, it keeps more entropy. Here guidance at high noise does, and guidance at low noise does the
opposite: late, the components have parted, and guidance only squeezes the one that was chosen. Neither is nearer to the law
of the label itself, N(2, 1), which eta = 0 has.

Source: Wu et al. 2024 (2403.01639), theorems 3.1-3.2; survey (2404.07771), section 5.3 and figure 6.
Checked by: tests/receipts/test_guidance_strength.py
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from undrift.gaussian import EulerMaruyama
from undrift.grids import uniform
from undrift.guidance import noise_interval
from undrift.receipts.line import Line, flow, propagate
from undrift.receipts.three import Strength, Three

__all__ = ["PRINTED", "SCHEDULES", "Curve", "GuidanceStrength", "Measured", "guidance_strength"]

TARGET = 2
ETAS = (0.0, 1.0, 2.0, 4.0, 8.0)
PRINTED: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "SDE": ((0.775, 0.907, 0.946, 0.970, 0.984), (1.416, 1.200, 1.142, 1.102, 1.082)),
    "ODE": ((0.764, 0.949, 0.984, 0.997, 0.9995), (1.427, 1.023, 0.851, 0.673, 0.549)),
}
"""Confidence and entropy at eta = 0, 1, 2, 4, 8 as they were first measured, from samples."""

_LEVEL = 2.0  # noise level sigma / alpha at which the intervals are cut: the distance of the centres


def _early(three: Three, eta: float) -> Strength:
    return noise_interval(1 + eta, _LEVEL, math.inf, three.path.schedule)


def _late(three: Three, eta: float) -> Strength:
    return noise_interval(1 + eta, 0.0, _LEVEL, three.path.schedule)


def _fading(three: Three, eta: float) -> Strength:
    return lambda t: 1 + eta * (1 - three.path.schedule.alpha(t))


def _growing(three: Three, eta: float) -> Strength:
    return lambda t: 1 + eta * three.path.schedule.alpha(t)


SCHEDULES: dict[str, Callable[[Three, float], Strength]] = {
    "above noise level 2": _early,
    "below noise level 2": _late,
    "eta (1 - alpha)": _fading,
    "eta alpha": _growing,
}
"""Strengths over time by name: a function (problem, eta) -> scale."""


@dataclass(frozen=True)
class Measured:
    """One strength.

    Attributes:
        eta: w - 1, at its largest over time.
        confidence: E[P(target | X)], in [0, 1].
        entropy: differential entropy, nats.
    """

    eta: float
    confidence: float
    entropy: float


@dataclass(frozen=True)
class Curve:
    """What a schedule reaches.

    Attributes:
        sampler: "SDE" or "ODE".
        schedule: "constant", or a key of `SCHEDULES`.
        points: by rising eta.
        gain: (least, greatest) entropy above that of a constant strength of equal confidence, nats; (0, 0) for the constant.
    """

    sampler: str
    schedule: str
    points: tuple[Measured, ...]
    gain: tuple[float, float]

    @property
    def dominates(self) -> bool:
        """Whether every point keeps at least the entropy of the constant strength of equal confidence."""
        return self.gain[0] >= 0


@dataclass(frozen=True)
class GuidanceStrength:
    """What `guidance_strength` measured.

    Attributes:
        steps: Euler steps of the table.
        table: sampler -> its points at eta = 0, 1, 2, 4, 8.
        frontiers: constant and scheduled strengths.
        frontier_steps: Euler steps of the frontiers.
    """

    steps: int
    table: dict[str, tuple[Measured, ...]]
    frontiers: tuple[Curve, ...]
    frontier_steps: int

    claim = "Guidance raises confidence and lowers entropy, monotonically, for SDE and ODE; early guidance costs less entropy."

    def rows(self) -> list[tuple[str, ...]]:
        """A table of strings: the strengths beside the printed figures, then the gain of every schedule."""
        out = [("sampler", "schedule", "eta", "confidence", "entropy", "beside")]
        for sampler, points in self.table.items():
            for point, confidence, entropy in zip(points, *PRINTED[sampler], strict=True):
                figures = (f"{point.eta:g}", f"{point.confidence:.4f}", f"{point.entropy:.3f}")
                out.append((sampler, "constant", *figures, f"printed: {confidence:.4g}, {entropy:.3f}"))
        for f in (f for f in self.frontiers if f.schedule != "constant"):
            for i, p in enumerate(f.points):
                figures = (f"{p.eta:g}", f"{p.confidence:.4f}", f"{p.entropy:.3f}")
                gain = f"entropy gained: {f.gain[0]:+.3f} to {f.gain[1]:+.3f}" if i == 0 else ""
                out.append((f.sampler, f.schedule, *figures, gain))
        return out

    def picture(self, file: Path) -> Path:
        """Confidence and entropy against strength, and the frontiers, as a PNG."""
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure(figsize=(11, 6.4), dpi=110, facecolor="white", layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, 2)
        for sampler, colour in (("SDE", "#1f77b4"), ("ODE", "#d95f02")):
            points = self.table[sampler]
            for axis, name, printed in zip(axes[0], ("confidence", "entropy"), PRINTED[sampler], strict=True):
                axis.plot(ETAS, [getattr(p, name) for p in points], color=colour, label=f"{sampler}, exact law")
                axis.plot(ETAS, printed, "o", color=colour, mfc="white", label=f"{sampler}, printed")
                axis.set_xlabel("strength eta = w - 1")
                axis.set_ylabel({"confidence": "confidence E[P(y | X)]", "entropy": "entropy (nats)"}[name])
                axis.grid(alpha=0.25)
        axes[0, 0].legend(fontsize=8)
        for axis, sampler in zip(axes[1], ("SDE", "ODE"), strict=True):
            for f in (f for f in self.frontiers if f.sampler == sampler):
                style = {"color": "black", "lw": 2} if f.schedule == "constant" else {"marker": ".", "lw": 1}
                axis.plot([p.confidence for p in f.points], [p.entropy for p in f.points], label=f.schedule, **style)
            axis.set_xlabel("confidence E[P(y | X)]")
            axis.set_ylabel("entropy (nats)")
            axis.set_title(f"{sampler}: strength over time (higher: more entropy at equal confidence)", fontsize=9)
            axis.grid(alpha=0.25)
            axis.legend(fontsize=7, loc="lower left")
        figure.suptitle("Three Gaussians, target the right one: confidence and entropy under guidance", fontsize=11)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file)
        return file


def guidance_strength(
    steps: int = 400,
    frontier_steps: int = 200,
    etas: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0, 8.0),
    quantiles: int = 2000,
) -> GuidanceStrength:
    """Confidence and entropy against strength, and the frontiers of strengths that change with time. About 15 seconds.

    Args:
        steps: Euler steps of the table.
        frontier_steps: Euler steps of the frontiers.
        etas: strengths of the schedules.
        quantiles: points of the ODE's law.

    Returns:
        Frozen data.

    Checked by: tests/receipts/test_guidance_strength.py::test_the_printed_figures,
        tests/receipts/test_guidance_strength.py::test_early_guidance_dominates_and_late_is_dominated
    """
    three = Three()
    table = {s: tuple(_measure(three, s, eta, 1 + eta, steps, quantiles) for eta in ETAS) for s in ("SDE", "ODE")}
    frontiers: list[Curve] = []
    for sampler in ("SDE", "ODE"):
        fine = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0)
        constant = tuple(_measure(three, sampler, eta, 1 + eta, frontier_steps, quantiles) for eta in fine)
        frontiers.append(Curve(sampler, "constant", constant, (0.0, 0.0)))
        for name, build in SCHEDULES.items():
            points = tuple(_measure(three, sampler, eta, build(three, eta), frontier_steps, quantiles) for eta in etas)
            frontiers.append(Curve(sampler, name, points, _gain(points, constant)))
    return GuidanceStrength(steps, table, tuple(frontiers), frontier_steps)


def _measure(three: Three, sampler: str, eta: float, scale: Strength, steps: int, quantiles: int) -> Measured:
    denoiser, grid = three.guided(TARGET, scale), uniform(None, steps)
    line: Line = (
        propagate(denoiser, EulerMaruyama(1.0), grid, -9.0, 16.0)
        if sampler == "SDE"
        else flow(denoiser, EulerMaruyama(0.0), grid, quantiles)
    )
    return Measured(eta, line.mean_of(three.confidence(line.x, TARGET)), line.entropy)


def _gain(points: tuple[Measured, ...], constant: tuple[Measured, ...]) -> tuple[float, float]:
    """Least and greatest entropy above the constant's, interpolated at equal log odds of the confidence."""

    def log_odds(p: Any) -> float:
        return math.log(p.confidence / (1 - p.confidence))

    odds, entropy = [log_odds(p) for p in constant], [p.entropy for p in constant]
    gains = [p.entropy - float(np.interp(log_odds(p), odds, entropy)) for p in points if odds[0] <= log_odds(p) <= odds[-1]]
    return min(gains), max(gains)
