r"""The log likelihood of a denoiser, exactly: the change of variables along the probability flow.

With y, theta and n as in `undrift.gaussian.flow`, and :math:`\theta_\epsilon` the angle of the early stop,

.. math:: \log p_\epsilon(x_0) = \log p_1(x_1) + d \log n_1 + d \log \cos\theta_\epsilon
          + \int_{\theta_\epsilon}^{\theta_1} \Big( d \cot\theta
          - \frac{n}{\sin\theta}\, \mathrm{tr}\frac{\partial \hat x_0}{\partial x} \Big)\, d\theta, \qquad
          y_\epsilon = x_0 \cos\theta_\epsilon .

The two logarithms are the Jacobians of x_1 = n_1 y and of y = x_0 cos(theta). Angles are those of the noise level sigma / alpha
alone, so the schedule's name plays no part.

**The end sigma = 0.** The slope there is 0/0, and data on a lattice or a subspace have no density at all. What is computed is
the density of X_0 + r z at x_0, with r = `sigma_min` and z standard normal: it exists for all data, and differs from that of
X_0 by O(r^2) where X_0 has a smooth one.

**The end t = 1.** The model is what starts from the path's prior, and this is that model's density. Where alpha > 0 at t = 1
(VP, VE, EDM) it is not quite that of the denoiser's own law; give `prior`, the law of X_1, for the latter.

The trace is exact with d vector-Jacobian products a call, or Hutchinson's estimate: the mean of :math:`v^\top J v` over random
signs v, drawn once and kept along the whole flow. The flow does not depend on them, so the estimate is unbiased and its
standard error is that of a mean over independent probes.

Sources: Song et al. 2021 (2011.13456), eq. 39; Grathwohl et al. 2019 (1810.01367), section 3.1; Hutchinson 1989.
Checked by: tests/gaussian/test_likelihood.py
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undrift.core import Deterministic, Random
from undrift.errors import DataError, GridError, LawError, NonFiniteError
from undrift.gaussian.flow import FOLLOW, divergence, flow_grid
from undrift.gaussian.path import Path
from undrift.grids import Grid, of_times
from undrift.laws import Density, Point
from undrift.simulate import trajectory
from undrift.typing import PerSample, State, Time

__all__ = ["Bits", "Likelihood", "bits_per_dim", "dequantised", "log_likelihood"]

TOGETHER = 32
"""Vector-Jacobian products taken at once, where a network allows it."""


@dataclass(frozen=True)
class Likelihood:
    """Log likelihoods, with what is known of their errors.

    Attributes:
        value: shape (B,), float64, nats per event.
        discretisation: its distance from the value with half as many steps, shape (B,), nats. Cautious: where the steps are
            fine enough for the method's order to show, the error of `value` is about a fifteenth of it.
        standard_error: of Hutchinson's estimate, shape (B,), nats: 0 for the exact trace, NaN for a single probe.
        calls: calls of the denoiser, for a whole batch each.
        products: vector-Jacobian products, likewise.
    """

    value: Tensor
    discretisation: Tensor
    standard_error: Tensor
    calls: int
    products: int

    @staticmethod
    def joined(parts: Sequence["Likelihood"]) -> "Likelihood":
        """One after the other, calls added up."""
        rows = (torch.cat([getattr(part, name) for part in parts]) for name in ("value", "discretisation", "standard_error"))
        return Likelihood(*rows, calls=sum(part.calls for part in parts), products=sum(part.products for part in parts))

    def shifted(self, nats: float) -> "Likelihood":
        """The log likelihood in other units: plus the log Jacobian of what takes those units to these."""
        return replace(self, value=self.value + nats)

    def bits(self, dims: int, levels: float = 1.0) -> "Bits":
        """The same in bits per dimension; see `bits_per_dim`."""
        unit = 1 / (dims * math.log(2))
        return Bits(bits_per_dim(self.value, dims, levels), self.discretisation * unit, self.standard_error * unit)


@dataclass(frozen=True)
class Bits:
    """Bits per dimension, with what is known of their errors.

    Attributes:
        value: shape (B,).
        discretisation: as in `Likelihood`, shape (B,), bits per dimension.
        standard_error: as in `Likelihood`, shape (B,), bits per dimension.
    """

    value: Tensor
    discretisation: Tensor
    standard_error: Tensor


@torch.no_grad()
def log_likelihood(
    denoiser: Any,
    x_0: State,
    *,
    steps: int = 48,
    probes: int | None = None,
    rng: Random | None = None,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    prior: Density | None = None,
) -> Likelihood:
    """Log density of data under the probability flow of a denoiser.

    Args:
        denoiser: on a Gaussian path; its mean is used, and must be differentiable in the state.
        x_0: data, shape (B, *E), codec units.
        steps: steps of the Runge-Kutta method, even; four calls each, and two more for the error estimate.
        probes: of Hutchinson's estimate; None for the exact trace, with d products a call.
        rng: draws the probes, shape (B, probes, *E).
        sigma_min: noise level of the early stop, codec units: the density is that of X_0 + sigma_min z.
        sigma_max: noise level above which steps get longer; see `flow_grid`.
        prior: law of X_1; the path's prior by default.

    Returns:
        Nats per event, with error estimates. A sample does not depend on its batch neighbours.

    Raises:
        GridError: an odd number of steps, or noise levels that the path does not have.
        LawError: no rng for the probes, or the denoiser's answer carries no gradient.
        NonFiniteError: the result is NaN or infinite.

    Source: Song et al. 2021, eq. 39. Checked by: tests/gaussian/test_likelihood.py::test_mixtures_have_their_exact_density
    """
    if steps < 2 or steps % 2:
        raise GridError(f"the error estimate halves the steps, so give an even number of at least 2, got steps = {steps}")
    if probes is not None and (probes < 1 or rng is None):
        raise LawError(f"Hutchinson's estimate needs probes >= 1 and an rng to draw them, got probes = {probes}, rng = {rng}")
    signs = None if probes is None or rng is None else _signs(x_0, probes, rng)
    fine = flow_grid(denoiser.path, steps, sigma_min, sigma_max).flipped()
    traced = _Traced(denoiser, signs)
    each, rough = (_along(traced, grid, x_0, prior) for grid in (fine, of_times(fine.times[::2])))
    value = each.mean(0)
    if not bool(torch.isfinite(value).all()):
        bad = (~torch.isfinite(value)).nonzero()
        raise NonFiniteError(
            f"the log likelihood of {len(bad)} of {len(value)} samples is NaN or infinite (first: sample {int(bad[0])}); if "
            "the network was trained, look for a time outside its training range, or give a larger sigma_min"
        )
    error = torch.zeros_like(value) if probes is None else each.std(0) / math.sqrt(probes) if probes > 1 else value * math.nan
    return Likelihood(value, (value - rough.mean(0)).abs(), error, traced.calls, traced.products)


def _along(traced: "_Traced", grid: Grid, x_0: Tensor, prior: Density | None) -> Tensor:
    """One log likelihood for each probe (or one for the exact trace), shape (K, B), float64."""
    path, d = traced.path, x_0[0].numel()
    ends = torch.tensor([grid.times[0], grid.times[-1]], dtype=torch.float64)
    alpha, sigma = path.schedule.alpha(ends), path.schedule.sigma(ends)
    norm = torch.hypot(alpha, sigma)
    scale = math.log(float(norm[1])) + math.log(float(alpha[0] / norm[0]))
    x, total = float(alpha[0]) * x_0, torch.zeros(traced.rows, len(x_0), dtype=torch.float64, device=x_0.device)
    loop = trajectory(traced, FOLLOW, grid, x, rng=Deterministic())
    next(loop)
    for step, (constant, first, middle, last) in zip(loop, divergence(path, grid), strict=True):
        one, two, three, four = traced.taken()
        total += d * constant + first * one + middle * (two + three) + last * four
        x = step.x
    start = (prior or path.prior(x)).log_prob(x).double()
    return start + d * scale + total


class _Traced:
    """A denoiser that notes the trace of its Jacobian at every call."""

    def __init__(self, denoiser: Any, signs: Tensor | None):
        self.denoiser, self.signs, self.together = denoiser, signs, True
        self.rows = 1 if signs is None else len(signs)
        self.calls = self.products = 0
        self._traces: list[Tensor] = []

    @property
    def path(self) -> Path:
        """The path of the denoiser."""
        return self.denoiser.path

    def __call__(self, x_t: State, t: Time) -> Point:
        """The mean, detached."""
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            mean = self.denoiser(x, t).mean
        if not mean.requires_grad:
            raise LawError(
                f"{type(self.denoiser).__name__} answers without a gradient, and a likelihood needs its Jacobian: do not "
                "detach its answer, nor compute it under torch.no_grad or inference mode"
            )
        self.calls += 1
        self._traces.append(self._trace(mean, x))
        return Point(mean.detach())

    def taken(self) -> list[Tensor]:
        """The traces since the last time, each of shape (K, B), float64."""
        traces, self._traces = self._traces, []
        return traces

    def _trace(self, mean: Tensor, x: Tensor) -> Tensor:
        """v^T J v of every probe, or their sum over the unit vectors, shape (K or 1, B), float64."""
        count = x[0].numel() if self.signs is None else self.rows
        parts = []
        for i in range(0, count, TOGETHER):
            some = range(i, min(i + TOGETHER, count))
            vectors = _units(x, some) if self.signs is None else self.signs[some.start : some.stop]
            keep = some.stop < count
            parts.append((self._products(mean, x, vectors, keep) * vectors).flatten(2).sum(2, dtype=torch.float64))
        self.products += count
        each = torch.cat(parts)
        return each.sum(0, keepdim=True) if self.signs is None else each

    def _products(self, mean: Tensor, x: Tensor, vectors: Tensor, keep: bool) -> Tensor:
        """v^T J for every v, shape (V, B, *E): at once where every operation of the network can be batched, else one by one."""
        if self.together and len(vectors) > 1:
            try:
                return torch.autograd.grad(mean, x, vectors, retain_graph=True, is_grads_batched=True)[0]
            except RuntimeError:  # an operation without a batching rule, or memory; the loop raises what is more than that
                self.together = False
        last = len(vectors) - 1
        rows = [torch.autograd.grad(mean, x, v, retain_graph=keep or i < last)[0] for i, v in enumerate(vectors)]
        return torch.stack(rows)


def _units(x: Tensor, which: range) -> Tensor:
    """Unit vectors of some coordinates, for every sample, shape (V, B, *E)."""
    unit = torch.zeros(len(which), x[0].numel(), dtype=x.dtype, device=x.device)
    unit[torch.arange(len(which)), torch.arange(which.start, which.stop)] = 1
    return unit[:, None].expand(-1, len(x), -1).reshape(len(which), *x.shape)


def _signs(x: Tensor, probes: int, rng: Random) -> Tensor:
    """Random signs, shape (K, B, *E): a sample's are its own."""
    numbers = rng.uniform((len(x), probes, *x.shape[1:]), dtype=torch.float32, device=x.device)
    return torch.where(numbers < 0.5, -1.0, 1.0).to(x.dtype).transpose(0, 1)


def bits_per_dim(log_likelihood: PerSample, dims: int, levels: float = 1.0) -> PerSample:
    r"""Bits that a dimension takes to write down, from the log density of dequantised data.

    .. math:: b = \frac{-\log p}{d \log 2} + \log_2 L

    With u uniform over the cell of a level, Jensen's inequality gives :math:`E \log p(v + u) \le \log P(v)`, where P(v) is the
    mass that p puts on the cell. So the mean over u is an **upper bound** of the bits of the lossless code that P defines, and
    compares with the bits of any other model.

    Args:
        log_likelihood: of dequantised data (see `dequantised`), shape (B,), nats per event.
        dims: d, numbers per event.
        levels: L, levels that lie within one unit of the numbers that the density is of: 1 for the whole numbers 0 to 255
            themselves, 256 for v / 256, 127.5 for v / 127.5 - 1.

    Returns:
        Shape (B,). A density that is constant over the cells of n levels has log2 n; one level, known for certain and blurred
        by Gaussian noise of the cell's own variance 1/12, has log2(2 pi e / 12) / 2 = .2546.

    Raises:
        DataError: dims < 1, or no levels.

    Source: Theis et al. 2016 (1511.01844), section 3.1.
    Checked by: tests/gaussian/test_likelihood.py::test_bits_of_uniform_levels,
        tests/gaussian/test_likelihood.py::test_dequantised_bits_are_an_upper_bound
    """
    if dims < 1 or not levels > 0:
        raise DataError(f"bits per dimension need dims >= 1 and levels > 0, got dims = {dims} and levels = {levels:g}")
    return -log_likelihood / (dims * math.log(2)) + math.log2(levels)


def dequantised(x_0: State, levels: float, rng: Random) -> State:
    """Quantised data with uniform noise over the cell of each level, shape (B, *E); `levels` lie within one unit, as above.

    The cells are centred at the levels, because that is where the model has seen data without noise.
    """
    return x_0 + (rng.uniform(x_0.shape, dtype=x_0.dtype, device=x_0.device) - 0.5) / levels
