"""Laws of training times: a density that is one, draws that follow it, and importance weights that change nothing but variance.

Certified: row L7. Draws are stratified, so their distribution is checked exactly: the i-th of n lies in the i-th cell.
"""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import ndtr

from oracles import SCHEDULES, hermite, time
from undrift import gaussian, schedules
from undrift.core import Shared
from undrift.errors import TimeError
from undrift.gaussian.times import importance

LAWS = {
    "uniform": gaussian.UniformTime(),
    "uniform-inner": gaussian.UniformTime(0.2, 0.7),
    **{f"lognormal-{name}": gaussian.LogNormalNoise(s, start=0.002, end=0.998) for name, s in SCHEDULES.items()},
    "lognormal-whole": gaussian.LogNormalNoise(schedules.EDM()),
    "lognormal-other": gaussian.LogNormalNoise(schedules.Cosine(), mean=0.5, std=0.8, start=0.1, end=0.9),
}

every_law = pytest.mark.parametrize("name", LAWS)


def cumulative(law, t: float) -> float:
    """Integral of the density from the start to t, in the logarithm of time where it is smooth."""

    def slope(u):
        return math.exp(u + float(law.log_density(time(math.exp(u)))))

    low = math.log(max(law.start, 1e-7))
    middle = math.log(0.05)
    points = sorted({low, min(max(low, middle), math.log(t)), math.log(t)})  # two pieces: quad sees the peak
    return sum(quad(slope, a, b, epsabs=1e-8, epsrel=1e-8, limit=100)[0] for a, b in pairwise(points))


@every_law
def test_density_integrates_to_one(name):
    assert math.isclose(cumulative(LAWS[name], LAWS[name].end), 1.0, abs_tol=1e-6)  # 1e-7 cut off at t = 0, and quadrature


@every_law
def test_density_is_zero_outside(name):
    law = LAWS[name]
    outside = [t for t in (law.start - 1e-3, law.end + 1e-3) if 0 < t < 1]
    assert all(float(law.log_density(time(t))) == -math.inf for t in outside)


@every_law
def test_draws_follow_the_density_cell_by_cell(name):
    law, n = LAWS[name], 9
    t = law.sample(n, Shared(0))
    assert t.dtype == torch.float64
    shares = np.array([cumulative(law, float(v)) for v in t])
    cell = np.arange(n) / n
    slack = 1e-6  # quadrature
    assert (shares > cell - slack).all()
    assert (shares < cell + 1 / n + slack).all()
    assert np.diff(shares - cell).std() > 0.05 / n  # placed at random in its cell, not at a fixed point of it


def test_lognormal_noise_is_normal_in_log_sigma():
    # Table 1 of Karras et al.: log sigma ~ N(-1.2, 1.2^2), here on another clock; quantiles of a stratified draw of 4000.
    schedule = schedules.VP()
    level = -0.5 * schedule.log_snr(gaussian.LogNormalNoise(schedule).sample(4000, Shared(1)))
    shares = ndtr((level.sort().values.numpy() + 1.2) / 1.2)
    assert np.abs(shares - (np.arange(4000) + 0.5) / 4000).max() < 1e-3  # a cell is 2.5e-4, and the far tails are cut


def gradients(schedule, c: float, t: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """First and second moment of one sample's gradient at each t, exactly (Gauss-Hermite in x_0 and z).

    Model s = -theta x / (alpha^2 c + sigma^2) at theta = .7, loss (s + z / sigma)^2, data N(0, c).
    """
    node, weight = hermite(12)  # integrands are polynomials of degree <= 8: exact
    alpha, sigma = schedule.alpha(t)[:, None, None], schedule.sigma(t)[:, None, None]
    x_0, z = math.sqrt(c) * node[:, None], node[None, :]
    x = alpha * x_0 + sigma * z
    shape = -x / (alpha**2 * c + sigma**2)
    gradient = 2 * (0.7 * shape + z / sigma) * shape
    joint = weight[:, None] * weight[None, :]
    return (gradient * joint).sum((1, 2)), (gradient.square() * joint).sum((1, 2))


def moments(law, schedule, c: float) -> tuple[float, float]:
    """Mean and variance of the importance-weighted gradient when t follows `law`, by quadrature over t."""
    u = torch.linspace(math.log(law.start), math.log(law.end), 20001, dtype=torch.float64)
    t = u.exp().clamp(law.start, law.end)
    first, second = gradients(schedule, c, t)
    mean = torch.trapezoid(first * t, u)
    return float(mean), float(torch.trapezoid(second * importance(law, t) * t, u) - mean**2)


def test_importance_keeps_the_gradient_and_a_good_law_lowers_its_variance():
    # The gradient's second moment grows as 1 / sigma^2 towards data, so draws belong there. The factor is computed and not
    # sampled: 11.8 here. 5 is asked, half of it, so that only a wrong law or a wrong weight fails.
    schedule, c, start = schedules.VP(), 0.1, 1e-3
    plain = gaussian.UniformTime(start, 1.0)
    good = gaussian.LogNormalNoise(schedule, mean=-2.2, std=2.0, start=start, end=1.0)
    mean, wide = moments(plain, schedule, c)
    _, narrow = moments(good, schedule, c)
    assert wide / narrow > 5
    for law in (plain, good):  # the estimate from drawn times: stratified, so its error is far below 1 / sqrt(n)
        t = law.sample(4000, Shared(2))
        estimate = float((gradients(schedule, c, t)[0] * importance(law, t)).mean())
        assert math.isclose(estimate, mean, rel_tol=5e-3)


@pytest.mark.parametrize("make", [gaussian.UniformTime, lambda a, b: gaussian.LogNormalNoise(schedules.VP(), start=a, end=b)])
@pytest.mark.parametrize("ends", [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1)])
def test_bad_ends_are_refused(make, ends):
    with pytest.raises(TimeError, match="0 <= start < end <= 1"):
        make(*ends)


def test_bad_spread_is_refused():
    with pytest.raises(TimeError, match="std > 0"):
        gaussian.LogNormalNoise(schedules.VP(), std=0.0)


@every_law
def test_laws_are_time_laws(name):
    assert isinstance(LAWS[name], gaussian.TimeLaw)
