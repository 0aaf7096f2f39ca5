"""How far to trust a model: its samples against records that it has not seen.

The records that `fit` kept from training are read again from where they came, pictures are drawn under the
classes of training records, rows of a table unconditionally, and every figure stands beside its floor (what training records
themselves reach) and the baseline of a Gaussian.

Checked by: tests/test_evaluation.py
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift import evidence
from undrift.errors import DataError
from undrift.evidence.columns import compare_columns
from undrift.evidence.cost import cost
from undrift.model import Model
from undrift.records import held_out_rows, reopen

__all__ = ["Judged", "evaluate"]

MOST = 10000
"""Records of each set that are looked at."""

BYTES = 1 << 28
"""And bytes of them, encoded."""

FEWEST = 99
"""Unseen records that judging takes: a hundredth of them must be one (see `evidence.memorised_fraction`)."""

SAMPLES = 2000
"""Samples drawn by default, where there are as many training records."""


@dataclass(frozen=True)
class Judged:
    """Samples, what they were compared with, and the verdict.

    Attributes:
        evidence: figures, columns and pairs of a table, cost: what evidence.json holds.
        samples: records.
        labels: the class that each sample was asked for, or None.
        train: training records, at most `MOST`.
        held_out: records that the model has not seen, at most `MOST`.
        schema: what the data were taken for, in words.
    """

    evidence: dict[str, Any]
    samples: Any
    labels: list[Any] | None
    train: Any
    held_out: Any
    schema: list[tuple[str, str]]


def evaluate(
    model: Model,
    data: Any = None,
    labels: Any = None,
    *,
    n: int | None = None,
    scale: float = 1.0,
    steps: int = 50,
    seed: int = 0,
    progress: bool = False,
) -> Judged:
    """Judge a model.

    Args:
        model: made by `fit`, which kept records from training.
        data: the records it was fitted on, where they were given in memory.
        labels: their labels, likewise.
        n: how many samples; as many as training records, at most 2000, by default.
        scale: strength of the conditions; with 1 samples should be at the floor, more trades variety for likeness.
        steps: of the sampler.
        seed: of samples, judge and resampling.
        progress: draw a bar while sampling.

    Returns:
        The evidence and what it was made from.

    Raises:
        DataError: no records were kept from training, or the data are gone or have changed.

    Checked by: tests/test_evaluation.py
    """
    plan = model.recipe
    if plan.data.held_out < FEWEST:
        raise DataError(
            f"{plan.data.held_out} of {plan.data.rows} records were kept from training, and judging takes {FEWEST}; fit with "
            f"held_out={min(0.5, max(0.1, FEWEST / plan.data.rows)):.2g}"
            + (", or gather more" if plan.data.rows < 2 * FEWEST else "")
        )
    opened = reopen(plan, data, labels)
    held = held_out_rows(plan.data.rows, plan.data.held_out, plan.data.split)
    most = max(FEWEST, min(MOST, BYTES // (4 * math.prod(model.codec.event_shape))))
    chance = np.random.Generator(np.random.Philox(seed & (2**63 - 1)))
    seen = chance.permutation(np.setdiff1d(np.arange(plan.data.rows), held))[:most]
    held = chance.permutation(held)[:most]
    n = min(len(seen), SAMPLES) if n is None else n

    train, held_out = opened.source.take(seen), opened.source.take(held)
    where = asked = classes = None
    if model.conditions is not None and opened.labels is not None:
        of_train, of_held = ([opened.labels[row] for row in rows] for rows in (seen, held))
        asked = [of_train[i % len(seen)] for i in range(n)]
        where = {model.conditions.names[0]: asked}
        classes = [model.conditions.of(some)[:, 0].long() for some in (asked, of_train, of_held)]
    if where is None and scale != 1:
        raise DataError(f"scale={scale:g} strengthens a condition, and this model is judged without any")
    drawn: list[Tensor] = []
    event, noise = torch.zeros(1, *model.codec.event_shape, device=model.device), torch.zeros(1, device=model.device)
    spent = cost(
        model.net,
        (event, noise),
        lambda: drawn.append(model.states(n, where, scale=scale, steps=steps, seed=seed, progress=progress)),
        samples=n,
        calls=model.route(steps, scale=scale).calls * (1 if scale == 1 else 2),
    )
    samples = model.decode(drawn[0], where, n)

    x, y, z = (model.codec.encode(records) for records in (samples, train, held_out))
    if classes is None:
        found = evidence.evaluate(x, None, y, None, z, None, seed=seed)
    else:
        judge = evidence.Judge.fit(z, classes[2], seed=seed)
        found = evidence.evaluate(x, classes[0], y, classes[1], z, classes[2], judge, seed=seed)
    result = {
        **found.to_json(),
        **(_columns(model.codec, samples, held_out, seed) if opened.kind == "table" else {}),
        "cost": {
            **spent.to_json(),
            **{f"training_{k}": plan.measured.get(k) for k in ("steps", "seconds")},
        },
    }
    return Judged(result, samples, asked, train, held_out, opened.describe())


def _columns(table: Any, samples: Any, held_out: Any, seed: int) -> dict[str, Any]:
    """Figures of a table's columns and of their pairs."""
    real, made = (np.stack([c.parse(frame[c.name]) for c in table.columns], axis=1) for frame in (held_out, samples))
    levels = [c.choices > 0 for c in table.columns]
    return compare_columns(real, made, [c.name for c in table.columns], levels, seed).to_json()
