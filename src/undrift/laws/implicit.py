r"""A Gaussian whose covariance is known by its products alone.

A network's second-order law is one: :math:`C v = (\sigma^2 / \alpha)\, J^\top v` costs one vector-Jacobian product and C is
never written out. Systems with :math:`S = A C A^\top + R` are solved by conjugate gradients. C is held: no gradient flows
through it, and none through the solves but the one that the closed form has.

Checked by: tests/laws/test_implicit.py
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from undrift.core import Covariance, Look, Random
from undrift.core.krylov import System
from undrift.core.seen import white_log_prob
from undrift.errors import LawError
from undrift.laws.normal import Normal
from undrift.laws.point import Numbers, Point
from undrift.laws.protocols import Density
from undrift.typing import State


@dataclass(frozen=True)
class Implicit(Numbers):
    """A Gaussian to lift under. A step back takes it for a point at its mean, or for an isotropic Gaussian.

    Attributes:
        mean: shape (B, *E).
        product: C v, shape (B, *E) -> (B, *E).
        solver: how systems with it are solved.
        spread: variance of every coordinate that a step back takes it to have, shape (B,); None is 0.
    """

    mean: State
    product: Callable[[Tensor], Tensor]
    solver: System
    spread: Tensor | None = None

    def sample(self, rng: Random) -> Tensor:
        """No draw: a square root of C is not known.

        Raises:
            LawError: always.
        """
        raise LawError(
            "a covariance known by products alone has no square root to draw with; use a covariance with a spectrum "
            "(second_order with isotropic, diagonal, row_sum or full)"
        )

    def through(self, kernel: Any) -> Density:
        """The kernel at the mean, or averaged over the spread around it."""
        return self.stepping.through(kernel)

    def rows(self, which: slice | Tensor) -> Point | Normal:
        """Some rows, as a step back takes them: the products stay with their batch."""
        return self.stepping.rows(which)

    @property
    def stepping(self) -> Point | Normal:
        """What a step back takes it for."""
        if self.spread is None:
            return Point(self.mean)
        return Normal(self.mean, Covariance.isotropic(self.spread, self.mean[0].numel()))

    def moved(self, shift: Tensor) -> "Implicit":
        """The same law, elsewhere."""
        return replace(self, mean=self.mean + shift)

    def evidence(self, look: Look, y: Tensor, variance: Tensor) -> Tensor:
        r"""Log N(y; A m, S) without the ratio det R / det S, shape (B,), nats.

        S is held, so its determinant moves no gradient, and it would cost m products. At t = 0, where C = 0 and S = R, nothing
        is missing, and weights made from this stay unbiased.
        """
        residual = y - look.forward(self.mean)
        quadratic = _Quadratic.apply(residual, lambda r: self._solve(look, r, variance))
        scale = variance.to(residual).expand(residual.shape[-1]).sqrt()
        if scale.device.type == "cpu" and bool((scale == 0).any()):
            return quadratic
        return quadratic + white_log_prob(torch.zeros_like(residual)) - scale.log().sum()

    def observe(self, look: Look, y: Tensor, variance: Tensor) -> "Implicit":
        """Law of X given y = A X + noise: a product with its covariance is one with C and a solve; its spread is kept.

        Kept, for a proposal must be as broad as the law it is weighed against.
        """

        def move(residual: Tensor) -> Tensor:
            return self.product(look.adjoint(self._solve(look, residual, variance)))

        def back(direction: Tensor) -> Tensor:  # the transpose of `move`: C and S are symmetric
            return self._solve(look, look.forward(self.product(direction)), variance)

        def left(v: Tensor) -> Tensor:
            seen = self.product(v)
            return seen - move(look.forward(seen))

        return Implicit(self.mean + _Held.apply(y - look.forward(self.mean), move, back), left, self.solver, self.spread)

    def log_mgf(self, direction: Tensor) -> Tensor:
        """Log E exp(direction . X) = g.m + g.C g / 2, shape (B,)."""
        g = direction.expand_as(self.mean)
        return (g * (self.mean + 0.5 * self.product(g))).flatten(1).sum(1)

    def tilt(self, direction: Tensor) -> "Implicit":
        """Proportional to p(x) exp(direction . x): the mean moves by C g."""
        return replace(self, mean=self.mean + self.product(direction.expand_as(self.mean)))

    def _solve(self, look: Look, residual: Tensor, variance: Tensor) -> Tensor:
        noise = variance.to(residual)
        return self.solver.system(lambda v: look.forward(self.product(look.adjoint(v))), noise, residual)


class _Quadratic(torch.autograd.Function):
    """-r.S^{-1} r / 2 for a held symmetric S given by its solves: value and gradient share one solve."""

    @staticmethod
    def forward(ctx, r, solve):  # pyright: ignore[reportIncompatibleMethodOverride]
        solved = solve(r.detach())
        ctx.save_for_backward(r, solved)
        ctx.solve = solve
        return -0.5 * (r * solved).sum(-1)

    @staticmethod
    def backward(ctx, weight):  # pyright: ignore[reportIncompatibleMethodOverride]
        r, solved = ctx.saved_tensors
        if torch.is_grad_enabled():  # someone differentiates the gradient: then the solve must be seen
            solved = _Held.apply(r, ctx.solve, ctx.solve)
        return -weight[..., None] * solved, None


class _Held(torch.autograd.Function):
    """A fixed linear map given with its transpose, so that gradients need not flow through how it is computed."""

    @staticmethod
    def forward(ctx, x, move, back):  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx.move, ctx.back = move, back
        return move(x.detach())

    @staticmethod
    def backward(ctx, direction):  # pyright: ignore[reportIncompatibleMethodOverride]
        return _Held.apply(direction, ctx.back, ctx.move), None, None
