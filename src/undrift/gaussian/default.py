r"""What to sample with where the user says nothing: a solver and its grid for a number of network calls.

The solver is an exponential multistep. The grid lives on the flow clock :math:`w = \sigma / (\alpha + \sigma)`: a share
:math:`\kappa` of its steps is equal in :math:`\log(w + a)`, the rest in w (`grids.graded`); on a part of the way, the same for
its part of the clock.

============  ====================  =====  ==========================================================
calls n       :math:`\kappa`        a      solver
============  ====================  =====  ==========================================================
1                                          the posterior mean
2 to 5        .2                    .03    v_flow, order 2: too few answers for a corrector to help
6 to 14       n / 100, at least .1  .001   velocity, order 3 with corrector
15 to 24      n / 100, at most .2   .001   v_flow, order 3 with corrector, predicting from 3 points
25 and more   .2                    .001   v_flow, order 3 with corrector, predicting from 4 points
============  ====================  =====  ==========================================================

The more calls, the finer the details near data that are worth meeting, by a larger share and a smaller a; with few, the steps
are needed where samples choose their mode. Found by experiment on mixtures of several kinds in 8 and 64 dimensions and on a
network trained on digits (`benchmarks/samplers.py`). It depends on the number of calls alone.

Checked by: tests/gaussian/test_default.py
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from undrift.errors import GridError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.multistep import Multistep
from undrift.grids import Grid, graded, spaced
from undrift.protocols import Sampler

__all__ = ["Route", "default"]


@dataclass(frozen=True)
class Route:
    """A sampler and the grid it runs on.

    Attributes:
        sampler: how to step.
        grid: where to stop.
    """

    sampler: Sampler
    grid: Grid

    @property
    def calls(self) -> int:
        """Network calls that it costs."""
        return self.sampler.calls(self.grid)


def default(path: Path, calls: int, start: float = 1.0, end: float = 0.0) -> Route:
    """The route of a number of calls.

    Args:
        path: a Gaussian path.
        calls: network calls, >= 1.
        start: first time.
        end: last time.

    Raises:
        GridError: no call.
        TimeError: not 0 <= end < start <= 1.
    """
    if calls < 1:
        raise GridError(f"a sample costs at least one network call, got calls = {calls}")
    grid = spaced(path.schedule, calls, start, end, clock="flow", shape=_shape(calls))
    return Route(_sampler(calls), grid)


def _shape(calls: int) -> Callable[[np.ndarray], np.ndarray]:
    return graded(0.2, 0.03) if calls <= 5 else graded(min(0.2, max(0.1, calls / 100)))


def _sampler(calls: int) -> Multistep:
    if calls == 1:
        return Multistep("velocity", order=1)
    if calls <= 5:
        return Multistep("v_flow", order=2)
    if calls < 15:
        return Multistep("velocity", order=3, corrector=True)
    return Multistep("v_flow", order=3, corrector=True, points=3 if calls < 25 else 4)
