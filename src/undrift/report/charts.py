"""Charts as SVG text: pure functions of numbers, sharp at any size, coloured by the page they stand in.

A chart holds no colour: its shapes carry classes (`gen` generated, `real` real, `gauss` the Gaussian yardstick, `mean` the mean
predictor), and the page's style sheet gives them light and dark colours that colour-blind readers can tell apart. A value that
is missing or not finite is a gap. Every name that a user chose is escaped here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any

import numpy as np

from undrift.report.words import number

__all__ = ["Line", "drawing", "finite", "histogram", "lines", "scatter", "signal", "thin", "tick"]

_POINTS = 300


@dataclass(frozen=True)
class Line:
    """A line of a chart.

    Attributes:
        name: in the legend.
        style: class of the shape: gen, real, gauss, mean.
        x: shape (N,).
        y: shape (N,); None or NaN is a gap.
        dots: whether each point is marked.
    """

    name: str
    style: str
    x: Any
    y: Any
    dots: bool = False


@dataclass(frozen=True)
class _Scale:
    """Data to paper along one axis: linear, or linear in the logarithm."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return self.start + (self.end - self.start) * (at - low) / ((high - low) or 1.0)

    def ticks(self, most: int = 5) -> list[float]:
        """Round numbers within the range; powers of ten on a logarithmic axis that spans two of them."""
        if self.log:
            first, last = math.ceil(math.log10(self.low) - 1e-9), math.floor(math.log10(self.high) + 1e-9)
            if last > first:
                return [10.0**power for power in range(first, last + 1, max(1, -(-(last - first) // most)))]
        rough = (self.high - self.low) / most
        if rough <= 0:
            return [self.low]
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= rough * (1 - 1e-9))
        return [round(i * step, 12) for i in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def finite(values: Any) -> np.ndarray:
    """As float64, None and infinities as NaN."""
    out = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
    return np.where(np.isfinite(out), out, math.nan)


def tick(value: float) -> str:
    """A number on an axis: as few digits as say it."""
    text = number(value)
    return text.rstrip("0").rstrip(".") if "." in text and "×" not in text else text


def drawing(width: float, height: float, label: str, body: Sequence[str], style: str = "chart") -> str:
    """An SVG of that size in its own units, which says what it shows."""
    box = f'viewBox="0 0 {width:g} {height:g}"'
    return f'<svg class="{style}" {box} role="img" aria-label="{escape(label)}">{"".join(body)}</svg>'


def _path(x: np.ndarray, y: np.ndarray) -> str:
    """A path through the points, lifted over gaps; a lonely point gets a stroke of no length (a dot under round caps)."""
    parts, down = [], False
    for a, b in zip(x, y, strict=True):
        if math.isfinite(a) and math.isfinite(b):
            parts.append(f"{'L' if down else 'M'}{a:.1f} {b:.1f}")
            if not down:
                parts.append("h0")
            down = True
        else:
            down = False
    return "".join(parts)


def _range(values: np.ndarray, zero: bool, log: bool) -> tuple[float, float]:
    seen = values[np.isfinite(values) & ((values > 0) | (not log))]
    if len(seen) == 0:
        return (0.1, 10.0) if log else (0.0, 1.0)
    low, high = float(seen.min()), float(seen.max())
    if log:
        return (low, high) if high > low else (low / 2, high * 2)
    if zero:
        low, high = min(low, 0.0), max(high, 0.0)
    pad = 0.06 * (high - low) or abs(high) or 1.0
    return (low if zero and low == 0 else low - pad), high + pad


def lines(
    series: Sequence[Line],
    *,
    x: str,
    y: str,
    label: str,
    log_x: bool = False,
    zero: bool = True,
    size: tuple[int, int] = (440, 270),
) -> str:
    """Lines over a common axis, with axes, ticks and a legend.

    Args:
        series: the lines.
        x: name and unit of the horizontal axis.
        y: name and unit of the vertical axis.
        label: what the chart shows, for people who hear it.
        log_x: logarithmic horizontal axis; points at x <= 0 are left out.
        zero: whether the vertical axis begins at 0.
        size: width and height of the paper.

    Checked by: tests/report/test_charts.py::test_points_lie_where_the_axes_say, tests/report/test_charts.py::test_gaps
    """
    width, height = size
    left, right, top, bottom = 54, width - 12, 34, height - 44
    across = [finite(line.x) for line in series]
    if log_x:
        across = [np.where(a > 0, a, math.nan) for a in across]
    up = [finite(line.y) for line in series]
    both = [np.concatenate(v) if v else np.zeros(0) for v in (across, up)]
    seen = both[0][np.isfinite(both[0])]
    low, high = (seen.min(), seen.max()) if len(set(seen)) > 1 else _range(seen, False, log_x)
    to_x, to_y = _Scale(float(low), float(high), left, right, log_x), _Scale(*_range(both[1], zero, False), bottom, top)
    body = _axes(to_x, to_y, x, y)
    for line, a, b in zip(series, across, up, strict=True):
        a, b = (np.array([scale(v) if math.isfinite(v) else v for v in values]) for scale, values in ((to_x, a), (to_y, b)))
        body.append(f'<path class="line {line.style}" d="{_path(a, b)}"/>')
        if line.dots:
            name = escape(line.name)
            body += [
                f'<circle class="dot {line.style}" cx="{c:.1f}" cy="{d:.1f}" r="3"><title>{name} {number(v)}</title></circle>'
                for c, d, v in zip(a, b, line.y, strict=True)
                if math.isfinite(c) and math.isfinite(d)
            ]
    return drawing(width, height, label, body + _legend(series, left))


def _axes(to_x: _Scale, to_y: _Scale, x: str, y: str) -> list[str]:
    left, right, bottom, top = to_x.start, to_x.end, to_y.start, to_y.end
    body = []
    for value in to_y.ticks():
        at = to_y(value)
        body.append(f'<path class="rule" d="M{left:g} {at:.1f}H{right:g}"/>')
        body.append(f'<text class="tick y" x="{left - 7:g}" y="{at:.1f}" dy=".35em" text-anchor="end">{tick(value)}</text>')
    body.append(f'<path class="axis" d="M{left:g} {bottom:g}H{right:g}"/>')
    for value in to_x.ticks(6):
        at = to_x(value)
        body.append(f'<path class="axis" d="M{at:.1f} {bottom:g}v4"/>')
        body.append(f'<text class="tick x" x="{at:.1f}" y="{bottom + 17:g}" text-anchor="middle">{tick(value)}</text>')
    middle = (left + right) / 2
    body.append(f'<text class="name" x="{middle:g}" y="{bottom + 37:g}" text-anchor="middle">{escape(x)}</text>')
    across = (top + bottom) / 2
    return [*body, f'<text class="name" transform="rotate(-90)" x="{-across:g}" y="13" text-anchor="middle">{escape(y)}</text>']


def _legend(series: Sequence[Line], left: float) -> list[str]:
    body, at = [], left
    for line in series:
        body.append(f'<path class="line {line.style} key" d="M{at:g} 13h20"/>')
        body.append(f'<text class="legend" x="{at + 26:g}" y="13" dy=".35em">{escape(line.name)}</text>')
        at += 26 + 6.4 * len(line.name) + 20
    return body


def thin(x: np.ndarray, y: np.ndarray, most: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """At most that many points: means of neighbouring ones, gaps left out of a mean."""
    if len(x) <= most:
        return x, y
    cuts = np.linspace(0, len(x), most + 1).astype(int)
    groups = [slice(a, b) for a, b in pairwise(cuts)]
    return np.array([x[g].mean() for g in groups]), np.array([_mean(y[g]) for g in groups])


def _mean(values: np.ndarray) -> float:
    seen = values[np.isfinite(values)]
    return float(seen.mean()) if len(seen) else math.nan


def histogram(real: np.ndarray, generated: np.ndarray, label: str, ends: Any = tick) -> str:
    """Two histograms over common bins, each of area one: real filled, generated drawn as a line.

    The bins span the central 99 % of both sets; the outermost bins hold what lies beyond, so that one wild value cannot squeeze
    the rest into a single bar.

    Args:
        real: shape (N,).
        generated: shape (M,); values that are not finite are left out.
        label: what the chart shows.
        ends: writes the numbers at both ends of the axis.

    Checked by: tests/report/test_charts.py::test_histogram_areas_are_the_shares
    """
    width, height, floor = 220, 92, 74
    sets = [np.asarray(v, dtype=np.float64) for v in (real, generated)]
    sets = [v[np.isfinite(v)] for v in sets]
    pooled = np.concatenate(sets)
    if len(pooled) == 0:
        return drawing(
            width, height, label, [f'<text class="tick" x="{width / 2:g}" y="44" text-anchor="middle">no values</text>']
        )
    central = [0.005, 0.995] if len(pooled) > 40 else [0, 1]
    low, high = np.quantile(pooled, central, method="nearest")  # values themselves: between whole numbers no bin begins
    if not high > low:
        low, high = low - 0.5, high + 0.5
    values = np.unique(pooled)
    few = len(values) <= 25 and bool(np.all(values == np.round(values))) and high - low <= 40
    if few:  # whole numbers get a bin each
        low, high, bins = low - 0.5, high + 0.5, round(high - low) + 1
    else:
        bins = int(np.clip(2 * min(len(v) for v in sets if len(v)) ** (1 / 3), 8, 28))
    edges = np.linspace(low, high, bins + 1)
    shares = [np.histogram(np.clip(v, low, high), edges)[0] / max(len(v), 1) for v in sets]
    top = max(float(share.max()) for share in shares) or 1.0
    xs, ys = (edges - low) / (high - low) * (width - 2) + 1, [floor - (floor - 6) * share / top for share in shares]
    body = [f'<path class="fill real" d="M{xs[0]:.1f} {floor}{_steps(xs, ys[0])}V{floor}Z"/>'] if len(sets[0]) else []
    if len(sets[1]):
        body.append(f'<path class="line gen thin" d="M{xs[0]:.1f} {floor}{_steps(xs, ys[1])}V{floor}"/>')
    body.append(f'<path class="axis" d="M0 {floor}H{width}"/>')
    body.append(f'<text class="tick" x="1" y="{floor + 14}">{escape(ends(float(low + 0.5 * few)))}</text>')
    body.append(
        f'<text class="tick" x="{width - 1}" y="{floor + 14}" text-anchor="end">{escape(ends(float(high - 0.5 * few)))}</text>'
    )
    return drawing(width, height, label, body)


def _steps(xs: np.ndarray, ys: np.ndarray) -> str:
    return "".join(f"V{y:.1f}H{x:.1f}" for x, y in zip(xs[1:], ys, strict=True))


def signal(values: np.ndarray, low: float, high: float, style: str, label: str) -> str:
    """A small line plot of one signal, shape (L,), or of several channels, shape (C, L), between common limits.

    Checked by: tests/report/test_charts.py::test_a_signal_is_drawn_between_its_limits
    """
    width, height = 200, 74
    scale, body = _Scale(low, high, height - 4, 4), []
    if low < 0 < high:
        body.append(f'<path class="rule" d="M0 {scale(0.0):.1f}H{width}"/>')
    for i, channel in enumerate(np.atleast_2d(np.asarray(values, dtype=np.float64))[:6]):
        x, y = thin(np.arange(len(channel)), channel, _POINTS)
        y = np.array([scale(v) if math.isfinite(v) else math.nan for v in y])
        at = np.linspace(1, width - 1, len(x)) if len(x) > 1 else np.full(1, width / 2)
        body.append(f'<path class="line thin {style} c{i}" d="{_path(at, y)}"/>')
    return drawing(width, height, label, body, "chart signal")


def scatter(real: np.ndarray, generated: np.ndarray, label: str, most: int = 600) -> str:
    """Points of the plane, shape (N, 2): real below, generated above, axes of one scale each.

    Checked by: tests/report/test_charts.py::test_scatter_points
    """
    width, height = 480, 380
    sets = [np.asarray(v, dtype=np.float64)[:most] for v in (real, generated)]
    pooled = np.concatenate(sets)
    pooled = pooled[np.isfinite(pooled).all(1)]
    to_x = _Scale(*_range(pooled[:, 0], False, False), 54, width - 12)
    to_y = _Scale(*_range(pooled[:, 1], False, False), height - 44, 34)
    body = _axes(to_x, to_y, "first coordinate", "second coordinate")
    for style, points in zip(("real", "gen"), sets, strict=True):
        body += [
            f'<circle class="point {style}" cx="{to_x(a):.1f}" cy="{to_y(b):.1f}" r="2.4"/>'
            for a, b in points
            if math.isfinite(a) and math.isfinite(b)
        ]
    keys = [Line(name, style, [], []) for name, style in (("held-out", "real"), ("generated", "gen"))]
    return drawing(width, height, label, body + _legend(keys, 54))
