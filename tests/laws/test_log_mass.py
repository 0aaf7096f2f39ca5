"""Log masses of boxes against 50 digits, against quadrature of mixtures, and at the edges of what floating point holds."""

from itertools import pairwise

import mpmath
import pytest
import torch
from scipy.integrate import dblquad

from oracles import covariance, draws, line, mixture, normal, spd, time
from undrift.core import Covariance
from undrift.errors import LawError, ShapeError
from undrift.laws import Empirical, Mixture, Normal, Point

F64, INF = torch.float64, torch.inf


def unit(mean: float = 0.0, std: float = 1.0) -> Normal:
    return Normal(time([[mean]]), Covariance.isotropic(time([std**2]), 1))


def digits(a: float, b: float) -> float:
    """Log(Phi(b) - Phi(a)) with 60 digits, from the tail where nothing cancels."""
    with mpmath.workdps(60):
        a, b = (-b, -a) if a + b > 0 else (a, b)
        return float(
            mpmath.log((mpmath.erfc(-mpmath.mpf(b) / mpmath.sqrt(2)) - mpmath.erfc(-mpmath.mpf(a) / mpmath.sqrt(2))) / 2)
        )


INTERVALS = [(-1, 2), (0.3, 0.4), (-INF, -20), (20, INF), (5, 6), (-6, -5), (30, 31), (-1e-3, 2e-3), (7, 7.001), (-38, 39)]


@pytest.mark.parametrize(("a", "b"), INTERVALS)
def test_the_mass_of_an_interval_keeps_its_digits(a, b):
    """Relative 1e-12 of the mass (absolute in its log, beside what 1e-15 of the log itself is)."""
    for mean, std in ((0.0, 1.0), (0.7, 0.25)):
        low, high = mean + std * a, mean + std * b
        exact = digits((low - mean) / std if a > -INF else -INF, (high - mean) / std if b < INF else INF)
        got = float(unit(mean, std).log_mass(time(low), time(high)))
        assert abs(got - exact) < 1e-12 + 1e-14 * abs(exact)


@pytest.mark.parametrize("middle", [-9.0, -0.4, 0.0, 2.0, 9.0])
@pytest.mark.parametrize("width", [1e-2, 1e-3, 1.01e-4, 0.99e-4, 1e-6, 1e-9])
def test_narrow_intervals_keep_half_of_the_digits_and_more(middle, width):
    """The error grows to 1e-11 at the width where the middle's density takes over, and is 1e-12 again below."""
    a, b = middle - 0.5 * width, middle + 0.5 * width
    assert abs(float(unit().log_mass(time(a), time(b))) - digits(a, b)) < 2e-11


def test_gradients_are_those_of_the_truncated_mean():
    """D/dm log mass = (phi(a) - phi(b)) / (Phi(b) - Phi(a)), in both tails, with infinite ends and in narrow intervals."""
    for a, b in [*INTERVALS, (-INF, INF), (2.0, 2.00001), (-40.0, 35.0)]:
        mean = time([[0.0]]).requires_grad_()
        law = Normal(mean, Covariance.isotropic(time([1.0]), 1))
        (got,) = torch.autograd.grad(law.log_mass(time(a), time(b)).sum(), mean)
        with mpmath.workdps(60):
            mass = mpmath.ncdf(b) - mpmath.ncdf(a) if a < 0 else mpmath.ncdf(-a) - mpmath.ncdf(-b)
            want = float((mpmath.npdf(a) - mpmath.npdf(b)) / mass)
        assert abs(float(got) - want) < 1e-9 * max(1.0, abs(want)), (a, b)


def test_without_spread_it_is_in_or_out():
    """A law that has collapsed (t = 0) has the reward itself: 0 inside and on the ends, -inf outside, and no NaN slope."""
    mean = time([[-1.1], [-1.0], [0.0], [2.0], [2.1]]).requires_grad_()
    for std in (0.0, 1e-160):
        law = Normal(mean, Covariance.isotropic(time([std**2]), 1))
        got = law.log_mass(time(-1.0), time(2.0))
        assert got[[0, 2, 4]].tolist() == [-INF, 0, -INF]
        torch.testing.assert_close(got[[1, 3]], time([0.5, 0.5] if std else [1.0, 1.0]).log())
        (slope,) = torch.autograd.grad(got[1:4].sum(), mean)
        assert bool(torch.isfinite(slope).all())


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_mixtures_weigh_their_components(kind):
    """Against two-dimensional quadrature of the density, 1e-9; batch rows keep to themselves."""
    law = mixture(2, kind, seed=3)
    low, high = time([-0.5, -1.0]), time([1.2, 0.4])
    total, _ = dblquad(lambda y, x: float(law.log_prob(time([[x, y]])).exp()), -0.5, 1.2, -1.0, 0.4, epsabs=1e-10, epsrel=1e-10)
    assert abs(float(law.log_mass(low, high).exp()) - total) < 1e-9
    rows = law.posterior(draws((5, 2), 1), time(0.8), time(0.3))
    alone = torch.cat([rows.rows(slice(i, i + 1)).log_mass(low, high) for i in range(5)])
    torch.testing.assert_close(rows.log_mass(low, high), alone, rtol=1e-14, atol=1e-14)
    assert rows.log_mass(low, time([INF, INF])).shape == (5,)


def test_dependent_coordinates_have_masses_one_at_a_time():
    """A half space along an axis is exact under any covariance; two bounded coordinates are refused, with the cure."""
    law = Normal(draws((1, 3), 0), Covariance.full(spd(3, 1)[None]))
    low, high = time([-INF, 0.1, -INF]), time([INF, 0.9, INF])
    marginal = unit(float(law.mean[0, 1]), float(law.covariance()[0, 1, 1]) ** 0.5)
    torch.testing.assert_close(law.log_mass(low, high), marginal.log_mass(time(0.1), time(0.9)), rtol=1e-12, atol=1e-12)
    both = mixture(3, "full")
    for tied in (law, both, normal(draws((3,), 0), spd(3, 2))):
        with pytest.raises(LawError, match="independent coordinates"):
            tied.log_mass(time(0.0), time(1.0))
    one = Normal(time([[0.2]]), Covariance.full(time([[[2.0]]])))
    torch.testing.assert_close(one.log_mass(time(0.0), time(1.0)), unit(0.2, 2**0.5).log_mass(time(0.0), time(1.0)))
    with pytest.raises(ShapeError, match="one number, or one per coordinate"):
        mixture(2, "isotropic").log_mass(time([0.0, 0.0, 0.0]), time([1.0, 1.0, 1.0]))


def test_points_and_atoms_are_in_or_out():
    values = time([[0.0, 0.0], [1.0, 2.0], [1.0, 2.1]])
    low, high = time([0.0, -1.0]), time([1.0, 2.0])
    assert Point(values).log_mass(low, high).tolist() == [0, 0, -INF]
    law = Empirical.of(values, time([0.2, 0.3, 0.5]))
    assert float(law.log_mass(low, high).exp()) == pytest.approx(0.5, abs=1e-15)
    assert float(law.log_mass(time(5.0), time(6.0))) == -INF


def test_masses_of_a_partition_sum_to_one():
    law = Mixture.of(time([0.3, 0.7]), draws((2, 2), 5), covariance("diagonal", 2, 2, 0))
    cuts = [-INF, -0.4, 0.1, 2.0, INF]
    total = sum(float(law.log_mass(time([a, c]), time([b, d])).exp()) for a, b in pairwise(cuts) for c, d in pairwise(cuts))
    assert total == pytest.approx(1, abs=1e-14)
    assert float(line([1.0], [0.0], [1.0]).log_mass(time(-INF), time(INF))) == 0
