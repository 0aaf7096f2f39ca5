r"""The strength of guidance, chosen by what was held out.

Stronger guidance makes samples plainer and more alike; no theory says how strong is best. So try some strengths and look: for
every scale w one set of samples, labelled like held-out data, and three figures of it,

* *confidence*, the mean probability that a judge gives to the label asked for (higher is plainer, not better);
* *spread*, the root mean square distance of the samples of a label from their mean, averaged over labels (data unit);
* *criterion*, the mean over labels of a distance to the held-out records of that label, by default the sliced W2.

Each has a floor: the same figure of real records. To have one at equal size, the held-out records of every label are cut in
two halves at random: one is the yardstick, the other stands for perfect samples, and as many samples are drawn as it has.

The chosen scale has the least criterion. `within_noise` are those that cannot be told from it: their criterion differs by
less than two standard errors over the repeats (cautiously: all scales share their seeds, so their differences are surer). The
criterion of the chosen scale is a little flattered by having been chosen; report a final figure on data that had no say.

Checked by: tests/guidance/test_frontier.py
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence import sliced_w2
from undrift.evidence.checks import labels as check_labels
from undrift.evidence.checks import points, same_event

__all__ = ["Frontier", "Tried", "choose_scale"]

Criterion = Callable[[Tensor, Tensor], float]


@dataclass(frozen=True)
class Tried:
    """One scale, or (as `Frontier.floor`) real records.

    Attributes:
        scale: w.
        confidence: mean probability of the label asked for, in [0, 1].
        spread: within a label, data unit.
        criterion: distance to held-out records.
        error: standard error of the criterion over the repeats; NaN with a single one.
    """

    scale: float
    confidence: float
    spread: float
    criterion: float
    error: float


@dataclass(frozen=True)
class Frontier:
    """What every scale reached, and the one to take.

    Attributes:
        tried: by rising scale.
        floor: the same figures of real records; its scale is NaN.
        chosen: the scale of least criterion; of equal ones the one nearest to 1.
        within_noise: scales whose criterion is less than two standard errors above the least; the chosen one alone where a
            single repeat leaves the error unknown.
        samples: how many samples a figure rests on, each repeat.
        repeats: how many sets of samples a scale was given.
    """

    tried: tuple[Tried, ...]
    floor: Tried
    chosen: float
    within_noise: tuple[float, ...]
    samples: int
    repeats: int

    def rows(self) -> list[tuple[str, ...]]:
        """A table of strings, the head first and the floor last."""
        out = [("scale", "confidence", "spread", "criterion", "error")]
        for name, t in [*((f"{t.scale:g}", t) for t in self.tried), ("real", self.floor)]:
            error = "-" if math.isnan(t.error) else f"{t.error:.2g}"
            out.append((name, f"{t.confidence:.4g}", f"{t.spread:.4g}", f"{t.criterion:.4g}", error))
        return out


def choose_scale(
    draw: Callable[[float, Tensor, int], Tensor],
    scales: Sequence[float],
    held_out: Tensor,
    labels: Tensor,
    probability: Callable[[Tensor, Tensor], Tensor],
    *,
    criterion: Criterion = sliced_w2,
    repeats: int = 3,
    seed: int = 0,
) -> Frontier:
    """Try scales, measure each against held-out records, and choose.

    Args:
        draw: (scale, labels (N,), seed) -> samples (N, *E), one for each label; seeds differ between repeats and are the same
            for all scales.
        scales: what to try, at least one.
        held_out: records that the model has not seen, shape (M, *E).
        labels: of these records, integers, shape (M,); every label at least four times.
        probability: (x (N, *E), labels (N,)) -> probability of the label, shape (N,): an exact or a trained judge.
        criterion: (samples of a label, held-out records of it) -> distance, lower is better.
        repeats: sets of samples a scale is given, >= 1.
        seed: of the halves and of the draws.

    Returns:
        The frontier.

    Raises:
        DataError: no scale, equal scales, fewer than one repeat, or a label with fewer than four records.
        ShapeError, NonFiniteError: records or samples that are no points, or of another shape than the records.

    Checked by: tests/guidance/test_frontier.py::test_exact_models_are_best_unguided,
        tests/guidance/test_frontier.py::test_a_model_that_half_ignores_labels_wants_guidance
    """
    if not scales or len(set(scales)) != len(scales) or repeats < 1:
        raise DataError(f"give different scales to try and repeats >= 1, got scales = {list(scales)}, repeats = {repeats}")
    points(held_out, "held_out")
    labels = check_labels(labels, len(held_out), "labels")
    yardstick, real = _halves(labels, torch.Generator().manual_seed(seed))
    asked = labels[real]

    def distance(x: Tensor) -> float:
        return _mean([criterion(x[asked == y], held_out[yardstick][labels[yardstick] == y]) for y in asked.unique()])

    def figures(scale: float, sets: Sequence[Tensor]) -> Tried:
        for x in sets:
            points(x, "samples")
            same_event(x, held_out, ("samples", "held_out"))
            if len(x) != len(asked):
                raise DataError(f"{len(asked)} labels were asked for and {len(x)} samples came back; draw one for each")
        values = [distance(x) for x in sets]
        sure = _mean([float(probability(x, asked).mean()) for x in sets])
        spread = _mean([_spread(x, asked) for x in sets])
        return Tried(scale, sure, spread, _mean(values), _standard_error(values))

    def tried(scale: float) -> Tried:
        return figures(scale, [draw(scale, asked, seed + repeat) for repeat in range(repeats)])

    every = tuple(tried(float(scale)) for scale in sorted(scales))
    best = min(every, key=lambda t: (t.criterion, abs(t.scale - 1)))
    near = tuple(t.scale for t in every if t is best or t.criterion - best.criterion < 2 * math.hypot(t.error, best.error))
    return Frontier(every, figures(math.nan, [held_out[real]]), best.scale, near, len(asked), repeats)


def _halves(labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Indices of two halves of equal size, label by label; an odd record is left out."""
    order = torch.randperm(len(labels), generator=rng).to(labels.device)
    one, two = [], []
    for y in labels.unique():
        mine = order[labels[order] == y]
        half = len(mine) // 2
        if half < 2:
            raise DataError(f"label {int(y)} has {len(mine)} held-out records; at least four are needed to halve them")
        one.append(mine[:half])
        two.append(mine[half : 2 * half])
    return torch.cat(one), torch.cat(two)


def _spread(x: Tensor, labels: Tensor) -> float:
    """Root mean square distance from the mean of the label (unbiased), averaged over labels."""
    flat = x.detach().flatten(1).double()
    return _mean([float(flat[labels == y].var(0).sum().sqrt()) for y in labels.unique()])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _standard_error(values: Sequence[float]) -> float:
    if len(values) < 2:
        return math.nan
    middle = _mean(values)
    return math.sqrt(sum((v - middle) ** 2 for v in values) / (len(values) - 1) / len(values))
