"""The page of a run, from the model, its evidence and the files in its folder.

Checked by: tests/test_evaluation.py::test_the_page_holds_the_figures_and_the_schema
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undrift.evaluation import Judged
from undrift.evidence import nearest
from undrift.model import Model
from undrift.report.page import Neighbours, Page, write_page

__all__ = ["report"]

SHOWN = 10
"""Samples shown beside their nearest training records, and on the way from noise."""


def report(model: Model, judged: Judged, folder: Path, *, seed: int = 0) -> Path:
    """Write evidence.json and report.html.

    Args:
        model: the model.
        judged: what `undrift.evaluate` found.
        folder: of the run; metrics.jsonl is read from it where it is there.
        seed: of the samples whose way is drawn.

    Returns:
        The page.

    Checked by: tests/test_evaluation.py::test_the_page_holds_the_figures_and_the_schema
    """
    from undrift.core import write

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write(folder / "evidence.json", json.dumps(judged.evidence, indent=2).encode())
    kind = {"Images": "images", "Table": "table"}.get(type(model.codec).__name__, "arrays")
    by_class = np.argsort(_codes(model, judged), kind="stable")
    page = Page(
        name=folder.name,
        kind=kind,
        subtitle=f"{model.recipe.data.rows:,} records of {Path(model.recipe.data.path or 'data in memory').name}",
        evidence=judged.evidence,
        metrics=_metrics(folder / "metrics.jsonl"),
        samples=_rows(judged.samples, by_class),
        labels=None if judged.labels is None else [judged.labels[i] for i in by_class],
        real=judged.held_out,
        neighbours=_neighbours(model, judged),
        trace=_trace(model, judged, seed) if kind != "table" else (),
        head=model.recipe.head,
        schema=judged.schema,
        recipe=model.recipe.to_json().decode(),
        reproduce=_again(model, folder),
        versions=_versions(),
    )
    return write_page(page, folder / "report.html")


def _metrics(file: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line that a kill cut short is left out."""
    if not file.exists():
        return []
    lines = []
    for line in file.read_text().splitlines():
        try:
            lines.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return lines


def _neighbours(model: Model, judged: Judged) -> Neighbours:
    """Some samples and the training records nearest to them."""
    chosen = _some(model, judged)
    samples = _rows(judged.samples, chosen)
    encode = model.codec.encode
    distance, index = nearest(encode(samples), encode(judged.train))
    return Neighbours(samples, _rows(judged.train, index.numpy()), distance.tolist(), "codec units")


def _trace(model: Model, judged: Judged, seed: int) -> list[tuple[float, Any]]:
    """The way of a few samples from noise."""
    chosen = _some(model, judged)[:4]
    n, where = len(chosen), None
    if judged.labels is not None and model.conditions is not None:
        where = {model.conditions.names[0]: [judged.labels[i] for i in chosen]}
    return [(stop.noise, stop.records) for stop in model.trace(n, where, seed=seed)]


def _some(model: Model, judged: Judged) -> np.ndarray:
    """A few samples, of different classes where there are classes."""
    if judged.labels is None:
        return np.arange(min(SHOWN, len(judged.samples)))
    return np.unique(_codes(model, judged), return_index=True)[1][:SHOWN]


def _codes(model: Model, judged: Judged) -> np.ndarray:
    """The class of each sample as a number, in the order in which the model knows them; zeros without classes."""
    if judged.labels is None or model.conditions is None:
        return np.zeros(len(judged.samples), dtype=int)
    return model.conditions.of(judged.labels)[:, 0].long().numpy()


def _rows(records: Any, rows: np.ndarray) -> Any:
    return records.iloc[rows] if hasattr(records, "iloc") else records[rows]


def _again(model: Model, folder: Path) -> list[str]:
    """Commands that make the run again."""
    if model.recipe.data.path is None:
        return [f'undrift.repeat("{folder}/recipe.json", data=..., labels=...)   # the records were given in memory']
    return [f"undrift fit {folder}/recipe.json", f"undrift report {folder}"]


def _versions() -> list[tuple[str, str]]:
    import platform

    import undrift

    return [
        ("undrift", undrift.__version__),
        ("torch", torch.__version__),
        ("numpy", np.__version__),
        ("Python", platform.python_version()),
    ]
