"""One page about a run: what it makes, how far that is from real data, what it cost, and how to do it again.

The page is a single HTML file that asks nobody for anything: styles inline, charts as SVG, pictures as PNG inside it. It is
made of plain data, every part optional; a part that is missing leaves out its section. The template escapes text of users.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from undrift.core import write
from undrift.errors import DataError
from undrift.report import charts, marks, tables, tiles, words

__all__ = ["Neighbours", "Page", "page_html", "write_page"]

KINDS = ("images", "table", "arrays")
_CLASSES, _PER_CLASS, _PLAIN, _STOPS, _TRACED, _NEAR = 12, 10, 48, 9, 4, 10


@dataclass(frozen=True)
class Neighbours:
    """Some samples beside the training records that lie nearest to them.

    Attributes:
        samples: M records, in the form of `Page.samples`.
        nearest: the nearest training record of each, in the same form.
        distances: shape (M,).
        unit: of the distances.
    """

    samples: Any
    nearest: Any
    distances: Any
    unit: str = ""


@dataclass(frozen=True)
class Page:
    """What a page shows. Records are arrays (M, *S) of pictures or arrays, or a DataFrame (or mapping of columns) for a table.

    Attributes:
        name: of the run.
        kind: "images", "table" or "arrays": the form of all records here.
        subtitle: what the data is, in a line.
        made: when and by which version, in a line.
        evidence: evidence.json of the run.
        metrics: the lines of metrics.jsonl.
        samples: generated records.
        labels: class of each sample, length M; samples are then shown class by class.
        real: real records that the model has not seen, in the same form.
        neighbours: some samples and their nearest training records.
        trace: stops on the way from noise to sample: noise level sigma / alpha and the records there.
        head: what the network predicts; names the unit of its losses.
        schema: the data in words, pairs (name, text).
        recipe: the run's recipe, JSON text or a mapping.
        reproduce: commands, or lines of Python, that make the run again.
        versions: pairs (name, version).
        meanings: what a figure of that name says; adds to `words.MEANINGS`.
    """

    name: str
    kind: str = "arrays"
    subtitle: str = ""
    made: str = ""
    evidence: Mapping[str, Any] | None = None
    metrics: Sequence[Mapping[str, Any]] = ()
    samples: Any = None
    labels: Any = None
    real: Any = None
    neighbours: Neighbours | None = None
    trace: Sequence[tuple[float, Any]] = ()
    head: str = ""
    schema: Sequence[tuple[str, str]] = ()
    recipe: str | Mapping[str, Any] | None = None
    reproduce: Sequence[str] = ()
    versions: Sequence[tuple[str, str]] = ()
    meanings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"kind={self.kind!r} is none of {', '.join(KINDS)}")
        if (
            self.labels is not None
            and self.kind != "table"
            and self.samples is not None
            and len(self.labels) != len(self.samples)
        ):
            raise DataError(f"{len(self.labels)} labels for {len(self.samples)} samples; give one for each")


def write_page(page: Page, file: str | Path) -> Path:
    """Write the page; its folder is made if need be.

    Args:
        page: what it shows.
        file: where, such as runs/NAME/report.html.

    Returns:
        The file.

    Raises:
        DataError: records that cannot be shown as `page.kind`.
        OSError: the file cannot be written.

    Checked by: tests/report/test_page.py
    """
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    write(file, page_html(page).encode())
    return file


def page_html(page: Page) -> str:
    """The page as HTML text; see `write_page`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    here = FileSystemLoader(Path(__file__).parent)
    environment = Environment(loader=here, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    evidence = page.evidence or {}
    context = {
        "page": page,
        "verdict": words.verdict(evidence, page.metrics),
        "cards": words.key_numbers(evidence),
        "samples": _samples(page),
        "neighbours": _neighbours(page),
        "trace": _trace(page),
        "loss": _loss(page),
        "columns": _columns(page),
        "pairs": _pairs(evidence),
        "figures": _figures(page, evidence),
        "percent": words.percent,
        "cost": words.cost_rows(evidence.get("cost") or {}),
        "recipe": page.recipe if isinstance(page.recipe, str | None) else json.dumps(page.recipe, indent=2, ensure_ascii=False),
    }
    return environment.get_template("page.html.j2").render(context)


def _grid(records: Any, page: Page, name: str, style: str = "gen", **room: Any) -> list[tiles.Tile]:
    return tiles.tiles(np.asarray(records), page.kind, _between(page), name, style, **room)


def _between(page: Page) -> tuple[float, float]:
    """Common limits of every picture of the page: those of what was sampled and of what is real."""
    given = [np.asarray(v) for v in (page.samples, page.real) if v is not None]
    if not given and page.neighbours is not None:
        given = [np.asarray(page.neighbours.samples)]
    if not given and page.trace:
        given = [np.asarray(page.trace[-1][1])]
    if all(v.dtype == np.uint8 for v in given):
        return 0.0, 255.0
    return tiles.limits(np.concatenate([v.astype(np.float64).ravel() for v in given]))


def _samples(page: Page) -> dict[str, Any] | None:
    if page.samples is None:
        return None
    if page.kind == "table":
        made = tables.rows(page.samples, like=page.real)
        return {"form": "table", "generated": made, "real": None if page.real is None else tables.rows(page.real)}
    records = np.asarray(page.samples)
    how = tiles.form(page.kind, records.shape[1:])
    if how == "points":
        return {"form": how, "svg": _points(records, page.real)}
    if page.labels is None:
        groups = [("", records[: _PLAIN if how == "picture" else 12])]
    else:
        names = list(dict.fromkeys(page.labels))[:_CLASSES]
        label, few = np.array([names.index(v) if v in names else -1 for v in page.labels]), 4 if how == "slices" else _PER_CLASS
        groups = [(str(name), records[label == k][:few]) for k, name in enumerate(names)]
    room = 300_000 // max(1, sum(len(part) for _, part in groups))
    shown = [(name, _grid(part, page, f"sample {name}".strip(), pixels=room * len(part))) for name, part in groups]
    real = [] if page.real is None else _grid(page.real[:12], page, "held-out record", "real", pixels=60_000)
    return {"form": how, "groups": shown, "real": real, "between": [words.number(v) for v in _between(page)]}


def _points(records: np.ndarray, real: Any) -> str:
    made = records.reshape(len(records), -1)
    held = np.zeros((0, made.shape[1])) if real is None else np.asarray(real).reshape(len(real), -1)
    draw = charts.scatter if made.shape[1] == 2 else lambda a, b, label: charts.histogram(a.ravel(), b.ravel(), label)
    return draw(held, made, "generated and held-out records")


def _neighbours(page: Page) -> dict[str, Any] | None:
    near = page.neighbours
    if near is None:
        return None
    heads = [words.number(d) for d in near.distances][:_NEAR]
    if page.kind == "table":
        return {"form": "table", "pairs": tables.pairs(near.samples, near.nearest, heads), "unit": near.unit}
    both = [np.asarray(v)[:_NEAR] for v in (near.samples, near.nearest)]
    if tiles.form(page.kind, both[0].shape[1:]) == "points":
        return None
    shown = [
        _grid(v, page, name, s, pixels=80_000) for v, name, s in zip(both, ("sample", "nearest"), ("gen", "real"), strict=True)
    ]
    return {"form": "tiles", "pairs": list(zip(*shown, heads, strict=True)), "unit": near.unit}


def _trace(page: Page) -> dict[str, Any] | None:
    if not page.trace:
        return None
    kept = np.unique(np.linspace(0, len(page.trace) - 1, min(_STOPS, len(page.trace))).round().astype(int))
    stops = [page.trace[i] for i in kept]
    heads = [f"σ = {charts.tick(float(v))}" if 0 < v < math.inf else "sample" if v <= 0 else "pure noise" for v, _ in stops]
    if page.kind == "table":
        return {"form": "table", "heads": heads, "rows": tables.journey([records for _, records in stops])}
    first = np.asarray(stops[0][1])
    if tiles.form(page.kind, first.shape[1:]) == "points":
        return None
    shown = [_grid(np.asarray(v)[:_TRACED], page, "stop", pixels=14_000, only_first=True) for _, v in stops]
    return {"form": "tiles", "heads": heads, "rows": list(zip(*shown, strict=True))}


def _loss(page: Page) -> dict[str, Any] | None:
    """Loss over steps, and over noise levels for the last quarter of the training, beside the yardsticks."""
    if not page.metrics:
        return None
    unit = f"loss ({page.head} units)" if page.head else "loss (head units)"
    step = np.array([float(line["step"]) for line in page.metrics])
    series = []
    for name, key, style in (
        ("mean predictor", "mean", "mean"),
        ("Gaussian", "gaussian", "gauss"),
        ("this model", "loss", "gen"),
    ):
        values = charts.finite([line.get(key) for line in page.metrics])
        if np.isfinite(values).any():
            x, y = charts.thin(step, values)
            series.append(charts.Line(name, style, x, y))
    over_steps = charts.lines(_in_sight(series), x="training step", y=unit, label="loss over training steps")
    return {"steps": over_steps, "levels": _levels(page, unit), "gain": words.gain(page.metrics)}


def _in_sight(series: list[charts.Line]) -> list[charts.Line]:
    """The lines, the mean predictor's without what lies far above the others, which it would press to the bottom."""
    others = [charts.finite(line.y) for line in series if line.style != "mean"]
    seen = np.concatenate(others) if others else np.zeros(0)
    if not np.isfinite(seen).any():
        return series
    shown = []
    for line in series:
        y = charts.finite(line.y)
        far = y > 1.25 * np.nanmax(seen)
        if line.style == "mean" and far.any():
            name = f"{line.name} (up to {charts.tick(float(np.nanmax(y)))})"
            line = replace(line, name=name, y=np.where(far, math.nan, y))
        shown.append(line)
    return shown


def _levels(page: Page, unit: str) -> str:
    lines = [line for line in page.metrics if line.get("levels") and line.get("losses")]
    lines = [line for line in lines if line["levels"] == lines[-1]["levels"]]
    if not lines:
        return ""
    last = lines[-max(1, len(lines) // 4) :]
    edges = charts.finite(lines[-1]["levels"])
    edges[~(edges > 0)] = math.nan
    edges[0] = edges[1] / 2 if math.isnan(edges[0]) else edges[0]
    edges[-1] = edges[-2] * 2 if math.isnan(edges[-1]) else edges[-1]
    middle = np.sqrt(edges[:-1] * edges[1:])
    series = []
    for name, key, style in (
        ("mean predictor", "means", "mean"),
        ("Gaussian", "gaussians", "gauss"),
        ("this model", "losses", "gen"),
    ):
        values = np.stack([charts.finite(line.get(key) or [None] * len(middle)) for line in last])
        counts = np.stack([charts.finite(line.get("counts") or [1] * len(middle)) for line in last])
        weight = np.where(np.isfinite(values), counts, 0.0)
        total = weight.sum(0)
        mean = np.where(
            total > 0, (weight * np.where(np.isfinite(values), values, 0)).sum(0) / np.maximum(total, 1e-300), math.nan
        )
        if np.isfinite(mean).any():
            series.append(charts.Line(name, style, list(middle), list(mean), dots=style == "gen"))
    return charts.lines(_in_sight(series), x="noise level σ/α (codec units)", y=unit, label="loss by noise level", log_x=True)


def _columns(page: Page) -> list[dict[str, Any]]:
    if page.kind != "table" or page.real is None or page.samples is None:
        return []
    return tables.multiples(page.real, page.samples, list((page.evidence or {}).get("columns") or []))


def _pairs(evidence: Mapping[str, Any]) -> dict[str, Any] | None:
    pairs = evidence.get("pairs")
    return tables.associations(pairs) if pairs and len(pairs.get("names") or []) > 1 else None


def _figures(page: Page, evidence: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    for figure in evidence.get("figures") or []:
        ends = [figure.get(key) for key in ("value", "floor", "baseline", "low", "high")]
        text = dict(zip(("value", "floor", "baseline"), map(words.number, ends), strict=False))
        _, low, high = words.alike([ends[0], *ends[3:]])
        span = f"{low} to {high}" if words.DASH not in (low, high) else ""
        said = words.meaning(str(figure.get("name", "")), page.meanings)
        rows.append({**figure, **text, "interval": span, "svg": marks.gauge(*ends), "meaning": said})
    return rows
