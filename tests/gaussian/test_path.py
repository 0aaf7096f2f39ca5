"""The Gaussian path: its step back, its prior, and how a reward tilts it.

Certified: `step_back` is DDIM's eq. 7 and keeps every marginal for any stochasticity; `prior_gap` bounds the divergence (and
is reached by a point mass); `tilt` is exact for an exponential tilt of a Gaussian and of a mixture.
"""

import math

import pytest
import torch

from oracles import F64, SCHEDULES, draws, mixture, normal, relative, spd, time
from undrift import gaussian, schedules
from undrift.core import Covariance
from undrift.errors import ScheduleError, ShapeError, TimeError
from undrift.laws import Empirical, Mixture, Normal, Point

DATA = normal(time([0.7, -0.4, 0.1]), spd(3, 3, 0.3, 1.8))
STEPS = [(1.0, 0.6), (0.9, 0.89), (0.5, 0.1), (0.1, 0.001), (0.3, 0.0), (1.0, 0.0)]

every_schedule = pytest.mark.parametrize("clock", SCHEDULES)


@every_schedule
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_step_back_is_ddims(clock, t, s, eta):
    schedule = SCHEDULES[clock]
    (a_t, a_s), (v_t, v_s) = ([float(f(time(u))) for u in (t, s)] for f in (schedule.alpha, schedule.sigma))
    clean, state, variance = (float(v) for v in gaussian.Path(schedule).step_back(time(t), time(s), eta))
    fresh = v_t**2 - (a_t / a_s) ** 2 * v_s**2  # sigma_{t|s}^2, by its definition
    spread = eta**2 * fresh * v_s**2 / v_t**2
    assert math.isclose(variance, spread, rel_tol=1e-9, abs_tol=1e-14)
    kappa = math.sqrt(max(v_s**2 - spread, 0.0)) / v_t
    assert math.isclose(state, kappa, rel_tol=1e-8, abs_tol=1e-12)
    assert math.isclose(clean, a_s - kappa * a_t, rel_tol=1e-8, abs_tol=1e-10)
    # Given x_0 the marginal at s is N(alpha_s x_0, sigma_s^2) for every eta: to rounding.
    assert math.isclose(clean + state * a_t, a_s, rel_tol=1e-12)
    assert math.isclose((state * v_t) ** 2 + variance, v_s**2, rel_tol=1e-12, abs_tol=1e-30)


@every_schedule
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("t", "s"), STEPS)
def test_reverse_is_exact_for_any_stochasticity(clock, t, s, eta):
    # Under the true posterior one step of any size keeps the marginal. The mean of `reverse` is affine in x_t, so the rows
    # mean +- root carry its law exactly.
    exact = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), DATA)
    before, after = exact.marginal(time(t)), exact.marginal(time(s))
    root = torch.linalg.cholesky(before.cov.dense()[0])
    x = before.mean + torch.cat([torch.zeros(1, 3, dtype=F64), root.mT])
    law = exact.path.reverse(x, exact(x, time(t)), time(t), time(s), stochasticity=eta)
    spread = law.mean[1:] - law.mean[0]
    assert relative(law.mean[:1], after.mean) < 1e-10
    assert relative(spread.mT @ spread + law.covariance()[0], after.cov.dense()[0]) < 1e-10


def test_reverse_takes_a_time_per_sample():
    path, x = gaussian.Path(schedules.Cosine()), draws((3, 2), 0)
    t, s = time([0.2, 0.5, 1.0]), time([0.1, 0.45, 0.0])
    whole = path.reverse(x, Point(x + 1), t, s, stochasticity=0.7)
    for i in range(3):
        one = path.reverse(x[i : i + 1], Point(x[i : i + 1] + 1), t[i], s[i], stochasticity=0.7)
        assert relative(whole.mean[i : i + 1], one.mean) < 1e-14
        assert relative(whole.variance[i : i + 1] + 1e-300, one.variance + 1e-300) < 1e-12


@every_schedule
def test_prior_gap_bounds_the_divergence(clock):
    schedule = SCHEDULES[clock]
    path = gaussian.Path(schedule)
    alpha, sigma = float(schedule.alpha(time(1.0))), float(schedule.sigma(time(1.0)))
    prior = path.prior(torch.zeros(1, 3, dtype=F64))

    def divergence(mean, cov):
        """KL(N(alpha m, alpha^2 C + sigma^2 I) || prior), nats; log1p so that tiny ones do not cancel."""
        tau = float(prior.variance[0, 0])
        ratio = torch.linalg.eigvalsh(alpha**2 * cov + (sigma**2 - tau) * torch.eye(3, dtype=F64)) / tau
        return float(0.5 * (ratio - ratio.log1p()).sum() + 0.5 * alpha**2 * mean @ mean / tau)

    mean, cov = DATA.mean[0], DATA.covariance()[0]
    second = float(mean @ mean + cov.trace())
    assert divergence(mean, cov) <= path.prior_gap(second) * (1 + 1e-9)
    if alpha == 0:
        assert path.prior_gap(second) == 0
        assert torch.equal(prior.variance, torch.full((1, 3), sigma**2, dtype=F64))
    else:  # a point mass reaches the bound: it cannot be improved, and a factor of two in it would show
        point = divergence(mean, torch.zeros(3, 3, dtype=F64))
        assert math.isclose(point, path.prior_gap(float(mean @ mean)), rel_tol=1e-9)


def test_prior_below_the_end_is_the_noise_there():
    prior = gaussian.Path(schedules.VP()).prior(torch.zeros(4, 2, 3, dtype=torch.float32), t=0.3)
    assert prior.mean.shape == (4, 2, 3)
    assert prior.mean.dtype == torch.float32
    want = 1 - math.exp(-(0.1 * 0.3 + 0.5 * 19.9 * 0.09))
    assert relative(prior.variance, torch.full((4, 2, 3), want)) < 1e-6


def tilted(law, b):
    """p(x) exp(b.x), normalised: a Gaussian or a mixture again."""
    if isinstance(law, Normal):
        return Normal(law.mean + (law.covariance() @ b), law.cov)
    covs = law.cov.dense()[0]
    shift = covs @ b
    weights = law.log_weights[0] + law.means[0] @ b + 0.5 * shift @ b
    return Mixture.of(torch.softmax(weights, 0), law.means[0] + shift, Covariance.full(covs))


def lifted(posterior, b):
    """Log E exp(b.X) under the posterior, shape (B,)."""
    if isinstance(posterior, Normal):
        return posterior.mean @ b + 0.5 * (posterior.covariance() @ b) @ b
    inside = posterior.means @ b + 0.5 * (posterior.cov.dense() @ b) @ b
    return torch.logsumexp(posterior.log_weights + inside, -1)


@every_schedule
@pytest.mark.parametrize("law", [DATA, mixture(3, "full", 3, 2)], ids=["gaussian", "mixture"])
def test_tilt_is_tweedie_for_the_tilted_law(clock, law):
    exact, b = gaussian.Exact(gaussian.Path(SCHEDULES[clock]), law), time([0.8, -0.5, 0.3])
    for noise in (0.2, 1.0, 4.0):
        t = SCHEDULES[clock].time(time(-2 * math.log(noise)))
        x = (float(SCHEDULES[clock].alpha(t)) * (1 + noise) * draws((4, 3), 1)).requires_grad_()
        signal = torch.autograd.grad(lifted(exact(x, t), b).sum(), x)[0]
        x = x.detach()
        got = exact.path.tilt(exact(x, t), signal, t)
        want = gaussian.Exact(exact.path, tilted(law, b))(x, t).mean
        assert isinstance(got, Point)
        assert relative(got.mean, want) < 1e-9  # autodiff is exact; the inverse of a custom clock is good to 1e-12


@pytest.mark.parametrize("clock", ["cosine", "linear_flow", "trigonometric"])
def test_tilt_without_signal_is_refused_with_the_cure(clock):
    with pytest.raises(ScheduleError, match="start the grid just below t = 1"):
        gaussian.Path(SCHEDULES[clock]).tilt(Point(draws((2, 3), 0)), draws((2, 3), 1), time(1.0))


def test_steps_in_the_wrong_order_are_refused_with_the_cure():
    path, x = gaussian.Path(schedules.VP()), draws((2, 3), 0)
    for t, s in ((0.2, 0.2), (0.1, 0.5), (1.2, 0.5), (0.5, -0.1)):
        with pytest.raises(TimeError, match="swap them, or rescale"):
            path.reverse(x, Point(x), time(t), time(s))
        with pytest.raises(TimeError, match="swap them, or rescale"):
            path.corrupt(x, time(s), time(t))
    for t, s in ((time([0.2, 0.3, 0.4]), time([0.1, 0.1, 0.1])), (time(0.5), time([0.1, 0.1]))):
        with pytest.raises(ShapeError, match="shape"):
            path.reverse(x, Point(x), t, s)


@pytest.mark.parametrize("eta", [-0.1, 1.1])
def test_stochasticity_out_of_range_is_refused(eta):
    path, x = gaussian.Path(schedules.VP()), draws((2, 3), 0)
    with pytest.raises(ScheduleError, match=r"\[0, 1\]"):
        path.reverse(x, Point(x), time(0.5), time(0.2), stochasticity=eta)


def test_reverse_mixes_atoms():
    # An empirical law goes through the kernel atom by atom: mean and density against the sum written out.
    path, atoms = gaussian.Path(schedules.VP()), draws((4, 2), 6)
    law, x, t, s = Empirical.of(atoms), draws((1, 2), 7), time(0.6), time(0.4)
    clean, state, variance = (float(v) for v in path.step_back(t, s, 1.0))
    y = draws((1, 2), 8)
    inside = torch.distributions.Normal(clean * atoms + state * x, math.sqrt(variance)).log_prob(y).sum(1)
    got = path.reverse(x, law, t, s).log_prob(y)
    assert relative(got, (torch.logsumexp(inside, 0) - math.log(4))[None]) < 1e-12
