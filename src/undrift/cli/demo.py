"""The demo: scikit-learn's handwritten digits, from arrays to a judged, steered model.

Half of the data trains the model; the other half, which it never sees, trains the judge and is what samples are compared
with. Every figure is printed beside the floor that the training half itself reaches.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from undrift import evidence, simulate
from undrift.core import PerSample, write
from undrift.gaussian import DPMSolverPP
from undrift.model import Model, fit
from undrift.report import class_grid, neighbours, noise_to_sample

__all__ = ["Result", "digits", "print_report", "run"]


@dataclass(frozen=True)
class Result:
    """What the demo made.

    Attributes:
        folder: where everything is.
        evidence: figures, floors, cost.
        files: what each file shows.
    """

    folder: Path
    evidence: dict[str, Any]
    files: dict[str, Path]


def digits() -> tuple[np.ndarray, np.ndarray]:
    """scikit-learn's bundled digits: 1797 images 8x8 with values 0..16, and their labels (UCI set 80)."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return images.reshape(-1, 8, 8), labels


def run(out: Path, *, seconds: float = 60.0, seed: int = 0, quiet: bool = False) -> Result:
    """Fit, sample every class, evaluate, draw.

    Args:
        out: folder for the run.
        seconds: training time.
        seed: of everything.
        quiet: no progress bars.

    Returns:
        The evidence and the files.
    """
    out.mkdir(parents=True, exist_ok=True)  # before the training, which a folder that cannot be written would waste
    images, labels = digits()
    train, held_out = (half.numpy() for half in evidence.split_half(torch.from_numpy(labels), seed=0))

    start = time.perf_counter()
    model = fit(images[train], labels[train], seconds=seconds, seed=seed, progress=not quiet)
    fitted = time.perf_counter() - start
    model.save(out)

    start = time.perf_counter()
    samples = model.sample(len(labels), where={"class": labels}, seed=seed, progress=not quiet)
    sampled = time.perf_counter() - start

    encode = model.codec.encode
    judge = evidence.Judge.fit(encode(images[held_out]), torch.from_numpy(labels[held_out]), seed=seed)
    judged = evidence.evaluate(
        encode(samples),
        torch.from_numpy(labels),
        encode(images[train]),
        torch.from_numpy(labels[train]),
        encode(images[held_out]),
        torch.from_numpy(labels[held_out]),
        judge,
        seed=seed,
    )
    grid = model.grid()
    report = {
        **judged.to_json(),
        "cost": {
            "parameters": sum(p.numel() for p in model.denoiser.modules()[0].parameters()),
            "training_seconds": round(fitted, 1),
            "training_steps": model.recipe.training["done"],
            "network_calls_per_sample": DPMSolverPP().calls(grid),
            "sampling_seconds": round(sampled, 1),
            "samples_per_second": round(len(labels) / sampled, 1),
        },
    }
    write(out / "evidence.json", json.dumps(report, indent=2).encode())
    files = {"evidence.json": out / "evidence.json", **_draw(model, samples, labels, images[train], out, seed)}
    return Result(out, report, files)


def _draw(model: Model, samples: np.ndarray, labels: np.ndarray, train: np.ndarray, out: Path, seed: int) -> dict[str, Path]:
    """The three pictures."""
    names = model.labels.names if model.labels else ()
    chosen = np.stack([samples[labels == name][:12] for name in names])
    files = {"samples by class": class_grid(chosen, names, out / "samples.png", "Samples of each class")}

    grid = model.grid()
    like = torch.empty(len(names), *model.codec.event_shape)
    rng = PerSample(seed, len(names))
    with torch.no_grad():
        loop = simulate.trajectory(
            model.guided(len(names), {"class": names}),
            DPMSolverPP(),
            grid,
            model.denoiser.path.prior(like).sample(rng),
            rng=rng,
        )
        stops = list(loop)
    shown = [stops[i] for i in np.unique(np.linspace(0, len(stops) - 1, 9).round().astype(int))]
    schedule = model.denoiser.path.schedule
    levels = [float(schedule.sigma(torch.tensor(stop.t, dtype=torch.float64))) for stop in shown]
    # Each state in units of its own spread, so that noise and digits can be looked at side by side.
    scaled = np.stack([model.codec.decode(stop.x / max(1.0, level)) for stop, level in zip(shown, levels, strict=True)])
    files["noise to sample"] = noise_to_sample(scaled, levels, names, out / "path.png", "From noise to sample")

    first = np.stack([samples[labels == name][0] for name in names])
    distance, index = evidence.nearest(model.codec.encode(first), model.codec.encode(train))
    files["nearest training images"] = neighbours(
        first, train[index.numpy()], distance.numpy(), out / "neighbours.png", "Samples and their nearest training images"
    )
    return files


def print_report(result: Result) -> None:
    """The table and where the files are, for people."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(title="Evidence: samples against the half of the data that the model has not seen")
    for name, justify in (("figure", "left"), ("samples", "right"), ("floor (real data)", "right"), ("better", "left")):
        table.add_column(name, justify=justify)  # pyright: ignore[reportArgumentType]
    for figure in result.evidence["figures"]:
        table.add_row(figure["name"], f"{figure['value']:.4g}", f"{figure['floor']:.4g}", figure["better"])
    console.print(table)
    cost = result.evidence["cost"]
    console.print(
        f"{cost['parameters']:,} parameters; {cost['training_steps']} steps in {cost['training_seconds']} s; "
        f"{cost['network_calls_per_sample']} network calls a sample, {cost['samples_per_second']} samples/s"
    )
    for what, file in result.files.items():
        console.print(f"  {what:<24} {file}", highlight=False)
    console.print(f"  {'the model':<24} {result.folder}  (undrift.load gives it back)", highlight=False)
