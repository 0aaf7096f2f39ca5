"""Small drawings without axes, as SVG text: bars of shares, a matrix of associations, a figure between its yardsticks.

Colours come from the page, as in `charts`; names that a user chose are escaped here.
"""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from undrift.report.charts import drawing
from undrift.report.words import number

__all__ = ["bars", "gauge", "matrix"]


def bars(names: Sequence[str], real: Sequence[float], generated: Sequence[float], label: str) -> str:
    """Shares of categories: a bar for real and one for generated below it, one row a category.

    Args:
        names: of the categories.
        real: their shares, each in [0, 1].
        generated: their shares.
        label: what the chart shows.

    Checked by: tests/report/test_charts.py::test_bars_are_as_long_as_the_shares
    """
    width, row, left = 220, 20, 78
    top = max([*real, *generated, 1e-9])
    body = []
    for i, (name, a, b) in enumerate(zip(names, real, generated, strict=True)):
        at, text = i * row + 3, name if len(name) <= 12 else name[:11] + "…"
        said = f"<title>{escape(name)}: real {100 * a:.1f} %, generated {100 * b:.1f} %</title>"
        body.append(f'<text class="tick" x="{left - 6}" y="{at + 8}" dy=".35em" text-anchor="end">{escape(text)}{said}</text>')
        for style, share, shift in (("real", a, 0), ("gen", b, 8)):
            long = (width - left - 2) * share / top
            body.append(f'<rect class="fill {style}" x="{left}" y="{at + shift}" width="{long:.1f}" height="7">{said}</rect>')
    return drawing(width, len(names) * row + 4, label, body)


def matrix(values: np.ndarray, names: Sequence[str], label: str) -> str:
    """A square matrix of numbers in [-1, 1]: blue above 0, orange below, the stronger the further away; a gap is left blank.

    Args:
        values: shape (K, K); NaN is a gap.
        names: of rows and columns.
        label: what the chart shows.

    Checked by: tests/report/test_charts.py::test_matrix_cells
    """
    count = len(names)
    margin, cell = 74, min(22.0, 226 / max(count, 1))
    size = margin + cell * count + 2
    tick = f'<text class="tick" style="font-size:{min(10.0, max(4.5, 0.8 * cell)):.1f}px" dy=".35em"'
    body = []
    for i, name in enumerate(names):
        text, at, end = escape(name if len(name) <= 13 else name[:12] + "…"), margin + cell * (i + 0.5), margin - 4
        body.append(f'{tick} x="{end}" y="{at:.1f}" text-anchor="end">{text}</text>')
        body.append(f'{tick} x="{at:.1f}" y="{end}" transform="rotate(-90 {at:.1f} {end})">{text}</text>')
    side = f'width="{cell - 0.6:.1f}" height="{cell - 0.6:.1f}"'
    for i in range(count):
        for j in range(count):
            value = float(values[i, j])
            if math.isfinite(value):
                said = f"<title>{escape(names[i])} · {escape(names[j])}: {number(value)}</title>"
                at = f'x="{margin + cell * j:.1f}" y="{margin + cell * i:.1f}"'
                style = "pos" if value >= 0 else "neg"
                body.append(f'<rect class="cell {style}" {at} {side} fill-opacity="{min(1.0, abs(value)):.2f}">{said}</rect>')
    frame = f'x="{margin - 0.5}" y="{margin - 0.5}" width="{cell * count:.1f}" height="{cell * count:.1f}"'
    body.append(f'<rect class="frame" {frame}/>')
    return drawing(size, size, label, body, "chart square")


def gauge(value: Any, floor: Any, baseline: Any, low: Any = None, high: Any = None) -> str:
    """Where a figure lies between the floor (a tick on the left) and the Gaussian baseline (a tick on the right).

    Floor and baseline stand at the same places in every row, whether lower or higher is better, so that a column of gauges
    reads at a glance; a value beyond the paper is an arrow at its edge. Without a baseline the right end stands for twice the
    floor, and no tick is drawn there.

    Args:
        value: the figure.
        floor: what real data reaches.
        baseline: what the Gaussian reaches; may be missing.
        low: lower end of the value's interval; may be missing.
        high: upper end.

    Returns:
        The drawing; empty where value or floor is missing.

    Checked by: tests/report/test_charts.py::test_gauge_puts_values_between_floor_and_baseline
    """
    ends = [None if v is None or not math.isfinite(v) else float(v) for v in (value, floor, baseline, low, high)]
    value, floor, baseline, low, high = ends
    if value is None or floor is None:
        return ""
    known = baseline is not None and baseline != floor
    end = baseline if known and baseline is not None else (2 * floor if floor > 0 else max(value, high or 0.0, 1e-12))
    start, reach, width = 26.0, 104.0, 156.0

    def at(v: float) -> float:
        return start + reach * (v - floor) / ((end - floor) or 1.0)

    def held(v: float) -> float:
        return min(max(at(v), 5.0), width - 5.0)

    body = [f'<path class="rail" d="M4 13H{width - 4:g}"/>', f'<path class="way" d="M{start:g} 13H{held(value):.1f}"/>']
    body.append(f'<path class="mark real" d="M{start:g} 5v16"><title>floor {number(floor)}</title></path>')
    if known:
        body.append(f'<path class="mark gauss" d="M{start + reach:g} 5v16"><title>Gaussian {number(baseline)}</title></path>')
    if low is not None and high is not None:
        body.append(f'<path class="span" d="M{held(low):.1f} 13H{held(high):.1f}"/>')
    said = f"<title>{number(value)}</title>"
    if at(value) > width - 5:
        body.append(f'<path class="dot gen" d="M{width - 9:g} 7l8 6l-8 6z">{said}</path>')
    elif at(value) < 5:
        body.append(f'<path class="dot gen" d="M9 7l-8 6l8 6z">{said}</path>')
    else:
        body.append(f'<circle class="dot gen" cx="{at(value):.1f}" cy="13" r="4.5">{said}</circle>')
    return drawing(width, 26, f"value {number(value)}, floor {number(floor)}, Gaussian {number(baseline)}", body, "gauge")
