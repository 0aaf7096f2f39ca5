r"""Are generated records useful: a predictor trained on them and tested on real records; and are intervals honest.

**Train on synthetic, test on real.** A gradient-boosted predictor of one column from the others is fitted to generated records
and scored on real records that nobody has trained on. Beside it stand the *ceiling*, the same predictor fitted to as many real
records, and the *baseline*, fitted to generated records whose columns were shuffled apart: what the margins alone are worth.

**Coverage.** Of N held-out records with S samples of an unknown given the rest, the share whose truth lies in the central
interval of the samples. The truth is as good as one more sample where the model is right, so with the interval from the i-th
to the j-th of S sorted samples, coverage is (j - i) / (S + 1) exactly, and the N draws are binomial.

Checked by: tests/evidence/test_predictor.py
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from undrift.errors import DataError, ShapeError

__all__ = ["Coverage", "Usefulness", "coverage", "predictor_score", "shuffled_apart", "usefulness"]


@dataclass(frozen=True)
class Usefulness:
    """A score of a predictor on real held-out records.

    Attributes:
        name: "R2" (a number is predicted) or "AUC" (a level is).
        value: trained on generated records.
        ceiling: trained on as many real records.
        baseline: trained on generated records whose columns were shuffled apart.
    """

    name: str
    value: float
    ceiling: float
    baseline: float


@dataclass(frozen=True)
class Coverage:
    """How often the truth lies in an interval.

    Attributes:
        share: of the records whose truth lies inside.
        expected: what an exact model reaches with as many samples; the level, as nearly as so many samples can say it.
        error: standard error of `share` for an exact model.
        width: mean width of the intervals, in units of the truth.
        floor: mean width of intervals that know nothing: of all the truths together.
    """

    share: float
    expected: float
    error: float
    width: float
    floor: float


def predictor_score(
    x: np.ndarray,
    y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    *,
    levels: bool,
    categories: Sequence[int] = (),
    seed: int = 0,
) -> float:
    """Score on the test records of a gradient-boosted predictor that was fitted to the others.

    Args:
        x: inputs, shape (N, F), NaN where empty; a level is its index.
        y: what is predicted, shape (N,), finite.
        test_x: shape (M, F).
        test_y: shape (M,).
        levels: y are levels (at least two in the test records), not numbers.
        categories: columns of x that are levels.
        seed: of the predictor.

    Returns:
        R2, or the AUC (mean of one level against the rest, over the levels in both sets); 0 or 1/2 for a predictor that could
        not be fitted because y has one value.

    Raises:
        ShapeError: arrays that do not belong together.
        DataError: fewer than two records, or test records that cannot be scored.

    Checked by: tests/evidence/test_predictor.py::test_score_of_a_known_relation
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.metrics import r2_score, roc_auc_score

    x, y = _checked(x, y, "x", "y")
    test_x, test_y = _checked(test_x, test_y, "test_x", "test_y")
    if x.shape[1] != test_x.shape[1]:
        raise ShapeError(f"x has {x.shape[1]} columns, test_x {test_x.shape[1]}; give the same columns in the same order")
    if len(np.unique(test_y)) < 2:
        raise DataError("the test records all have the same value; a score needs two different ones")
    if len(np.unique(y)) < 2:
        return 0.5 if levels else 0.0
    kind: Any = HistGradientBoostingClassifier if levels else HistGradientBoostingRegressor
    # The predictor takes at most 255 levels as such; a column of more is read as numbers.
    few = [i for i in categories if np.nanmax(np.concatenate([x[:, i], test_x[:, i]])) < 255]
    model = kind(categorical_features=few or None, random_state=seed, early_stopping=False)
    model.fit(x, y.astype(int) if levels else y)
    if not levels:
        return float(r2_score(test_y, model.predict(test_x)))
    odds = model.predict_proba(test_x)
    scores = [
        roc_auc_score(test_y == level, odds[:, i])
        for i, level in enumerate(model.classes_)
        if 0 < (test_y == level).sum() < len(test_y)
    ]
    if not scores:
        raise DataError("the test records hold no level that the predictor was trained on")
    return float(np.mean(scores[-1:] if len(model.classes_) == 2 else scores))


def usefulness(
    real: np.ndarray,
    generated: np.ndarray,
    test: np.ndarray,
    target: int,
    *,
    levels: bool,
    categories: Sequence[int] = (),
    seed: int = 0,
) -> Usefulness:
    """Train on synthetic, test on real; see the module.

    Args:
        real: records that the model was trained on, shape (N, F), NaN where empty; a level is its index.
        generated: shape (N', F); the first N of them are used, or real is cut to N'.
        test: real records that nobody was trained on, shape (M, F).
        target: the column that is predicted. Records in which it is empty are left out.
        levels: the target is a level.
        categories: columns that are levels.
        seed: of the predictor and the shuffles.

    Checked by: tests/evidence/test_predictor.py::test_usefulness_orders_copies_and_shuffles
    """
    n = min(len(real), len(generated))
    rng = np.random.default_rng(seed)
    apart = shuffled_apart(generated[:n], rng)
    inputs = [i for i in range(real.shape[1]) if i != target]
    marked = [inputs.index(i) for i in categories if i != target]

    def score(table: np.ndarray) -> float:
        kept, seen = table[~np.isnan(table[:, target])], test[~np.isnan(test[:, target])]
        return predictor_score(
            kept[:, inputs], kept[:, target], seen[:, inputs], seen[:, target], levels=levels, categories=marked, seed=seed
        )

    chosen = rng.permutation(len(real))[:n]
    return Usefulness("AUC" if levels else "R2", score(generated[:n]), score(real[chosen]), score(apart))


def shuffled_apart(table: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The table with every column shuffled on its own: the same margins, no relation between columns."""
    return np.stack([rng.permutation(column) for column in table.T], axis=1)


def coverage(samples: np.ndarray, truth: np.ndarray, level: float = 0.9) -> Coverage:
    """How often the central interval of the samples holds the truth.

    Args:
        samples: shape (N, S), finite; S >= 2 / (1 - level) - 1, so that the interval has samples outside it.
        truth: shape (N,), finite.
        level: wanted, in (0, 1).

    Raises:
        ShapeError: shapes that do not belong together.
        DataError: level outside (0, 1), or too few samples for it.

    Checked by: tests/evidence/test_predictor.py::test_coverage_of_an_exact_model_is_binomial
    """
    samples, truth = np.asarray(samples, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if samples.ndim != 2 or truth.shape != (len(samples),) or len(truth) == 0:
        raise ShapeError(f"samples have shape {samples.shape}, truth {truth.shape}; give (N, S) and (N,)")
    if not 0 < level < 1:
        raise DataError(f"level={level:g} must lie in (0, 1)")
    n, count = samples.shape
    cut = int((1 - level) / 2 * (count + 1) + 1e-9)  # samples left out below the interval's lower end, itself included
    if cut < 1:
        least = int(np.ceil(2 / (1 - level) - 1 - 1e-9))
        raise DataError(f"{count} samples are too few for an interval of {level:g}; draw at least {least}")
    ordered = np.sort(samples, axis=1)
    low, high = ordered[:, cut - 1], ordered[:, count - cut]
    # A tie with an end counts for half: a rounded truth lies on either side of it equally often.
    inside = ((low < truth) & (truth < high)) + 0.5 * ((truth == low) | (truth == high))
    expected = (count + 1 - 2 * cut) / (count + 1)
    ends = np.quantile(truth, [(1 - expected) / 2, (1 + expected) / 2])
    return Coverage(
        float(inside.mean()),
        expected,
        float(np.sqrt(expected * (1 - expected) / n)),
        float((high - low).mean()),
        float(ends[1] - ends[0]),
    )


def _checked(x: np.ndarray, y: np.ndarray, name: str, other: str) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if x.ndim != 2 or y.shape != (len(x),):
        raise ShapeError(f"{name} has shape {x.shape}, {other} {y.shape}; give (N, F) and (N,)")
    if len(x) < 2:
        raise DataError(f"{name} holds {len(x)} records; give at least two")
    return x, y
