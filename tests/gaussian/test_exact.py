"""Exact denoisers: Tweedie's formula of both orders, the subspace law, the empirical law.

Certified: L6, L8, L9. The oracle is a dense Cholesky density and autodiff: it shares no formula with the spectra under test.
"""

import math

import pytest
import torch
from scipy.stats import chi2

from oracles import (
    COVARIANCES,
    F64,
    SCHEDULES,
    at_noise,
    dense_log_prob,
    dense_score,
    draws,
    mixture,
    normal,
    relative,
    run,
    time,
)
from oracles import spd as spd_of
from undrift import gaussian, grids, schedules
from undrift.core import Covariance, PerSample, Shared
from undrift.errors import LawError, ShapeError
from undrift.laws import Empirical, Mixture
from undrift.simulate import Ancestral

LAWS = {
    **{f"mixture-{kind}-{d}": mixture(d, kind, 3, seed=d) for kind in COVARIANCES for d in (2, 8, 64)},
    "mixture-line": mixture(1, "full", 4, seed=1),
    "gaussian": normal(draws((5,), 3), spd_of(5, 4)),
    "gaussian-64": normal(draws((64,), 3), spd_of(64, 4)),
}
every_law = pytest.mark.parametrize("name", LAWS)


def state(law, clock: str, noise: float, rows: int = 4):
    """(exact denoiser, t, x_t, alpha, sigma): states where the data put them."""
    schedule = SCHEDULES[clock]
    t = time(at_noise(schedule, noise))
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    exact = gaussian.Exact(gaussian.Path(schedule), law)
    clean = law.expand(rows).sample(Shared(1)) if isinstance(law, Mixture) else law.mean + draws((rows, law.mean.shape[1]), 2)
    return exact, t, alpha * clean + sigma * draws(clean.shape, 5), alpha, sigma


@every_law
@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
def test_score_is_the_gradient_of_the_log_density(name, clock):
    # d = 64 with full covariances included. 1e-8: a dense Cholesky at condition number up to 1e4 loses that much at most.
    for noise in (0.05, 0.5, 3.0):
        exact, t, x, alpha, sigma = state(LAWS[name], clock, noise)
        assert relative(exact.marginal(t).log_prob(x), dense_log_prob(LAWS[name], alpha, sigma, x)) < 1e-9
        assert relative(gaussian.score(exact, x, t), dense_score(LAWS[name], alpha, sigma, x)) < 1e-8


@every_law
def test_first_order_tweedie(name):
    # E[X_0 | x] = (x + sigma^2 score) / alpha, with the score from the oracle: the same identity read towards the mean.
    for noise in (0.1, 1.0, 10.0):
        exact, t, x, alpha, sigma = state(LAWS[name], "vp", noise)
        want = (x + sigma**2 * dense_score(LAWS[name], alpha, sigma, x)) / alpha
        assert relative(exact(x, t).mean, want) < 1e-8


@every_law
def test_second_order_tweedie(name):
    # Cov[X_0 | x] = (sigma^2 / alpha^2) (I + sigma^2 Hessian log p_t), Hessian by autodiff of the dense density.
    exact, t, x, alpha, sigma = state(LAWS[name], "vp", 0.7, rows=2)
    posterior = exact(x, t)
    covariance = posterior.covariance().expand(2, -1, -1)
    for i in range(2):
        hessian = torch.autograd.functional.hessian(lambda v: dense_log_prob(LAWS[name], alpha, sigma, v[None]).sum(), x[i])
        want = (sigma / alpha) ** 2 * (torch.eye(x.shape[1], dtype=F64) + sigma**2 * hessian)
        assert relative(covariance[i], want) < 1e-8
        assert relative(posterior.variance[i], want.diagonal()) < 1e-8


def test_posterior_density_is_bayes_rule():
    # p(x_0 | x_t) = p(x_0) N(x_t; alpha x_0, sigma^2) / p_t(x_t), every factor from the oracle.
    law = LAWS["mixture-full-8"]
    exact, t, x, alpha, sigma = state(law, "vp", 0.7)
    clean = draws(x.shape, 9)
    look = torch.distributions.Normal(alpha * clean, sigma).log_prob(x).sum(1)
    want = dense_log_prob(law, 1.0, 0.0, clean) + look - dense_log_prob(law, alpha, sigma, x)
    assert relative(exact(x, t).log_prob(clean), want) < 1e-10


def test_events_of_any_shape_are_their_flattened_selves():
    flat = mixture(6, "full", 3, 2)
    shaped = Mixture(flat.log_weights, flat.means.reshape(1, 3, 2, 3), flat.cov)
    path, t, x = gaussian.Path(schedules.Cosine()), time([0.1, 0.5, 0.9]), draws((3, 6), 1)
    one, other = gaussian.Exact(path, flat)(x, t), gaussian.Exact(path, shaped)(x.reshape(3, 2, 3), t)
    assert relative(other.mean.flatten(1), one.mean) < 1e-14
    assert relative(other.variance.flatten(1), one.variance) < 1e-14


def test_shapes_are_checked():
    exact = gaussian.Exact(gaussian.Path(schedules.VP()), LAWS["gaussian"])
    with pytest.raises(ShapeError, match=r"one per sample, shape \(4,\)"):
        exact(draws((4, 5), 0), time([0.1, 0.2]))


# ---------------------------------------------------------------- a linear subspace


BIG, SMALL = 32, 4


def plane():
    basis = torch.linalg.qr(draws((BIG, SMALL), 1))[0]
    weights, means = time([0.3, 0.7]), draws((2, SMALL), 2)
    covs = torch.stack([spd_of(SMALL, 3), spd_of(SMALL, 4)])
    inner = Mixture.of(weights, means, Covariance.full(covs))
    return basis, inner, gaussian.subspace(basis, weights, means, covs)


@pytest.mark.parametrize("clock", ["vp", "edm", "custom"])
@pytest.mark.parametrize("noise", [0.01, 0.3, 5.0])
def test_subspace_score_splits(clock, noise):
    # Survey eq. 8: s = A grad log p^ld(A'x) - (I - AA')x / sigma^2; the inner score from the dense oracle in 4 dimensions.
    basis, inner, law = plane()
    exact, t, x, alpha, sigma = state(law, clock, noise)
    off = x - x @ basis @ basis.mT
    want = dense_score(inner, alpha, sigma, x @ basis) @ basis.mT - off / sigma**2
    assert relative(gaussian.score(exact, x, t), want) < 1e-10


def test_score_off_the_subspace_blows_up_as_one_over_the_variance():
    # E|s_perp|^2 = (D - d) / sigma^2, in expectation exactly: off the subspace x is sigma z, so a design of z with unit
    # second moment (the columns of sqrt(n) Q) replaces the average. Slope -1 in sigma^2 to rounding.
    basis, _, law = plane()
    path = gaussian.Path(schedules.VP())
    z = math.sqrt(BIG) * torch.linalg.qr(draws((BIG, BIG), 6))[0]
    energies, variances = [], []
    for value in (1e-1, 1e-2, 1e-3, 1e-4):
        t = time(value)
        alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
        score = gaussian.score(gaussian.Exact(path, law), alpha * (draws((BIG, SMALL), 7) @ basis.mT) + sigma * z, t)
        off = score - score @ basis @ basis.mT
        energies.append(float(off.square().sum(1).mean()))
        variances.append(float(sigma**2))
        assert math.isclose(energies[-1], (BIG - SMALL) / variances[-1], rel_tol=1e-9)
    slope = math.log(energies[-1] / energies[0]) / math.log(variances[-1] / variances[0])
    assert abs(slope + 1) < 1e-9


@pytest.mark.parametrize("solver", [Ancestral(), gaussian.DDIM(0.0), gaussian.Heun()])
def test_early_stop_leaves_its_noise_off_the_subspace(solver):
    # Samples stopped at t0 have off-support energy sigma(t0)^2 chi^2 with (D - d) B degrees of freedom: exactly so for
    # ancestral steps under the full posterior, and for the ODE because off the subspace its solution is a scaling that
    # these solvers follow exactly. Two-sided at 1e-6 in all.
    basis, _, law = plane()
    path, rows, stop = gaussian.Path(schedules.VP()), 64, 1e-3
    grid = grids.karras(path.schedule, 25, end=stop)
    x = draws((rows, BIG), 8)
    x = run(gaussian.Exact(path, law), solver, grid, float(path.schedule.sigma(time(1.0))) * x, PerSample(2, rows))
    energy = float((x - x @ basis @ basis.mT).square().sum() / path.schedule.sigma(time(stop)) ** 2)
    low, high = chi2.ppf([5e-7, 1 - 5e-7], rows * (BIG - SMALL))
    assert low < energy < high


def test_a_basis_that_is_not_orthonormal_is_refused():
    basis, _, _ = plane()
    with pytest.raises(LawError, match=r"torch.linalg.qr"):
        gaussian.subspace(2 * basis, time([1.0]), draws((1, SMALL), 0), spd_of(SMALL, 1)[None])


# ---------------------------------------------------------------- a finite set of points


def test_empirical_posterior_is_softmax_attention():
    atoms, weights = draws((7, 3), 1), torch.arange(1, 8, dtype=F64) / 28
    exact, path = gaussian.Exact(gaussian.Path(schedules.Cosine()), Empirical.of(atoms, weights)), schedules.Cosine()
    x, t = draws((5, 3), 2), time([0.05, 0.2, 0.5, 0.9, 1.0])
    alpha, sigma = path.alpha(t)[:, None], path.sigma(t)[:, None]
    logits = -((x[:, None] - alpha[..., None] * atoms) ** 2).sum(-1) / (2 * sigma**2) + weights.log()
    attention = torch.softmax(logits, -1)
    posterior = exact(x, t)
    assert relative(posterior.log_weights.exp(), attention) < 1e-12
    assert relative(posterior.mean, attention @ atoms) < 1e-12
    want = torch.stack([a @ (atoms - a @ atoms) ** 2 for a in attention])
    assert relative(posterior.variance, want) < 1e-10
    assert relative(posterior.log_weights[-1].exp(), weights) < 1e-12  # alpha = 0: nothing was seen


def test_empirical_law_is_the_limit_of_narrow_components():
    atoms, path = draws((6, 2), 1), gaussian.Path(schedules.VP())
    narrow = Mixture.of(torch.full((6,), 1 / 6, dtype=F64), atoms, Covariance.isotropic(torch.full((6,), 1e-12, dtype=F64), 2))
    x, t = draws((4, 2), 3), time(0.3)
    means = [gaussian.Exact(path, law)(x, t).mean for law in (Empirical.of(atoms), narrow)]
    assert relative(means[0], means[1]) < 1e-9  # first order in the variance 1e-12, over sigma^2 ~ .6


def distance(x, atoms):
    """Distances between rows, by differences: the default's matrix product loses half the digits."""
    return torch.cdist(x, atoms, compute_mode="donot_use_mm_for_euclid_dist")


@pytest.mark.parametrize("solver", [Ancestral(), gaussian.DDIM(), gaussian.DPMSolverPP(), gaussian.Heun()])
def test_sampling_the_empirical_law_returns_training_points(solver):
    # L9: stopped at t0, the distance to the nearest (scaled) training point is the noise left there: sigma(t0)^2 chi^2. For
    # an ODE the noise is what a contracted start leaves, of the same size: within a factor of two of the mean square.
    path, rows, stop = gaussian.Path(schedules.VP()), 48, 2e-3
    atoms = 2 * draws((10, 8), 4)
    exact = gaussian.Exact(path, Empirical.of(atoms))
    start = float(path.schedule.sigma(time(1.0))) * draws((rows, 8), 5)
    grid = grids.karras(path.schedule, 30, end=stop)
    left = run(exact, solver, grid, start, PerSample(1, rows))
    alpha, sigma = float(path.schedule.alpha(time(stop))), float(path.schedule.sigma(time(stop)))
    nearest = distance(left, alpha * atoms).min(1).values
    energy = float(nearest.square().sum() / sigma**2)
    if isinstance(solver, Ancestral):  # 48 x 8 degrees of freedom, two-sided at 1e-6
        low, high = chi2.ppf([5e-7, 1 - 5e-7], rows * 8)
        assert low < energy < high
    else:
        assert 0.5 < energy / (rows * 8) < 2
    onto = run(exact, solver, grids.karras(path.schedule, 30), start, PerSample(1, rows))
    assert float(distance(onto, atoms).min(1).values.max()) < 1e-9  # at t = 0: copies
    assert len(distance(onto, atoms).argmin(1).unique()) >= 7  # of many points, not of one
