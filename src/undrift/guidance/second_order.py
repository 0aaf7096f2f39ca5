r"""Second-order laws: a denoiser that answers with a mean, given a covariance as well.

.. math:: \mathrm{Cov}[X_0 \mid x_t] = \frac{\sigma_t^2}{\alpha_t}\, \frac{\partial E[X_0 \mid x_t]}{\partial x_t}

(Tweedie, second order.) A Gaussian likelihood lifted under the answer is, by the covariance alone,

==================  =============================================  ==========================================
`cov`               C                                              method
==================  =============================================  ==========================================
zero                0                                              DPS as a likelihood, Chung et al. 2022
isotropic(s)        s^2 sigma^2 / (alpha^2 s^2 + sigma^2) I        PiGDM, Song et al. 2023
row_sum             diagonal of (sigma^2/alpha) J 1                TMPD's trick at the event; one product
jacobian(RowSum())  (sigma^2/alpha) J, A C A^T by its row sums     TMPD, Boys et al. 2023
diagonal            diagonal of (sigma^2/alpha) J                  d products
jacobian            (sigma^2/alpha) J by products                  MMPS, Rozet et al. 2024
full                (sigma^2/alpha) J written out                  the same, with its determinant; d products
exact               the law's own covariance                       for closed-form denoisers
==================  =============================================  ==========================================

A *product* is one vector-Jacobian product of the denoiser, about the cost of one more call. The covariance is held: the
gradient of a lifted potential flows through the mean.

Checked by: tests/guidance/test_second_order.py
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from undrift.core import Arnoldi, Covariance
from undrift.core.krylov import System
from undrift.errors import LawError
from undrift.laws import Implicit, Normal, Point
from undrift.typing import State, Time

__all__ = ["COVARIANCES", "SecondOrder", "isotropic", "jacobian", "second_order", "tracked"]


@dataclass(frozen=True)
class Asked:
    """A denoiser's answer, with the graph that made it.

    Attributes:
        path: the denoiser's path.
        law: its answer.
        mean: its mean, attached to x.
        x: state, a node of the graph.
        t: time.
    """

    path: Any
    law: Any
    mean: Tensor
    x: Tensor
    t: Time

    def product(self, v: Tensor) -> Tensor:
        """C v = (sigma^2 / alpha) J^T v, shape (B, *E): one vector-Jacobian product, held."""
        (pulled,) = torch.autograd.grad(self.mean, self.x, v, retain_graph=True)
        return self._spread(pulled)

    def columns(self) -> Tensor:
        """C e_i for every coordinate, shape (B, d, d): d products in one batch.

        Raises:
            LawError: the denoiser's backward pass cannot be batched.
        """
        d = self.mean[0].numel()
        eye = torch.eye(d, dtype=self.mean.dtype, device=self.mean.device).reshape(d, 1, *self.mean.shape[1:])
        try:
            (pulled,) = torch.autograd.grad(
                self.mean, self.x, eye.expand(d, *self.mean.shape), retain_graph=True, is_grads_batched=True
            )
        except RuntimeError as error:
            raise LawError(
                f"the columns of this denoiser's Jacobian cannot be had in one batch ({error}); take 'jacobian' or 'row_sum', "
                "whose products come one at a time"
            ) from error
        return torch.stack([self._spread(row) for row in pulled], 1).flatten(2)

    def _spread(self, v: Tensor) -> Tensor:
        return self.path.tilt(Point(torch.zeros_like(v)), v.detach(), self.t).mean


Spread = Callable[[Asked, Tensor], Any]
"""(what was asked, mean to answer with) -> the second-order law."""


def isotropic(data_std: float) -> Spread:
    """The covariance of data of standard deviation `data_std` in every direction: the choice of PiGDM."""

    def spread(asked: Asked, mean: Tensor) -> Normal:
        one = Normal(torch.zeros_like(mean), Covariance.isotropic(mean.new_full((1,), data_std**2), mean[0].numel()))
        q = asked.path.schedule
        signal, noise = (q.a, q.gamma) if asked.path.family == "bridge" else (q.alpha, q.sigma)
        return Normal(mean, one.posterior(mean, signal(asked.t), noise(asked.t).square()).cov)

    return spread


def zero(asked: Asked, mean: Tensor) -> Point:
    """No covariance."""
    return Point(mean)


def row_sum(asked: Asked, mean: Tensor) -> Normal:
    """Row sums of C on the diagonal; a negative one is no variance and counts as 0. One product."""
    return Normal(mean, _diagonal(asked.product(torch.ones_like(mean)).flatten(1)))


def diagonal(asked: Asked, mean: Tensor) -> Normal:
    """The diagonal of C; a negative entry counts as 0. As many products as coordinates, in one batch."""
    return Normal(mean, _diagonal(asked.columns().diagonal(dim1=1, dim2=2)))


def full(asked: Asked, mean: Tensor) -> Normal:
    """C written out, its symmetric part, negative eigenvalues as 0. As many products as coordinates, in one batch."""
    c = asked.columns()
    values, basis = torch.linalg.eigh(0.5 * (c + c.mT))
    return Normal(mean, Covariance(values.clamp_min(0), torch.zeros_like(values[:, :1]), basis, c.shape[-1]))


def exact(asked: Asked, mean: Tensor) -> Normal:
    """The covariance of the law itself.

    Raises:
        LawError: the law does not know its covariance.
    """
    covariance = getattr(asked.law, "covariance", None)
    if covariance is None:
        raise LawError(
            f"a {type(asked.law).__name__} knows no covariance of its own; take it from the Jacobian of its mean "
            "(second_order(denoiser, 'jacobian'))"
        )
    return Normal(mean, Covariance.full(covariance().detach().expand(mean.shape[0], -1, -1)))


def jacobian(solver: System | None = None, *, spread: bool = False) -> Spread:
    """C by products; linear systems by Krylov methods.

    Args:
        solver: `Arnoldi(...)` by default, 32 iterations at most to a relative 1e-6: it bears the asymmetry of a network's
            Jacobian. `CG(...)` is for true covariances, `RowSum()` is TMPD.
        spread: whether a step back takes the law for an isotropic Gaussian of variance tr C / d in place of a point: one
            product more, by one fixed probe of signs (Hutchinson 1990), a negative estimate as 0. It gives back most of the
            covariance that a mean alone loses in a large step, which particles notice.
    """
    settings = solver or Arnoldi()

    def answer(asked: Asked, mean: Tensor) -> Implicit:
        if not spread:
            return Implicit(mean, asked.product, settings)
        signs = torch.randint(0, 2, mean.shape[1:], generator=torch.Generator().manual_seed(0))
        probe = (2 * signs - 1).to(mean).expand_as(mean)
        trace = (probe * asked.product(probe)).flatten(1).mean(1)
        return Implicit(mean, asked.product, settings, trace.clamp_min(0))

    return answer


COVARIANCES: dict[str, Spread] = {
    "zero": zero,
    "row_sum": row_sum,
    "diagonal": diagonal,
    "jacobian": jacobian(),
    "full": full,
    "exact": exact,
}
"""Covariances by name; `isotropic(data_std)` and `jacobian(solver)` take settings and are given as they are."""


@dataclass(frozen=True)
class SecondOrder:
    """A denoiser with a covariance; see `second_order`.

    Attributes:
        denoiser: any denoiser of numbers.
        cov: how its covariance is had.
    """

    denoiser: Any
    cov: Spread

    @property
    def path(self) -> Any:
        """The path of the denoiser."""
        return self.denoiser.path

    def __call__(self, x_t: State, t: Time) -> Any:
        """Its mean, with the covariance: a `Point`, `Normal` or `Implicit`."""
        with torch.enable_grad():
            x = tracked(x_t)
            law = self.denoiser(x, t)
            asked = Asked(self.path, law, law.mean, x, t)
        return self.cov(asked, asked.mean if x_t.requires_grad else asked.mean.detach())


def second_order(denoiser: Any, cov: str | Spread) -> SecondOrder:
    """Give a denoiser a covariance to lift potentials under.

    Args:
        denoiser: any denoiser of numbers.
        cov: a key of `COVARIANCES`, or `isotropic(data_std)`, `jacobian(Arnoldi(...))`.

    Returns:
        A denoiser that answers with a second-order law.

    Raises:
        LawError: no covariance of that name.

    Source: Tweedie 2nd order (Efron 2011); Rozet et al. 2024, eq. 11 (2405.13712).
    Checked by: tests/guidance/test_second_order.py::test_covariances_are_those_of_the_exact_posterior
    """
    if isinstance(cov, str) and cov not in COVARIANCES:
        raise LawError(f"no covariance is called {cov!r}; there are {', '.join(COVARIANCES)}, and isotropic(data_std)")
    return SecondOrder(denoiser, COVARIANCES[cov] if isinstance(cov, str) else cov)


def tracked(x_t: Tensor) -> Tensor:
    """The state as a node that a gradient can be taken at: itself if a caller tracks it, else a leaf of its own."""
    return x_t if x_t.requires_grad else x_t.detach().requires_grad_()


def _diagonal(variances: Tensor) -> Covariance:
    values = variances.clamp_min(0)
    return Covariance(values, torch.zeros_like(values[:, :1]), None, values.shape[-1])
