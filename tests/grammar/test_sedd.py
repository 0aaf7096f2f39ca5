"""SEDD (Lou et al. 2024, 2310.16834): a network of ratios p_t(y) / p_t(x) is a denoiser, by an exact change of head."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch

from oracles import F64, draws, time
from undrift import discrete
from undrift.laws import Empirical
from undrift.schedules import CosineSurvival

STATES = discrete.enumerate_events(3, 2)
BIASED = discrete.Path(CosineSurvival(), torch.tensor([0.5, 0.2, 0.3], dtype=F64))


@dataclass(frozen=True)
class SEDD:
    """A ratio network made a denoiser."""

    path: discrete.Path
    net: Any

    def __call__(self, x_t, t):
        return discrete.RatioHead(self.path).clean(self.net(x_t, t), x_t, t)


def perfect(path, p_0):
    """The network that score entropy would find: ratios of the marginal over all states, by enumeration, for x_t = STATES."""

    def net(x_t, t):
        forward = path.corrupt(STATES, torch.zeros_like(t), t).probs
        p_t = p_0 @ (forward[:, 0][:, STATES[:, 0]] * forward[:, 1][:, STATES[:, 1]])
        first = p_t[torch.arange(3)[None] * 3 + x_t[:, 1:]]
        second = p_t[x_t[:, :1] * 3 + torch.arange(3)[None]]
        return torch.stack([first, second], 1) / p_t[3 * x_t[:, 0] + x_t[:, 1]][:, None, None]

    return net


@pytest.mark.parametrize("path", [discrete.uniform(3), discrete.masked(2), BIASED])
@pytest.mark.parametrize("t", [0.2, 0.7])
def test_ratios_are_marginal_ratios_and_give_the_clean_law_back(path, t):
    """At every state; the step back is then the exact law's own. 1e-12: a ratio divides by keep and by probabilities > 1e-3."""
    p_0, t, s = torch.softmax(draws((9,), 1), 0), time(t), time(t / 2)
    absorbing = path.landing[2] == 1
    p_0 = torch.where(STATES.eq(2).any(1) & absorbing, 0.0, p_0)
    p_0, net = p_0 / p_0.sum(), perfect(path, p_0 / p_0.sum())
    exact, ratios = discrete.Factorised(discrete.Exact(path, Empirical.of(STATES, p_0))), net(STATES, t)
    law, truth = SEDD(path, net)(STATES, t), exact(STATES, t)
    torch.testing.assert_close(law.probs, truth.probs, atol=1e-12, rtol=0)
    readable = STATES.eq(2) | ~absorbing  # on a masked path only a masked site could have been any symbol
    got = discrete.RatioHead(path).ratios(truth, STATES, t)
    torch.testing.assert_close(got[readable], ratios[readable], atol=0, rtol=1e-12)
    back = [path.reverse(STATES, clean, t, s).probs for clean in (law, truth)]
    torch.testing.assert_close(back[0], back[1], atol=1e-12, rtol=0)
    many = discrete.RatioHead(path).clean(ratios, STATES, t.expand(9))  # one time per sample
    torch.testing.assert_close(many.probs, truth.probs, atol=1e-12, rtol=0)
