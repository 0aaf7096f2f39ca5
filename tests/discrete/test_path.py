"""The discrete path against the matrix exponential of its generator and Bayes' rule by enumeration."""

from itertools import product

import numpy as np
import pytest
import torch
from scipy.linalg import expm

from oracles import F64, draws, time
from undrift import discrete
from undrift.errors import LawError, ShapeError, TimeError
from undrift.laws import Categorical, Empirical
from undrift.schedules import CosineSurvival, ExponentialSurvival, LinearSurvival

SCHEDULES = [LinearSurvival(), CosineSurvival(), ExponentialSurvival(2.0)]
BIASED = torch.tensor([0.5, 0.2, 0.3], dtype=F64)


def paths(schedule):
    """Three symbols each: uniform, two and a mask, and a landing law without symmetry."""
    return [discrete.uniform(3, schedule), discrete.masked(2, schedule), discrete.Path(schedule, BIASED)]


PATHS = [path for schedule in SCHEDULES for path in paths(schedule)]
ALL = torch.arange(3)[:, None]


def matrix(path, s, t):
    """The exponential of the integrated generator, row = to, column = from (Q_t commutes, so no ordering is lost)."""
    nodes, weights = np.polynomial.legendre.leggauss(60)
    area = sum(
        0.5 * (t - s) * w * path.rates(time(s + 0.5 * (t - s) * (1 + u))).numpy() for u, w in zip(nodes, weights, strict=True)
    )
    return torch.from_numpy(expm(area))


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("s", "t"), [(0.0, 0.5), (0.3, 0.8)])
def test_corrupt_is_the_matrix_exponential(path, s, t):
    """60 Gauss nodes integrate 1/(1-t) on [0, .8] to rounding; expm is good to 1e-14."""
    got = path.corrupt(ALL, time(s), time(t)).probs[:, 0].mT
    torch.testing.assert_close(got, matrix(path, s, t), atol=1e-12, rtol=0)


@pytest.mark.parametrize("path", PATHS)
def test_rates_are_a_generator(path):
    rates = path.rates(time(0.4))
    torch.testing.assert_close(rates.sum(0), torch.zeros(3, dtype=F64), atol=1e-14, rtol=0)
    assert bool((rates - torch.diag(rates.diag()) >= 0).all())


@pytest.mark.parametrize("path", PATHS)
def test_corrupt_composes(path):
    s, t, u = time([0.0, 0.2, 0.3]), time([0.3, 0.5, 0.9]), time([0.7, 0.8, 1.0])
    for x in range(3):
        start = torch.full((3, 1), x)
        first = path.corrupt(start, s, t).probs[:, 0]
        then = torch.stack([path.corrupt(torch.full((3, 1), y), t, u).probs[:, 0] for y in range(3)], 1)
        torch.testing.assert_close(torch.einsum("by,byz->bz", first, then), path.corrupt(start, s, u).probs[:, 0])


def bayes(path, s, t):
    """q(x_s = j | x_t, x_0 = k) from the three transition matrices, indexed [x_t, k, j]; 0 where x_0 = k is impossible."""
    late, early, whole = matrix(path, s, t), matrix(path, 0.0, s), matrix(path, 0.0, t)
    joint = late[:, None, :] * early.mT[None]
    return torch.where(whole[..., None] > 1e-13, joint / whole[..., None], 0.0)


@pytest.mark.parametrize("path", PATHS)
def test_reverse_is_bayes(path):
    """Two sites, every state, a sitewise law and a joint law with dependence; expected by enumeration."""
    s, t, states = 0.3, 0.8, discrete.enumerate_events(3, 2)
    kernel, whole = bayes(path, s, t), matrix(path, 0.0, t).clamp_min(0)
    data = torch.softmax(draws((9,), 1), 0)
    data[states.eq(2).any(1)] *= 0.0 if path.landing[2] == 1 else 1.0  # no mask in clean data
    data = data / data.sum()
    likelihood = torch.where(whole > 1e-13, whole, 0.0)[states[:, None, 0], states[None, :, 0]]
    likelihood = likelihood * torch.where(whole > 1e-13, whole, 0.0)[states[:, None, 1], states[None, :, 1]]
    posterior = data * likelihood
    seen = posterior.sum(1) > 0
    posterior = (posterior / posterior.sum(1, keepdim=True))[seen]
    x_t = states[seen]
    joint = path.reverse(x_t, Empirical(posterior.log(), states), time(t), time(s))
    site = torch.stack([posterior @ torch.nn.functional.one_hot(states[:, i], 3).double() for i in (0, 1)], 1)
    apart = path.reverse(x_t, Categorical(site.log()), time(t), time(s))
    for x_s in states:
        at = [torch.stack([kernel[x, :, x_s[i]] for x in x_t[:, i]]) for i in (0, 1)]  # [row, clean symbol]
        want = (posterior * at[0][:, states[:, 0]] * at[1][:, states[:, 1]]).sum(1)
        target = x_s.expand_as(x_t)
        torch.testing.assert_close(joint.log_prob(target).exp(), want, atol=1e-12, rtol=0)
        want = (site[:, 0] * at[0]).sum(1) * (site[:, 1] * at[1]).sum(1)
        torch.testing.assert_close(apart.log_prob(target).exp(), want, atol=1e-12, rtol=0)


def reverse_generator(path, p_0, t):
    """Qbar_ij = (p_i / p_j) Q_ji off the diagonal, columns sum to zero (column = from)."""
    p = path.corrupt(ALL, time(0.0), time(t)).probs[:, 0].mT @ p_0
    q = path.rates(time(t))
    qbar = (p[:, None] / p[None]) * q.mT
    qbar = qbar - torch.diag(qbar.diag())
    return qbar - torch.diag(qbar.sum(0)), p


@pytest.mark.parametrize("path", paths(ExponentialSurvival(2.0)))
def test_ratios_reverse_the_chain_exactly(path):
    """Run the time reversal from t = 1 by RK4: it returns p_0, and its transitions are those of `reverse`."""
    p_0 = torch.tensor([0.6, 0.4, 0.0] if path.landing[2] == 1 else [0.5, 0.35, 0.15], dtype=F64)
    start, end, n = 1.0, 0.1, 400
    transition, h = torch.eye(3, dtype=F64), (start - end) / n
    for i in range(n):
        k_1 = reverse_generator(path, p_0, start - i * h)[0] @ transition
        middle = reverse_generator(path, p_0, start - (i + 0.5) * h)[0]
        k_2 = middle @ (transition + 0.5 * h * k_1)
        k_3 = middle @ (transition + 0.5 * h * k_2)
        k_4 = reverse_generator(path, p_0, start - (i + 1) * h)[0] @ (transition + h * k_3)
        transition = transition + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
    _, p_end = reverse_generator(path, p_0, end)
    _, p_start = reverse_generator(path, p_0, start)
    # RK4: the error of 400 steps of 0.00225 with rates up to 40 is about (40 h)^4 h < 1e-7 of what remains
    torch.testing.assert_close(transition @ p_start, p_end, atol=1e-7, rtol=0)
    posterior = discrete.Exact(path, Empirical.of(ALL[p_0 > 0], p_0[p_0 > 0]))(ALL, time(start))
    law = path.reverse(ALL, posterior, time(start), time(end))
    got = torch.stack([law.log_prob(torch.full((3, 1), y)).exp() for y in range(3)])
    torch.testing.assert_close(got, transition, atol=1e-7, rtol=0)


@pytest.mark.parametrize("path", paths(CosineSurvival()))
def test_reverse_is_the_ratio_chain_to_first_order(path):
    """|reverse - (I + h Qbar)| falls by 4 when h halves: the measured local order is 2 within 0.05 at h = 1/500."""
    p_0, t = torch.tensor([0.6, 0.4, 0.0] if path.landing[2] == 1 else [0.5, 0.35, 0.15], dtype=F64), 0.6
    qbar, _ = reverse_generator(path, p_0, t)
    posterior = discrete.Exact(path, Empirical.of(ALL[p_0 > 0], p_0[p_0 > 0]))(ALL, time(t))
    errors = []
    for h in (1 / 500, 1 / 1000):
        law = path.reverse(ALL, posterior, time(t), time(t - h))
        got = torch.stack([law.log_prob(torch.full((3, 1), y)).exp() for y in range(3)])
        errors.append(float((got - torch.eye(3, dtype=F64) - h * qbar).abs().max()))
    assert np.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("t", [time(0.5), time([0.5, 0.9])])
def test_tilt_is_bayes(t):
    """A reward on both sites: the tilted marginals by enumeration; the signal is log E[h | site set to k], up to a constant."""
    law = Categorical(torch.log_softmax(draws((2, 2, 3), 0), -1))
    reward = draws((3, 3), 1).exp()
    joint = law.probs[:, 0, :, None] * law.probs[:, 1, None, :]
    signal = torch.stack([joint_sum(law.probs[:, 1], reward), joint_sum(law.probs[:, 0], reward.mT)], 1).log()
    tilted = joint * reward
    tilted = tilted / tilted.sum((1, 2), keepdim=True)
    got = discrete.uniform(3).tilt(law, signal + torch.tensor([[[2.0], [-1.0]]]), t).probs
    torch.testing.assert_close(got, torch.stack([tilted.sum(2), tilted.sum(1)], 1), atol=1e-14, rtol=0)


def joint_sum(other, reward):
    """E over the other site of the reward, for each symbol here."""
    return other @ reward.mT


@pytest.mark.parametrize("path", PATHS)
def test_prior_is_within_its_bound(path):
    """Total variation to the true law of X_1 over all 9 states <= sites * keep(1): 0 where keep ends at 0."""
    states = discrete.enumerate_events(3, 2)
    p_0 = torch.softmax(3 * draws((9,), 2), 0)
    forward = path.corrupt(states, time(0.0), time(1.0))
    one = [forward.probs[:, i][:, states[:, i]] for i in (0, 1)]
    truth = p_0 @ (one[0] * one[1])
    prior = path.prior(torch.empty(9, 2)).log_prob(states).exp()
    distance, bound = 0.5 * float((truth - prior).abs().sum()), 2 * float(path.schedule.keep(time(1.0)))
    assert distance <= bound + 1e-15
    if bound == 0:
        assert distance < 1e-15
    else:
        assert distance > bound / 100  # the gap is real, so a prior that missed it would be seen


def test_masked_symbols_are_carried_over():
    """What is not masked stays, whatever the law says of its other symbols; and nothing comes back as a mask at s = 0."""
    path, x_t = discrete.masked(2), torch.tensor([[0, 1, 2], [2, 0, 1]])
    probs = torch.tensor([0.3, 0.7, 0.0], dtype=F64).expand(2, 3, 3)
    middle = path.reverse(x_t, Categorical(probs.log()), time(0.8), time(0.4)).probs
    shown = x_t != 2
    torch.testing.assert_close(middle[shown], torch.nn.functional.one_hot(x_t[shown], 3).double(), atol=1e-15, rtol=0)
    # a mask stays with probability (1 - keep_s) / (1 - keep_t) = s / t (Sahoo et al. 2024, eq. 7)
    want = torch.tensor([0.5 * 0.3, 0.5 * 0.7, 0.5], dtype=F64).expand(2, 3)
    torch.testing.assert_close(middle[~shown], want, atol=1e-15, rtol=0)
    assert float(path.reverse(x_t, Categorical(probs.log()), time(0.8), time(0.0)).probs[..., 2].max()) == 0


def test_a_law_that_contradicts_the_state_is_refused():
    path, x_t = discrete.masked(2), torch.tensor([[0]])
    with pytest.raises(LawError, match="contradicts the state"):
        path.reverse(x_t, Categorical(torch.tensor([[[0.0, 1.0, 0.0]]], dtype=F64).log()), time(0.8), time(0.4))


def test_documented_errors():
    path, good = discrete.uniform(3), torch.tensor([[0], [2]])
    flat = Categorical(torch.zeros(2, 1, 3, dtype=F64).log_softmax(-1))
    for call in (path.corrupt, lambda x, s, t: path.reverse(x, flat, t, s)):
        for bad, cure in ((good.double(), "long"), (good.int(), "long"), (good + 1, "3 symbols"), (good - 1, "3 symbols")):
            with pytest.raises(ShapeError, match=cure):
                call(bad, time(0.2), time(0.6))
        with pytest.raises(TimeError, match="swap them"):
            call(good, time(0.6), time(0.2))
        with pytest.raises(ShapeError, match="one per sample"):
            call(good, time([0.1, 0.2, 0.3]), time([0.4, 0.5, 0.6]))
    for landing in ([0.5, 0.4], [1.5, -0.5]):
        with pytest.raises(LawError, match="sum to 1"):
            discrete.Path(LinearSurvival(), torch.tensor(landing, dtype=F64))


def test_events_are_enumerated_once():
    assert discrete.enumerate_events(3, 2).tolist() == [list(e) for e in product(range(3), repeat=2)]
