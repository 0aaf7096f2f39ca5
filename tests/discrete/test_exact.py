"""Exact discrete denoisers on every state of a small alphabet: no sampling, no error but rounding."""

import pytest
import torch
from scipy.linalg import expm
from scipy.stats import chi2

from oracles import F64, draws, slopes, time
from undrift import Ancestral, discrete, grids, sample, trajectory
from undrift.core import Shared
from undrift.errors import LawError
from undrift.laws import Empirical
from undrift.schedules import CosineSurvival, ExponentialSurvival

STATES = discrete.enumerate_events(3, 2)


def problem(path):
    """A joint law over two sites with strong dependence, without the mask where there is one."""
    p_0 = torch.softmax(2 * draws((9,), 1), 0)
    p_0 = torch.where(STATES.eq(2).any(1) & (path.landing[2] == 1), 0.0, p_0)
    p_0 = p_0 / p_0.sum()
    return p_0, discrete.Exact(path, Empirical.of(STATES[p_0 > 0], p_0[p_0 > 0]))


def marginal(path, p_0, t):
    """The law of X_t over the nine states."""
    if t == 0:
        return p_0
    forward = path.corrupt(STATES, time(0.0), time(t)).probs
    return p_0 @ (forward[:, 0][:, STATES[:, 0]] * forward[:, 1][:, STATES[:, 1]])


def propagate(model, grid, p):
    """The law over the nine states, pushed through every step back; states of no mass are not asked about."""
    for t, s in grid.pairs():
        live = p > 0
        x_t = STATES[live].repeat_interleave(9, 0)
        law = model.path.reverse(x_t, model(x_t, time(t)), time(t), time(s))
        p = p[live] @ law.log_prob(STATES.repeat(int(live.sum()), 1)).exp().reshape(-1, 9)
    return p


PATHS = [discrete.uniform(3), discrete.masked(2), discrete.uniform(3, CosineSurvival())]


@pytest.mark.parametrize("path", [discrete.uniform(3, ExponentialSurvival(2.0)), discrete.masked(2, ExponentialSurvival(2.0))])
def test_posterior_is_bayes_under_the_joint_chain(path):
    """The generator of both sites together, Q (x) I + I (x) Q, exponentiated as one 9 x 9 matrix."""
    p_0, model = problem(path)
    q, eye, t = path.rates(time(0.5)), torch.eye(3, dtype=F64), time([0.2, 0.7, 1.0])
    joint = torch.kron(q, eye) + torch.kron(eye, q)  # constant in time for exponential survival
    for i, state in enumerate(STATES):
        law = None
        for j in range(3):
            likelihood = torch.from_numpy(expm(float(t[j]) * joint.numpy()))[i].clamp_min(0)
            want = (p_0 * likelihood)[p_0 > 0]
            if float(want.sum()) < 1e-14:
                continue
            law = model(state.expand(3, 2), t) if law is None else law
            torch.testing.assert_close(law.log_weights[j].exp(), want / want.sum(), atol=1e-12, rtol=0)
    sites = discrete.Factorised(model)(STATES[p_0 > 0], time(0.5)).probs
    joint_law = model(STATES[p_0 > 0], time(0.5))
    for k in range(3):
        want = torch.stack([joint_law.log_weights.exp() @ (joint_law.atoms[:, i] == k).double() for i in (0, 1)], 1)
        torch.testing.assert_close(sites[..., k], want, atol=1e-14, rtol=0)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("steps", [1, 2, 5, 200])
def test_the_joint_law_keeps_marginals_at_any_step_count(path, steps):
    p_0, model = problem(path)
    for end in (0.3, 0.0):
        p = propagate(model, grids.uniform(None, steps, 1.0, end), marginal(path, p_0, 1.0))
        torch.testing.assert_close(p, marginal(path, p_0, end), atol=1e-12, rtol=0)  # 200 steps of rounding


@pytest.mark.parametrize("path", PATHS)
def test_a_factorised_law_has_global_order_one(path):
    """It loses dependence O(dt^2) a step: measured order 1 within 0.1 at 64 to 128 steps, and one step is badly off."""
    p_0, model = problem(path)
    errors = [
        float((propagate(discrete.Factorised(model), grids.uniform(None, n), marginal(path, p_0, 1.0)) - p_0).abs().sum())
        for n in (64, 128)
    ]
    assert slopes(errors) == pytest.approx([1], abs=0.1)
    once = propagate(discrete.Factorised(model), grids.uniform(None, 1), marginal(path, p_0, 1.0))
    product = torch.stack([sum(p_0[STATES[:, i] == k].sum() * (STATES[:, i] == k) for k in range(3)) for i in (0, 1)])
    torch.testing.assert_close(once, product.prod(0), atol=1e-14, rtol=0)  # from pure noise: independent sites, exactly


def test_unmasked_symbols_never_change_on_the_way():
    path = discrete.masked(2)
    model, last = problem(path)[1], torch.full((500, 2), 2)
    for step in trajectory(discrete.Factorised(model), Ancestral(), grids.uniform(None, 20), last, rng=Shared(0)):
        shown = last != 2
        assert torch.equal(step.x[shown], last[shown])
        last = step.x
    assert not bool((last == 2).any())


@pytest.mark.parametrize("path", PATHS)
def test_drawn_samples_follow_the_data(path):
    """20000 draws in 3 steps against p_0; false alarm 1e-6 (chi-square on states of mass > 0, seed fixed)."""
    p_0, model = problem(path)
    x = sample(model, Ancestral(), grids.uniform(None, 3), (20000, 2), seed=0, rng=lambda: Shared(1))
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9).double()
    live = p_0 > 0
    assert float(counts[~live].sum()) == 0
    expected = 20000 * p_0[live]
    assert float(((counts[live] - expected).square() / expected).sum()) < chi2.isf(1e-6, int(live.sum()) - 1)


def test_a_state_that_no_event_explains_is_refused():
    path = discrete.masked(2)
    model = discrete.Exact(path, Empirical.of(torch.tensor([[0, 1], [1, 1]])))
    with pytest.raises(LawError, match="no event of the data"):
        model(torch.tensor([[2, 1], [2, 0]]), time(0.5))
