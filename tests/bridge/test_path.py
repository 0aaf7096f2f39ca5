"""The bridge path against the Brownian bridge's own law, straight lines, and exact Gaussian algebra."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chi2

from oracles import F64, Fixed, draws, line, normal, spd, time
from undrift import PerSample, bridge
from undrift.errors import ScheduleError, ShapeError, TimeError
from undrift.laws import Empirical, Pair, Point
from undrift.schedules import BridgeSchedule, BrownianBridge, LinearInterpolant

EXACT = 1e-12  # float64: a handful of operations on numbers of order 1


@dataclass(frozen=True)
class Round(BridgeSchedule):
    """Neither linear nor a + b = 1: catches a formula that holds on the Brownian bridge alone."""

    def a(self, t):
        return torch.sin(torch.pi / 2 * (1 - t))

    def b(self, t):
        return torch.sin(torch.pi / 2 * t)

    def gamma(self, t):
        return 0.8 * (self.a(t) * self.b(t)).sqrt()


@dataclass(frozen=True)
class Bump(Round):
    """gamma = sin^2: gamma / b rises near t = 0, so that no Markov kernel exists."""

    def gamma(self, t):
        return torch.sin(torch.pi * t).square()


SCHEDULES = {"brownian": BrownianBridge(0.7), "line": LinearInterpolant(), "round": Round()}
TIMES = [(time(0.8), time(0.3)), (time([0.9, 0.5, 1.0]), time([0.2, 0.4, 0.0]))]


@pytest.mark.parametrize(("t", "s"), TIMES)
def test_kernels_are_the_brownian_bridge_itself(t, s):
    c, x, end = 0.7, draws((3, 2), 0), draws((3, 2), 1)
    t_, s_ = (v if v.ndim == 0 else v[:, None] for v in (t, s))
    back = bridge.Path(BrownianBridge(c), Point(torch.zeros(1, 2, dtype=F64))).reverse(x, Point(end), t, s)
    torch.testing.assert_close(back.mean, end + s_ / t_ * (x - end), atol=EXACT, rtol=0)
    torch.testing.assert_close(back.variance, (c**2 * s_ * (t_ - s_) / t_).expand(3, 2), atol=EXACT, rtol=0)
    ahead = bridge.Path(BrownianBridge(c), Point(end)).corrupt(x, s, t)
    torch.testing.assert_close(ahead.mean, x + (t_ - s_) / (1 - s_) * (end - x), atol=EXACT, rtol=0)
    torch.testing.assert_close(ahead.variance, (c**2 * (t_ - s_) * (1 - t_) / (1 - s_)).expand(3, 2), atol=EXACT, rtol=0)


@pytest.mark.parametrize(("t", "s"), TIMES)
def test_without_noise_a_step_back_is_the_straight_line(t, s):
    x_0, x_1 = draws((3, 2), 0), draws((3, 2), 1)
    at = [u if u.ndim == 0 else u[:, None] for u in (t, s)]
    x_t, x_s = ((1 - u) * x_0 + u * x_1 for u in at)
    path = bridge.Path(LinearInterpolant(), Point(x_1))
    for law, want in ((path.reverse(x_t, Point(x_0), t, s), x_s), (path.corrupt(x_s, s, t), x_t)):
        torch.testing.assert_close(law.mean, want, atol=EXACT, rtol=0)
        assert float(law.variance.max()) <= 1e-16  # a difference of equal numbers


@settings(max_examples=60, deadline=None)
@given(st.floats(0.001, 1), st.floats(0, 0.999), st.sampled_from(sorted(SCHEDULES)))
def test_kernels_keep_the_law_between_two_ends(late, share, name):
    """p(x_s | x_t, x_0) averaged over p(x_t | x_0, x_1) is p(x_s | x_0, x_1), and its mirror image; variances are >= 0."""
    q, t, s = SCHEDULES[name], time(late), time(late * share)
    x_0, x_1 = draws((2, 1), 0), draws((2, 1), 1)
    mean_t, mean_s = (q.a(u) * x_0 + q.b(u) * x_1 for u in (t, s))
    path = bridge.Path(q, Point(x_1))
    for step, start, spread, want, want_spread in (
        (lambda x: path.reverse(x, Point(x_0), t, s), mean_t, q.gamma(t), mean_s, q.gamma(s)),
        (lambda x: path.corrupt(x, s, t), mean_s, q.gamma(s), mean_t, q.gamma(t)),
    ):
        law, slope = step(start), step(start + 1).mean - step(start).mean
        assert float(law.variance.min()) >= 0
        # 1e-10: the kernel of a step of relative size 1e-3 divides rounding by it
        torch.testing.assert_close(law.mean, want, atol=1e-10, rtol=0)
        total = slope.square() * spread.square() + law.variance
        torch.testing.assert_close(total, want_spread.square().expand(2, 1), atol=1e-10, rtol=0)


def test_a_schedule_without_markov_kernels_is_refused():
    x, zero = draws((2, 1), 0), torch.zeros(1, 1, dtype=F64)
    with pytest.raises(ScheduleError, match="gamma / b must not rise"):
        bridge.Path(Bump(), Point(zero)).reverse(x, Point(x), time(0.2), time(0.1))
    with pytest.raises(ScheduleError, match="gamma / a must not fall"):
        bridge.Path(Bump(), Point(zero)).corrupt(x, time(0.8), time(0.9))


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_pinned_kernels_compose(name):
    x, path = draws((3, 2), 0), bridge.Path(SCHEDULES[name], Point(draws((3, 2), 1)))
    s, t, u = time(0.1), time(0.45), time(0.8)
    middle, far = path.corrupt(x, s, t), path.corrupt(x, s, u)
    onward = path.corrupt(middle.mean, t, u)
    slope = path.corrupt(middle.mean + 1, t, u).mean - onward.mean
    torch.testing.assert_close(onward.mean, far.mean, atol=EXACT, rtol=0)
    torch.testing.assert_close(slope.square() * middle.variance + onward.variance, far.variance, atol=EXACT, rtol=0)


@pytest.mark.parametrize("t", [time(0.6), time([0.2, 0.6, 1.0])])
def test_corrupt_averages_the_source(t):
    """From s = 0: a x_0 + b X_1 + gamma z, with X_1 a full Gaussian; then exactly the source at t = 1."""
    q, x, cov, mean = Round(), draws((3, 2), 0), spd(2, 1), draws((2,), 2)
    law = bridge.Path(q, normal(mean, cov)).corrupt(x, torch.zeros_like(t), t)
    a, b, gamma = (f(t).expand(3)[:, None] for f in (q.a, q.b, q.gamma))
    torch.testing.assert_close(law.mean, a * x + b * mean, atol=EXACT, rtol=0)
    want = b[..., None] ** 2 * cov + gamma[..., None] ** 2 * torch.eye(2, dtype=F64)
    torch.testing.assert_close(law.covariance().expand(3, 2, 2), want, atol=EXACT, rtol=0)


def test_training_states_are_draws_of_corrupt():
    """The same noise through `interpolate` and through the law of X_t given both ends."""
    x_0, x_1, z, t = draws((3, 2), 0), draws((3, 2), 1), draws((3, 2), 2), time([0.2, 0.5, 0.9])
    law = bridge.Path(Round(), Point(x_1)).corrupt(x_0, torch.zeros_like(t), t)
    torch.testing.assert_close(bridge.interpolate(Round(), x_0, x_1, z, t), law.sample(Fixed(z)), atol=EXACT, rtol=0)


def test_prior_is_exactly_the_source():
    like, x = torch.empty(4, 2, dtype=F64), draws((4, 2), 0)
    ends, mean, cov = draws((4, 2), 1), draws((2,), 2), spd(2, 3)
    known = bridge.Path(Round(), Point(ends)).prior(like)
    assert torch.equal(known.sample(PerSample(0, 4)), ends)
    spread = bridge.Path(Round(), normal(mean, cov)).prior(like)
    torch.testing.assert_close(spread.mean, mean.expand(4, 2), atol=0, rtol=0)
    torch.testing.assert_close(spread.covariance()[0], cov, atol=EXACT, rtol=0)
    source = line([0.3, 0.7], [-1.0, 2.0], [0.2, 0.5])
    prior = bridge.Path(Round(), source).prior(like[:, :1])
    torch.testing.assert_close(prior.log_prob(x[:, :1]), source.log_prob(x[:, :1]), atol=EXACT, rtol=0)
    assert prior.sample(PerSample(0, 4)).unique().numel() == 4


def test_prior_of_an_empirical_source_draws_an_atom_per_row():
    """Counts against the weights; false alarm 1e-6 (chi-square, seed fixed)."""
    n, weights, atoms = 4000, torch.tensor([0.5, 0.3, 0.2], dtype=F64), draws((3, 2), 0)
    prior = bridge.Path(Round(), Empirical.of(atoms, weights)).prior(torch.empty(n, 2, dtype=F64))
    hits = (prior.sample(PerSample(1, n))[:, None] == atoms).all(-1).double()
    assert torch.equal(hits.sum(1), torch.ones(n, dtype=F64))
    expected = n * weights
    assert float(((hits.sum(0) - expected).square() / expected).sum()) < chi2.isf(1e-6, 2)


def test_flip_exchanges_the_ends_and_undoes_itself():
    """A step back on the flipped bridge is the step ahead on the bridge, and flipping twice is the bridge."""
    x_0, x_1, x, s, t = draws((3, 2), 0), draws((3, 2), 1), draws((3, 2), 2), time(0.3), time(0.8)
    path = bridge.Path(Round(), Point(x_1))
    flipped = path.flip(Point(x_0))
    pairs = [
        (flipped.reverse(x, Point(x_1), 1 - s, 1 - t), path.corrupt(x, s, t)),
        (flipped.corrupt(x, 1 - t, 1 - s), path.reverse(x, Point(x_0), t, s)),
        (flipped.flip(Point(x_1)).reverse(x, Point(x_0), t, s), path.reverse(x, Point(x_0), t, s)),
        (flipped.prior(x), Point(x_0)),
    ]
    for got, want in pairs:
        torch.testing.assert_close(got.mean, want.mean, atol=EXACT, rtol=0)
        torch.testing.assert_close(got.variance, want.variance, atol=EXACT, rtol=0)


@pytest.mark.parametrize("t", [time(0.4), time([0.2, 0.5, 0.9])])
def test_noise_recovers_z(t):
    x_0, x_1, z = draws((3, 2), 0), draws((3, 2), 1), draws((3, 2), 2)
    path = bridge.Path(Round(), Point(x_1))
    x_t = bridge.interpolate(Round(), x_0, x_1, z, t)
    torch.testing.assert_close(path.noise(x_t, Pair(Point(x_0), Point(x_1)), t), z, atol=1e-11, rtol=0)  # / gamma > 0.3


@pytest.mark.parametrize("name", sorted(SCHEDULES))
def test_velocity_is_the_derivative_of_the_interpolant(name):
    """Known ends: d/dt of a x_0 + b x_1 + gamma z by autodiff; infinite at the ends of a noisy bridge, fine on a line."""
    q, x_0, x_1, z, t = SCHEDULES[name], draws((3, 2), 0), draws((3, 2), 1), draws((3, 2), 2), time([0.2, 0.5, 0.9])
    path, pair = bridge.Path(q, Point(x_1)), Pair(Point(x_0), Point(x_1))
    x_t, want = torch.func.jvp(lambda u: bridge.interpolate(q, x_0, x_1, z, u), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(path.velocity(x_t, pair, t), want, atol=1e-11, rtol=0)  # gamma' / gamma < 10
    if name == "line":
        torch.testing.assert_close(path.velocity(x_1, pair, time(1.0)), x_1 - x_0, atol=EXACT, rtol=0)
    else:
        with pytest.raises(ScheduleError, match="just inside"):
            path.velocity(x_1, pair, time(1.0))


@pytest.mark.parametrize("t", [time(0.4), time([0.2, 0.5, 0.9])])
def test_tilt_is_tweedie_for_the_tilted_law(t):
    """The reward lambda.x_0 on a pinned Gaussian: the lifted h by autograd, the tilted posterior in closed form."""
    x, x_1, tilt = draws((3, 2), 0), draws((3, 2), 1), draws((2,), 2)
    mean, cov = draws((2,), 3), spd(2, 4)
    path = bridge.Path(Round(), Point(x_1))

    def log_h(x_t):  # E exp(lambda.X_0) under the posterior, a Gaussian: lambda.m + lambda C lambda / 2
        law = bridge.Pinned(path, normal(mean, cov))(x_t, t)
        return (law.mean @ tilt + 0.5 * torch.einsum("d,bde,e->b", tilt, law.covariance(), tilt)).sum()

    got = path.tilt(bridge.Pinned(path, normal(mean, cov))(x, t), torch.func.grad(log_h)(x), t)
    want = bridge.Pinned(path, normal(mean + cov @ tilt, cov))(x, t)  # the tilted Gaussian, seen through the same look
    torch.testing.assert_close(got.mean, want.mean, atol=1e-11, rtol=0)
    with pytest.raises(ScheduleError, match="second step"):
        path.tilt(Point(x), x, time(1.0))


def test_documented_errors():
    x, path = draws((3, 2), 0), bridge.Path(Round(), Point(draws((3, 2), 1)))
    for call in (path.corrupt, lambda x, s, t: path.reverse(x, Point(x), t, s)):
        with pytest.raises(TimeError, match="swap them"):
            call(x, time(0.8), time(0.3))
        with pytest.raises(ShapeError, match="one per sample"):
            call(x, time([0.1, 0.2]), time([0.3, 0.4]))
        with pytest.raises(ShapeError, match="the same shape"):
            call(x, time(0.1), time([0.3, 0.4, 0.5]))
    for like in (torch.empty(3, 1, dtype=F64), torch.empty(3, 3, dtype=F64), torch.empty(4, 2, dtype=F64)):
        with pytest.raises(ShapeError, match="source's own event"):
            path.prior(like)
