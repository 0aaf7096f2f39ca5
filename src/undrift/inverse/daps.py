r"""DAPS: guess the clean end, correct the guess by the measurement, forget, and noise it again.

At each level t, with :math:`\hat x_0` the end of a short probability-flow solve from x_t (one call: the posterior mean),

.. math:: x_0 \sim q \propto N(\hat x_0,\ r_t^2 I)\, e^{r(x_0)}, \qquad x_s = \alpha_s x_0 + \sigma_s z .

Successive states are joined by the clean event alone, so an early mistake is not carried on. The inner law is drawn from

* `Closed`: exactly, where the potential is closed (linear looks, linear rewards);
* `Langevin`: N unadjusted Langevin steps from :math:`\hat x_0` with any differentiable reward,
  :math:`x \leftarrow x + \eta_i \nabla \log q(x) + \sqrt{2 \eta_i}\, z`, with :math:`\eta_i` falling linearly along the grid.

The spread is :math:`r_t^2 = \sigma_t^2 / (\alpha_t^2 + \sigma_t^2 / s^2)`. The paper's choice is s = infinity, sigma / alpha
(its sigma_t), too wide wherever the noise exceeds the data; s = the data's own standard deviation is the exact posterior's
spread for white data, and with one call the method is exact there. Elsewhere it is biased: X_0 given x_t is not white.

What the bias tends to depends on the guess. Where the noise level u = sigma / alpha is low, a level is one Langevin step of
size u^2,

.. math:: x \leftarrow x + u^2 \big(c\, \nabla \log p(x) + \nabla r(x)\big) + \sqrt{2}\, u\, z, \qquad
          c_k = \sum_{i<k} u_i (u_i - u_{i+1}) / u^2

for a flow of k calls through the levels u_0 = u, ..., u_k = 0. One call has c = 1, Langevin on the posterior, so many low
levels remove the bias. A flow solved well has c = 1/2: it tends to the posterior under the *square root* of the prior, too
broad, and more levels do not help. The paper solves a flow; the default here is one call.

Source: Zhang et al. 2024 (2407.01521), algorithm 1.
Checked by: tests/inverse/test_daps.py
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from undrift.core import Covariance, Random
from undrift.errors import GridError, PotentialError
from undrift.gaussian.solvers import DDIM
from undrift.gaussian.solvers.plan import Plan, ends, tabulate
from undrift.grids import Grid, karras
from undrift.guidance.potentials import Potential
from undrift.guidance.proximal import slope, try_slope
from undrift.laws import Normal
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["DAPS", "Closed", "Langevin"]


@runtime_checkable
class Inner(Protocol):
    """How the law proportional to N(mean, r^2 I) exp r is drawn from."""

    def rate_at(self, spread: Tensor) -> Tensor:
        """Step size at every level of a grid, from the spreads r, shape (n,): shape (n,)."""
        ...

    def check(self, potential: Potential, x: Tensor) -> None:
        """Raise `PotentialError` unless it can draw under this potential."""
        ...

    def draw(self, potential: Potential, mean: Tensor, spread: float, rate: float, rng: Random) -> Tensor:
        """One draw per row, shape (B, *E)."""
        ...


@dataclass(frozen=True)
class Closed:
    """Exact draws, for potentials that are closed; no gradient, one linear solve a step."""

    def rate_at(self, spread: Tensor) -> Tensor:
        """No steps, no size."""
        return torch.zeros_like(spread)

    def check(self, potential: Potential, x: Tensor) -> None:
        """Refuse what is not closed, and a measurement with NaN."""
        if not potential.closed:
            raise PotentialError(
                f"a {type(potential).__name__} has no closed posterior under a Gaussian; draw from it with "
                "DAPS(..., inner=Langevin(steps, rate))"
            )
        value = potential.lift(_white(torch.zeros_like(x), 1.0))
        if bool(torch.isnan(value).any()):
            raise PotentialError(
                "the potential is NaN; look for NaN in the measurement, and leave those numbers out of the operator"
            )

    def draw(self, potential: Potential, mean: Tensor, spread: float, rate: float, rng: Random) -> Tensor:
        """Absorb, then sample."""
        return potential.absorb(_white(mean, spread)).sample(rng)


@dataclass(frozen=True)
class Langevin:
    """Unadjusted Langevin from the mean; biased by its step, stable while eta (1 / r^2 + L) < 2, L the reward's curvature.

    Attributes:
        steps: N, gradients of the reward a level.
        rate: eta at the grid's first level, squared codec units.
        floor: share of it that is left at the last level; linear in the level's index between.

    Raises:
        PotentialError: fewer than one step, a rate that is not positive, a floor outside (0, 1].

    Source: Zhang et al. 2024, eq. 8; the authors' decay of the step.
    Checked by: tests/inverse/test_daps.py::test_langevin_is_its_own_recursion
    """

    steps: int
    rate: float
    floor: float = 0.01

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.rate > 0 or not 0 < self.floor <= 1:
            raise PotentialError(
                f"Langevin needs steps >= 1, rate > 0 and a floor in (0, 1], got {self.steps}, {self.rate:g} and "
                f"{self.floor:g}; start with a tenth of the noise variance of the measurement as the rate"
            )

    def rate_at(self, spread: Tensor) -> Tensor:
        """Linear from the rate to its floor.

        Raises:
            PotentialError: somewhere eta >= 2 r^2, where the steps diverge under the Gaussian alone.
        """
        falling = torch.linspace(1.0, self.floor, len(spread) + 1, dtype=spread.dtype)[:-1]
        rates = self.rate * falling
        wild = (rates >= 2 * spread.square()).nonzero()
        if len(wild):
            i = int(wild[0])
            raise PotentialError(
                f"Langevin's step of {float(rates[i]):.3g} at level {i} diverges: it must stay below 2 r^2 = "
                f"{float(2 * spread[i] ** 2):.3g}; lower the rate or its floor, or end the ladder of the grid at more noise"
            )
        return rates

    def check(self, potential: Potential, x: Tensor) -> None:
        """Refuse rewards without a gradient."""
        try_slope(potential, x)

    def draw(self, potential: Potential, mean: Tensor, spread: float, rate: float, rng: Random) -> Tensor:
        """N steps."""
        x, pull, noise = mean, rate / spread**2, math.sqrt(2 * rate)
        for _ in range(self.steps):
            z = rng.normal(x.shape, dtype=x.dtype, device=x.device)
            x = torch.lerp(x, mean, pull).add_(slope(potential, x), alpha=rate).add_(z, alpha=noise)
        return x


@dataclass(frozen=True)
class DAPS:
    """Decoupled annealing.

    Attributes:
        potential: what is wanted.
        inner: how each clean event is drawn, `Closed()` or `Langevin(steps, rate)`.
        data_std: s of the spread; infinity is the paper's r = sigma / alpha, and needs a grid that starts where alpha > 0.
        ode_calls: calls of the denoiser a level, DDIM steps from x_t to the data; 1 is the posterior mean.

    Raises:
        PotentialError: a spread that is not positive, fewer than one call.

    Checked by: tests/inverse/test_daps.py::test_it_is_exact_on_white_data,
        tests/inverse/test_daps.py::test_a_low_level_is_a_langevin_step,
        tests/inverse/test_daps.py::test_its_bias_on_a_gaussian_is_known,
        tests/inverse/test_daps.py::test_bad_input_is_refused_before_the_first_call
    """

    potential: Potential
    inner: Inner
    data_std: float = math.inf
    ode_calls: int = 1

    def __post_init__(self) -> None:
        if self.ode_calls < 1 or not self.data_std > 0:
            raise PotentialError(
                f"DAPS needs ode_calls >= 1 and data_std > 0, got {self.ode_calls} and {self.data_std:g}; one call answers "
                "with the posterior mean, and data_std = math.inf is the paper's spread"
            )

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    @property
    def order(self) -> int:
        """1 with one call a level; 0 with a flow, whose bias more steps do not remove.

        Checked by: tests/inverse/test_daps.py::test_its_bias_on_a_gaussian_is_known
        """
        return 1 if self.ode_calls == 1 else 0

    def calls(self, grid: Grid) -> int:
        """`ode_calls` a step."""
        return self.ode_calls * grid.steps

    def plan(self, path: Any, grid: Grid) -> "Levels":
        """(r, eta, alpha_s, sigma_s) of every level, and a short flow from each.

        Raises:
            FamilyError: another family's path.
            GridError: a grid that rises; alpha = 0 at its start with an infinite data_std.
            PotentialError: Langevin's steps diverge.

        Checked by: tests/inverse/test_daps.py::test_bad_input_is_refused_before_the_first_call
        """
        check_family(self, path)
        t, s = ends(grid)
        if grid.times[0] < grid.times[-1]:
            raise GridError("DAPS runs from noise to data; give a grid whose times fall")
        schedule = path.schedule
        variance = schedule.sigma(t).square()
        spread = (variance / (schedule.alpha(t).square() + variance / self.data_std**2)).sqrt()
        if not bool(torch.isfinite(spread).all()):
            raise GridError(
                f"the spread sigma / alpha is infinite at t = {grid.times[0]:g}, where alpha = 0; start the grid just below, "
                "or give data_std, with which the spread is finite"
            )
        columns = (spread, self.inner.rate_at(spread), schedule.alpha(s), schedule.sigma(s))
        flows = [karras(schedule, self.ode_calls, float(start)) for start in t] if self.ode_calls > 1 else []
        return Levels(tabulate(self, path, grid, columns), tuple(DDIM().plan(path, flow) for flow in flows))

    def init(self, x: Tensor) -> None:
        """No state; refuses what cannot steer.

        Raises:
            PotentialError: a potential that the inner draw cannot use, or that is NaN.
        """
        self.inner.check(self.potential, x)

    def step(self, denoiser: Denoiser, plan: "Levels", i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """Guess, correct, noise again; the law is the denoiser's own at x_t."""
        spread, rate, alpha, sigma = plan.outer.rows[i]
        law = denoiser(x, plan.outer.times[i])
        mean = law.mean
        if plan.flows:
            a, b, _ = plan.flows[i].rows[0]
            mean = torch.add(x * a, mean, alpha=b)
            for k in range(1, self.ode_calls):
                mean, _, _ = DDIM().step(denoiser, plan.flows[i], k, mean, None, rng)
        clean = self.inner.draw(self.potential, mean, spread, rate, rng)
        x = clean * alpha
        if sigma > 0:
            x = torch.add(x, rng.normal(x.shape, dtype=x.dtype, device=x.device), alpha=sigma)
        return x, None, law


@dataclass(frozen=True)
class Levels:
    """What DAPS knows before the loop.

    Attributes:
        outer: (r, eta, alpha_s, sigma_s) of every level.
        flows: DDIM's plan from every level to the data; empty where one call is enough.
    """

    outer: Plan
    flows: tuple[Plan, ...]


def _white(mean: Tensor, std: float) -> Normal:
    return Normal(mean, Covariance.isotropic(mean.new_full((1,), std**2), mean[0].numel()))
