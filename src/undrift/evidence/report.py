r"""Evidence: every number beside the floor that real data reaches, with its direction and unit.

Data is cut in two halves (`split_half`): the model is trained on `train`; `held_out` is seen by the judge alone. A
distance between finite sets depends on their sizes, so distances are taken at **matched size**: with n = min(|samples|,
|train|), the samples are shuffled and cut into blocks of n, and the figure is the mean over whole blocks of the
distance from a block to `held_out`; the floor is the distance from n training points to `held_out`. A perfect model
that knows nothing of `train` stands at the floor, and so does a copier, which is why the memorised fraction stands
beside them.

Halves cut class by class resemble each other more than two independent draws, so their floor is a strict one.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.evidence.checks import labels as check_labels
from undrift.evidence.checks import points, same_event
from undrift.evidence.distances import frechet, sliced_w2
from undrift.evidence.judge import Judge
from undrift.evidence.memorisation import expected_fraction, memorised_fraction

__all__ = ["Evidence", "Figure", "evaluate"]

_QUANTILE = 0.01


@dataclass(frozen=True)
class Figure:
    """One measured number and what it takes to read it.

    Attributes:
        name: what was measured.
        value: of the samples.
        floor: the same number for real data (for the memorised fraction: its expected value without memorisation).
        better: "lower" or "higher".
        unit: of value and floor; "share" is dimensionless, in [0, 1].
    """

    name: str
    value: float
    floor: float
    better: str
    unit: str


@dataclass(frozen=True)
class Evidence:
    """What `evaluate` measured.

    Attributes:
        figures: the numbers.
        samples: how many samples were judged.
        train: how many training points.
        held_out: how many held-out points.
        matched: n, the size at which distances were taken.
        seed: of the shuffles and directions.
    """

    figures: tuple[Figure, ...]
    samples: int
    train: int
    held_out: int
    matched: int
    seed: int

    def __getitem__(self, name: str) -> Figure:
        """The figure of that name."""
        for figure in self.figures:
            if figure.name == name:
                return figure
        raise KeyError(f"no figure {name!r}; there are {[figure.name for figure in self.figures]}.")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary of numbers and strings, for `json.dump`.

        Checked by: tests/evidence/test_report.py::test_json_and_rows_hold_every_number
        """
        return asdict(self) | {"figures": [asdict(figure) for figure in self.figures]}

    def rows(self) -> list[tuple[str, str, str, str, str]]:
        """Rows of a table: name, value, floor, better, unit; four significant digits.

        Checked by: tests/evidence/test_report.py::test_json_and_rows_hold_every_number
        """
        return [(f.name, f"{f.value:.4g}", f"{f.floor:.4g}", f.better, f.unit) for f in self.figures]


def _blocks(x: Tensor, size: int, rng: torch.Generator) -> list[Tensor]:
    order = torch.randperm(len(x), generator=rng).to(x.device)
    return [x[part] for part in order.split(size) if len(part) == size]


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _imbalance(predicted: Tensor, wanted: Tensor) -> float:
    """Total variation between two histograms of labels."""
    classes = torch.cat([predicted, wanted]).unique()
    share = [(labels[:, None] == classes).double().mean(0) for labels in (predicted, wanted)]
    return float((share[0] - share[1]).abs().sum() / 2)


def evaluate(
    samples: Tensor,
    labels: Tensor | None,
    train: Tensor,
    train_labels: Tensor,
    held_out: Tensor,
    held_out_labels: Tensor,
    judge: Judge,
    seed: int = 0,
) -> Evidence:
    r"""Measure samples against data that their model has not seen.

    Figures, each with its floor:

    - `sliced W2` (lower; data unit): `sliced_w2` to `held_out` at matched size.
    - `Frechet` (lower; feature unit, squared): `frechet` of the judge's features to `held_out` at matched size.
    - `judge agreement` (higher; share): samples that show the label asked for; floor: the judge's accuracy on `train`.
      Above the floor means samples plainer than real data. Left out where no labels were asked for.
    - `class imbalance` (lower; share): total variation between the classes the judge sees in the samples and those of
      `held_out`; floor: the same for `train`. It shows lost classes, also in unconditional samples.
    - `memorised fraction` (lower; share): `memorised_fraction` at quantile 0.01; floor: its expected value.

    Args:
        samples: shape (N, *E).
        labels: what each sample should show, shape (N,), integers; None for an unconditional model.
        train: what the model was trained on, shape (T, *E).
        train_labels: shape (T,), integers.
        held_out: what it has not seen, shape (M, *E), M at least 99 (for the quantile of memorisation).
        held_out_labels: shape (M,), integers.
        judge: trained on data the model has not seen, such as `held_out`, and not on `train`.
        seed: of the blocks and of the directions.

    Returns:
        The evidence.

    Raises:
        ShapeError: the sets differ in event shape, or labels do not match their points.
        DataError: fewer than 2 samples or training points, or fewer than 99 held-out points.
        NonFiniteError: a NaN or an infinity in a set.

    Checked by: tests/evidence/test_report.py::test_real_data_reaches_the_floor,
        tests/evidence/test_report.py::test_each_figure_sees_its_own_fault
    """
    for name, x, at_least in (("samples", samples, 2), ("train", train, 2), ("held_out", held_out, 2)):
        points(x, name, at_least)
        same_event(x, held_out, (name, "held_out"))
    if labels is not None:
        labels = check_labels(labels, len(samples), "labels")
    train_labels = check_labels(train_labels, len(train), "train_labels").cpu()
    held_out_labels = check_labels(held_out_labels, len(held_out), "held_out_labels").cpu()
    yardstick = expected_fraction(len(held_out), _QUANTILE)

    size = min(len(samples), len(train))
    rng = torch.Generator().manual_seed(seed)
    blocks, real = _blocks(samples, size, rng), _blocks(train, size, rng)
    seen = judge.features(held_out)

    def both(name: str, distance: Any, unit: str) -> Figure:
        return Figure(name, _mean([distance(b) for b in blocks]), _mean([distance(b) for b in real]), "lower", unit)

    figures = [
        both("sliced W2", lambda block: sliced_w2(block, held_out, seed=seed), "data"),
        both("Frechet", lambda block: frechet(judge.features(block), seen), "feature, squared"),
    ]
    if labels is not None:
        floor = judge.agreement(train, train_labels)
        figures.append(Figure("judge agreement", judge.agreement(samples, labels), floor, "higher", "share"))
    figures += [
        both("class imbalance", lambda block: _imbalance(judge.predict(block), held_out_labels), "share"),
        Figure("memorised fraction", memorised_fraction(samples, train, held_out, _QUANTILE), yardstick, "lower", "share"),
    ]
    return Evidence(tuple(figures), len(samples), len(train), len(held_out), size, seed)
