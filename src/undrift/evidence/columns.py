r"""Tables: how far each generated column, and each relation of two columns, is from the real one.

A table is an array (N, F), NaN where a cell is empty; a level is its index. Real records are cut in two halves A and B by a
seed, and everything is measured against B at one size n: the generated records, the *floor* A, and a *baseline* that knows
little (for a column the normal law of its mean and spread, or all levels equally often; for relations the columns shuffled
apart).

**Columns.** Of numbers, with F and G their distribution functions and s the standard deviation of B,

.. math:: d = \frac1s \int |F(v) - G(v)| \, dv,

the Wasserstein-1 distance in units of s. Of levels (an empty cell is one), the total variation distance
:math:`\frac12 \sum_k |p_k - q_k|`.

**Relations**, in [-1, 1] or [0, 1], over records in which both cells are filled: of two numbers the rank correlation
(Spearman), of a number and a level the correlation ratio eta (share of the ranks' variance between levels, its root), of two
levels Cramer's V. A column without two values is related to nothing: 0.

Checked by: tests/evidence/test_columns.py
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from undrift.errors import DataError, ShapeError

__all__ = ["ColumnFigure", "Columns", "associations", "compare_columns", "total_variation", "wasserstein"]


@dataclass(frozen=True)
class ColumnFigure:
    """One column.

    Attributes:
        name: of the column.
        kind: "number" or "levels".
        distance: of the generated column, in standard deviations, or as total variation.
        floor: of the other half of the real column.
        baseline: of a column that knows little.
        empty: share of empty cells in the real column.
        empty_generated: in the generated one.
    """

    name: Any
    kind: str
    distance: float
    floor: float
    baseline: float
    empty: float
    empty_generated: float


@dataclass(frozen=True)
class Columns:
    """What `compare_columns` measured.

    Attributes:
        columns: one figure each.
        real: relations of half B, shape (F, F).
        generated: relations of the generated records.
        distance: mean absolute difference of the two over pairs of columns.
        floor: the same of the other half of real records.
        baseline: the same of generated records whose columns were shuffled apart.
        matched: n, the size at which all was measured.
    """

    columns: tuple[ColumnFigure, ...]
    real: np.ndarray
    generated: np.ndarray
    distance: float
    floor: float
    baseline: float
    matched: int

    def to_json(self) -> dict[str, Any]:
        """Plain lists and numbers, for `json.dump`."""
        names = [column.name for column in self.columns]
        pairs = {"names": names, "real": self.real.round(4).tolist(), "generated": self.generated.round(4).tolist()}
        pairs |= {"distance": self.distance, "floor": self.floor, "baseline": self.baseline}
        return {"columns": [asdict(column) for column in self.columns], "pairs": pairs, "matched": self.matched}


def compare_columns(
    real: np.ndarray, generated: np.ndarray, names: Sequence[Any], levels: Sequence[bool], seed: int = 0
) -> Columns:
    """Columns and relations of generated records beside those of real ones; see the module.

    Args:
        real: shape (N, F), N >= 4, NaN where empty; a level is its index.
        generated: shape (M, F), M >= 2.
        names: of the F columns.
        levels: which columns are levels.
        seed: of the halves and the baselines.

    Raises:
        ShapeError: arrays and names that do not belong together.
        DataError: too few records, or infinity.

    Checked by: tests/evidence/test_columns.py::test_copies_are_at_the_floor_and_baselines_above
    """
    real, generated = _table(real, "real", len(names), 4), _table(generated, "generated", len(names), 2)
    if len(levels) != len(names):
        raise ShapeError(f"{len(names)} names and {len(levels)} kinds of columns; give one of each")
    rng = np.random.default_rng(seed)
    n = min(len(real) // 2, len(generated))
    order = rng.permutation(len(real))
    other, truth = real[order[:n]], real[order[n : 2 * n]]
    made = generated[rng.permutation(len(generated))[:n]]
    figures = []
    for i, (name, level) in enumerate(zip(names, levels, strict=True)):
        measure = total_variation if level else wasserstein
        blind = _levels_alike(truth[:, i], n, rng) if level else _normal(truth[:, i], n, rng)
        distances = (measure(part, truth[:, i]) for part in (made[:, i], other[:, i], blind))
        empty = (float(np.isnan(part[:, i]).mean()) for part in (real, generated))
        figures.append(ColumnFigure(name, "levels" if level else "number", *distances, *empty))
    apart = np.stack([rng.permutation(column) for column in made.T], axis=1)
    wanted, got, half, blind = (associations(part, levels) for part in (truth, made, other, apart))
    pairs = np.triu_indices(len(names), 1)

    def gap(matrix: np.ndarray) -> float:
        return float(np.abs(matrix - wanted)[pairs].mean()) if len(names) > 1 else 0.0

    return Columns(tuple(figures), wanted, got, gap(got), gap(half), gap(blind), n)


def wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    """Wasserstein-1 distance of two columns of numbers, in standard deviations of y; empty cells are left out.

    Exact for any two sizes. NaN where a column has no filled cell; for a constant y in the unit of the data.

    Args:
        x: shape (N,).
        y: shape (M,).

    Checked by: tests/evidence/test_columns.py::test_wasserstein_of_a_shift_and_a_scale
    """
    x, y = x[~np.isnan(x)], y[~np.isnan(y)]
    if not len(x) or not len(y):
        return float("nan")
    both = np.sort(np.concatenate([x, y]))
    share_x, share_y = (np.searchsorted(np.sort(part), both[:-1], side="right") / len(part) for part in (x, y))
    return float((np.abs(share_x - share_y) * np.diff(both)).sum() / (y.std() or 1.0))


def total_variation(x: np.ndarray, y: np.ndarray) -> float:
    """Total variation distance of two columns of levels, an empty cell being one.

    Args:
        x: shape (N,).
        y: shape (M,).

    Checked by: tests/evidence/test_columns.py::test_total_variation_counts_empty_cells
    """
    known = np.unique(np.concatenate([x, y]))  # all NaN are one
    shares = [np.bincount(np.searchsorted(known, part), minlength=len(known)) / len(part) for part in (x, y)]
    return float(np.abs(shares[0] - shares[1]).sum() / 2)


def associations(table: np.ndarray, levels: Sequence[bool]) -> np.ndarray:
    """Relations of all pairs of columns, shape (F, F), symmetric, with ones on the diagonal.

    Args:
        table: shape (N, F), NaN where empty.
        levels: which columns are levels.

    Checked by: tests/evidence/test_columns.py::test_relations_are_the_textbook_ones
    """
    count = table.shape[1]
    out = np.eye(count)
    for i in range(count):
        for j in range(i):
            both = ~np.isnan(table[:, i]) & ~np.isnan(table[:, j])
            a, b = table[both, i], table[both, j]
            out[i, j] = out[j, i] = _relation(a, b, levels[i], levels[j])
    return out


def _relation(a: np.ndarray, b: np.ndarray, level_a: bool, level_b: bool) -> float:
    if len(a) < 2 or (a == a[0]).all() or (b == b[0]).all():
        return 0.0
    if level_a and level_b:
        return _cramer(a, b)
    if level_a:
        return _ratio(_ranks(b), a)
    if level_b:
        return _ratio(_ranks(a), b)
    return float(np.corrcoef(_ranks(a), _ranks(b))[0, 1])


def _ranks(cells: np.ndarray) -> np.ndarray:
    """Mean ranks."""
    _, place, counts = np.unique(cells, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


def _ratio(numbers: np.ndarray, level: np.ndarray) -> float:
    """Correlation ratio of numbers on levels."""
    _, place, counts = np.unique(level, return_inverse=True, return_counts=True)
    means = np.bincount(place, numbers) / counts
    return float(np.sqrt((counts * (means - numbers.mean()) ** 2).sum() / ((numbers - numbers.mean()) ** 2).sum()))


def _cramer(a: np.ndarray, b: np.ndarray) -> float:
    """Cramer's V of two columns of levels."""
    (known_a, i), (known_b, j) = (np.unique(part, return_inverse=True) for part in (a, b))
    table = np.zeros((len(known_a), len(known_b)))
    np.add.at(table, (i, j), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / len(a)
    chi2 = ((table - expected) ** 2 / expected).sum()
    return float(np.sqrt(chi2 / (len(a) * (min(table.shape) - 1))))


def _normal(column: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of the normal law with a column's mean and spread."""
    filled = column[~np.isnan(column)]
    return rng.normal(filled.mean(), filled.std(), n) if len(filled) else np.full(n, np.nan)


def _levels_alike(column: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """Draws of the levels of a column, all equally often."""
    return rng.choice(np.unique(column), n)


def _table(table: np.ndarray, name: str, columns: int, least: int) -> np.ndarray:
    table = np.asarray(table, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] != columns:
        raise ShapeError(f"{name} has shape {table.shape} and {columns} columns are named; give (N, {columns})")
    if len(table) < least:
        raise DataError(f"{name} holds {len(table)} records; at least {least} are needed")
    if np.isinf(table).any():
        raise DataError(f"{name} holds infinity in column {int(np.isinf(table).any(0).argmax())}; empty those cells")
    return table
