r"""Samplers that hold a linear problem, in the coordinates of its singular value decomposition; and DDRM.

With :math:`A = U\, \mathrm{diag}(s)\, V^\top` the measurement :math:`y = A x_0 + \epsilon n` says, one number a direction,

.. math:: \bar y = s^{-1} U^\top y = V^\top x_0 + \tau n', \qquad \tau_i = \epsilon / s_i ,

and nothing off the columns of V. DDRM, DDNM and DiffPIR all step by

.. math:: x_s = a x_t + b \hat x_0 + c z
          + V \big( p \odot V^\top x_t + q \odot V^\top \hat x_0 + r \odot V^\top z + u \odot \bar y \big)

and differ in the numbers alone (`SpectralSampler`); the part of y that no event explains is dropped. z is drawn in the space of
events, so that two operators with one row space and the same singular values give the same samples.

**DDRM.** Written for x / alpha, whose noise level is sigma / alpha; here multiplied by alpha_s, so alpha_t = 0 is no exception.
With :math:`\rho = \sqrt{1 - \eta^2}`, in direction i,

.. math:: x_s = \begin{cases}
   \alpha_s \hat x_0 + \rho \frac{\sigma_s}{\sigma_t} (x_t - \alpha_t \hat x_0) + \eta \sigma_s z & \text{unseen} \\
   \alpha_s \hat x_0 + \rho \frac{\sigma_s}{\tau_i} (\bar y_i - \hat x_0) + \eta \sigma_s z & \sigma_s < \alpha_s \tau_i \\
   \alpha_s \big( (1 - \eta_b) \hat x_0 + \eta_b \bar y_i \big)
   + \sqrt{\sigma_s^2 - \alpha_s^2 \eta_b^2 \tau_i^2}\, z & \text{else.}
   \end{cases}

*What it draws is not the posterior*, with the exact denoiser of a Gaussian:

* no noise: A x = y at the end. With eta > 0, where every step forgets the same share of its noise however short, the mean
  converges to the posterior's and the covariance to (1 + rho) / 2 of it (at level l, an unseen independent coordinate has
  (1 + rho) / (1 + rho + (1 - rho) v / (v + l^2)) of its variance v + l^2). With eta = 0 it is DDIM off the row space: right
  for independent coordinates, biased in mean and covariance for others;
* noise: a step below the level tau centres on the measurement again. With eta < 1 fine steps pile up on :math:`\bar y` itself
  with vanishing variance; with eta = 1 they forget it. What is near the posterior comes from steps that are few;
* a useless measurement (noise to infinity) gives the unguided sampler only for eta = 1: below it, the share rho of the noise is
  expected from y.

Source: Kawar et al. 2022 (2201.11793), eq. 7 and 8.
Checked by: tests/inverse/test_ddrm.py
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undrift.core import Random
from undrift.errors import GridError, PotentialError, ShapeError
from undrift.gaussian.path import Path
from undrift.gaussian.solvers.plan import ends, tabulate
from undrift.grids import Grid
from undrift.operators import Operator
from undrift.protocols import Denoiser
from undrift.simulate import check_family

__all__ = ["DDRM", "Coordinates", "Held", "SpectralSampler", "Table"]


class Coordinates(NamedTuple):
    """A problem along the right singular vectors: basis V (d, r), y (1 or B, r), noise tau (r,); float64, placed like A."""

    basis: Tensor
    y: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Held(ABC):
    """A linear problem as frozen settings of a sampler, and what every such sampler checks.

    Attributes:
        look: the operator A.
        y: measurements, shape (1, m), or (B, m) for one per sample; in the dtype and on the device of the state.
        noise: standard deviation of the measurements' noise, >= 0, units of y.

    Raises:
        ShapeError: y is neither (1, m) nor (B, m).
        PotentialError: NaN or infinity in y; noise negative or not finite.

    Checked by: tests/inverse/test_ddrm.py::test_bad_problems_are_refused_before_the_first_call
    """

    look: Operator
    y: Tensor
    noise: float = 0.0

    def __post_init__(self) -> None:
        m = self.look.measurements
        if self.y.ndim != 2 or self.y.shape[1] != m:
            raise ShapeError(
                f"this operator makes {m} measurements, so y has shape (1, {m}), or (B, {m}) for one per sample; got "
                f"{tuple(self.y.shape)}: flatten y, and give it a batch axis"
            )
        bad = ~torch.isfinite(self.y) if self.y.is_floating_point() else torch.ones_like(self.y, dtype=torch.bool)
        if bool(bad.any()):
            raise PotentialError(
                f"{int(bad.sum())} of {self.y.numel()} measured numbers are NaN, infinite or no floating-point numbers; leave "
                "them out of the operator (operators.Mask), or convert y with .double()"
            )
        if not 0 <= self.noise < math.inf:
            raise PotentialError(
                f"{type(self).__name__}'s noise is the standard deviation of the measurements, finite and >= 0, got "
                f"{self.noise}; without a measurement to trust, leave the sampler unguided (gaussian.DDIM)"
            )

    @property
    def family(self) -> str:
        """The wing it serves."""
        return "gaussian"

    def init(self, x: Tensor) -> None:
        """No state; the problem must fit the events.

        Raises:
            ShapeError: events of another shape than the operator's, or another number of measurements than samples.
        """
        if tuple(x.shape[1:]) != self.look.event:
            raise ShapeError(
                f"{type(self).__name__} holds a problem on events of shape {self.look.event}, and the state has events of "
                f"shape {tuple(x.shape[1:])}; build the operator for that event shape"
            )
        if self.y.shape[0] not in (1, x.shape[0]):
            raise ShapeError(
                f"{self.y.shape[0]} measurements for {x.shape[0]} samples; give one for all, shape (1, m), or one per sample"
            )

    def coordinates(self) -> Coordinates:
        """The problem along the right singular vectors.

        Raises:
            PotentialError: no noise, and a measurement that no event has (relative 1e-6); or an operator that is 0.
        """
        left, values, right = (part.double() for part in self.look.svd)
        if not len(values):
            raise PotentialError("the operator of this measurement is zero: it says nothing; sample without it")
        y = self.y.to(left)
        inside = y @ left
        if self.noise == 0 and bool(((y - inside @ left.mT).norm(dim=1) > 1e-6 * y.norm(dim=1)).any()):
            raise PotentialError(
                "no event has this measurement exactly: y is not in the range of the operator, whose rows depend on each "
                "other; state its noise (noise=), or drop the measurements that repeat others"
            )
        return Coordinates(right, inside / values, self.noise / values)

    def check_grid(self, path: Any, grid: Grid) -> None:
        """Raise `FamilyError` for another wing's path and `GridError` for a grid that rises."""
        check_family(self, path)
        if grid.times[0] < grid.times[-1]:
            raise GridError(f"{type(self).__name__} generates, from noise to data; give it a falling grid (grid.flipped())")


class Table(NamedTuple):
    """Numbers of all n steps: a, b, c everywhere, shape (n, 1), and p, q, r, u added in the row space, shape (n, rank)."""

    a: Tensor
    b: Tensor
    c: Tensor
    p: Tensor
    q: Tensor
    r: Tensor
    u: Tensor


@dataclass(frozen=True)
class Plan:
    """A grid's numbers, and the problem.

    Attributes:
        times: n + 1 float64 scalars on the CPU.
        rows: (a, b, c) of every step.
        within: (p, q, r, u) of every step, shape (4, 1, rank), placed like y.
        random: whether a step draws noise.
        basis: V, shape (d, rank), placed like y.
        y: in these coordinates, shape (1 or B, rank).
        start: (4, 1, rank) applied once to the first state, as (p, 0, 0, u); None to leave it.
    """

    times: tuple[Tensor, ...]
    rows: tuple[tuple[float, ...], ...]
    within: tuple[Tensor, ...]
    random: tuple[bool, ...]
    basis: Tensor
    y: Tensor
    start: Tensor | None


class SpectralSampler(Held):
    """A sampler whose step is the module's formula; it adds `coefficients`, and `start` if the first state is to know y."""

    @property
    def order(self) -> int:
        """1 for deterministic steps off the row space; 0 where a share of the noise is renewed however short the step."""
        return 1

    @abstractmethod
    def coefficients(self, path: Path, t: Tensor, s: Tensor, noise: Tensor) -> Table:
        """The numbers of all steps at once: t and s of shape (n, 1), noise tau of shape (rank,), float64."""

    def start(self, path: Path, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor] | None:
        """(p, u), shape (rank,), added within the row space to a first state drawn from the prior; None to leave it."""
        return None

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Any, grid: Grid) -> Plan:
        """Every number of the grid in float64, then placed like y; the decomposition is asked for here, once.

        Raises:
            FamilyError: another family's path.
            GridError: a rising grid.
            PotentialError: a noiseless measurement that no event has.
        """
        self.check_grid(path, grid)
        basis, y, noise = self.coordinates()
        noise = noise.cpu()
        t, s = (end[:, None] for end in ends(grid))
        table = self.coefficients(path, t, s, noise)
        outside = tabulate(self, path, grid, tuple(column[:, 0] for column in table[:3]))
        shape = (grid.steps, len(noise))
        within = torch.stack([part.expand(shape) for part in table[3:]], 1)[:, :, None]
        random = ((table.c + table.r).expand(shape) != 0).any(1) | (table.c[:, 0] != 0)
        first = self.start(path, t[0], noise) if grid.times[0] == 1 else None
        start = None if first is None else torch.stack([first[0], 0 * noise, 0 * noise, first[1]])[:, None].to(self.y)
        return Plan(
            outside.times, outside.rows, tuple(within.to(self.y)), tuple(random.tolist()), basis.to(self.y), y.to(self.y), start
        )

    def step(self, denoiser: Denoiser, plan: Plan, i: int, x: Tensor, state: None, rng: Random) -> tuple[Tensor, None, Any]:
        """One call, three products with V and one with its transpose; noise is drawn only where there is some."""
        a, b, c = plan.rows[i]
        basis, y = plan.basis.to(x), plan.y.to(x)
        if i == 0 and plan.start is not None:
            p, _, _, u = plan.start.to(x)
            x = x + ((p * (x.flatten(1) @ basis) + u * y) @ basis.mT).reshape(x.shape)
        law = denoiser(x, plan.times[i])
        p, q, r, u = plan.within[i].to(x)
        within = p * (x.flatten(1) @ basis) + q * (law.mean.flatten(1) @ basis) + u * y
        out = torch.add(x * a, law.mean, alpha=b)
        if plan.random[i]:
            z = rng.normal(x.shape, dtype=x.dtype, device=x.device)
            out.add_(z, alpha=c)
            within = within + r * (z.flatten(1) @ basis)
        return out.add_((within @ basis.mT).reshape(x.shape)), None, law


@dataclass(frozen=True)
class DDRM(SpectralSampler):
    r"""DDRM; see the module for its step, and for what it does not claim.

    The first state is the paper's where the grid starts at t = 1: in a seen direction
    :math:`\alpha \bar y + \sqrt{\sigma^2 - \alpha^2 \tau^2} z`, made from the prior's draw :math:`\sigma z`. A grid that starts
    later starts from the state as it is.

    Attributes:
        look: the operator A.
        y: measurements, shape (1, m) or (B, m).
        noise: standard deviation of their noise, >= 0.
        eta: share of the noise renewed in a step, in [0, 1].
        eta_b: weight of the measurement above its own noise level, in [0, 1].

    Raises:
        PotentialError: eta or eta_b outside [0, 1], and what `Held` raises.

    Source: Kawar et al. 2022 (2201.11793), eq. 7 and 8; their defaults.
    Checked by: tests/inverse/test_ddrm.py::test_aligned_coordinates_follow_the_papers_recursion,
    tests/inverse/test_ddrm.py::test_its_limits_on_an_unseen_coordinate
    """

    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (0 <= self.eta <= 1 and 0 <= self.eta_b <= 1):
            raise PotentialError(
                f"DDRM's eta and eta_b lie in [0, 1], got {self.eta} and {self.eta_b}; 0.85 and 1 are the usual"
            )

    @property
    def order(self) -> int:
        """1 if deterministic (DDIM off the row space); 0 otherwise: the variance does not converge to the data's."""
        return int(self.eta == 0)

    def coefficients(self, path: Path, t: Tensor, s: Tensor, noise: Tensor) -> Table:
        """Eq. 8, times alpha_s."""
        schedule, rho = path.schedule, math.sqrt(1 - self.eta**2)
        alpha_s, sigma_s, ratio = schedule.alpha(s), schedule.sigma(s), schedule.sigma(s) / schedule.sigma(t)
        a, c = rho * ratio, self.eta * sigma_s
        b = alpha_s - a * schedule.alpha(t)
        below = sigma_s < alpha_s * noise
        pull = torch.where(below, rho * sigma_s / noise.clamp_min(1e-300), alpha_s * self.eta_b)
        fresh = (sigma_s.square() - (alpha_s * self.eta_b * noise).square()).clamp_min(0).sqrt()  # read only where not below
        return Table(a, b, c, -a, alpha_s - pull - b, torch.where(below, c, fresh) - c, pull)

    def start(self, path: Path, t: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 7 for a state that is sigma z; directions noisier than the prior are left alone."""
        alpha, sigma = path.schedule.alpha(t), path.schedule.sigma(t)
        left = 1 - (alpha * noise / sigma).square()
        return torch.where(left >= 0, left.clamp_min(0).sqrt() - 1, 0.0), torch.where(left >= 0, alpha, 0.0)
