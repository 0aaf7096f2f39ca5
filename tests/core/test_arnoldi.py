"""Arnoldi: conjugate gradients' answer on true covariances, and a bounded one on what is none."""

import pytest
import torch

from oracles import F64, draws, relative
from oracles import spd as spd_of
from undrift.core import CG, Arnoldi
from undrift.errors import LawError

NOISE = torch.tensor([0.3], dtype=F64)


def counting(c):
    counts = [0]

    def seen(v):
        counts[0] += 1
        return v @ c.mT

    return seen, counts


@pytest.mark.parametrize("noise", [NOISE, torch.tensor([0.1, 0.5, 0.9, 0.2, 0.7], dtype=F64)])
def test_true_covariances_are_solved(noise):
    c, b = spd_of(5, 1), draws((3, 5), 2)
    want = torch.linalg.solve(c + torch.diag(noise.expand(5)), b.mT).mT
    seen, counts = counting(c)
    assert relative(Arnoldi(tolerance=0).system(seen, noise, b), want) < 1e-11
    assert counts == [5]
    # Every iterate is that of conjugate gradients: both minimise over the same Krylov space.
    if noise.numel() == 1:
        few = Arnoldi(iterations=2, tolerance=0).system(counting(c)[0], noise, b)
        assert relative(few, CG(iterations=2, tolerance=0).system(counting(c)[0], noise, b)) < 1e-11


def test_it_stops_at_its_tolerance_and_at_the_end_of_the_space():
    c = torch.diag(torch.tensor([2.0, 2.0, 2.0, 5.0], dtype=F64))
    b = torch.tensor([[1.0, 2.0, 3.0, 0.0], [1.0, 0.0, 0.0, 1.0]], dtype=F64)  # one, and two eigenvalues
    seen, counts = counting(c)
    want = torch.linalg.solve(c + 0.3 * torch.eye(4, dtype=F64), b.mT).mT
    assert relative(Arnoldi().system(seen, NOISE, b), want) < 1e-12
    assert counts == [2]
    seen, counts = counting(c)
    assert relative(Arnoldi(tolerance=0).system(seen, NOISE, b), want) < 1e-12  # a spent space adds nothing
    assert counts == [4]
    assert not bool(Arnoldi().system(seen, NOISE, 0 * b).any())


def test_negative_variance_counts_as_none_and_the_symmetric_part_alone():
    rotation = torch.linalg.qr(draws((4, 4), 3))[0]
    values = torch.tensor([2.0, 0.5, -0.2, -0.9], dtype=F64)
    skew = draws((4, 4), 4)
    c = rotation @ torch.diag(values) @ rotation.mT + (skew - skew.mT)
    b = draws((3, 4), 5)
    positive = rotation @ torch.diag(values.clamp_min(0)) @ rotation.mT
    want = torch.linalg.solve(positive + 0.3 * torch.eye(4, dtype=F64), b.mT).mT
    found = Arnoldi(tolerance=0).system(counting(c)[0], NOISE, b)
    assert relative(found, want) < 1e-10
    assert bool((found.norm(dim=1) <= b.norm(dim=1) / 0.3 * (1 + 1e-12)).all())


def test_nan_goes_on_and_mixed_noise_is_refused():
    b = draws((2, 3), 1)
    broken = Arnoldi().system(lambda v: torch.where(torch.arange(2)[:, None] == 1, torch.nan, v), NOISE, b)
    assert bool(torch.isfinite(broken[0]).all())
    assert bool(torch.isnan(broken[1]).all())
    with pytest.raises(LawError, match="none to all"):
        Arnoldi().system(lambda v: v, torch.tensor([0.1, 0.0, 0.2], dtype=F64), b)
