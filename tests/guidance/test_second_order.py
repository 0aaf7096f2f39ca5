"""Certifies `guidance.second_order`: every covariance against that of the exact posterior, and what each costs. float64."""

from typing import Any, ClassVar

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, MeanOnly, draws, mixture, normal, spd, time
from undrift import gaussian
from undrift.bridge import Path as BridgePath
from undrift.bridge import Pinned
from undrift.core import CG, Covariance
from undrift.errors import LawError, ScheduleError
from undrift.guidance import COVARIANCES, Likelihood, isotropic, jacobian, second_order, twist
from undrift.laws import Implicit, Normal, Point
from undrift.operators import Matrix
from undrift.schedules import BrownianBridge

D, B = 4, 3
EVENT = (2, 2)
CLOCKS = ("vp", "edm", "linear_flow", "custom", "bridge")
TIMES = {"one": time(0.4), "each": time([0.1, 0.5, 0.8])}
every_clock = pytest.mark.parametrize("clock", CLOCKS)
every_time = pytest.mark.parametrize("when", TIMES)


def shaped(law: Any) -> Any:
    """A Gaussian law over (2, 2) events."""
    return Normal(law.mean.reshape(1, *EVENT), law.cov)


GAUSSIAN = shaped(normal(draws((D,), 0), spd(D, 1)))
FLAT_GAUSSIAN = normal(draws((D,), 0), spd(D, 1))
MIXTURE = mixture(D, k=3, seed=2)
DATA = {"gaussian": GAUSSIAN, "mixture": MIXTURE}


def model(clock: str, data: Any) -> Any:
    """The exact denoiser of a law on a clock; the bridge is pinned to one known end."""
    if clock == "bridge":
        return Pinned(BridgePath(BrownianBridge(0.8), Point(draws((1, *data.mean.shape[1:]), 5))), data)
    return gaussian.Exact(gaussian.Path(SCHEDULES[clock]), data)


def states(data: Any) -> torch.Tensor:
    return draws((B, *data.mean.shape[1:]), 6)


def close(got, want):
    """Scaled by the largest entry: second derivatives of a posterior lose a few digits, EDM's states are of order 80."""
    torch.testing.assert_close(got, want.expand_as(got), rtol=1e-8, atol=1e-9 * float(want.abs().max()))


@every_clock
@every_time
@pytest.mark.parametrize("kind", DATA)
def test_covariances_are_those_of_the_exact_posterior(clock, when, kind):
    """full, diagonal and jacobian from the mean alone; exact from the law; row_sum its own formula, of the dense matrix."""
    data, t = DATA[kind], TIMES[when]
    exact, x = model(clock, data), states(DATA[kind])
    law = exact(x, t)
    c = law.covariance().expand(B, D, D)
    learned = MeanOnly(exact)
    for name in ("full", "diagonal", "row_sum", "zero", "jacobian"):
        close(second_order(learned, name)(x, t).mean, law.mean)
    close(second_order(learned, "full")(x, t).cov.dense(), c)
    close(second_order(exact, "exact")(x, t).cov.dense(), c)
    close(second_order(learned, "diagonal")(x, t).cov.variances(), c.diagonal(dim1=1, dim2=2))
    close(second_order(learned, "row_sum")(x, t).cov.variances(), c.sum(2).clamp_min(0))
    v = draws(x.shape, 7)
    got = second_order(learned, "jacobian")(x, t)
    assert isinstance(got, Implicit)
    close(got.product(v).flatten(1), torch.einsum("bij,bj->bi", c, v.flatten(1)))
    assert isinstance(second_order(learned, "zero")(x, t), Point)


@every_clock
@every_time
def test_isotropic_is_exact_for_isotropic_data(clock, when):
    data = Normal(draws((1, *EVENT), 0), Covariance.isotropic(time([0.6**2]), D))
    exact, x, t = model(clock, data), states(data), TIMES[when]
    got = second_order(MeanOnly(exact), isotropic(0.6))(x, t)
    close(got.cov.dense(), exact(x, t).covariance())
    close(got.mean, exact(x, t).mean)


def test_row_sums_below_zero_are_no_variance():
    """Correlation -.9 between a small and a large variance: the smaller one's row sums to a negative number."""
    data = normal(torch.zeros(2, dtype=F64), time([[1.0, -1.8], [-1.8, 4.0]]))
    exact, x, t = model("edm", data), draws((1, 2), 0), time(0.5)
    c = exact(x, t).covariance()[0]
    assert float(c.sum(1).min()) < 0
    got = second_order(MeanOnly(exact), "row_sum")(x, t).cov.variances()[0]
    assert float(got[0]) == 0
    torch.testing.assert_close(got[1], c.sum(1)[1], rtol=1e-9, atol=0)


@every_clock
@every_time
def test_the_spread_of_a_trace_is_exact_for_isotropic_data(clock, when):
    """One probe of signs finds the trace of a multiple of the identity exactly, and of any diagonal matrix."""
    t = TIMES[when]
    for cov in (Covariance.isotropic(time([0.6**2]), D), Covariance.diagonal(0.2 + draws((1, D), 9).square())):
        exact = model(clock, Normal(draws((1, *EVENT), 0), cov))
        x = states(GAUSSIAN)
        law = second_order(MeanOnly(exact), jacobian(spread=True))(x, t)
        assert law.spread.shape == (B,)
        close(law.spread, exact(x, t).covariance().diagonal(dim1=1, dim2=2).mean(1))
        assert not law.spread.requires_grad


class Pass(torch.autograd.Function):
    """The identity, whose backward is counted: one entry a vector-Jacobian pass."""

    passes: ClassVar[list[int]] = []

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        Pass.passes.append(1)
        return g


class Watched(MeanOnly):
    """A mean whose vector-Jacobian passes are counted."""

    def __call__(self, x_t, t):
        return Point(Pass.apply(self.inner(x_t, t).mean))


@pytest.fixture
def products(monkeypatch):
    """Vector-Jacobian products asked for: as many as rows of a batched request, else one."""
    asked, grad = [], torch.autograd.grad
    Pass.passes.clear()

    def spy(outputs, inputs, grad_outputs=None, **settings):
        asked.append(grad_outputs.shape[0] if settings.get("is_grads_batched") else 1)
        return grad(outputs, inputs, grad_outputs, **settings)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    return asked


@pytest.mark.parametrize(("cov", "cost"), [("zero", 0), ("row_sum", 1), ("diagonal", D), ("full", D), ("jacobian", 0)])
def test_the_law_costs_what_the_table_says(cov, cost, products):
    denoiser = Counted(Watched(model("vp", FLAT_GAUSSIAN)))
    second_order(denoiser, cov)(draws((B, D), 6), time(0.4))
    assert sum(products) == cost
    assert len(Pass.passes) == (cost > 0)  # all columns in one batch
    assert denoiser.calls == 1


@pytest.mark.parametrize("m", [1, 2, 3])
@pytest.mark.parametrize(("cov", "cost"), [("zero", 0), ("row_sum", 1), ("diagonal", D), ("full", D), ("jacobian", None)])
def test_a_twist_costs_one_product_more(cov, cost, m, products):
    """With `jacobian`, as many as iterations of conjugate gradients: m, for as many measurements."""
    denoiser = Counted(Watched(model("vp", FLAT_GAUSSIAN)))
    look = Likelihood(Matrix(draws((m, D), 8)), draws((1, m), 9), time([0.3]))
    spread = jacobian(CG(tolerance=0.0)) if cov == "jacobian" else cov
    twist(second_order(denoiser, spread), look)(draws((B, D), 6), time(0.4))
    assert sum(products) == (m if cost is None else cost) + 1
    assert denoiser.calls == 1


@pytest.mark.parametrize("cov", [*COVARIANCES, "isotropic"])
@pytest.mark.parametrize("tracked", [True, False])
@pytest.mark.parametrize("quiet", [True, False])
def test_a_gradient_flows_through_the_mean_alone_and_only_where_asked(cov, tracked, quiet):
    """Whether the state is tracked decides, and not the mode that gradients are in."""
    spread = isotropic(0.5) if cov == "isotropic" else cov
    exact = model("vp", MIXTURE)
    x = draws((B, D), 6).requires_grad_(tracked)
    with torch.set_grad_enabled(not quiet):
        law = second_order(exact, spread)(x, time(0.4))
    assert law.mean.requires_grad == tracked
    assert not x.requires_grad or x.grad is None
    if isinstance(law, Normal):
        assert not law.cov.values.requires_grad
        assert law.cov.basis is None or not law.cov.basis.requires_grad
    if isinstance(law, Implicit):
        assert not law.product(torch.ones(B, D, dtype=F64)).requires_grad
    if tracked:
        (got,) = torch.autograd.grad(law.mean.sum(), x)
        (want,) = torch.autograd.grad(exact(x, time(0.4)).mean.sum(), x)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cov", ["full", "diagonal", "row_sum", "jacobian"])
def test_rows_do_not_see_each_other(cov):
    exact, x, t = MeanOnly(model("vp", MIXTURE)), draws((B, D), 6), TIMES["each"]

    def action(law):
        v = torch.ones_like(law.mean)
        return law.product(v) if isinstance(law, Implicit) else law.cov.apply(lambda s: s, v)

    whole = action(second_order(exact, cov)(x, t))
    for i in range(B):
        torch.testing.assert_close(
            action(second_order(exact, cov)(x[i : i + 1], t[i : i + 1]))[0], whole[i], rtol=1e-10, atol=1e-12
        )


def test_covariances_without_a_name_or_a_source_are_refused():
    exact = model("vp", MIXTURE)
    with pytest.raises(LawError, match=r"no covariance is called 'pigdm'; there are zero, row_sum.*isotropic\(data_std\)"):
        second_order(exact, "pigdm")
    with pytest.raises(LawError, match=r"Point knows no covariance.*'jacobian'"):
        second_order(MeanOnly(exact), "exact")(draws((B, D), 6), time(0.4))


@pytest.mark.parametrize("cov", ["full", "diagonal", "row_sum"])
def test_pure_noise_has_no_covariance_to_tell(cov):
    with pytest.raises(ScheduleError, match="alpha = 0"):
        second_order(model("linear_flow", MIXTURE), cov)(draws((B, D), 6), time(1.0))
