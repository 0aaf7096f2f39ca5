"""The demo: real pictures and a real table, from data to steered samples, evidence and a report.

Half of each data set trains the model; the other half, which it never sees, judges it. Every figure is printed beside the floor
that real data reach and the baseline that a Gaussian reaches.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["Result", "digits", "print_results", "run", "tumours"]


@dataclass(frozen=True)
class Result:
    """What a run of the demo made.

    Attributes:
        folder: where everything is.
        evidence: figures, floors, baselines, cost.
        report: the page to look at.
    """

    folder: Path
    evidence: dict[str, Any]
    report: Path


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's bundled digits: 1797 images 8x8 with values 0..16, and their labels (UCI set 80, CC BY 4.0)."""
    from sklearn.datasets import load_digits

    found: Any = load_digits()
    return found.images.astype(np.int64), found.target


def tumours() -> Any:
    """scikit-learn's bundled breast cancer table: 569 rows, 30 measurements and a diagnosis (UCI set 17, CC BY 4.0)."""
    from sklearn.datasets import load_breast_cancer

    found: Any = load_breast_cancer(as_frame=True)
    return found.data.assign(diagnosis=found.target.map(dict(enumerate(found.target_names))))


def run(out: Path, *, seconds: float = 60.0, seed: int = 0, quiet: bool = False) -> dict[str, Result]:
    """Fit, evaluate and report digits and a table.

    Args:
        out: folder for the runs; a run of the demo that is there already is made anew.
        seconds: training time of each.
        seed: of everything.
        quiet: no progress bars.

    Returns:
        Each run by name.
    """
    images, labels = digits()
    return {
        "digits": _one(out / "digits", images, labels, None, seconds, seed, quiet),
        "tumours": _one(out / "tumours", tumours(), None, "diagnosis", seconds, seed, quiet),
    }


def _one(folder: Path, data: Any, labels: Any, condition: str | None, seconds: float, seed: int, quiet: bool) -> Result:
    import undrift as ud
    from undrift.report.build import report

    _clear(folder)
    model = ud.fit(
        data, labels, condition=condition, minutes=seconds / 60, out=folder, held_out=0.5, seed=seed, progress=not quiet
    )
    judged = ud.evaluate(model, data, labels, seed=seed, progress=not quiet)
    return Result(folder, judged.evidence, report(model, judged, folder))


def _clear(folder: Path) -> None:
    """Remove the files of an earlier demo, and nothing else."""
    names = ("recipe.json", "model.safetensors", "metrics.jsonl", "evidence.json", "report.html", "state/snapshot.safetensors")
    for name in names:
        (folder / name).unlink(missing_ok=True)


def print_results(results: dict[str, Result]) -> None:
    """The tables and where the files are, for people."""
    from rich.console import Console

    from undrift.cli.runs import print_evidence

    console = Console(highlight=False)
    for name, result in results.items():
        print_evidence(result.evidence, f"{name}: samples against the half of the data that the model has not seen")
        console.print(f"  model   {result.folder}  (undrift.load gives it back)")
        console.print(f"  [bold]report  {result.report}[/bold]  (open it in a browser)\n")
