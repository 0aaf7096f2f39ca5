"""Tau-leaping (Campbell et al. 2022, 2205.14987): all sites jump at the rates frozen at the start of the step."""

from dataclasses import dataclass

import pytest
import torch
from scipy.stats import chi2

from oracles import draws, slopes, time
from undrift import discrete, grids, sample
from undrift.core import Shared
from undrift.laws import Categorical, Empirical
from undrift.schedules import ExponentialSurvival
from undrift.simulate import OneCall

STATES = discrete.enumerate_events(3, 2)


@dataclass(frozen=True)
class TauLeaping(OneCall):
    """A jump x -> y happens at rate p_t(y) / p_t(x) Q(y -> x); a site jumps at most once a step."""

    family: str = "discrete"
    order: int = 1

    def leap(self, denoiser, x, t, s):
        law, here = denoiser(x, t), torch.nn.functional.one_hot(x, denoiser.path.symbols)
        rates = discrete.RatioHead(denoiser.path).ratios(law, x, t) * denoiser.path.rates(t)[x] * (1 - here)
        total = rates.sum(-1, keepdim=True)
        jumped = torch.where(total > 0, rates / total, 0.0) * -torch.expm1(-total * (t - s))
        return Categorical.from_probabilities(jumped + torch.exp(-total * (t - s)) * here), law

    def step(self, denoiser, plan, i, x, state, rng):
        ahead, law = self.leap(denoiser, x, *plan[i])
        return ahead.sample(rng), None, law


def propagate(model, grid, p):
    for t, s in grid.pairs():
        ahead, _ = TauLeaping().leap(model, STATES.repeat_interleave(9, 0), time(t), time(s))
        p = p @ ahead.log_prob(STATES.repeat(9, 1)).exp().reshape(9, 9)
    return p


def test_it_converges_to_the_data_at_first_order():
    """All nine states by enumeration: order 1 within 0.1; 20000 draws of `step` agree (chi-square, false alarm 1e-6)."""
    path, p_0 = discrete.uniform(3, ExponentialSurvival(3.0)), torch.softmax(2 * draws((9,), 1), 0)
    model = discrete.Factorised(discrete.Exact(path, Empirical.of(STATES, p_0)))
    one = path.corrupt(STATES, time(0.0), time(1.0)).probs
    p_1 = p_0 @ (one[:, 0][:, STATES[:, 0]] * one[:, 1][:, STATES[:, 1]])
    errors = [float((propagate(model, grids.uniform(None, n), p_1) - p_0).abs().sum()) for n in (128, 256)]
    assert slopes(errors) == pytest.approx([1], abs=0.1)
    prior = Empirical.of(STATES, p_1).expand(20000)
    x = sample(model, TauLeaping(), grids.uniform(None, 8), (20000, 2), seed=0, prior=prior, rng=lambda: Shared(1))
    want = 20000 * propagate(model, grids.uniform(None, 8), p_1)
    counts = torch.bincount(3 * x[:, 0] + x[:, 1], minlength=9)
    assert float(((counts - want).square() / want).sum()) < chi2.isf(1e-6, 8)
