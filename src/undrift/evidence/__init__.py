"""Distances, judge and memorisation as pure functions of arrays; each number stands beside its floor.

`split_half` cuts labelled data in two; a model is trained on one half, a `Judge` on the other; `evaluate` measures, with labels
or without. Single figures are in files of their name: `energy`, `coverage`, `two_sample`, `cost`.
"""

from undrift.evidence.baseline import gaussian_samples
from undrift.evidence.bootstrap import interval
from undrift.evidence.distances import frechet, sliced_w2
from undrift.evidence.judge import Judge
from undrift.evidence.memorisation import expected_fraction, memorised_fraction, nearest
from undrift.evidence.report import Evidence, Figure, evaluate
from undrift.evidence.split import split_half

__all__ = [
    "Evidence",
    "Figure",
    "Judge",
    "evaluate",
    "expected_fraction",
    "frechet",
    "gaussian_samples",
    "interval",
    "memorised_fraction",
    "nearest",
    "sliced_w2",
    "split_half",
]
