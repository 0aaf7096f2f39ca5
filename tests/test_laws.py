"""Certifies `undrift.laws`: sampling, densities, Bayes' rule and kernels, each against a closed form computed elsewhere.

Sampled moments use one fixed seed and 40,000 draws; a z-score beyond 5 is a false alarm with probability 6e-7 a number, 1e-4
for everything here.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from undrift import PerSample, Shared
from undrift.core import Covariance
from undrift.errors import LawError, ShapeError
from undrift.laws import Affine, Categorical, Compound, Empirical, Jump, Mixture, Normal, Pair, Point
from undrift.laws.parts import draw_index

DRAWS = 40_000
ALGEBRA = {"rtol": 1e-10, "atol": 1e-10}  # float64, matrices of 4 numbers with condition numbers below 100


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def f64(values: Any) -> Tensor:
    return torch.as_tensor(np.asarray(values), dtype=torch.float64)


def lead(cov: Covariance) -> Covariance:
    return Covariance(cov.values[None], cov.tail[None], None if cov.basis is None else cov.basis[None], cov.dim)


def spd(rng: np.random.Generator, *shape: int) -> np.ndarray:
    a = rng.standard_normal((*shape, 4, 4))
    return a @ a.swapaxes(-1, -2) / 4 + 0.3 * np.eye(4)


# Four kinds of covariance of a (2, 2) event, each with its dense matrix; batch shape as asked.
def covariances(batch: tuple[int, ...], seed: int = 1) -> dict[str, tuple[Covariance, np.ndarray]]:
    rng = generator(seed)
    v, d, c = rng.uniform(0.3, 1.5, batch), rng.uniform(0.3, 1.5, (*batch, 4)), spd(rng, *batch)
    f, tail = rng.standard_normal((*batch, 4, 2)), rng.uniform(0.3, 1.0, batch)
    off = np.eye(4) - f @ np.linalg.pinv(f)
    return {
        "isotropic": (Covariance.isotropic(f64(v), 4), v[..., None, None] * np.eye(4)),
        "diagonal": (Covariance.diagonal(f64(d)), d[..., None] * np.eye(4)),
        "full": (Covariance.full(f64(c)), c),
        "low_rank": (Covariance.low_rank(f64(f), f64(tail)), f @ f.swapaxes(-1, -2) + tail[..., None, None] * off),
        "subspace": (Covariance.low_rank(f64(f), f64(0 * tail)), f @ f.swapaxes(-1, -2)),
    }


KINDS = list(covariances((1,)))
REGULAR = [k for k in KINDS if k != "subspace"]
WEIGHTS = np.array([0.2, 0.5, 0.3])


def normal(kind: str, batch: int = 1) -> tuple[Normal, np.ndarray, np.ndarray]:
    """A law with its dense mean (B, 4) and covariance (B, 4, 4)."""
    cov, dense = covariances((batch,))[kind]
    mean = generator(2).standard_normal((batch, 4))
    return Normal(f64(mean.reshape(batch, 2, 2)), cov), mean, dense


def mixture(kind: str) -> tuple[Mixture, np.ndarray, np.ndarray]:
    cov, dense = covariances((3,))[kind]
    means = generator(3).standard_normal((3, 4))
    return Mixture.of(f64(WEIGHTS), f64(means.reshape(3, 2, 2)), cov), means, dense


def atoms() -> tuple[Empirical, np.ndarray, np.ndarray]:
    x, w = generator(4).standard_normal((6, 4)), generator(5).dirichlet(np.ones(6))
    return Empirical.of(f64(x.reshape(6, 2, 2)), f64(w)), x, w


def mixture_moments(w: np.ndarray, means: np.ndarray, covs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean = w @ means
    return mean, np.einsum("k,kij->ij", w, covs) + np.einsum("k,ki,kj->ij", w, means - mean, means - mean)


# ---- sampling and moments ---------------------------------------------------------------------------------------------

NUMBERS: dict[str, Callable[[], tuple[Any, np.ndarray, np.ndarray]]] = {
    **{f"normal-{k}": lambda k=k: (normal(k)[0], normal(k)[1][0], normal(k)[2][0]) for k in KINDS},
    **{f"mixture-{k}": lambda k=k: (mixture(k)[0], *mixture_moments(WEIGHTS, *mixture(k)[1:])) for k in KINDS},
    "empirical": lambda: (atoms()[0], *mixture_moments(atoms()[2], atoms()[1], np.zeros((6, 4, 4)))),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_moments_are_those_of_the_definition(name: str) -> None:
    law, mean, cov = NUMBERS[name]()
    np.testing.assert_allclose(law.mean.reshape(4), mean, **ALGEBRA)
    np.testing.assert_allclose(law.variance.reshape(4), np.diagonal(cov), **ALGEBRA)
    if hasattr(law, "covariance"):
        np.testing.assert_allclose(law.covariance()[0], cov, **ALGEBRA)


@pytest.mark.parametrize("name", NUMBERS)
def test_samples_have_the_laws_moments(name: str) -> None:
    law, mean, cov = NUMBERS[name]()
    many = Normal(law.mean.expand(DRAWS, 2, 2), law.cov) if isinstance(law, Normal) else law.expand(DRAWS)
    x = many.sample(Shared(0)).flatten(1).numpy()
    spread = np.sqrt(np.diagonal(cov))
    assert np.all(np.abs(x.mean(0) - mean) < 5 * spread / math.sqrt(DRAWS))
    products = (x - mean)[:, :, None] * (x - mean)[:, None, :]
    error = np.maximum(products.std(0), 1e-12) / math.sqrt(DRAWS)  # the products' own spread gives their standard error
    assert np.all(np.abs(products.mean(0) - cov) < 5 * error + 1e-12)


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 6), k=st.integers(1, 5), seed=st.integers(0, 10**6))
def test_draw_index_inverts_the_cumulative_distribution(n: int, k: int, seed: int) -> None:
    log_weights = torch.log_softmax(f64(generator(seed).standard_normal((n, k))), -1)
    u = PerSample(seed, n).uniform((n,), dtype=torch.float64)
    expected = [int(np.searchsorted(np.cumsum(row.exp().numpy()), float(v), side="right")) for row, v in zip(log_weights, u)]  # noqa: B905
    assert draw_index(log_weights, PerSample(seed, n)).tolist() == [min(i, k - 1) for i in expected]


def test_draw_index_has_the_right_frequencies_and_never_the_impossible() -> None:
    p = np.array([0.0, 0.1, 0.6, 0.0, 0.3, 0.0])
    index = draw_index(f64(p).log().expand(DRAWS, 6), Shared(1)).numpy()
    seen = np.bincount(index, minlength=6)
    assert seen[[0, 3, 5]].sum() == 0
    assert scipy.stats.chisquare(seen[[1, 2, 4]], DRAWS * p[[1, 2, 4]]).pvalue > 1e-5  # the false-alarm probability


# ---- densities --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", REGULAR)
def test_normal_log_prob_is_scipys(kind: str) -> None:
    law, mean, cov = normal(kind, 3)
    x = generator(6).standard_normal((3, 4))
    expected = [scipy.stats.multivariate_normal(mean[b], cov[b]).logpdf(x[b]) for b in range(3)]
    np.testing.assert_allclose(law.log_prob(f64(x.reshape(3, 2, 2))), expected, **ALGEBRA)
    np.testing.assert_allclose(law.rows(slice(1, 3)).log_prob(f64(x.reshape(3, 2, 2)[1:])), expected[1:], **ALGEBRA)


@pytest.mark.parametrize("kind", REGULAR)
def test_mixture_log_prob_is_scipys(kind: str) -> None:
    law, means, cov = mixture(kind)
    x = generator(7).standard_normal((5, 4))
    pdf = sum(w * scipy.stats.multivariate_normal(m, c).pdf(x) for w, m, c in zip(WEIGHTS, means, cov, strict=True))
    np.testing.assert_allclose(law.log_prob(f64(x.reshape(5, 2, 2))), np.log(pdf), **ALGEBRA)


def test_categorical_log_prob_multiplies_sites() -> None:
    p = generator(8).dirichlet(np.ones(3), (2, 4))
    law = Categorical.from_probabilities(f64(5 * p))  # normalised on construction
    x = np.array([[0, 2, 1, 1], [2, 2, 0, 1]])
    expected = [np.log(np.prod([p[b, i, x[b, i]] for i in range(4)])) for b in range(2)]
    np.testing.assert_allclose(law.log_prob(torch.tensor(x)), expected, **ALGEBRA)
    np.testing.assert_allclose(law.probs, p, **ALGEBRA)
    np.testing.assert_allclose(law.variance, p * (1 - p), **ALGEBRA)


def test_categorical_samples_have_its_frequencies() -> None:
    p = generator(9).dirichlet(np.ones(4), 2)
    x = Categorical(f64(p).log().expand(DRAWS, 2, 4)).sample(Shared(2)).numpy()
    for site in range(2):
        assert scipy.stats.chisquare(np.bincount(x[:, site], minlength=4), DRAWS * p[site]).pvalue > 1e-5
    assert abs(np.corrcoef(x.T)[0, 1]) * math.sqrt(DRAWS) < 5  # sites are independent


# ---- through ----------------------------------------------------------------------------------------------------------


def look(batch: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scale, shift (flat) and variance, one per row."""
    rng = generator(10)
    return rng.uniform(-1, 1, batch), rng.standard_normal((batch, 4)), rng.uniform(0.1, 0.5, batch)


def affine(scale: np.ndarray, shift: np.ndarray, variance: np.ndarray) -> Affine:
    return Affine(f64(scale), f64(shift.reshape(-1, 2, 2)), f64(variance))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_normal_through_a_gaussian_kernel(kind: str, batch: int) -> None:
    law, mean, cov = normal(kind, batch)
    scale, shift, variance = look(3)
    out = law.through(affine(scale, shift, variance))
    np.testing.assert_allclose(out.mean.flatten(1), scale[:, None] * mean + shift, **ALGEBRA)
    expected = scale[:, None, None] ** 2 * cov + variance[:, None, None] * np.eye(4)
    np.testing.assert_allclose(out.covariance(), expected, **ALGEBRA)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_through_a_gaussian_kernel(kind: str) -> None:
    law, means, cov = mixture(kind)
    scale, shift, variance = look(3)
    out = law.through(affine(scale, shift, variance))
    for b in range(3):
        moments = mixture_moments(WEIGHTS, scale[b] * means + shift[b], scale[b] ** 2 * cov + variance[b] * np.eye(4))
        np.testing.assert_allclose(out.mean[b].flatten(), moments[0], **ALGEBRA)
        np.testing.assert_allclose(out.covariance()[b], moments[1], **ALGEBRA)
    x = generator(11).standard_normal((3, 4))
    pdf = [
        sum(
            w * scipy.stats.multivariate_normal(scale[b] * m + shift[b], scale[b] ** 2 * c + variance[b] * np.eye(4)).pdf(x[b])
            for w, m, c in zip(WEIGHTS, means, cov, strict=True)
        )
        for b in range(3)
    ]
    np.testing.assert_allclose(out.log_prob(f64(x.reshape(3, 2, 2))), np.log(pdf), **ALGEBRA)


def test_a_compound_is_the_mixture_that_it_never_writes_out() -> None:
    law, x, w = atoms()
    scale, shift, variance = look(3)
    kernel = affine(scale, shift, variance)
    compound = law.through(kernel)
    assert isinstance(compound, Compound)
    y = generator(12).standard_normal((3, 4))
    pdf = [
        sum(w[n] * scipy.stats.norm(scale[b] * x[n] + shift[b], math.sqrt(variance[b])).pdf(y[b]).prod() for n in range(6))
        for b in range(3)
    ]
    np.testing.assert_allclose(compound.log_prob(f64(y.reshape(3, 2, 2))), np.log(pdf), **ALGEBRA)
    one = law.expand(DRAWS).through(affine(*(np.repeat(v[:1], DRAWS, 0) for v in (scale, shift, variance))))
    drawn = one.sample(Shared(3)).flatten(1).numpy()
    mean, cov = mixture_moments(w, scale[0] * x + shift[0], np.broadcast_to(variance[0] * np.eye(4), (6, 4, 4)))
    assert np.all(np.abs(drawn.mean(0) - mean) < 5 * np.sqrt(np.diagonal(cov) / DRAWS))
    products = (drawn - mean)[:, :, None] * (drawn - mean)[:, None, :]
    assert np.all(np.abs(products.mean(0) - cov) < 5 * products.std(0) / math.sqrt(DRAWS))


def test_a_point_through_a_kernel_is_the_kernel_there() -> None:
    scale, shift, variance = look(3)
    value = generator(13).standard_normal((3, 4))
    out = Point(f64(value.reshape(3, 2, 2))).through(affine(scale, shift, variance))
    np.testing.assert_allclose(out.mean.flatten(1), scale[:, None] * value + shift, **ALGEBRA)
    np.testing.assert_allclose(out.covariance(), variance[:, None, None] * np.eye(4), **ALGEBRA)


def jump() -> tuple[Jump, np.ndarray]:
    """A kernel of one site with the K x K matrix M[x, y] that it stands for, rows normalised; start 2 is impossible."""
    rng = generator(14)
    land, stay, weight = rng.uniform(0, 1, (2, 1, 4)), rng.uniform(0, 1, (2, 1, 4)), np.zeros((2, 1, 4))
    matrix = land[..., None, :] + stay[..., None, :] * np.eye(4)
    weight = 1 / matrix.sum(-1)
    weight[..., 2] = 0
    return Jump(f64(land), f64(stay), f64(weight)), weight[:, 0, :, None] * matrix[:, 0]


def test_jumps_equal_their_matrix_and_normalise() -> None:
    kernel, matrix = jump()
    for x in (0, 1, 3):
        out = kernel.at(torch.tensor([[x], [x]]))
        np.testing.assert_allclose(out.probs[:, 0], matrix[:, x], **ALGEBRA)
        np.testing.assert_allclose(out.probs.sum(-1), 1, **ALGEBRA)
    p = generator(15).dirichlet(np.ones(4), 2)
    p[:, 2] = 0
    p /= p.sum(1, keepdims=True)
    averaged = Categorical.from_probabilities(f64(p[:, None])).through(kernel)
    np.testing.assert_allclose(averaged.probs[:, 0], np.einsum("bx,bxy->by", p, matrix), **ALGEBRA)


def test_joint_symbols_through_a_jump_keep_their_dependence() -> None:
    kernel, matrix = jump()
    wide = Jump(*(v.expand(2, 2, 4) for v in (kernel.land, kernel.stay, kernel.weight)))
    law = Empirical.of(torch.tensor([[0, 1], [3, 0], [2, 2]]), f64([0.4, 0.6, 0.0]))  # an atom of no weight may be impossible
    for y in ([0, 0], [1, 3], [2, 1]):
        expected = sum(w * matrix[:, a, y[0]] * matrix[:, b, y[1]] for w, a, b in ((0.4, 0, 1), (0.6, 3, 0)))
        np.testing.assert_allclose(law.through(wide).log_prob(torch.tensor([y, y])), np.log(expected), **ALGEBRA)


# ---- Bayes ------------------------------------------------------------------------------------------------------------


def kalman(mean: np.ndarray, cov: np.ndarray, y: np.ndarray, a: float, v: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Dense posterior mean and covariance, and log evidence."""
    total = a * a * cov + v * np.eye(4)
    gain = a * cov @ np.linalg.inv(total)
    evidence = scipy.stats.multivariate_normal(a * mean, total).logpdf(y)
    return mean + gain @ (y - a * mean), cov - a * gain @ cov, float(evidence)


A, V, Y = np.array([0.9, -0.4, 0.05]), np.array([0.2, 0.7, 1.5]), generator(16).standard_normal((3, 4))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch", [1, 3])
def test_normal_posterior_is_the_dense_kalman_update(kind: str, batch: int) -> None:
    law, mean, cov = normal(kind, batch)
    out = law.posterior(f64(Y.reshape(3, 2, 2)), f64(A), f64(V))
    for b in range(3):
        expected = kalman(mean[b % batch], cov[b % batch], Y[b], A[b], V[b])
        np.testing.assert_allclose(out.mean[b].flatten(), expected[0], **ALGEBRA)
        np.testing.assert_allclose(out.covariance()[b], expected[1], **ALGEBRA)


@pytest.mark.parametrize("kind", KINDS)
def test_mixture_posterior_is_bayes_by_dense_algebra(kind: str) -> None:
    law, means, cov = mixture(kind)
    out = law.posterior(f64(Y.reshape(3, 2, 2)), f64(A), f64(V))
    for b in range(3):
        each = [kalman(m, c, Y[b], A[b], V[b]) for m, c in zip(means, cov, strict=True)]
        w = WEIGHTS * np.exp([e[2] for e in each])
        moments = mixture_moments(w / w.sum(), np.stack([e[0] for e in each]), np.stack([e[1] for e in each]))
        np.testing.assert_allclose(out.log_weights[b].exp(), w / w.sum(), **ALGEBRA)
        np.testing.assert_allclose(out.mean[b].flatten(), moments[0], **ALGEBRA)
        np.testing.assert_allclose(out.covariance()[b], moments[1], **ALGEBRA)
        np.testing.assert_allclose(out.rows(slice(b, b + 1)).mean[0].flatten(), moments[0], **ALGEBRA)


def test_empirical_posterior_weighs_atoms_by_their_likelihood() -> None:
    law, x, w = atoms()
    out = law.posterior(f64(Y.reshape(3, 2, 2)), f64(A), f64(V))
    for b in range(3):
        expected = w * scipy.stats.norm(A[b] * x, math.sqrt(V[b])).pdf(Y[b]).prod(1)
        np.testing.assert_allclose(out.log_weights[b].exp(), expected / expected.sum(), **ALGEBRA)
        np.testing.assert_allclose(out.mean[b].flatten(), expected @ x / expected.sum(), **ALGEBRA)


def line_laws() -> dict[str, tuple[Any, np.ndarray]]:
    """Laws of one number beside their densities on a fine grid, up to a constant."""
    x = LINE
    centres, widths = np.array([-1.0, 0.3, 1.5]), np.array([0.3, 0.2, 0.5])
    mixed = sum(w * scipy.stats.norm(m, s).pdf(x) for w, m, s in zip(WEIGHTS, centres, widths, strict=True))
    return {
        "normal": (Normal(f64([[0.4]]), Covariance.diagonal(f64([[0.5]]))), np.exp(-((x - 0.4) ** 2))),
        "mixture": (Mixture.of(f64(WEIGHTS), f64(centres[:, None]), Covariance.diagonal(f64(widths[:, None] ** 2))), mixed),
        "empirical": (
            Empirical.of(f64(x[::100, None]), f64(mixed[::100] / mixed[::100].sum())),
            mixed * (np.arange(x.size) % 100 == 0),
        ),
    }


LINE = np.linspace(-6, 6, 6001)  # spacing 0.002: the trapezoid rule on these densities is exact to rounding


@pytest.mark.parametrize("name", ["normal", "mixture", "empirical"])
@pytest.mark.parametrize(("alpha", "variance"), [(0.8, 0.3), (0.2, 1.0), (-1.0, 0.05), (1.0, 1e-3)])
def test_posterior_is_bayes_by_brute_force(name: str, alpha: float, variance: float) -> None:
    law, density = line_laws()[name]
    y = 0.25
    posterior = density * np.exp(-((y - alpha * LINE) ** 2) / (2 * variance))
    posterior /= posterior.sum()
    out = law.posterior(f64([[y]]), f64(alpha), f64(variance))
    mean = posterior @ LINE
    assert float(out.mean) == pytest.approx(mean, abs=1e-9)
    assert float(out.variance) == pytest.approx(posterior @ (LINE - mean) ** 2, abs=1e-9)


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("variance", [0.0, 0.5])
def test_a_look_at_nothing_gives_the_prior_back(name: str, variance: float) -> None:
    law, mean, cov = NUMBERS[name]()
    out = law.posterior(f64(Y[:1].reshape(1, 2, 2)), f64(0.0), f64(variance))
    np.testing.assert_allclose(out.mean.flatten(), mean, **ALGEBRA)
    np.testing.assert_allclose(out.variance.flatten(), np.diagonal(cov), **ALGEBRA)


@pytest.mark.parametrize("name", [n for n in NUMBERS if "subspace" not in n and n != "empirical"])
@pytest.mark.parametrize("variance", [0.0, 1e-14])
def test_a_sharp_look_gives_what_was_seen(name: str, variance: float) -> None:
    law, _, _ = NUMBERS[name]()
    out = law.posterior(f64(Y[:1].reshape(1, 2, 2)), f64(0.5), f64(variance))
    np.testing.assert_allclose(out.mean.flatten(), 2 * Y[0], atol=1e-11)  # off by variance / (0.25 * 0.3) at most
    np.testing.assert_allclose(
        out.variance.flatten(), 4 * variance, atol=1e-20 + 1e-12 * variance + 1e-14 * (name[:3] == "mix")
    )


def test_a_sharp_look_at_atoms_gives_the_nearest() -> None:
    law, x, _ = atoms()
    out = law.posterior(f64(0.7 * x[[4, 1]].reshape(2, 2, 2) + 1e-5), f64(0.7), f64(1e-8))
    assert out.log_weights.exp().argmax(1).tolist() == [4, 1]
    np.testing.assert_allclose(out.mean.flatten(1), x[[4, 1]], atol=1e-12)  # the next atom is 1e7 standard deviations off


def test_a_subspace_is_never_left() -> None:
    law, mean, cov = normal("subspace")
    out = law.posterior(f64(Y.reshape(3, 2, 2)), f64(A), f64([0.2, 1e-9, 0.0]))
    move = out.mean.flatten(1).numpy() - mean
    np.testing.assert_allclose(cov[0] @ np.linalg.pinv(cov[0]) @ move.T, move.T, atol=1e-9)  # pinv of condition ~10
    assert bool(torch.isfinite(out.variance).all())


# ---- rows, pairs, guidance --------------------------------------------------------------------------------------------


def test_a_point_knows_itself_whatever_is_seen() -> None:
    law = Point(f64(Y.reshape(3, 2, 2)))
    assert torch.equal(law.posterior(f64(0 * Y.reshape(3, 2, 2)), f64(1.0), f64(0.1)).mean, law.value)
    assert torch.equal(law.sample(Shared(0)), law.value)
    assert float(law.variance.abs().max()) == 0
    assert torch.equal(law.rows(slice(1, 2)).mean, law.value[1:2])
    assert torch.equal(Point(law.value[:1]).rows(slice(1, 3)).mean, law.value[:1])  # shared by the batch: stays


def test_a_pair_holds_two_independent_ends() -> None:
    law = Pair(normal("full", 3)[0], Point(f64(Y.reshape(3, 2, 2))))
    x = law.sample(PerSample(0, 3))
    assert torch.equal(x[..., 0], law.x_0.sample(PerSample(0, 3)))
    assert torch.equal(x[..., 1], law.x_1.value)
    scale, shift, variance = look(3)
    kernel = affine(scale, shift, variance)
    assert torch.equal(law.through(kernel).mean, law.x_0.through(kernel).mean)
    assert torch.equal(law.rows(slice(1, 3)).x_0.mean, law.x_0.mean[1:])
    assert torch.equal(law.rows(slice(1, 3)).x_1.mean, law.x_1.mean[1:])
    other = Pair(Point(torch.zeros_like(law.x_0.mean)), Point(torch.ones_like(law.x_0.mean)))
    guided = law.extrapolate(other, 2.0)
    torch.testing.assert_close(guided.x_0.mean, 2 * law.x_0.mean)
    torch.testing.assert_close(guided.x_1.mean, 2 * law.x_1.mean - 1)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0])
def test_guidance_extrapolates_means_of_numbers_and_evidence_of_symbols(scale: float) -> None:
    one, two = normal("full", 3)[0], Point(f64(Y.reshape(3, 2, 2)))
    for a, b in ((one, two), (two, one), (atoms()[0], mixture("full")[0])):
        expected = b.mean + scale * (a.mean - b.mean)
        torch.testing.assert_close(a.extrapolate(b, scale).mean, expected, rtol=1e-14, atol=1e-14)  # rounding
    p, q = generator(17).dirichlet(np.ones(3), (2, 2, 4))
    guided = Categorical(f64(p).log()).extrapolate(Categorical(f64(q).log()), scale)
    expected = q * (p / q) ** scale
    np.testing.assert_allclose(guided.probs, expected / expected.sum(-1, keepdims=True), **ALGEBRA)


def test_rows_of_categories_and_atoms() -> None:
    p = generator(18).dirichlet(np.ones(3), (4, 2))
    np.testing.assert_allclose(Categorical(f64(p).log()).rows(slice(1, 3)).probs, p[1:3], **ALGEBRA)
    law = atoms()[0].posterior(f64(Y.reshape(3, 2, 2)), f64(A), f64(V))
    assert torch.equal(law.rows(slice(2, 3)).mean, law.mean[2:3])
    assert torch.equal(atoms()[0].rows(slice(2, 3)).mean, atoms()[0].mean)  # shared by the batch: stays


# ---- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "error", "match"),
    [
        (lambda: Normal(f64([1.0, 2.0]), Covariance.diagonal(f64([[1.0]]))), ShapeError, r"mean of shape \(B, \*E\)"),
        (lambda: Normal(f64([[1.0, 2.0]]), Covariance.diagonal(f64([[1.0]]))), ShapeError, "2 numbers .* size 1"),
        (
            lambda: Normal(f64(np.ones((3, 2))), Covariance.diagonal(f64(np.ones((2, 2))))),
            ShapeError,
            r"\(1,\) or \(B,\), got 2",
        ),
        (lambda: Normal(f64([[1.0]]), Covariance.diagonal(f64([1.0]))), ShapeError, r"batch shape \(1,\) or \(B,\)"),
        (
            lambda: Mixture.of(f64([0.5, 0.6]), f64([[0.0], [1.0]]), mix_cov(2)),
            LawError,
            "sum of 1.1; divide them by their sum",
        ),
        (lambda: Mixture.of(f64([1.5, -0.5]), f64([[0.0], [1.0]]), mix_cov(2)), LawError, "must be >= 0"),
        (lambda: Mixture.of(f64([0.5, 0.5]), f64([[0.0]]), mix_cov(2)), ShapeError, r"wanted \(K, \*E\)"),
        (lambda: Empirical.of(f64([[0.0], [1.0]]), f64([0.5, 0.2])), LawError, "divide them by their sum"),
        (lambda: Empirical.of(f64([[0.0], [1.0]]), f64([1.0])), ShapeError, "2 atoms got 1 weights"),
        (lambda: Categorical.from_probabilities(f64([[[0.0, 0.0]]])), LawError, "must give the symbol it sees"),
        (lambda: Categorical.from_probabilities(f64([[[1.0, -0.1]]])), LawError, "negative weight"),
        (lambda: Categorical.from_probabilities(f64([[[1.0, math.nan]]])), LawError, "without any possible symbol"),
        (lambda: jump()[0].at(torch.tensor([[2], [0]])), LawError, "contradicts the state"),
    ],
)
def test_what_is_no_law_is_refused_with_the_cure(build: Callable[[], Any], error: type, match: str) -> None:
    with pytest.raises(error, match=match):
        build()


def mix_cov(k: int) -> Covariance:
    return Covariance.diagonal(f64(np.ones((k, 1))))


def test_an_empirical_law_under_a_noiseless_look_is_the_atom_it_shows() -> None:
    atoms = torch.tensor([[0.0, 1.0], [2.0, -1.0], [2.0, 3.0]], dtype=torch.float64)
    law = Empirical.of(atoms, torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64))
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    assert law.posterior(atoms[[2, 0]], one, zero).log_weights.exp().tolist() == [[0, 0, 1], [1, 0, 0]]


@pytest.mark.parametrize("factor", [torch.ones(3, 2), torch.zeros(2, 1), torch.ones(2, 3)])
def test_a_degenerate_low_rank_factor_is_refused(factor: torch.Tensor) -> None:
    with pytest.raises(LawError, match="drop the redundant columns"):
        Covariance.low_rank(factor.double(), torch.ones((), dtype=torch.float64))
