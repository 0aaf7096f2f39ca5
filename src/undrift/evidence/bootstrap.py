r"""An interval for any figure: how far it would move with another set of samples of the same size.

The usual bootstrap draws n of n with replacement. That repeats points, and a distance sees the repetition as a difference:
its replicates are biased upwards, often by more than their spread, and the interval misses. Here samples are drawn *without*
replacement, half of them at a time. A half has no repeated points, and for a figure that is to first order a mean over
samples (every figure of this package, away from a distance of exactly 0) the standard deviation over random subsets of b out
of n points relates to the standard error at n by

.. math:: \mathrm{se}_n^2 = \frac{b}{n - b}\, \mathrm{var}(\theta_b),

so at b = n/2 the spread over halves *is* the standard error: the delete-half jackknife. A bias that depends on the size shifts
all halves alike and cancels; the interval is centred at the figure itself,

.. math:: \theta_n \pm z\, \mathrm{se}_n .

It speaks of the samples: the data they are compared with are held fixed, their own chance is in the floor. At a distance of 0
the figure is no longer a mean, halves scatter more than the whole (by 2^(1/2) to first order) and the interval is too wide, not
too narrow.

Checked by: tests/evidence/test_bootstrap.py
"""

import math
from collections.abc import Callable
from statistics import NormalDist, stdev

import torch
from torch import Tensor

from undrift.errors import DataError

__all__ = ["interval", "share_interval", "standard_error", "standard_errors"]


def standard_error(figure: Callable[[Tensor], float], n: int, *, halves: int = 40, seed: int = 0) -> float:
    """Standard error of a figure of n samples, from its spread over random halves.

    Args:
        figure: rows of the samples, shape (b,), long, ascending -> the figure of these samples.
        n: how many samples there are, at least 4.
        halves: how many halves; the standard error is itself known to 1 / sqrt(2 halves), 11 % for 40.
        seed: of the halves.

    Raises:
        DataError: fewer than 4 samples or 4 halves.

    Checked by: tests/evidence/test_bootstrap.py::test_the_standard_error_of_a_mean,
        tests/evidence/test_bootstrap.py::test_intervals_hold_what_they_promise
    """
    return standard_errors(lambda rows: (figure(rows),), n, halves=halves, seed=seed)[0]


def standard_errors(
    figures: Callable[[Tensor], tuple[float, ...]], n: int, *, halves: int = 40, seed: int = 0
) -> tuple[float, ...]:
    """The same of several figures that share their work, from the same halves."""
    if n < 4 or halves < 4:
        raise DataError(f"an interval needs at least 4 samples and 4 halves, got {n} and {halves}; draw more samples")
    rng = torch.Generator().manual_seed(seed)
    size = n // 2
    values = [figures(torch.randperm(n, generator=rng)[:size].sort().values) for _ in range(halves)]
    return tuple(stdev(of_one) * math.sqrt(size / (n - size)) for of_one in zip(*values, strict=True))


def interval(
    figure: Callable[[Tensor], float],
    value: float,
    n: int,
    *,
    level: float = 0.95,
    halves: int = 40,
    seed: int = 0,
    within: tuple[float, float] = (-math.inf, math.inf),
) -> tuple[float, float]:
    """An interval round a figure, by `standard_error`.

    Args:
        figure: as in `standard_error`.
        value: the figure of all n samples.
        n: how many samples there are.
        level: how often the interval is to hold the value that infinitely many such experiments have on average.
        halves: as in `standard_error`.
        seed: as in `standard_error`.
        within: what the figure can be at all: [0, 1] for a share, [0, inf) for a distance. The interval ends there.

    Returns:
        (low, high).

    Raises:
        DataError: too few samples, or a level outside (0, 1).

    Checked by: tests/evidence/test_bootstrap.py::test_intervals_hold_what_they_promise
    """
    if not 0 < level < 1:
        raise DataError(f"level = {level} must lie strictly between 0 and 1; 0.95 is the usual choice")
    reach = NormalDist().inv_cdf(0.5 + level / 2) * standard_error(figure, n, halves=halves, seed=seed)
    return min(max(value - reach, within[0]), value), max(min(value + reach, within[1]), value)


def share_interval(share: float, n: int, level: float = 0.95) -> tuple[float, float]:
    r"""Wilson's interval for a share of n independent points; it stays within [0, 1], and keeps a width at 0 and at 1.

    .. math:: \frac{p + z^2/2n \pm z\sqrt{p(1-p)/n + z^2/4n^2}}{1 + z^2/n}

    Source: Wilson 1927. Checked by: tests/evidence/test_bootstrap.py::test_shares_by_the_quadratic_that_defines_them
    """
    z = NormalDist().inv_cdf(0.5 + level / 2)
    centre, reach = share + z**2 / (2 * n), z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    low, high = (centre - reach) / (1 + z**2 / n), (centre + reach) / (1 + z**2 / n)
    return min(max(0.0, low), share), max(min(1.0, high), share)  # rounding, at 0 and at 1
