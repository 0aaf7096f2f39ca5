"""Certifies `undrift.core.seen` against dense linear algebra, for every structure of covariance. float64."""

import math

import pytest
import torch

from oracles import COVARIANCES, F64, covariance, draws
from undrift.core import Covariance, Seen
from undrift.errors import LawError
from undrift.operators import Mask, Matrix, Operator

D = 6
ALGEBRA = {"rtol": 1e-9, "atol": 1e-10}  # condition numbers below 1e4, matrices of 6 numbers
LOOKS: dict[str, Operator] = {
    "one": Matrix(draws((1, D), 0)),
    "wide": Matrix(draws((3, D), 1)),
    "tall": Matrix(draws((8, D), 2)),
    "repeated": Matrix(draws((2, D), 3)[[0, 1, 0]]),
    "rank_one": Matrix(draws((3, 1), 4) @ draws((1, D), 5)),
    "nothing": Matrix(torch.zeros(2, D, dtype=F64)),
    "mask": Mask(torch.tensor([True, False, True, True, False, False])),
    "everything": Mask(torch.ones(D, dtype=torch.bool)),
}
every_look = pytest.mark.parametrize("name", LOOKS)
every_covariance = pytest.mark.parametrize("kind", COVARIANCES)
every_noise = pytest.mark.parametrize("noise", ["same", "own"])


def variance(noise: str, m: int) -> torch.Tensor:
    return torch.tensor([0.3], dtype=F64) if noise == "same" else 0.1 + draws((m,), 9).square()


def dense(cov: Covariance, look: Operator, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(S, gain, covariance left) by a general solver."""
    a, c = look.matrix, cov.dense()
    s = a @ c @ a.mT + torch.diag(noise.expand(a.shape[0]))
    gain = torch.linalg.solve(s, a @ c).mT
    return s, gain, c - gain @ a @ c


@every_look
@every_covariance
@every_noise
@pytest.mark.parametrize("batch", [(1,), (3,), (1, 2), (3, 2)])
def test_evidence_gain_and_what_is_left(name, kind, noise, batch):
    look = LOOKS[name]
    r = variance(noise, look.measurements)
    k = math.prod(batch)
    flat = covariance(kind, k, D, seed=3)
    basis = None if flat.basis is None else flat.basis.reshape(*batch, *flat.basis.shape[1:])
    cov = Covariance(flat.values.reshape(*batch, -1), flat.tail.reshape(*batch, 1), basis, D)
    residual = draws((3, *batch[1:], look.measurements), 8)
    seen = Seen.of(cov, look, r)
    s, gain, left = dense(cov, look, r)
    want = torch.distributions.MultivariateNormal(torch.zeros(look.measurements, dtype=F64), s).log_prob(residual)
    torch.testing.assert_close(seen.evidence(residual), want, **ALGEBRA)
    torch.testing.assert_close(seen.move(residual), (gain @ residual[..., None])[..., 0], **ALGEBRA)
    torch.testing.assert_close(seen.left().dense(), left.expand(*batch, D, D), **ALGEBRA)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal", "full", "low_rank"])
@pytest.mark.parametrize("name", ["wide", "mask", "everything"])
def test_a_noiseless_look_leaves_nothing_where_it_looked(name, kind):
    """A (C left) = 0 and A (x + move) = y, to rounding; also where everything is seen and nothing is left at all."""
    look, cov = LOOKS[name], covariance(kind, 2, D, seed=4)
    seen = Seen.of(cov, look, torch.zeros(1, dtype=F64))
    residual = draws((2, look.measurements), 8)
    torch.testing.assert_close(seen.move(residual) @ look.matrix.mT, residual, **ALGEBRA)
    left = seen.left()
    assert bool((left.values >= 0).all())
    torch.testing.assert_close(look.matrix @ left.dense(), torch.zeros(2, look.measurements, D, dtype=F64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("noise", [1e-8, 1e-12, 1e-16, 1e-20])
@pytest.mark.parametrize("kind", ["full", "low_rank", "diagonal"])
def test_a_nearly_noiseless_look_leaves_its_own_noise(noise, kind):
    """Seeing everything with variance v leaves v to first order: a small difference of large numbers, done without one."""
    left = Seen.of(covariance(kind, 2, D, seed=4), LOOKS["everything"], torch.full((1,), noise, dtype=F64)).left()
    eye = torch.eye(D, dtype=F64).expand(2, D, D)
    torch.testing.assert_close(left.dense() / noise, eye, rtol=0, atol=1e-3)


def test_every_row_with_its_own_residual_and_one_covariance():
    look, r = LOOKS["wide"], variance("own", 3)
    seen = Seen.of(covariance("full", 1, D, seed=5), look, r)
    residual = draws((4, 3), 6)
    for i in range(4):
        torch.testing.assert_close(seen.evidence(residual)[i : i + 1], seen.evidence(residual[i : i + 1]), rtol=1e-13, atol=0)
        torch.testing.assert_close(seen.move(residual)[i : i + 1], seen.move(residual[i : i + 1]), rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("kind", "name"), [("flat", "wide"), ("isotropic", "repeated"), ("full", "tall")])
def test_a_noiseless_look_at_what_is_certain_is_refused(kind, name):
    """`flat` has rank 2 and is looked at 3 times; a repeated look says something twice; a point is certain."""
    cov = covariance(kind, 1, D, seed=6)
    if name == "tall":
        cov = Covariance.isotropic(torch.zeros(1, dtype=F64), D)
    with pytest.raises(LawError, match=r"noiseless.*second_order"):
        Seen.of(cov, LOOKS[name], torch.zeros(1, dtype=F64))
