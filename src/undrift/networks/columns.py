r"""A row of numbers and classes, each of them asked or not, as one vector.

A class is looked up in a table of its own, which has one row more than there are classes, for "not asked". A number v,
standardised, is read through smooth features, (1, v, cos omega_j v, sin omega_j v) at five octaves of omega: smooth, so
that near numbers mean nearly the same and what was never asked is interpolated, and fine enough to tell apart numbers a
tenth of a standard deviation apart. "Not asked" is NaN in both, and a vector of its own: a number that is not asked is
not a zero.

Checked by: tests/networks/test_embed.py
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from undrift.errors import LabelError, ShapeError

__all__ = ["ColumnEmbedding"]

OCTAVES = (0.5, 1.0, 2.0, 4.0, 8.0)
"""Angular frequencies at which a standardised number is read; powers of two are exact in every dtype."""


class ColumnEmbedding(nn.Module):
    r"""Numbers and classes of a row, each asked or not, as one vector: the sum of one vector a column.

    .. math:: e = \sum_f \begin{cases} n_f & \text{column f is not asked (NaN)} \\
        W_f (1, v_f, \cos \omega_j v_f, \sin \omega_j v_f) & \text{a number} \\
        T_f[v_f] & \text{a class} \end{cases}

    Number and not-asked vectors of all columns are the rows of one matrix, and so are the tables of all classes.

    Args:
        columns: for each column 0 (a number) or its number of classes, at least 2.
        width: length of the result.

    Raises:
        LabelError: columns is empty, or an entry is neither 0 nor at least 2.

    Checked by: tests/networks/test_embed.py::test_columns_are_the_formula
    """

    def __init__(self, columns: Sequence[int], width: int):
        super().__init__()
        if not columns or any(k < 0 or k == 1 for k in columns):
            raise LabelError(
                f"columns is {tuple(columns)}; give one entry per column: 0 for a number, the number of classes (2 or "
                "more) for a class; a column with one class says nothing and is left out."
            )
        self.columns = tuple(columns)
        features, spread = 3 + 2 * len(OCTAVES), len(columns) ** -0.5
        numbers, choices = ([f for f, k in enumerate(columns) if (k > 0) == choice] for choice in (False, True))
        sizes = [columns[f] for f in choices]
        starts = [sum(sizes[:i]) + i for i in range(len(sizes))]
        self.numbers: Tensor  # buffers, so that nothing is copied to a device in a call
        self.choices: Tensor
        self.sizes: Tensor
        self.starts: Tensor
        for name, values in (("numbers", numbers), ("choices", choices), ("sizes", sizes), ("starts", starts)):
            self.register_buffer(name, torch.tensor(values, dtype=torch.long), persistent=False)
        self.number = nn.Linear(features * len(numbers), width, bias=False) if numbers else None
        self.table = nn.EmbeddingBag(sum(sizes) + len(sizes), width, mode="sum") if choices else None
        if self.number is not None:
            nn.init.normal_(self.number.weight, std=spread * features**-0.5)
        if self.table is not None:
            nn.init.normal_(self.table.weight, std=spread)

    def forward(self, cond: Tensor) -> Float[Tensor, "b w"]:
        """Sum of the columns' vectors.

        Values are checked on the CPU only, as class indices are. Codes are read from at least float32, so a network's
        own precision does not blur them.

        Args:
            cond: shape (B, F), float: standardised numbers and class codes 0..k-1, NaN where not asked.

        Returns:
            Shape (B, width).

        Raises:
            LabelError: cond is not float, or a value is infinite, no whole number, or outside 0..k-1.
            ShapeError: cond is not (B, F).
        """
        if cond.ndim != 2 or cond.shape[1] != len(self.columns):
            raise ShapeError(
                f"cond has shape {tuple(cond.shape)}; this network reads {len(self.columns)} columns: give one row per "
                f"sample, shape (B, {len(self.columns)}), NaN where a column is not asked."
            )
        if not cond.is_floating_point():
            raise LabelError(f"cond has dtype {cond.dtype}; rows of columns are float (NaN is not asked), use cond.float().")
        if cond.device.type == "cpu":
            self._check(cond)
        exact = cond.to(torch.promote_types(cond.dtype, torch.float32))
        parts = []
        if self.number is not None:
            parts.append(self.number(self._features(exact.index_select(1, self.numbers)).to(self.number.weight.dtype)))
        if self.table is not None:
            codes = exact.index_select(1, self.choices)
            codes = torch.where(codes.isnan(), self.sizes, codes)
            astray = (codes < 0) | (codes > self.sizes) | (codes != codes.floor())
            rows = torch.where(astray, len(self.table.weight), self.starts + codes.long())  # outside: the look-up stops there
            parts.append(self.table(rows))
        return sum(parts[1:], start=parts[0])

    @staticmethod
    def _features(v: Tensor) -> Tensor:
        """Numbers (B, N) as features (B, N * 13), each octave's in one piece; of an unasked number only one is not zero."""
        unasked = v.isnan()
        v, said = torch.where(unasked, 0.0, v), (~unasked).to(v.dtype)  # before any function: no NaN meets a gradient
        angles = [octave * v for octave in OCTAVES]
        waves = [part * said for angle in angles for part in (angle.cos(), angle.sin())]
        return torch.cat([1 - said, said, v, *waves], dim=1)

    def _check(self, cond: Tensor) -> None:
        """Raise LabelError and name the column, where a value is not one that its column can have."""
        limit = torch.tensor([float(k) if k else math.inf for k in self.columns], dtype=torch.float64)
        whole = torch.tensor([k > 0 for k in self.columns])
        good = torch.where(whole, (cond >= 0) & (cond < limit) & (cond == cond.floor()), cond.isfinite()) | cond.isnan()
        if bool(good.all()):
            return
        row, column = (int(i) for i in (~good).nonzero()[0])
        k = self.columns[column]
        raise LabelError(
            f"cond[{row}, {column}] is {float(cond[row, column]):g}; column {column} "
            + (f"is a class: give one of 0..{k - 1}, or NaN for not asked." if k else "is a number: give a finite one, or NaN.")
        )
