"""A picture of the strengths that were tried: what guidance bought, what it cost, and which was chosen."""

import math
from pathlib import Path
from typing import Any

__all__ = ["frontier"]


def frontier(found: Any, file: Path, title: str, unit: str = "data unit") -> Path:
    """Confidence against spread (left), and the criterion against the scale (right), each beside the floor of real records.

    Args:
        found: what `guidance.choose_scale` answered.
        file: where to write.
        title: above the picture.
        unit: of spread and criterion.

    Returns:
        The file.

    Checked by: tests/report/test_frontier.py
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.8), dpi=120, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2)
    tried, floor = found.tried, found.floor
    left.plot([t.spread for t in tried], [t.confidence for t in tried], "o-", color="#1f77b4", ms=4)
    for t in tried:
        left.annotate(f"{t.scale:g}", (t.spread, t.confidence), xytext=(4, 4), textcoords="offset points", fontsize=8)
    left.plot(floor.spread, floor.confidence, "*", color="black", ms=12, label="real records")
    left.set_xlabel(f"spread within a label ({unit})")
    left.set_ylabel("confidence in the label")
    left.set_title("numbers: scale w", fontsize=9)
    left.legend(fontsize=8)
    errors = [0.0 if math.isnan(t.error) else 2 * t.error for t in tried]
    right.errorbar([t.scale for t in tried], [t.criterion for t in tried], errors, fmt="o-", color="#1f77b4", ms=4, capsize=2)
    right.axhline(floor.criterion, color="black", ls="--", lw=1, label="floor: real records")
    right.axvline(found.chosen, color="#d95f02", lw=1, label=f"chosen: w = {found.chosen:g}")
    right.set_ylim(bottom=0)
    right.set_xlabel("scale w (1 = plain conditional)")
    right.set_ylabel(f"distance to held-out records ({unit})")
    right.set_title("bars: two standard errors", fontsize=9)
    right.legend(fontsize=8)
    figure.suptitle(title, fontsize=10)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file)
    return file
