"""Tables to look at: rows, pairs of rows, columns beside columns, associations beside associations."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from undrift.report import charts, marks
from undrift.report.tiles import columns
from undrift.report.words import DASH, number

__all__ = ["associations", "journey", "multiples", "pairs", "rows"]

_ROWS, _WIDE, _COLUMNS, _CATEGORIES, _MATRIX, _MOST = 12, 40, 30, 8, 30, 20_000
_WORDS = ("level", "categ", "class", "bool", "text", "label")


def _missing(value: Any) -> bool:
    return value is None or type(value).__name__ in ("NAType", "NaTType") or bool(value != value)


def _cell(value: Any) -> str:
    """A value as a person would write it; empty if missing."""
    if _missing(value):
        return ""
    if isinstance(value, np.datetime64):
        return str(value)[:19].replace("T00:00:00", "").replace("T", " ")
    if isinstance(value, float | np.floating):
        return f"{float(value):.5g}".replace("-", "−") if math.isfinite(value) else DASH
    return str(value) if len(str(value)) <= 60 else str(value)[:59] + "…"


def _numeric(values: np.ndarray) -> bool:
    """Whether all that is not missing is a number (yes and no are none)."""
    if values.dtype.kind in "iuf":
        return True
    good = (int, float, np.integer, np.floating)
    return values.dtype.kind == "O" and all(
        isinstance(v, good) and not isinstance(v, bool | np.bool_) for v in values if not _missing(v)
    )


def _decimals(values: np.ndarray) -> int | None:
    """Decimals of a column of floats: five digits of its largest, fewer where that loses nothing; None: each value its own."""
    seen = np.array([abs(float(v)) for v in values if not _missing(v) and math.isfinite(v)])
    top = seen.max(initial=0.0)
    if not 1e-3 <= top < 1e9:
        return None
    most = max(0, 4 - math.floor(math.log10(top)))
    return next((d for d in range(most) if np.all(np.abs(seen - np.round(seen, d)) <= 1e-9 * top)), most)


def _written(values: np.ndarray, like: np.ndarray, count: int) -> list[str]:
    """The first cells of a column as text, floats with the decimals of the column `like`."""
    real = next((isinstance(v, float | np.floating) for v in values if not _missing(v)), False)
    decimals = _decimals(like) if real and _numeric(like) else None
    if decimals is None:
        return [_cell(v) for v in values[:count]]
    return [
        f"{float(v):.{decimals}f}".replace("-", "−") if not _missing(v) and math.isfinite(v) else _cell(v)
        for v in values[:count]
    ]


def rows(records: Any, like: Any = None) -> dict[str, Any]:
    """The first rows of a table: names, which columns are numbers, cells as text, and how many columns were left out.

    Args:
        records: a DataFrame or a mapping of columns.
        like: a table whose order of columns and number of decimals are followed.

    Checked by: tests/report/test_tables.py::test_rows_hold_the_cells
    """
    table, model = columns(records), {} if like is None else columns(like)
    order = [name for name in model if name in table]
    order += [name for name in table if name not in model]
    shown = {name: table[name] for name in order[:_WIDE]}
    count = min([_ROWS, *(len(v) for v in shown.values())])
    written = [_written(values, model.get(name, values), count) for name, values in shown.items()]
    return {
        "names": list(shown),
        "numbers": [_numeric(v) for v in shown.values()],
        "cells": [list(row) for row in zip(*written, strict=True)],
        "left_out": len(table) - len(shown),
    }


def pairs(samples: Any, nearest: Any, distances: Sequence[str]) -> dict[str, Any]:
    """Each sample above its nearest training record; a cell says whether the two agree as they are written."""
    above, below = rows(samples, like=nearest), rows(nearest)
    both = zip(above["cells"], below["cells"], distances, strict=False)
    lines = [
        {"distance": d, "sample": a, "nearest": b, "same": [p == q for p, q in zip(a, b, strict=True)]} for a, b, d in both
    ]
    return {"names": above["names"], "numbers": above["numbers"], "lines": lines}


def journey(stops: Sequence[Any]) -> list[tuple[str, bool, list[str]]]:
    """The first record at each stop: name of a column, whether it is a number, its value at each stop."""
    tables = [columns(records) for records in stops]
    last = dict(list(tables[-1].items())[:_ROWS])
    return [(name, _numeric(like), [_written(table[name], like, 1)[0] for table in tables]) for name, like in last.items()]


def multiples(real: Any, generated: Any, judged: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Columns of both tables, one small chart each, those furthest apart first; at most 30, of the first 20,000 rows.

    Args:
        real: held-out table.
        generated: generated table.
        judged: entries {"name", "kind", "distance", "floor", "baseline"}; columns that are not among them come last.

    Checked by: tests/report/test_tables.py::test_columns_are_sorted_by_distance
    """
    tables, known = (columns(real), columns(generated)), {str(entry["name"]): entry for entry in judged}

    def far(name: str) -> float:
        distance = known.get(name, {}).get("distance")
        return -distance if isinstance(distance, int | float) and math.isfinite(distance) else math.inf

    names = sorted((name for name in tables[0] if name in tables[1]), key=far)[:_COLUMNS]
    out = []
    for name in names:
        a, b = (table[name][:_MOST] for table in tables)
        entry = known.get(name, {})
        lost = [float(np.mean([_missing(v) for v in values])) if len(values) else 0.0 for values in (a, b)]
        svg = _column(name, a, b, str(entry.get("kind", "")))
        shown = {key: number(entry.get(key), 2) for key in ("distance", "floor", "baseline")}
        out.append({"name": name, "svg": svg, "lost": lost if max(lost) > 0 else None, **shown})
    return out


def _column(name: str, a: np.ndarray, b: np.ndarray, kind: str) -> str:
    label = f"{name}: real and generated"
    named = kind.casefold().startswith(_WORDS)
    if a.dtype.kind == "M" and b.dtype.kind == "M" and not named:
        real, made = (np.where(np.isnat(v), math.nan, v.astype("datetime64[s]").astype(np.float64)) for v in (a, b))
        return charts.histogram(real, made, label, lambda v: str(np.datetime64(round(v), "s"))[:10])
    if _numeric(a) and _numeric(b) and not named:
        real, made = (np.array([math.nan if _missing(v) else float(v) for v in values]) for values in (a, b))
        return charts.histogram(real, made, label)
    cells = [[_cell(v) for v in values if not _missing(v)] for values in (a, b)]
    seen, counts = np.unique(cells[0] or cells[1], return_counts=True)
    order = [str(v) for v in seen[np.argsort(-counts, kind="stable")]]
    top = order if len(order) <= _CATEGORIES else order[: _CATEGORIES - 1]
    shares = [[values.count(v) / max(len(values), 1) for v in top] for values in cells]
    rest = [1 - sum(share) if values else 0.0 for share, values in zip(shares, cells, strict=True)]
    if max(rest) > 1e-9:
        top, shares = [*top, "all others"], [[*share, max(0.0, r)] for share, r in zip(shares, rest, strict=True)]
    return marks.bars(top, shares[0], shares[1], label)


def associations(given: Mapping[str, Any]) -> dict[str, Any]:
    """Three matrices: real, generated, and their difference; of many columns the 30 that differ most.

    Args:
        given: {"names", "real", "generated"}: K names and two K x K lists; None is a gap.

    Checked by: tests/report/test_tables.py::test_the_difference_is_generated_less_real
    """
    names = [str(name) for name in given["names"]]
    real, made = (np.stack([charts.finite(row) for row in given[key]]) for key in ("real", "generated"))
    far = np.where(np.isfinite(made - real), np.abs(made - real), 0.0)
    kept = np.sort(np.argsort(-far.max(1), kind="stable")[:_MATRIX])
    names, cut = [names[i] for i in kept], np.ix_(kept, kept)
    worst = np.unravel_index(np.argmax(far[cut]), (len(kept), len(kept)))
    panels = (("real", real[cut]), ("generated", made[cut]), ("difference", (made - real)[cut]))
    return {
        "panels": [(title, marks.matrix(values, names, f"associations, {title}")) for title, values in panels],
        "left_out": len(given["names"]) - len(kept),
        "worst": (names[worst[0]], names[worst[1]], number(real[cut][worst]), number(made[cut][worst])),
    }
