"""Certifies `undrift.core.covariance`: every structure against dense linear algebra, float64."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undrift.core import Covariance
from undrift.errors import LawError

Build = Callable[[tuple[int, ...], int, np.random.Generator], tuple[Covariance, np.ndarray]]


def isotropic(batch: tuple[int, ...], d: int, rng: np.random.Generator) -> tuple[Covariance, np.ndarray]:
    v = rng.uniform(0.2, 2, batch)
    return Covariance.isotropic(torch.tensor(v), d), v[..., None, None] * np.eye(d)


def diagonal(batch: tuple[int, ...], d: int, rng: np.random.Generator) -> tuple[Covariance, np.ndarray]:
    v = rng.uniform(0.2, 2, (*batch, d))
    return Covariance.diagonal(torch.tensor(v)), v[..., None] * np.eye(d)


def full(batch: tuple[int, ...], d: int, rng: np.random.Generator) -> tuple[Covariance, np.ndarray]:
    a = rng.standard_normal((*batch, d, d))
    c = a @ a.swapaxes(-1, -2) / d + 0.2 * np.eye(d)
    return Covariance.full(torch.tensor(c)), c


def low_rank(batch: tuple[int, ...], d: int, rng: np.random.Generator) -> tuple[Covariance, np.ndarray]:
    f, tail = rng.standard_normal((*batch, d, max(1, d // 2))), rng.uniform(0.2, 2, batch)
    off = np.eye(d) - f @ np.linalg.pinv(f)
    return Covariance.low_rank(torch.tensor(f), torch.tensor(tail)), f @ f.swapaxes(-1, -2) + tail[..., None, None] * off


BUILD: dict[str, Build] = {"isotropic": isotropic, "diagonal": diagonal, "full": full, "low_rank": low_rank}

# A function of the spectrum beside the same function of the dense matrix, each written without a decomposition.
FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[np.ndarray], np.ndarray]]] = {
    "identity": (lambda v: v, lambda c: c),
    "square": (lambda v: v.square(), lambda c: c @ c),
    "inverse": (lambda v: 1 / v, np.linalg.inv),
    "gain": (lambda v: v / (v + 0.3), lambda c: c @ np.linalg.inv(c + 0.3 * np.eye(c.shape[-1]))),
    "one": (torch.ones_like, lambda c: np.broadcast_to(np.eye(c.shape[-1]), c.shape)),
}


def close(a: Tensor, b: np.ndarray) -> None:
    """Equal to 1e-10 of the largest entry: condition numbers here stay below 1e4, and float64 keeps 16 digits."""
    assert a.shape == b.shape
    np.testing.assert_allclose(a.numpy(), b, rtol=0, atol=1e-10 * max(1.0, np.abs(b).max()))


@settings(max_examples=80, deadline=None)
@given(
    kind=st.sampled_from(sorted(BUILD)),
    function=st.sampled_from(sorted(FUNCTIONS)),
    batch=st.lists(st.integers(1, 3), max_size=2).map(tuple),
    d=st.integers(1, 6),
    seed=st.integers(0, 10**6),
)
def test_functions_of_the_matrix_equal_dense_algebra(kind: str, function: str, batch: tuple, d: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    cov, dense = BUILD[kind](batch, d, rng)
    f, of_dense = FUNCTIONS[function]
    target, x = of_dense(dense), rng.standard_normal((*batch, d))
    close(cov.dense(), dense)
    close(cov.variances(), np.diagonal(dense, axis1=-2, axis2=-1))
    close(cov.map(f).dense(), target)
    close(cov.map(f).variances(), np.diagonal(target, axis1=-2, axis2=-1))
    close(cov.apply(f, torch.tensor(x)), np.einsum("...ij,...j->...i", target, x))
    close(cov.quadratic(f, torch.tensor(x)), np.einsum("...i,...ij,...j->...", x, target, x))
    close(cov.logdet(f), np.asarray(np.linalg.slogdet(target)[1]))


@pytest.mark.parametrize("kind", BUILD)
def test_the_square_root_squares_to_the_matrix(kind: str) -> None:
    cov, dense = BUILD[kind]((2,), 5, np.random.default_rng(0))
    root = cov.map(torch.sqrt).dense().numpy()
    np.testing.assert_allclose(root @ root, dense, atol=1e-12)  # rounding of 5 x 5 products


@pytest.mark.parametrize("kind", BUILD)
def test_a_shared_matrix_serves_every_row(kind: str) -> None:
    rng = np.random.default_rng(1)
    cov, dense = BUILD[kind]((1,), 4, rng)
    x = rng.standard_normal((3, 4))
    close(cov.apply(lambda v: v, torch.tensor(x)), x @ dense[0])
    close(cov.quadratic(lambda v: v, torch.tensor(x)), np.einsum("bi,ij,bj->b", x, dense[0], x))
    assert cov.rows(slice(1, 3)).values.shape[0] == 1
    close(cov.rows(slice(1, 3)).dense(), dense)


@pytest.mark.parametrize("kind", BUILD)
def test_rows_cut_the_batch(kind: str) -> None:
    cov, dense = BUILD[kind]((4,), 3, np.random.default_rng(2))
    close(cov.rows(slice(1, 3)).dense(), dense[1:3])
    # A shared basis under spectra of their own, as posteriors on many noise levels make it.
    many = BUILD[kind]((1,), 3, np.random.default_rng(2))[0].map(lambda v: v * torch.arange(1.0, 5.0)[:, None].double())
    close(many.rows(slice(2, 3)).dense(), many.dense()[2:3].numpy())


@pytest.mark.parametrize("kind", BUILD)
@pytest.mark.parametrize("batch", [1, 3])
def test_pick_names_one_component_per_row(kind: str, batch: int) -> None:
    cov, dense = BUILD[kind]((batch, 5), 3, np.random.default_rng(3))
    component = torch.tensor([4, 0, 2])
    close(cov.pick(component).dense(), np.stack([dense[b if batch > 1 else 0, k] for b, k in enumerate(component)]))


def test_a_subspace_without_variance_around_it_is_kept_exactly() -> None:
    basis = torch.linalg.qr(torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
    cov = Covariance.low_rank(basis, torch.zeros((), dtype=torch.float64))
    x = torch.randn(6, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    inside = cov.apply(torch.sqrt, x)
    assert torch.allclose(basis @ (basis.mT @ inside), inside, atol=1e-14)  # rounding
    off = x - basis @ (basis.mT @ x)
    # A quadratic form by projection: 1e12 off the subspace must not drown what is on it, nor the reverse.
    energy = cov.quadratic(lambda v: torch.where(v > 0.5, 1e-12, 1.0).double(), 1e6 * (x - off) + off)
    expected = 1e-12 * (1e6 * (x - off)).square().sum() + off.square().sum()
    assert torch.allclose(energy, expected, rtol=1e-8)  # the state itself was rounded at 1e6 * 1e-16


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: Covariance.full(torch.zeros(2, 3)), "square matrix"),
        (lambda: Covariance.full(torch.zeros(3)), "square matrix"),
        (lambda: Covariance.full(torch.tensor([[1.0, 0.5], [0.0, 1.0]])), r"symmetric; give 0\.5 \* \(C \+ C\.mT\)"),
        (lambda: Covariance.full(torch.tensor([[1.0, 2.0], [2.0, 1.0]])), "positive semi-definite; smallest eigenvalue -1"),
        (lambda: Covariance.diagonal(torch.tensor([1.0, -0.1])), r"variances must be >= 0 .*-0\.1"),
        (lambda: Covariance.diagonal(torch.tensor([1.0, float("nan")])), "not NaN"),
        (lambda: Covariance.low_rank(torch.ones(3, 1), torch.tensor(-2.0)), r"tail must be >= 0 .*-2"),
    ],
)
def test_what_is_no_covariance_is_refused_with_the_cure(build: Callable[[], Covariance], match: str) -> None:
    with pytest.raises(LawError, match=match):
        build()
