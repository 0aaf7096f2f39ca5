r"""Evidence: every number beside the floor that real data reaches, with its direction and unit.

Data is cut in two halves (`split_half`): the model is trained on `train`; `held_out` is seen by the judge alone. A
distance between finite sets depends on their sizes, so distances are taken at **matched size**: with n = min(|samples|,
|train|), the samples are shuffled and cut into blocks of n, and the figure is the mean over whole blocks of the
distance from a block to `held_out`; the floor is the distance from n training points to `held_out`. A perfect model
that knows nothing of `train` stands at the floor, and so does a copier, which is why the memorised fraction stands
beside them.

Halves cut class by class resemble each other more than two independent draws, so their floor is a strict one.

Beside the floor stands a **baseline**, the same figure for a Gaussian fitted to the training data (to each class, where labels
are asked for), and round the figure an **interval** that says how far another set of samples would move it (`bootstrap`).

Frechet, precision, recall, density, coverage and the classifier work on features: those of the judge, and without labels and
a judge the whitened principal components of the real data (`features.Whitened`). At most 2000 points of a set enter a
distance, chosen at random, so that its cost stays bounded; memorisation is asked of all training points.
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.baseline import gaussian_samples
from undrift.evidence.bootstrap import share_interval, standard_error, standard_errors
from undrift.evidence.checks import labels as check_labels
from undrift.evidence.checks import points, same_event
from undrift.evidence.features import Whitened
from undrift.evidence.judge import Judge
from undrift.evidence.measures import DISTANCES, Real, distances
from undrift.evidence.memorisation import expected_fraction, nearest, threshold
from undrift.evidence.two_sample import two_sample

__all__ = ["Evidence", "Figure", "evaluate"]

_QUANTILE = 0.01
_MOST, _MOST_BLOCKS = 2000, 4
_HALVES = 20


@dataclass(frozen=True)
class Figure:
    """One measured number and what it takes to read it.

    Attributes:
        name: what was measured.
        value: of the samples.
        floor: the same number for real data (for the memorised fraction: its expected value without memorisation).
        better: "lower" or "higher".
        unit: of value and floor; "share" is dimensionless, in [0, 1].
        baseline: the same for a Gaussian fitted to the training data, or None.
        low: lower end of a 95 % interval round the value: another set of samples of this size; or None.
        high: its upper end, or None.
    """

    name: str
    value: float
    floor: float
    better: str
    unit: str
    baseline: float | None = None
    low: float | None = None
    high: float | None = None


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
    train_labels: Tensor | None,
    held_out: Tensor,
    held_out_labels: Tensor | None,
    judge: Judge | None = None,
    seed: int = 0,
) -> Evidence:
    r"""Measure samples against data that their model has not seen.

    Figures, each with its floor, its Gaussian baseline and its interval:

    - `sliced W2` (lower; data unit): `sliced_w2` to `held_out` at matched size.
    - `Frechet` (lower; feature unit, squared): `frechet` of features to `held_out` at matched size.
    - `energy distance` (lower; data unit): `energy`, squared and unbiased, so its floor scatters around 0.
    - `precision`, `recall`, `density`, `coverage` (higher): `coverage` with k = 5, in features.
    - `C2ST accuracy` (lower; share): `two_sample`, logistic, in features; floor: 1/2.
    - `judge agreement` (higher; share): samples that show the label asked for; floor: the judge's accuracy on `train`.
      Above the floor means samples plainer than real data. Left out where no labels were asked for, or there is no judge.
    - `class imbalance` (lower; share): total variation between the classes the judge sees in the samples and those of
      `held_out`; floor: the same for `train`. It shows lost classes, also in unconditional samples. Needs a judge.
    - `memorised fraction` (lower; share): `memorised_fraction` at quantile 0.01; floor: its expected value.

    Args:
        samples: shape (N, *E).
        labels: what each sample should show, shape (N,), integers; None for an unconditional model.
        train: what the model was trained on, shape (T, *E).
        train_labels: shape (T,), integers; None where there are none.
        held_out: what it has not seen, shape (M, *E), M at least 99 (for the quantile of memorisation).
        held_out_labels: shape (M,), integers; None where there are none.
        judge: trained on data the model has not seen, such as `held_out`, and not on `train`; None where there are no labels.
        seed: of the blocks and of the directions.

    Returns:
        The evidence.

    Raises:
        ShapeError: the sets differ in event shape, or labels do not match their points.
        DataError: fewer than 4 samples, 2 training points, or 99 held-out points; a judge without labels.
        NonFiniteError: a NaN or an infinity in a set.

    Checked by: tests/evidence/test_report.py::test_real_data_reaches_the_floor,
        tests/evidence/test_report.py::test_each_figure_sees_its_own_fault,
        tests/evidence/test_report.py::test_without_labels_features_are_principal_components
    """
    for name, x, at_least in (("samples", samples, 4), ("train", train, 2), ("held_out", held_out, 2)):
        points(x, name, at_least)
        same_event(x, held_out, (name, "held_out"))
    labels = None if labels is None else check_labels(labels, len(samples), "labels").cpu()
    train_labels = None if train_labels is None else check_labels(train_labels, len(train), "train_labels").cpu()
    if held_out_labels is not None:
        held_out_labels = check_labels(held_out_labels, len(held_out), "held_out_labels").cpu()
    expected = expected_fraction(len(held_out), _QUANTILE)

    size = min(len(samples), len(train), _MOST)
    rng = torch.Generator().manual_seed(seed)
    blocks, real = _blocks(samples, size, rng)[:_MOST_BLOCKS], _blocks(train, size, rng)[:_MOST_BLOCKS]
    asked = None if labels is None else labels[torch.randperm(len(labels), generator=rng)[:size]]
    classes = train_labels if asked is not None and train_labels is not None else None
    base = gaussian_samples(train, size, seed, train_labels=classes, labels=asked if classes is not None else None)
    figures = _distances(blocks, real, base, held_out, judge, seed, rng)
    if judge is not None:
        if train_labels is None or held_out_labels is None:
            raise DataError("a judge needs the classes of all real data: pass train_labels= and held_out_labels=")
        if labels is not None and asked is not None:
            value, floor = judge.agreement(samples, labels), judge.agreement(train, train_labels)
            figures.append(
                Figure("judge agreement", value, floor, "higher", "share", judge.agreement(base, asked),
                       *share_interval(value, len(samples)))
            )  # fmt: skip
        figures.append(_imbalance_figure(blocks, real, base, held_out_labels, judge, seed))
    figures.append(_memorised(samples, train, held_out, base, expected))
    return Evidence(tuple(figures), len(samples), len(train), len(held_out), size, seed)


def _distances(
    blocks: list[Tensor], real: list[Tensor], base: Tensor, held_out: Tensor, judge: Judge | None, seed: int,
    rng: torch.Generator,
) -> list[Figure]:  # fmt: skip
    """Figures that compare two sets of points: blocks of samples, and of training points for the floor."""
    chosen = held_out if len(held_out) <= _MOST else held_out[torch.randperm(len(held_out), generator=rng)[:_MOST]]
    see = judge.features if judge is not None else Whitened.fit(torch.cat([real[0], chosen])).features
    goal = Real.of(chosen, see(chosen))
    every = torch.arange(len(base))
    probes = [distances(block, see(block), goal, seed) for block in blocks]
    values, floors = (
        [_mean(list(of_one)) for of_one in zip(*(probe(every) for probe in some), strict=True)]
        for some in (probes, [distances(block, see(block), goal, seed) for block in real])
    )
    baseline = distances(base, see(base), goal, seed)(every)
    errors = standard_errors(probes[0], len(every), halves=_HALVES, seed=seed)
    figures = []
    for (name, better, unit), value, floor, gauss, error in zip(DISTANCES, values, floors, baseline, errors, strict=True):
        reach = 1.96 * error / len(blocks) ** 0.5
        ends = (value - reach, value + reach)
        if unit == "share":
            ends = (max(0.0, ends[0]), min(1.0, ends[1]))
        figures.append(Figure(name, value, floor, better, unit, gauss, *ends))
    told, told_base = (two_sample(see(x), goal.features.to(see(x)), seed=seed) for x in (blocks[0], base))
    ends = share_interval(told.accuracy, told.points)
    return [*figures, Figure("C2ST accuracy", told.accuracy, 0.5, "lower", "share", told_base.accuracy, *ends)]


def _imbalance_figure(
    blocks: list[Tensor], real: list[Tensor], base: Tensor, wanted: Tensor, judge: Judge, seed: int
) -> Figure:
    seen = [judge.predict(block) for block in blocks]
    value, floor = (_mean([_imbalance(one, wanted) for one in some]) for some in (seen, map(judge.predict, real)))
    reach = 1.96 * standard_error(lambda rows: _imbalance(seen[0][rows], wanted), len(seen[0]), halves=_HALVES, seed=seed)
    reach /= len(seen) ** 0.5
    ends = (max(0.0, value - reach), min(1.0, value + reach))
    return Figure("class imbalance", value, floor, "lower", "share", _imbalance(judge.predict(base), wanted), *ends)


def _memorised(samples: Tensor, train: Tensor, held_out: Tensor, base: Tensor, expected: float) -> Figure:
    limit = threshold(train, held_out, _QUANTILE)
    value, baseline = (float((nearest(x, train)[0] <= limit).double().mean()) for x in (samples, base))
    ends = share_interval(value, len(samples))
    return Figure("memorised fraction", value, expected, "lower", "share", baseline, *ends)
