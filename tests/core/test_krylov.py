"""Certifies `undrift.core.krylov` against dense solves, and counts what it spends. float64 throughout."""

import pytest
import torch

from oracles import F64, draws, spd
from undrift.core import CG

SIZES = (1, 2, 5, 12)


def system(m: int, batch: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    """Matrices with condition numbers of 10, one per row, and right-hand sides."""
    return torch.stack([spd(m, 10 + i) for i in range(batch)]), draws((batch, m), m)


def product(s):
    return lambda v: torch.einsum("bij,bj->bi", s, v)


class Counted:
    """Products with a matrix, counted."""

    def __init__(self, s):
        self.s, self.spent = s, 0

    def __call__(self, v):
        self.spent += 1
        return product(self.s)(v)


@pytest.mark.parametrize("m", SIZES)
def test_it_solves_dense_systems(m):
    """Conjugate gradients end in m products in exact arithmetic; 1e-9 allows for rounding at condition number 10."""
    s, b = system(m)
    solved = CG(iterations=m, tolerance=0.0).solve(product(s), b)
    torch.testing.assert_close(solved.x, torch.linalg.solve(s, b), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tolerance", [1e-2, 1e-5, 1e-8])
def test_it_stops_at_the_tolerance_and_reports_the_residual(tolerance):
    s, b = system(12)
    solver = CG(iterations=12, tolerance=tolerance)
    solved = solver.solve(product(s), b)
    true = (b - product(s)(solved.x)).norm(dim=1) / b.norm(dim=1)
    assert bool((true <= 1.001 * tolerance).all())  # the tracked residual drifts from the true one by rounding
    torch.testing.assert_close(solved.residual, true, rtol=1e-3, atol=1e-13)
    before = CG(iterations=solved.products - 1, tolerance=0.0).solve(product(s), b)
    assert bool((before.residual > tolerance).any())  # and not one product later than needed


@pytest.mark.parametrize("m", SIZES)
@pytest.mark.parametrize("iterations", [1, 3, 100])
def test_no_more_products_than_numbers_and_every_one_is_counted(m, iterations):
    s, b = system(m)
    counted = Counted(s)
    for tolerance in (0.0, 1e-6):
        counted.spent = 0
        solved = CG(iterations=iterations, tolerance=tolerance).solve(counted, b)
        assert solved.products == counted.spent <= min(iterations, m)
        if tolerance == 0:
            assert solved.products == min(iterations, m)


def test_tolerance_zero_spends_everything_even_when_done():
    """On the identity one product solves it; the rest is spent and spoils nothing."""
    b = draws((2, 6), 0)
    counted = Counted(torch.eye(6, dtype=F64).expand(2, 6, 6))
    solved = CG(iterations=5, tolerance=0.0).solve(counted, b)
    assert counted.spent == 5
    torch.testing.assert_close(solved.x, b, rtol=1e-15, atol=0)


def test_iterates_are_best_in_their_krylov_space():
    """x_k minimises the S-norm of the error over span{b, Sb, ...}: against the dense Galerkin solution."""
    s, b = system(5)
    for k in (1, 2, 3, 4):
        x = CG(iterations=k, tolerance=0.0).solve(product(s), b).x
        for row in range(3):
            space = torch.stack([torch.linalg.matrix_power(s[row], i) @ b[row] for i in range(k)], 1)
            basis = torch.linalg.qr(space)[0]
            want = basis @ torch.linalg.solve(basis.mT @ s[row] @ basis, basis.mT @ b[row])
            torch.testing.assert_close(x[row], want, rtol=1e-9, atol=1e-9)


def test_rows_do_not_see_each_other():
    """Bit for bit at tolerance 0; a zero row and a hard row beside it change nothing."""
    s, b = system(5, batch=4)
    b[1] = 0
    s[2] = spd(5, 99, 1e-6, 1.0)
    together = CG(iterations=5, tolerance=0.0).solve(product(s), b)
    for row in range(4):
        alone = CG(iterations=5, tolerance=0.0).solve(product(s[row : row + 1]), b[row : row + 1])
        torch.testing.assert_close(together.x[row], alone.x[0], rtol=1e-12, atol=1e-14)
    assert bool((together.x[1] == 0).all())
    assert float(together.residual[1]) == 0


def test_a_row_of_negative_curvature_stops_at_its_last_good_iterate():
    """diag(2, 1, -1) and b = (1, 1, 1.2): the first direction has positive curvature, the second has not (by hand)."""
    s = torch.diag_embed(torch.tensor([[2.0, 1.0, -1.0], [2.0, 1.0, 1.0]], dtype=F64))
    b = torch.tensor([[1.0, 1.0, 1.2], [1.0, 1.0, 1.2]], dtype=F64)
    solved = CG(iterations=3, tolerance=0.0).solve(product(s), b)
    first = b[0] * (b[0] @ b[0]) / (b[0] @ s[0] @ b[0])
    torch.testing.assert_close(solved.x[0], first, rtol=1e-14, atol=0)
    torch.testing.assert_close(solved.residual[0], (b[0] - s[0] @ first).norm() / b[0].norm(), rtol=1e-12, atol=0)
    torch.testing.assert_close(solved.x[1], torch.linalg.solve(s[1], b[1]), rtol=1e-12, atol=0)  # its neighbour goes on
    hopeless = CG().solve(lambda v: -v, b)
    assert bool((hopeless.x == 0).all())
    assert bool((hopeless.residual == 1).all())


def test_nan_is_not_mistaken_for_negative_curvature():
    """A product of NaN must show in the answer: silence would be an unsteered sample."""
    solved = CG(iterations=2, tolerance=0.0).solve(
        lambda v: v * torch.tensor([[torch.nan], [1.0]], dtype=F64), draws((2, 3), 0)
    )
    assert bool(solved.x[0].isnan().all())
    assert bool(torch.isfinite(solved.x[1]).all())
