"""Receipt 4: the split, its orbit and its threshold against the solver's own step, and the cures."""

import math

import pytest
import torch

from oracles import time
from undrift import gaussian, grids, receipts
from undrift.receipts.centre_split import TARGET, orbit, threshold
from undrift.receipts.three import Three


@pytest.fixture(scope="module")
def receipt():
    return receipts.centre_split(n=4000, map_n=400, map_steps=(100,))


def step(push: float, steps: int, i: int, x: torch.Tensor) -> torch.Tensor:
    """The mean of step i of the library's own solver under guidance delta eta = push."""
    three = Three()
    plan = gaussian.EulerMaruyama(1.0).plan(three.path, grids.uniform(None, steps))
    a, b, _ = plan.rows[i]
    denoiser = three.guided(TARGET, 1 + push * steps / three.horizon)
    return (a * x[:, None] + b * denoiser(x[:, None], plan.times[i]).mean)[:, 0]


def test_the_step_is_the_formulas():
    """One step is x (1 - delta / 2) - delta eta alpha m(x), m the posterior mean of the centres."""
    x, delta = time([-4.0, -1.0, 0.2, 2.0]), 8 / 50
    for i in (0, 25, 49):
        alpha = math.exp(-0.5 * delta * (50 - i))
        q = torch.softmax(-0.5 * (x[:, None] - alpha * time([-2.0, 0.0, 2.0])).square(), -1)
        wanted = x * (1 - delta / 2) - 3.0 * alpha * (q @ time([-2.0, 0.0, 2.0]))
        torch.testing.assert_close(step(3.0, 50, i, x), wanted, rtol=1e-9, atol=1e-9)


def test_the_orbit_is_one_of_the_step_itself():
    """The last step throws the orbit's point to the other side: f(x) = -x, where m(x) is mu up to exp(-alpha mu x)."""
    delta = 8 / 50
    for push in (4.0, 8.0):
        x = orbit(delta, push, 2.0, math.exp(-0.5 * delta))
        torch.testing.assert_close(step(push, 50, 49, time([x, -x])), time([-x, x]), rtol=0, atol=0.05 if push == 4 else 1e-3)
    assert orbit(delta, 4.0, 2.0, math.exp(-0.08)) == pytest.approx(3.85, abs=0.005)
    assert orbit(delta, 8.0, 2.0, math.exp(-0.08)) == pytest.approx(7.69, abs=0.005)


@pytest.mark.parametrize("steps", [25, 50, 200])
def test_the_threshold_is_where_the_slope_of_the_step_passes_minus_one(steps):
    """Slope at 0 by automatic differentiation, the steepest step of all: -1 at the threshold, above below it."""
    limit = threshold(8 / steps, 2.0, steps)
    for factor, wanted in ((1.0, -1.0), (0.9, None)):
        slopes = []
        for i in range(steps // 2, steps):
            x = torch.zeros(1, dtype=torch.float64, requires_grad=True)
            slopes.append(float(torch.autograd.grad(step(factor * limit, steps, i, x).sum(), x)[0]))
        assert min(slopes) == pytest.approx(wanted, abs=1e-9) if wanted else min(slopes) > -1
    assert 1.9 < limit < 2.2  # "about 2"


def test_the_printed_figures(receipt):
    """E|x| = .32, 3.95, 7.99 from samples; ours has a standard error of at most 0.016 (n = 4000), five of them are 0.08."""
    assert [s.heaps for s in receipt.coarse] == [1, 2, 2]
    for s, printed in zip(receipt.coarse, (0.32, 3.95, 7.99), strict=True):
        assert s.spread == pytest.approx(printed, abs=0.08)
    for s in receipt.coarse[1:]:  # the alpha of earlier steps is smaller: the heaps are 2 to 5 per cent off the formula
        assert s.spread == pytest.approx(s.orbit, rel=0.05)


def test_finer_steps_and_the_ode_leave_one_heap(receipt):
    assert {(s.sampler, s.steps) for s in receipt.cures} == {("SDE", 400), ("ODE", 50), ("ODE", 400)}
    assert all(s.heaps == 1 and s.spread < 0.2 for s in receipt.cures)
    assert {round(s.eta, 6) for s in receipt.cures} == {round(s.eta, 6) for s in receipt.coarse[1:]}  # the same strengths


def test_the_map_follows_the_formula(receipt):
    """One heap below the threshold and two above, for steps whose last noise hides no young orbit."""
    for s in receipt.phases:
        assert s.heaps == (1 if s.stable else 2)
    assert {s.heaps for s in receipt.phases} == {1, 2}


def test_it_is_drawn_and_tabulated(receipt, tmp_path):
    assert receipt.picture(tmp_path / "split.png").read_bytes().startswith(b"\x89PNG")
    rows = receipt.rows()
    assert rows[2][:4] == ("SDE", "50", "4", "25")
    assert all(len(row) == len(rows[0]) for row in rows)
