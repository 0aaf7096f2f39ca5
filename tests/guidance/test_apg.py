"""Projected guidance: the identities of its parts, and its memory against the paper's loop written out."""

import pytest
import torch

from oracles import Counted, draws, mixture, normal, run, time
from undrift import discrete, gaussian, grids, guidance, schedules
from undrift.errors import FamilyError, GridError, LawError
from undrift.guidance.apg import split
from undrift.protocols import Sampler

PATH, X, T = gaussian.Path(schedules.VP()), 2 * draws((4, 3), 2), time(0.5)
GOOD, BAD = (gaussian.Exact(PATH, mixture(3, seed=seed)) for seed in (0, 1))
SCALES = [0.0, 3.0, torch.tensor([0.5, 2.0, 4.0, 8.0])]


def test_a_split_is_orthogonal_and_complete():
    update, direction = draws((5, 2, 3), 0), draws((5, 2, 3), 1)
    direction[0] = 0  # nothing lies along 0
    along, across = split(update, direction)
    torch.testing.assert_close(along + across, update, rtol=0, atol=1e-15)
    torch.testing.assert_close((across * direction).flatten(1).sum(1), torch.zeros(5, dtype=torch.float64), rtol=0, atol=1e-14)
    cosine = torch.cosine_similarity(along[1:].flatten(1), direction[1:].flatten(1)).abs()
    torch.testing.assert_close(cosine, torch.ones(4, dtype=torch.float64))
    assert float(along[0].abs().max()) == 0


@pytest.mark.parametrize("scale", SCALES)
def test_without_shaping_it_is_guidance(scale):
    plain = guidance.autoguidance(GOOD, BAD, scale)
    got = guidance.Projected(plain, along=1.0)(X, T).mean
    torch.testing.assert_close(got, plain(X, T).mean, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("along", [0.0, 0.3])
def test_each_part_is_what_the_paper_says(scale, along):
    """The update along the wanted mean is eta (w - 1) times the contrast's own, across it (w - 1) times; cut at radius r."""
    toward, away = GOOD(X, T).mean, BAD(X, T).mean
    radius = float((toward - away).norm(dim=1).median()) * 1.01  # so that some rows are cut and some are not
    got = guidance.Projected(guidance.autoguidance(GOOD, BAD, scale), along, radius)(X, T).mean - toward
    unit = toward / toward.norm(dim=1, keepdim=True)
    length = (toward - away).norm(dim=1, keepdim=True)
    assert 0 < int((length > radius).sum()) < 4
    short = (toward - away) / length * length.clamp_max(radius)
    push = torch.as_tensor(scale, dtype=torch.float64).reshape(-1, 1) - 1
    want_along = along * push * (short * unit).sum(1, keepdim=True)
    torch.testing.assert_close((got * unit).sum(1, keepdim=True), want_along.expand(4, 1), rtol=1e-11, atol=1e-12)
    across = got - (got * unit).sum(1, keepdim=True) * unit
    torch.testing.assert_close(across, push * (short - (short * unit).sum(1, keepdim=True) * unit), rtol=1e-11, atol=1e-12)


def test_scale_one_costs_one_call():
    bad = Counted(BAD)
    law = guidance.Projected(guidance.autoguidance(GOOD, bad, 1.0))(X, T)
    torch.testing.assert_close(law.mean, GOOD(X, T).mean, rtol=0, atol=0)
    assert bad.calls == 0


GRID = grids.uniform(None, 6, 1.0, 0.0)


@pytest.mark.parametrize("solver", [gaussian.DDIM(), gaussian.DPMSolverPP()])
def test_no_momentum_is_the_sampler_inside(solver):
    guide = guidance.Projected(guidance.autoguidance(GOOD, BAD, 2.0), 0.2, 1.5)
    assert isinstance(guidance.Momentum(solver, 0.0), Sampler)
    got = run(guide, guidance.Momentum(solver, 0.0), GRID, X)
    torch.testing.assert_close(got, run(guide, solver, GRID, X), rtol=1e-14, atol=1e-14)


def test_momentum_is_the_papers_running_sum():
    """Algorithm 1 written out beside DDIM: running = update + beta running, then radius, then projection."""
    scale, along, radius, beta = 4.0, 0.25, 1.0, -0.5
    guide = guidance.Projected(guidance.autoguidance(GOOD, BAD, scale), along, radius)
    got = run(guide, guidance.Momentum(gaussian.DDIM(), beta), GRID, X)
    x, running, q = X, torch.zeros_like(X), PATH.schedule
    for t, s in GRID.pairs():
        t, s = time(t), time(s)
        good, bad = GOOD(x, t).mean, BAD(x, t).mean
        running = good - bad + beta * running
        update = running * (radius / running.norm(dim=1, keepdim=True)).clamp(max=1)
        unit = good / good.norm(dim=1, keepdim=True)
        part = (update * unit).sum(1, keepdim=True) * unit
        clean = good + (scale - 1) * (update - part + along * part)
        x = q.alpha(s) * clean + q.sigma(s) / q.sigma(t) * (x - q.alpha(t) * clean)
    torch.testing.assert_close(got, x, rtol=1e-12, atol=1e-12)


def test_fine_steps_forget_all_but_a_weaker_scale():
    """With ever finer steps the memory tends to (w - 1) / (1 - beta): the difference halves as the steps double."""
    beta, law = -0.5, normal(torch.ones(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64))
    free = normal(torch.zeros(3, dtype=torch.float64), 2 * torch.eye(3, dtype=torch.float64))
    good, bad = gaussian.Exact(PATH, law), gaussian.Exact(PATH, free)
    errors = []
    for steps in (100, 200):
        grid = grids.uniform(None, steps, 0.9, 0.1)
        remembered = run(
            guidance.Projected(guidance.autoguidance(good, bad, 3.0), 1.0), guidance.Momentum(gaussian.DDIM(), beta), grid, X
        )
        errors.append(float((remembered - run(guidance.autoguidance(good, bad, 1 + 2 / 1.5), gaussian.DDIM(), grid, X)).norm()))
    assert 1.8 < errors[0] / errors[1] < 2.2


def test_outside_an_interval_the_memory_stays_as_it_was():
    interval = guidance.Interval(3.0, 0.3, 0.6)
    guide = guidance.Projected(guidance.autoguidance(GOOD, BAD, interval), 1.0)
    kept = draws((4, 3), 9)
    law, memory = guide.recall(X, time(0.8), kept, -0.5)
    torch.testing.assert_close(law.mean, GOOD(X, time(0.8)).mean, rtol=0, atol=0)
    assert memory is kept


def test_what_cannot_remember_is_refused():
    guide = guidance.Projected(guidance.autoguidance(GOOD, BAD, 2.0))
    with pytest.raises(GridError, match="one question a step"):
        run(guide, guidance.Momentum(gaussian.Heun(), -0.5), GRID, X)
    with pytest.raises(FamilyError, match=r"guidance\.Projected"):
        run(GOOD, guidance.Momentum(gaussian.DDIM(), -0.5), GRID, X)
    with pytest.raises(LawError, match=r"\(-1, 1\)"):
        guidance.Momentum(gaussian.DDIM(), 1.0)
    with pytest.raises(LawError, match="radius"):
        guidance.Projected(guidance.autoguidance(GOOD, BAD, 2.0), radius=0.0)
    symbols = type("Symbols", (), {"path": discrete.path.masked(3), "__call__": lambda self, x, t: x})()
    with pytest.raises(FamilyError, match="plain cfg for symbols"):
        guidance.Projected(guidance.autoguidance(symbols, symbols, 2.0))
