"""Row sums in place of a matrix: the formula itself, its exact case, and what a negative sum is taken for."""

import torch

from oracles import F64, draws, relative
from oracles import spd as spd_of
from undrift.core import CG, RowSum

NOISE = torch.tensor([0.3], dtype=F64)


def test_it_divides_by_row_sums_and_noise():
    c, b = spd_of(4, 1).abs(), draws((3, 4), 2)
    found = RowSum().system(lambda v: v @ c, NOISE, b)
    assert relative(found, b / (c.sum(1) + 0.3)) < 1e-14


def test_one_measurement_is_solved_exactly():
    c, b = spd_of(1, 1), draws((3, 1), 2)
    one, other = (solver.system(lambda v: v @ c, NOISE, b) for solver in (RowSum(), CG()))
    assert relative(one, other) < 1e-14


def test_a_negative_row_sum_counts_as_nothing():
    c = torch.tensor([[1.0, -2.0], [-2.0, 5.0]], dtype=F64)  # positive definite, first row sum -1
    found = RowSum().system(lambda v: v @ c, NOISE, torch.ones(1, 2, dtype=F64))
    assert relative(found, torch.tensor([[1 / 0.3, 1 / 3.3]], dtype=F64)) < 1e-14
