"""CFG++ as it is exported; tests/grammar/test_cfgpp.py says why it is a sampler."""

import math

import pytest
import torch

from oracles import Counted, draws, mixture, normal, run, time
from undrift import gaussian, grids, guidance, schedules
from undrift.errors import FamilyError, GridError
from undrift.protocols import Sampler
from undrift.schedules import Trigonometric

PATH, MEAN, EYE = gaussian.Path(Trigonometric()), draws((2,), 0), torch.eye(2, dtype=torch.float64)
FREE, COND = (gaussian.Exact(PATH, normal(m, EYE)) for m in (0 * MEAN, MEAN))
X, GRID = draws((4, 2), 1), grids.uniform(None, 7)
PER_SAMPLE = torch.tensor([0.0, 0.6, 1.0, 2.5], dtype=torch.float64)


@pytest.mark.parametrize("scale", [0.0, 0.6, 1.0, 2.5, PER_SAMPLE])
def test_it_shifts_the_unconditional_flow_by_a_known_amount(scale):
    """N(0, I) against N(m, I): each step turns the state by cos(step angle) and adds scale alpha_s sigma_t^2 m."""
    want, w = X, torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1)
    for t, s in GRID.pairs():
        angle_t, angle_s = math.pi / 2 * t, math.pi / 2 * s
        want = math.cos(angle_t - angle_s) * want + w * math.cos(angle_s) * math.sin(angle_t) ** 2 * MEAN
    torch.testing.assert_close(run(COND, guidance.CFGPP(FREE, scale), GRID, X), want, atol=1e-13, rtol=0)


@pytest.mark.parametrize("clock", [schedules.VP(), schedules.LinearFlow(), schedules.EDM()])
def test_a_step_is_a_ddim_step_under_a_stronger_scale(clock):
    """DDIM with w alpha_s / (alpha_s - sigma_s alpha_t / sigma_t), step by step, on laws that are not Gaussian."""
    path, scale = gaussian.Path(clock), 0.4
    free, cond = (gaussian.Exact(path, mixture(2, seed=seed)) for seed in (0, 1))
    to = {time(t).item(): time(s) for t, s in GRID.pairs()}

    def stronger(t):
        s = to[t.item()]
        return scale * clock.alpha(s) / (clock.alpha(s) - clock.sigma(s) * clock.alpha(t) / clock.sigma(t))

    start = float(clock.sigma(time(1.0))) * X
    want = run(guidance.autoguidance(cond, free, stronger), gaussian.DDIM(), GRID, start)
    torch.testing.assert_close(run(cond, guidance.CFGPP(free, scale), GRID, start), want, rtol=1e-9, atol=1e-9)


def test_its_limits_are_ddim():
    torch.testing.assert_close(
        run(COND, guidance.CFGPP(FREE, 0.0), GRID, X), run(FREE, gaussian.DDIM(), GRID, X), atol=1e-13, rtol=0
    )
    torch.testing.assert_close(
        run(COND, guidance.CFGPP(COND, 3.0), GRID, X), run(COND, gaussian.DDIM(), GRID, X), atol=1e-13, rtol=0
    )


def test_finer_steps_guide_more():
    """The shift grows like the number of steps: there is no limit to converge to, as the module says."""

    def shift(steps):
        grid = grids.uniform(None, steps)
        return float((run(COND, guidance.CFGPP(FREE, 0.5), grid, X) - run(FREE, gaussian.DDIM(), grid, X)).norm())

    assert shift(200) / shift(100) == pytest.approx(2, rel=0.03)  # 2 up to O(1 / steps)


def test_calls_are_counted_and_promised():
    for scale, free_calls, cond_calls in (
        (0.0, 7, 0),
        (0.6, 7, 7),
        (guidance.Interval(0.6, 0.5, 1.0), 7, 7),  # outside an interval the scale is 1, and both models are asked
        (lambda t: 0.6 if float(t) > 0.5 else 0.0, 7, 4),
    ):
        free, cond = Counted(FREE), Counted(COND)
        sampler = guidance.CFGPP(free, scale)
        run(cond, sampler, GRID, X)
        assert (free.calls, cond.calls) == (free_calls, cond_calls)
        assert sampler.calls(GRID) == free_calls + cond_calls
    assert isinstance(guidance.CFGPP(FREE, 0.6), Sampler)


def test_what_cannot_be_run_is_refused():
    other = gaussian.Exact(gaussian.Path(schedules.VP()), normal(MEAN, EYE))
    with pytest.raises(FamilyError, match=r"free.on\(path\)"):
        run(other, guidance.CFGPP(FREE, 0.6), GRID, X)
    with pytest.raises(GridError, match="encodes from a time with some noise"):
        run(COND, guidance.CFGPP(FREE, 0.6), GRID.flipped(), X)
