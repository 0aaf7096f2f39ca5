"""Log likelihoods by the probability flow against closed forms; bits per dimension against known codes."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, MeanOnly, dense_log_prob, draws, line, mixture, normal, spd, time
from undrift import gaussian, schedules
from undrift.core import Covariance, PerSample, Shared
from undrift.errors import DataError, GridError, LawError, NonFiniteError
from undrift.laws import Normal, Point

NO_SIGNAL = gaussian.Path(schedules.LinearFlow())  # alpha = 0 at t = 1: the path's prior is the exact law of X_1


def data(law, n: int, seed: int = 0):
    return law.expand(n).sample(Shared(seed)).double()


@pytest.mark.parametrize("d", [2, 8])
@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow", "custom"])
def test_mixtures_have_their_exact_density(clock, d):
    # P5: within 1e-3 nat. At 48 steps 8e-5 was measured at worst, nearly all of it from the early stop.
    law = mixture(d, seed=5 if d == 2 else 6)
    denoiser = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), law)
    x_0 = data(law, 12)
    found = gaussian.log_likelihood(MeanOnly(denoiser), x_0, prior=denoiser.marginal(time(1.0)))
    assert float((found.value - dense_log_prob(law, 1.0, 0.0, x_0)).abs().max()) < 1e-3
    if clock == "linear_flow":  # where the path's own prior is that law
        own, exact = (gaussian.log_likelihood(denoiser, x_0, steps=2, prior=p) for p in (None, denoiser.marginal(time(1.0))))
        assert torch.allclose(own.value, exact.value, atol=1e-10)


@pytest.mark.parametrize(("clock", "shape"), [("vp", (3,)), ("edm", (3,)), ("linear_flow", (3, 1)), ("custom", (1, 3))])
def test_a_gaussian_has_its_own_density_from_the_paths_prior(clock, shape):
    # The flow of N(m, C) is linear: in units of alpha, x_1 = m + ((C + r_1^2) / (C + r_0^2))^(1/2) (x_0 - m).
    mean, cov, stop, d = draws((3,), 1), spd(3, 2), 0.05, 3
    law = Normal(mean.reshape(1, *shape), Covariance.full(cov[None]))
    schedule = SCHEDULES[clock]
    x = draws((5, 3), 3) + mean
    values, basis = torch.linalg.eigh(cov)
    alpha, sigma = (float(f(time(1.0))) for f in (schedule.alpha, schedule.sigma))
    grow = ((alpha**2 * values + sigma**2) / (values + stop**2)).sqrt()
    last = alpha * mean + ((x - mean) @ basis * grow) @ basis.mT
    want = -0.5 * last.square().sum(1) / sigma**2 - d * math.log(sigma * math.sqrt(2 * math.pi)) + grow.log().sum()
    denoiser = gaussian.Exact(gaussian.Path(schedule), law)
    found = gaussian.log_likelihood(denoiser, x.reshape(5, *shape), steps=48, sigma_min=stop)
    # a fault of order sigma_min^2 would leave 1e-3
    assert torch.allclose(found.value, want, atol=2e-5)
    assert found.standard_error.eq(0).all()


def test_the_early_stop_gives_the_density_of_blurred_data():
    law, stop = mixture(2, seed=5), 0.3
    x_0 = data(law, 8)
    found = gaussian.log_likelihood(gaussian.Exact(NO_SIGNAL, law), x_0, steps=48, sigma_min=stop)
    assert torch.allclose(found.value, dense_log_prob(law, 1.0, stop, x_0), atol=1e-4)
    assert float((found.value - dense_log_prob(law, 1.0, 0.0, x_0)).abs().max()) > 0.02  # which is another number


def test_the_error_is_below_its_estimate_and_of_order_four():
    law = mixture(2, seed=5)
    x_0 = data(law, 30)
    denoiser, want = gaussian.Exact(NO_SIGNAL, law), dense_log_prob(law, 1.0, 0.002, x_0)
    found = {n: gaussian.log_likelihood(denoiser, x_0, steps=n) for n in (12, 24, 48)}
    errors = {n: (f.value - want).abs() for n, f in found.items()}
    for n in found:
        assert float((errors[n] / (found[n].discretisation + 1e-6)).median()) < 0.2  # a fifteenth, asymptotically
        assert float(errors[n].max()) < float(found[n].discretisation.max())
    assert abs(math.log2(float(errors[24].norm() / errors[48].norm())) - 4) < 0.5


def test_calls_and_products_are_counted():
    law = mixture(2, seed=5)
    counted = Counted(gaussian.Exact(NO_SIGNAL, law))
    found = gaussian.log_likelihood(counted, data(law, 3), steps=6)
    assert found.calls == counted.calls == 6 * 6
    assert found.products == 2 * found.calls
    assert gaussian.log_likelihood(counted, data(law, 3), steps=6, probes=5, rng=Shared(0)).products == 5 * found.calls


# ---------------------------------------------------------------- Hutchinson's estimate


def test_signs_are_exact_for_a_diagonal_jacobian():
    # v^T J v = tr J for every v of signs, if J is diagonal: no Monte Carlo is left.
    law = Normal(time([[0.5, -1.0, 0.2]]), Covariance.diagonal(time([[0.3, 1.0, 2.0]])))
    denoiser, x_0 = gaussian.Exact(NO_SIGNAL, law), draws((4, 3), 0)
    exact, estimate = (gaussian.log_likelihood(denoiser, x_0, steps=8, **how) for how in ({}, {"probes": 2, "rng": Shared(1)}))
    assert torch.allclose(exact.value, estimate.value, atol=1e-12)
    assert float(estimate.standard_error.max()) < 1e-12


def test_the_spread_over_probes_is_that_of_a_known_quadratic_form():
    # On a Gaussian the integral of J is M = log((C + r_0^2)^-1 r^2-terms) / 2, so a probe gives v^T M v: tr M +- 2 M_12 in two
    # dimensions, each with probability 1/2.
    cov, stop, probes = spd(2, 3, 0.3, 1.8), 0.1, 400
    values, basis = torch.linalg.eigh(cov)
    m = basis @ torch.diag(-0.5 * (values + stop**2).log()) @ basis.mT
    denoiser = gaussian.Exact(NO_SIGNAL, normal(time([0.0, 0.0]), cov))
    found = gaussian.log_likelihood(denoiser, draws((6, 2), 0), steps=32, probes=probes, rng=Shared(2), sigma_min=stop)
    spread = found.standard_error * math.sqrt(probes)
    # a fair coin's deviation from 400 throws: 1 - (2k/n - 1)^2 under the root; six standard errors of the mean leave 4.5 %
    assert torch.allclose(spread, torch.full((6,), 2 * abs(float(m[0, 1])), dtype=F64), rtol=0.05)
    exact = gaussian.log_likelihood(denoiser, draws((6, 2), 0), steps=32, sigma_min=stop)
    assert float(((found.value - exact.value) / found.standard_error).abs().max()) < 5


def test_probes_are_unbiased_on_a_mixture():
    law = mixture(8, seed=6)
    x_0 = data(law, 40)
    denoiser = gaussian.Exact(NO_SIGNAL, law)
    exact = gaussian.log_likelihood(denoiser, x_0, steps=16)
    found = gaussian.log_likelihood(denoiser, x_0, steps=16, probes=16, rng=PerSample(0, 40))
    z = (found.value - exact.value) / found.standard_error
    assert abs(float(z.mean())) < 5 / math.sqrt(40)
    assert 0.6 < float(z.std()) < 1.6  # 40 values of Student's t with 15 degrees: spread 1.07 +- .13
    single = gaussian.log_likelihood(denoiser, x_0[:2], steps=2, probes=1, rng=PerSample(0, 2))
    assert single.standard_error.isnan().all()
    assert single.value.isfinite().all()


def test_a_likelihood_is_unchanged_by_its_neighbours():
    law = mixture(2, seed=5)
    x_0, denoiser = data(law, 5), gaussian.Exact(NO_SIGNAL, law)
    together = gaussian.log_likelihood(denoiser, x_0, steps=8, probes=3, rng=PerSample(7, 5))
    alone = gaussian.log_likelihood(denoiser, x_0[2:3], steps=8, probes=3, rng=PerSample(7, [2]))
    for name in ("value", "discretisation", "standard_error"):
        assert torch.allclose(getattr(together, name)[2:3], getattr(alone, name), atol=1e-10)


class Unbatched(torch.autograd.Function):
    """The identity, by an operation that no product can be batched through."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, g: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return torch.from_numpy(g.numpy().copy())


@dataclass(frozen=True)
class Through:
    """A denoiser behind another function."""

    inner: Any
    function: Any

    @property
    def path(self) -> Any:
        return self.inner.path

    def __call__(self, x_t, t):
        return Point(self.function(self.inner(x_t, t).mean))


@pytest.mark.parametrize("how", [{}, {"probes": 4, "rng": Shared(3)}])
def test_networks_that_cannot_be_batched_give_the_same(how):
    law = mixture(8, seed=6)
    x_0, denoiser = data(law, 3), gaussian.Exact(NO_SIGNAL, law)
    how = {key: value.replay() if key == "rng" else value for key, value in how.items()}
    plain = gaussian.log_likelihood(denoiser, x_0, steps=4, **how)
    how = {key: value.replay() if key == "rng" else value for key, value in how.items()}
    slow = gaussian.log_likelihood(Through(denoiser, Unbatched.apply), x_0, steps=4, **how)
    assert torch.allclose(plain.value, slow.value, atol=1e-10)


def test_more_coordinates_than_products_at_once(monkeypatch):
    from undrift.gaussian import likelihood

    law = mixture(8, seed=6)
    x_0, denoiser = data(law, 3), gaussian.Exact(NO_SIGNAL, law)
    plain = gaussian.log_likelihood(denoiser, x_0, steps=4)
    monkeypatch.setattr(likelihood, "TOGETHER", 3)
    assert torch.allclose(plain.value, gaussian.log_likelihood(denoiser, x_0, steps=4).value, atol=1e-10)


@pytest.mark.parametrize(
    ("how", "error", "message"),
    [
        ({"steps": 7}, GridError, "even number"),
        ({"steps": 0}, GridError, "even number"),
        ({"probes": 3}, LawError, "an rng to draw them"),
        ({"probes": 0, "rng": Shared(0)}, LawError, "probes >= 1"),
        ({"sigma_min": 100.0}, GridError, "0 < sigma_min < sigma_max"),
        ({"function": lambda x: x.detach()}, LawError, "answers without a gradient"),
        ({"function": lambda x: x * math.nan}, NonFiniteError, r"2 of 2 samples .* \(first: sample 0\)"),
    ],
)
def test_what_cannot_be_done_is_named(how, error, message):
    denoiser = gaussian.Exact(NO_SIGNAL, mixture(2, seed=5))
    function = how.pop("function", None)
    with pytest.raises(error, match=message):
        gaussian.log_likelihood(denoiser if function is None else Through(denoiser, function), draws((2, 2), 0), **how)


# ---------------------------------------------------------------- bits


def test_bits_of_uniform_levels():
    # A density that is constant over n levels in each of d dimensions codes each in log2 n bits, whatever the units.
    for n in (2, 17, 256):
        for levels in (1.0, 256.0, 127.5):
            density = torch.full((3,), 5 * math.log(levels / n), dtype=F64)
            assert torch.allclose(gaussian.bits_per_dim(density, 5, levels), torch.full((3,), math.log2(n), dtype=F64))
    with pytest.raises(DataError, match="dims >= 1 and levels > 0"):
        gaussian.bits_per_dim(torch.zeros(2, dtype=F64), 0)


def test_bits_of_a_gaussian_are_its_entropy():
    # Broad against a level, log2(2 pi e s^2) / 2 bits, s in levels: here 20 levels, of which 127.5 lie within one unit.
    spread, levels, n, d = 20 / 127.5, 127.5, 400, 4
    law = Normal(torch.zeros(1, d, dtype=F64), Covariance.isotropic(time([spread**2]), d))
    pixels = (20 * draws((n, d), 0)).round() / 127.5
    x_0 = gaussian.dequantised(pixels, levels, Shared(1))
    bits = gaussian.log_likelihood(gaussian.Exact(NO_SIGNAL, law), x_0, steps=24).bits(d, levels)
    # a chi-square over 1600 numbers: .5 nats^2 each, .026 bits of standard error for the mean; four of them
    assert float(bits.value.mean()) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e * 400), abs=0.1)
    assert float(bits.discretisation.max()) < 0.01


def test_a_level_known_for_certain_costs_a_quarter_of_a_bit():
    # Blurred by the cell's own variance: log2(2 pi e / 12) / 2 = .2546.
    levels = 8.0
    law = Normal(time([[0.25, -0.5]]), Covariance.isotropic(time([1e-16]), 2))
    x_0 = gaussian.dequantised(law.mean.expand(2000, 2), levels, Shared(0))
    found = gaussian.log_likelihood(gaussian.Exact(NO_SIGNAL, law), x_0, steps=16, sigma_min=1 / (levels * 12**0.5))
    # a number's cost has standard deviation 6 sqrt(1/180) / log 2 = .65 bits; 4000 numbers leave .010, five of them
    assert float(found.bits(2, levels).value.mean()) == pytest.approx(0.2546, abs=0.05)


def test_dequantised_bits_are_an_upper_bound():
    # Over whole numbers, P(v) is the mass of a cell by quadrature; the mean of bits over the cell is at least -log2 P(v).
    law = line([0.3, 0.7], [0.1, 2.4], [0.05, 0.4])
    u = torch.linspace(-0.5, 0.5, 401, dtype=F64)[:, None]
    for v in (-1.0, 0.0, 1.0, 2.0, 4.0):
        log_p = dense_log_prob(law, 1.0, 0.0, v + u)
        mean = float(torch.trapezoid(gaussian.bits_per_dim(log_p, 1), u[:, 0]))
        code = -math.log2(float(torch.trapezoid(log_p.exp(), u[:, 0])))
        assert mean > code + 1e-3


def test_dequantisation_fills_the_cells():
    x_0 = torch.tensor([[-1.0, 0.0, 1.0]], dtype=F64).expand(4000, 3)
    noise = gaussian.dequantised(x_0, 4.0, Shared(0)) - x_0
    assert float(noise.abs().max()) <= 1 / 8
    assert float(noise.abs().max()) > 0.999 / 8  # of 12,000 draws the farthest leaves the last thousandth free with e^-12
    assert float(noise.square().mean()) == pytest.approx(1 / (12 * 16), rel=0.05)  # 12,000 draws: .8 %
