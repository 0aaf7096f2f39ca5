r"""A classifier two-sample test: can anything learnt tell samples from data?

A classifier is trained to tell points of P from points of Q, half of each, and asked about points that it has not seen. No
classifier is right more often than

.. math:: \tfrac12 + \tfrac12 \mathrm{TV}(P, Q),

so its accuracy bounds the total variation from below; where the laws are equal every classifier guesses, and 1/2 is the floor.
The area under its ROC curve is the chance that it ranks a point of P above one of Q.

The classifier is a logistic regression on the coordinates and their squares, each standardised: it is right for Gaussians of
different means and (diagonal) variances, needs no tuning and takes moments. `boosting` grows trees instead: slower, and it sees
what depends on several coordinates at once.

Checked by: tests/evidence/test_two_sample.py
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.errors import DataError
from undrift.evidence.checks import points, same_event

__all__ = ["CLASSIFIERS", "TwoSample", "two_sample"]

CLASSIFIERS = ("logistic", "boosting")


@dataclass(frozen=True)
class TwoSample:
    """What a classifier could tell.

    Attributes:
        accuracy: share of unseen points that it sorted right; 1/2 for equal laws.
        auc: area under the ROC curve; 1/2 for equal laws.
        error: binomial standard error of the accuracy (a little small, for folds share their training points).
        points: how many points were sorted, both sets together.
    """

    accuracy: float
    auc: float
    error: float
    points: int


def two_sample(x: Tensor, y: Tensor, *, classifier: str = "logistic", folds: int = 5, seed: int = 0) -> TwoSample:
    """Train a classifier to tell two sets apart, on all folds but one in turn, and ask it about that one.

    The larger set is cut to the size of the smaller one, at random.

    Args:
        x: points or features, shape (N, *E).
        y: points or features, shape (M, *E).
        classifier: "logistic" or "boosting".
        folds: of the cross-validation, at least 2.
        seed: of the cut and of the folds.

    Raises:
        ShapeError: not (N, *E) and (M, *E) floating tensors on one device.
        DataError: fewer points in a set than folds, fewer than 2 folds, or an unknown classifier.
        NonFiniteError: a NaN or an infinity.

    Source: Lopez-Paz and Oquab 2017.
    Checked by: tests/evidence/test_two_sample.py::test_accuracy_reaches_half_of_one_plus_total_variation,
        tests/evidence/test_two_sample.py::test_equal_laws_stand_at_the_floor
    """
    if folds < 2 or classifier not in CLASSIFIERS:
        raise DataError(f"two_sample needs at least 2 folds and one of {CLASSIFIERS}, got {folds} and {classifier!r}")
    a, b = points(x, "x", folds), points(y, "y", folds)
    same_event(x, y, ("x", "y"))
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold, cross_val_predict

    rng = torch.Generator().manual_seed(seed)
    size = min(len(a), len(b))
    both = torch.cat([z[torch.randperm(len(z), generator=rng)[:size].to(z.device)] for z in (a, b)]).cpu()
    side = torch.arange(2 * size) >= size
    cut = StratifiedKFold(folds, shuffle=True, random_state=seed & 0x7FFFFFFF)
    how: Any = _classifier(classifier, seed)
    chances: Any = cross_val_predict(how, both.numpy(), side.numpy(), cv=cut, method="predict_proba")
    chance = chances[:, 1]
    accuracy = float(((torch.as_tensor(chance) > 0.5) == side).double().mean())
    error = math.sqrt(accuracy * (1 - accuracy) / (2 * size))
    return TwoSample(accuracy, float(roc_auc_score(side.numpy(), chance)), error, 2 * size)


def _classifier(name: str, seed: int) -> Any:
    import numpy as np
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    if name == "boosting":
        return HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=8, random_state=seed & 0x7FFFFFFF)
    squared = FunctionTransformer(lambda z: np.concatenate([z, np.square(z)], 1))
    return make_pipeline(StandardScaler(), squared, StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
