"""Certifies `undrift.schedules`: derivatives, SDE coefficients, inverses and ends of every row, all in float64.

A new schedule is a new row of `conformance.families`. Times are interior, [0.02, 0.98], unless an end is what is tested.
"""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from conformance.families import BRIDGES, SCHEDULES, SURVIVALS, f64, line_mixture
from undrift import gaussian, schedules
from undrift.errors import ScheduleError
from undrift.schedules import Schedule

T = torch.linspace(0.02, 0.98, 49, dtype=torch.float64)
EVERY = pytest.mark.parametrize("name", SCHEDULES)
ENDS_AT_ZERO = ["cosine", "linear_flow", "trigonometric", "custom_to_zero"]
STARTS_AT_ONE = [name for name in SCHEDULES if name != "cosine"]  # cosine: a quotient of sines, 1 within rounding


def slope(function, t: Tensor) -> Tensor:
    """Five-point difference; with h = 2e-3 min(t, 1 - t) its own error is ~h^4, rounding ~1e-16 / h: 1e-9 relative."""
    h = 2e-3 * torch.minimum(t, 1 - t)
    near, far = function(t + h) - function(t - h), function(t + 2 * h) - function(t - 2 * h)
    return (8 * near - far) / (12 * h)


def autodiff(function, t: Tensor) -> Tensor:
    t = t.clone().requires_grad_()
    out = function(t)
    return torch.autograd.grad(out.sum(), t)[0] if out.requires_grad else torch.zeros_like(t)


def integral(function, t: float, panels: int = 400) -> float:
    """Integral from 0 to t, 16 Gauss-Legendre nodes on panels that shrink towards 0: error below 1e-12 here."""
    edges = t * np.linspace(0, 1, panels + 1) ** 2
    nodes, weights = np.polynomial.legendre.leggauss(16)
    half, middle = np.diff(edges) / 2, (edges[1:] + edges[:-1]) / 2
    values = function(torch.tensor((middle[:, None] + half[:, None] * nodes).ravel())).numpy()
    return float(((values.reshape(panels, 16) @ weights) * half).sum())


@EVERY
def test_derivatives_equal_autodiff_and_differences(name: str) -> None:
    q = SCHEDULES[name]
    for claimed, function in ((q.dalpha, q.alpha), (q.dsigma, q.sigma)):
        torch.testing.assert_close(claimed(T), autodiff(function, T), rtol=1e-12, atol=1e-12)  # rounding
        torch.testing.assert_close(claimed(T), slope(function, T), rtol=1e-8, atol=1e-8)
    log_alpha = lambda t: q.alpha(t).log()  # noqa: E731
    torch.testing.assert_close(q.f(T), autodiff(log_alpha, T), rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.f(T), slope(log_alpha, T), rtol=1e-7, atol=1e-7)  # log alpha diverges towards t = 1


@EVERY
def test_noise_enters_at_the_rate_that_sigma_needs(name: str) -> None:
    """g^2 = d sigma^2 / dt - 2 f sigma^2, positive."""
    q = SCHEDULES[name]
    variance = lambda t: q.sigma(t).square()  # noqa: E731
    for d_variance, tolerance in ((autodiff(variance, T), 1e-10), (slope(variance, T), 1e-7)):
        scale = float(q.g2(T).abs().max())
        torch.testing.assert_close(q.g2(T), d_variance - 2 * q.f(T) * variance(T), rtol=tolerance, atol=tolerance * scale)
    assert bool((q.g2(T) > 0).all())


@EVERY
@pytest.mark.parametrize("t", [0.1, 0.5, 0.95])
def test_the_sde_integrates_to_alpha_and_sigma(name: str, t: float) -> None:
    """P2: alpha = exp(int f), sigma^2 = alpha^2 int g^2 / alpha^2, by quadrature."""
    q, alpha = SCHEDULES[name], float(SCHEDULES[name].alpha(f64(t)))
    assert math.exp(integral(q.f, t)) == pytest.approx(alpha, rel=1e-8)
    variance = alpha**2 * integral(lambda u: q.g2(u) / q.alpha(u).square(), t)
    assert variance == pytest.approx(float(q.sigma(f64(t))) ** 2, rel=1e-8)


@EVERY
def test_log_snr_falls_strictly_and_is_what_it_says(name: str) -> None:
    q, t = SCHEDULES[name], torch.linspace(0, 1, 2001, dtype=torch.float64)
    log_snr = q.log_snr(t)
    assert bool((log_snr[1:] < log_snr[:-1]).all())
    torch.testing.assert_close(log_snr.exp()[1:], (q.alpha(t) / q.sigma(t)).square()[1:], rtol=1e-13, atol=0)  # log, exp


@EVERY
def test_time_inverts_log_snr(name: str) -> None:
    """To 1e-9 on [1e-4, 1 - 1e-4]: there |d log-SNR / dt| > 1 on every row, so rounding of log-SNR cannot be amplified.

    Nearer to 0 the closed form of the cosine is absolute, not relative, in t (its angle does not start at 0), and towards
    the ends in t itself nothing is lost that float64 holds.
    """
    q = SCHEDULES[name]
    t = torch.cat([torch.logspace(-4, -1, 30, dtype=torch.float64), T, 1 - torch.logspace(-4, -1, 30, dtype=torch.float64)])
    torch.testing.assert_close(q.time(q.log_snr(t)), t, rtol=0, atol=1e-9)
    torch.testing.assert_close(q.time(q.log_snr(t)), Schedule.time(q, q.log_snr(t)), rtol=0, atol=1e-9)  # bisection


@EVERY
def test_time_clamps_at_the_nearer_end(name: str) -> None:
    q = SCHEDULES[name]
    last = float(q.log_snr(f64(1.0)))
    beyond = f64(last - 5, -math.inf) if math.isfinite(last) else f64(-1e4, -math.inf)
    # 1e-12: the arc tangent of the cosine is scaled back by 1 + offset; bisection stops at the last bit.
    torch.testing.assert_close(q.time(beyond), torch.ones(2).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(q.time(f64(1e4, math.inf)), torch.zeros(2).double(), rtol=0, atol=1e-12)


@EVERY
def test_ends(name: str) -> None:
    q, zero, one = SCHEDULES[name], f64(0.0), f64(1.0)
    assert float(q.sigma(zero)) == 0
    assert float(q.log_snr(zero)) == math.inf
    assert float(q.alpha(zero)) == (1 if name in STARTS_AT_ONE else pytest.approx(1, abs=1e-15))
    assert (float(q.alpha(one)) == 0) == (name in ENDS_AT_ZERO)
    assert float(q.sigma(one)) > 0


@pytest.mark.parametrize("name", ["vp", "vp_constant", "cosine", "trigonometric"])
def test_variance_is_preserved(name: str) -> None:
    q = SCHEDULES[name]
    torch.testing.assert_close(q.alpha(T).square() + q.sigma(T).square(), torch.ones_like(T), rtol=1e-14, atol=0)  # rounding


def test_sub_vp_is_quieter_than_vp_and_has_its_own_noise() -> None:
    vp, sub = SCHEDULES["vp"], SCHEDULES["subvp"]
    torch.testing.assert_close(sub.alpha(T), vp.alpha(T), rtol=0, atol=0)
    torch.testing.assert_close(sub.sigma(T), vp.sigma(T).square(), rtol=1e-13, atol=0)  # rounding


def test_ve_and_vp_are_one_process_on_two_clocks() -> None:
    """P3: at equal log-SNR, x_vp = alpha x_ve, and score_ve(x_ve) = alpha score_vp(x_vp), up to VE's last noise level."""
    ve, vp = (gaussian.Exact(gaussian.Path(SCHEDULES[name]), line_mixture()) for name in ("ve", "vp"))
    t_vp = torch.linspace(0.05, 0.85, 18, dtype=torch.float64)
    t_ve = SCHEDULES["ve"].time(SCHEDULES["vp"].log_snr(t_vp))
    alpha = SCHEDULES["vp"].alpha(t_vp)[:, None]
    x = torch.linspace(-2, 2, 18, dtype=torch.float64)[:, None] * (1 + SCHEDULES["ve"].sigma(t_ve)[:, None])
    moved = alpha * gaussian.score(vp, alpha * x, t_vp)
    torch.testing.assert_close(gaussian.score(ve, x, t_ve), moved, rtol=1e-10, atol=1e-10)


def test_times_of_either_precision_are_computed_in_double() -> None:
    t = torch.tensor(0.3, dtype=torch.float32)
    for q in SCHEDULES.values():
        assert torch.equal(q.sigma(t), q.sigma(t.double()))


@pytest.mark.parametrize("name", BRIDGES)
def test_bridges_hold_both_ends_and_admit_kernels_both_ways(name: str) -> None:
    q, zero, one = BRIDGES[name], f64(0.0), f64(1.0)
    assert [float(v) for v in (q.a(zero), q.b(zero), q.gamma(zero))] == [1, 0, 0]
    assert [float(v) for v in (q.a(one), q.b(one), q.gamma(one))] == [0, 1, 0]
    for weight, sign in ((q.a, 1), (q.b, -1)):
        assert bool((sign * (q.gamma(T) / weight(T)).diff() >= 0).all())


@pytest.mark.parametrize("name", [n for n in BRIDGES if n != "linear"])
def test_a_brownian_bridge_has_the_variance_of_pinned_brownian_motion(name: str) -> None:
    """Var[W_t | W_1] = c^2 (t - t^2 / 1), from the covariance min(s, t) of Brownian motion."""
    joint = 0.8**2 * torch.minimum(torch.stack([T, torch.ones_like(T)])[:, None], torch.stack([T, torch.ones_like(T)]))
    pinned = joint[0, 0] - joint[0, 1].square() / joint[1, 1]
    torch.testing.assert_close(BRIDGES[name].gamma(T).square(), pinned, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", SURVIVALS)
def test_survival_falls_at_its_rate(name: str) -> None:
    q = SURVIVALS[name]
    assert float(q.keep(f64(0.0))) == 1
    assert (float(q.keep(f64(1.0))) == 0) == (name != "exponential")
    assert bool((q.keep(torch.linspace(0, 1, 1001, dtype=torch.float64)).diff() < 0).all())
    torch.testing.assert_close(q.rate(T), -slope(lambda t: q.keep(t).log(), T), rtol=1e-7, atol=1e-9)
    torch.testing.assert_close(q.rate(T), -autodiff(lambda t: q.keep(t).log(), T), rtol=1e-12, atol=0)
    assert math.exp(-integral(q.rate, 0.9)) == pytest.approx(float(q.keep(f64(0.9))), rel=1e-8)


GOOD_ALPHA, GOOD_SIGMA = (lambda t: 1 - t), (lambda t: t)


@pytest.mark.parametrize(
    ("alpha", "sigma", "match"),
    [
        (lambda t: t, lambda t: 1 - t, r"must fall strictly from t = 0 to t = 1; it does not on 1000 of 1000"),
        (torch.ones_like, torch.ones_like, "must fall strictly"),
        (lambda t: torch.cos(4 * math.pi * t) + 1.1, lambda t: t + 0.1, "must fall strictly"),
        (lambda t: 0.5 - t, GOOD_SIGMA, r"alpha_of must map times of shape \(n,\) to finite numbers >= 0"),
        (GOOD_ALPHA, lambda t: -t, r"sigma_of must map times .* >= 0"),
        (GOOD_ALPHA, lambda t: t / t, r"sigma_of must map times .* finite"),
        (GOOD_ALPHA, lambda t: t.sum(), r"sigma_of must map times .* of the same shape"),
        (lambda t: t[:5], GOOD_SIGMA, r"alpha_of must map times .* of the same shape"),
    ],
)
def test_custom_refuses_what_is_no_noise_process_with_the_cure(alpha, sigma, match: str) -> None:
    with pytest.raises(ScheduleError, match=match):
        schedules.Custom(alpha, sigma)


@pytest.mark.parametrize(
    ("build", "match"),
    [
        (lambda: schedules.VP(0.0, 20.0), "0 < beta_min <= beta_max"),
        (lambda: schedules.VP(2.0, 1.0), "0 < beta_min <= beta_max"),
        (lambda: schedules.SubVP(-1.0, 1.0), "0 < beta_min <= beta_max"),
        (lambda: schedules.VP(math.nan, 1.0), "0 < beta_min <= beta_max"),
        (lambda: schedules.Cosine(0.0), "0 < offset < 1"),
        (lambda: schedules.VE(1.0, 0.5), "0 < sigma_min < sigma_max"),
        (lambda: schedules.EDM(0.0), "sigma_max > 0"),
        (lambda: schedules.BrownianBridge(0.0), r"scale > 0, .* use LinearInterpolant\(\)"),
        (lambda: schedules.ExponentialSurvival(-1.0), "jump_rate > 0"),
    ],
)
def test_constants_out_of_range_are_refused_with_the_range(build, match: str) -> None:
    with pytest.raises(ScheduleError, match=match):
        build()
