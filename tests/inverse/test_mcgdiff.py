"""MCGdiff: the adapted kernels by dense algebra, and an evidence without bias for the chain that is run."""

import math
from dataclasses import replace

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, Fixed, MeanOnly, draws, line, normal, propagate, spd, time
from undrift import gaussian, grids
from undrift.bridge import Path as BridgePath
from undrift.core import PerSample, Shared
from undrift.errors import FamilyError, GridError, OperatorError, PotentialError, ShapeError, TimeError
from undrift.guidance import Reward
from undrift.inverse import gaussian_likelihood
from undrift.inverse.mcgdiff import _Coordinates, mcgdiff
from undrift.laws import Point
from undrift.operators import Matrix
from undrift.schedules import BrownianBridge
from undrift.simulate import Ancestral

MEAN, COV, EYE = 0.5 * draws((4,), 0), spd(4, 1), torch.eye(4, dtype=F64)
NOISE = torch.tensor([0.5, 0.8, 1.1], dtype=F64)
FULL = draws((3, 4), 2)
LOOKS = {"full rank": FULL, "repeats itself": torch.stack([FULL[0], FULL[1], FULL[0] + 2 * FULL[1]])}
Y = draws((3,), 3)


def chain(clock, steps):
    """(model, grid, mean, covariance) of the chain of means, by exact propagation."""
    path, grid = gaussian.Path(SCHEDULES[clock]), grids.karras(SCHEDULES[clock], steps)
    model = MeanOnly(gaussian.Exact(path, normal(MEAN, COV)))
    start = float(SCHEDULES[clock].sigma(time(1.0))) ** 2 * EYE
    return model, grid, *propagate(model, Ancestral(), grid, 0 * MEAN, start)


def evidence(look, mean, cov, noise=NOISE):
    """Log N(y; A mean, A cov A^T + R) by dense algebra."""
    seen = look @ cov @ look.mT + torch.diag(noise**2)
    law = torch.distributions.MultivariateNormal(look @ mean, seen, validate_args=False)
    return float(law.log_prob(Y))


class Given(Fixed):
    """Noise as given; resampling never acts on a single particle."""

    def uniform(self, shape, *, dtype, device="cpu"):
        return torch.full(tuple(shape), 0.5, dtype=dtype)


def quadratic(function, n):
    """(c, b, Q) of a function that is c + b.z + z.Q z of n numbers, by evaluating it: rows (K, n) -> (K,)."""
    eye, (i, j) = torch.eye(n, dtype=F64), torch.triu_indices(n, n, 1)
    values = function(torch.cat([torch.zeros(1, n, dtype=F64), eye, -eye, eye[i] + eye[j]]))
    c, up, down, pairs = values[0], values[1 : n + 1], values[n + 1 : 2 * n + 1], values[2 * n + 1 :]
    q = torch.diag((up + down) / 2 - c)
    q[i, j] = q[j, i] = (pairs - up[i] - up[j] + c) / 2
    return c, (up - down) / 2, q


@pytest.mark.parametrize("clock", ["vp", "cosine", "edm", "custom"])
@pytest.mark.parametrize("look", LOOKS)
def test_the_expected_evidence_of_one_particle_is_exact(clock, look):
    """Log Z_hat of one particle is quadratic in its noise, so E exp of it is a determinant: Z of the chain, to 1e-9."""
    model, grid, mean, cov = chain(clock, 3)
    likelihood = gaussian_likelihood(Y, LOOKS[look], NOISE)

    def log_z(z):
        noise = Given(*z.reshape(-1, 3, 4).unbind(1))
        out = mcgdiff(model, likelihood, grid, event=(4,), particles=1, rng=noise, problems=len(z), dtype=F64)
        assert noise.used == 3
        return out.log_evidence

    c, b, q = quadratic(log_z, 12)
    check = draws((5, 12), 9)
    torch.testing.assert_close(log_z(check), c + check @ b + torch.einsum("ki,ij,kj->k", check, q, check), atol=1e-8, rtol=1e-8)
    precision = torch.eye(12, dtype=F64) - 2 * q
    assert float(torch.linalg.eigvalsh(precision)[0]) > 0
    got = c + 0.5 * b @ torch.linalg.solve(precision, b) - 0.5 * torch.linalg.slogdet(precision)[1]
    assert float(got) == pytest.approx(evidence(LOOKS[look], mean, cov), abs=1e-9)


@pytest.mark.parametrize("clock", ["vp", "cosine", "edm", "custom"])
@pytest.mark.parametrize("threshold", [0.5, 1.0])
def test_the_evidence_is_unbiased(clock, threshold):
    """Resampling keeps it: mean of Z_hat / Z over 600 runs of 64 particles, Z that of the discretised chain.

    Within 5 standard errors of 1: a false alarm of 6e-7 each for 8 cases, standard error below .05, the seed fixed. The noise
    is three times that of the exact test, so that the ratio has light tails.
    """
    model, grid, mean, cov = chain(clock, 6)
    likelihood = gaussian_likelihood(Y, FULL, 3 * NOISE)
    out = mcgdiff(
        model, likelihood, grid, event=(4,), particles=64, rng=Shared(1), problems=600, threshold=threshold, dtype=F64
    )
    ratio = torch.exp(out.log_evidence - evidence(FULL, mean, cov, 3 * NOISE))
    error = float(ratio.std()) / math.sqrt(600)
    assert error < 0.05
    assert abs(float(ratio.mean()) - 1) < 5 * error
    assert bool((out.ancestors != torch.arange(64)).any())


def test_the_twist_is_the_likelihood_under_a_flat_law():
    """Log g_t(x) is log N(alpha y; A x, sigma^2 A A^T + alpha^2 R) up to a constant, dense.

    At alpha = 1, sigma = 0 and with the constant it is the likelihood itself, of an operator whose rows repeat too.
    """
    x = draws((6, 4), 7)
    coordinates = _Coordinates.of(gaussian_likelihood(Y, FULL, NOISE), x)
    for alpha, sigma in ((0.6, 0.8), (1.0, 5.0), (0.0, 1.0)):
        spread = sigma**2 * FULL @ FULL.mT + alpha**2 * torch.diag(NOISE**2)
        law = torch.distributions.MultivariateNormal(x @ FULL.mT, spread, validate_args=False)
        offset = coordinates.twist(alpha, sigma).price(x) - law.log_prob(alpha * Y)
        torch.testing.assert_close(offset, offset[:1].expand(6), atol=1e-9, rtol=0)
    for look in LOOKS.values():
        likelihood = gaussian_likelihood(Y, look, NOISE)
        coordinates = _Coordinates.of(likelihood, x)
        torch.testing.assert_close(
            coordinates.twist(1.0, 0.0).price(x) + coordinates.constant, likelihood(x), atol=1e-9, rtol=0
        )


def test_one_step_from_nothing_is_the_mean():
    """With one step from alpha = 0 the kernel is a point at the mean of the data, and so is every particle."""
    model = MeanOnly(gaussian.Exact(gaussian.Path(SCHEDULES["cosine"]), normal(MEAN, EYE)))
    likelihood = gaussian_likelihood(Y, FULL, NOISE)
    out = mcgdiff(model, likelihood, grids.of_times([1.0, 0.0]), event=(4,), particles=5, rng=Shared(0), problems=2, dtype=F64)
    torch.testing.assert_close(out.x, MEAN.expand_as(out.x), atol=1e-12, rtol=0)
    assert float(out.log_weights.exp().sum(1).sub(1).abs().max()) < 1e-12


def test_moments_are_the_posteriors():
    """Chain of 40 means, 8 runs of 4000 particles: mean and covariance of x_0 given y under the chain's own law.

    The largest of 4 mean errors is below .05 and of 16 covariance errors below .08: more than 6 standard errors of 8 runs each
    (effective size above 1500 a run), false alarm below 1e-7; the prior's moments are off by more than .3.
    """
    model, grid, mean, cov = chain("vp", 40)
    likelihood = gaussian_likelihood(Y, FULL, NOISE)
    out = mcgdiff(model, likelihood, grid, event=(4,), particles=4000, rng=Shared(0), problems=8, dtype=F64)
    assert float(out.sizes[-1].min()) > 1500
    gain = cov @ FULL.mT @ torch.linalg.inv(FULL @ cov @ FULL.mT + torch.diag(NOISE**2))
    want, left = mean + gain @ (Y - FULL @ mean), cov - gain @ FULL @ cov
    assert float((want - mean).abs().max()) > 0.3
    offset = out.x - want
    second = torch.einsum("pn,pnd,pne->de", out.log_weights.exp(), offset, offset) / 8
    assert float((out.mean.mean(0) - want).abs().max()) < 0.05
    assert float((second - left).abs().max()) < 0.08
    assert out.calls == 40


def test_problems_side_by_side_are_those_alone():
    """Per-row streams: problem 1 of 3 is problem 1 alone, within rounding, with its own measurement; one call a step."""
    model, grid, *_ = chain("vp", 5)
    counted, y = Counted(model), draws((3, 3), 5)
    setting = {"event": (4,), "particles": 8, "dtype": F64}
    both = mcgdiff(counted, gaussian_likelihood(y, FULL, NOISE), grid, rng=PerSample(0, 24), problems=3, **setting)
    assert counted.calls == both.calls == 5
    one = mcgdiff(model, gaussian_likelihood(y[1], FULL, NOISE), grid, rng=PerSample(0, range(8, 16)), **setting)
    torch.testing.assert_close(both.x[1:2], one.x, atol=1e-12, rtol=0)
    torch.testing.assert_close(both.log_weights[1:2], one.log_weights, atol=1e-12, rtol=0)
    torch.testing.assert_close(both.log_evidence[1:2], one.log_evidence, atol=1e-12, rtol=0)
    torch.testing.assert_close(both.ancestors[:, 1:2], one.ancestors, atol=0, rtol=0)


def test_tempered_likelihoods_keep_their_constant():
    """W * likelihood prices every particle w times as high, constant and all."""
    model, grid, mean, cov = chain("vp", 6)
    tempered = 0.5 * gaussian_likelihood(Y, FULL, NOISE)
    out = mcgdiff(model, tempered, grid, event=(4,), particles=64, rng=Shared(0), problems=600, dtype=F64)
    ratio = torch.exp(out.log_evidence - tempered.lift(normal(mean, cov)))
    assert float(ratio.std()) / math.sqrt(600) < 0.05
    assert abs(float(ratio.mean()) - 1) < 5 * float(ratio.std()) / math.sqrt(600)  # false alarm 6e-7


def test_a_mixture_is_met_by_many_particles():
    """Two modes, a look that tells them apart by odds of about 4: the share of the right one, over 20 runs of 1000 particles.

    The chain of 100 means is near the data's law, so the exact posterior's share is met within .03 (bias of the chain) and
    five standard errors.
    """
    data = line([0.5, 0.5], [-1.5, 1.5], [0.1, 0.1])
    path = gaussian.Path(SCHEDULES["cosine"])
    model = MeanOnly(gaussian.Exact(path, data))
    likelihood = gaussian_likelihood(time([0.9]), torch.ones(1, 1, dtype=F64), 1.4)
    want = data.observe(likelihood.look, likelihood.y, likelihood.variance).log_weights.exp()[0, 1]
    out = mcgdiff(
        model, likelihood, grids.karras(path.schedule, 100), event=(1,), particles=1000, rng=Shared(0), problems=20, dtype=F64
    )
    share = (out.log_weights.exp() * (out.x[..., 0] > 0)).sum(1)
    assert 0.7 < float(want) < 0.9
    assert abs(float(share.mean() - want)) < 0.03 + 5 * float(share.std()) / math.sqrt(20)


@pytest.mark.parametrize(
    ("change", "match", "error"),
    [
        ({"likelihood": replace(gaussian_likelihood(Y, FULL, NOISE), y=math.nan * Y[None])}, "NaN", PotentialError),
        ({"likelihood": replace(gaussian_likelihood(Y, FULL, NOISE), variance=0 * NOISE)}, "noise > 0", PotentialError),
        ({"likelihood": Reward(lambda x: x.sum(1))}, "undrift.smc", PotentialError),
        ({"likelihood": gaussian_likelihood(Y, Matrix(0 * FULL), NOISE)}, "sees nothing", OperatorError),
        ({"likelihood": gaussian_likelihood(draws((3, 3), 0), FULL, NOISE)}, "one per problem", ShapeError),
        ({"event": (5,)}, "events of shape", ShapeError),
        ({"particles": 0}, "at least one particle", PotentialError),
        ({"threshold": 1.5}, "threshold", PotentialError),
        ({"grid": grids.of_times([0.9, 0.0])}, "start the grid at 1", TimeError),
        ({"grid": grids.of_times([0.0, 1.0])}, "fall", GridError),
    ],
)
def test_bad_input_is_refused_before_the_first_call(change, match, error):
    model = Counted(gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), normal(MEAN, COV)))
    good = {"likelihood": gaussian_likelihood(Y, FULL, NOISE), "grid": grids.uniform(None, 3), "event": (4,), "particles": 4}
    with pytest.raises(error, match=match):
        mcgdiff(model, **good | change, rng=Shared(0), dtype=F64)
    assert model.calls == 0


def test_other_families_are_refused():
    path = BridgePath(BrownianBridge(0.8), Point(torch.zeros(1, 4, dtype=F64)))
    model = type("Denoiser", (), {"path": path})()
    with pytest.raises(FamilyError):
        mcgdiff(model, gaussian_likelihood(Y, FULL, NOISE), grids.uniform(None, 3), event=(4,), particles=4, rng=Shared(0))
