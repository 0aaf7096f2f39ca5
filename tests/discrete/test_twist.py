"""Certifies steered chains on every state of three sites: rates by enumeration, their ends by ODE, what leaps cost.

float64. One test draws: its seed is fixed and its false-alarm probability stated.
"""

import itertools
from dataclasses import dataclass, field

import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.stats import chi2

from oracles import F64, draws, slopes, time
from undrift import Ancestral, discrete, grids, sample
from undrift.core import Shared
from undrift.discrete import Labelled, Lifted, Stated, TwistedLeaping, guided_rates
from undrift.errors import FamilyError, LabelError, PotentialError, ShapeError
from undrift.gaussian import Path as GaussianPath
from undrift.guidance import Reward, condition
from undrift.laws import Categorical, Empirical
from undrift.schedules import VP, CosineSurvival, ExponentialSurvival

SITES, SYMBOLS = 3, 3
STATES = discrete.enumerate_events(SYMBOLS, SITES)
N = len(STATES)
TABLE = draws((N,), 3)
INDEX = torch.tensor([9, 3, 1])
TO = (STATES @ INDEX)[:, None, None] + (torch.arange(3) - STATES[..., None]) * INDEX[:, None]  # one symbol changed


def table(x):
    """A reward without structure: dependence between all sites."""
    return TABLE[x @ INDEX]


REWARD = Reward(table)
PATHS = {
    "uniform": discrete.uniform(3, ExponentialSurvival(3.0)),
    "masked": discrete.masked(2),
    "uniform, cosine": discrete.uniform(3, CosineSurvival()),
    "biased": discrete.Path(ExponentialSurvival(2.0), time([0.5, 0.2, 0.3])),
}
every_path = pytest.mark.parametrize("name", PATHS)


def law_of(path):
    """A strongly dependent law over the states, without the mask where there is one, shape (27,)."""
    p = torch.softmax(1.5 * draws((N,), 1), 0)
    p = torch.where(STATES.eq(2).any(1) & (path.landing[2] == 1), 0.0, p)
    return p / p.sum()


def exact(path, p):
    return discrete.Exact(path, Empirical.of(STATES[p > 0], p[p > 0]))


def tilted(p):
    q = p * TABLE.exp()
    return q / q.sum()


def forward(path, t):
    """q(x_t | x_0), rows x_0, by the path's own one-site kernel, shape (27, 27)."""
    one = path.corrupt(torch.arange(3)[:, None], time(0.0), time(t)).probs[:, 0]
    return torch.stack([torch.stack([one[a, b].prod() for b in STATES]) for a in STATES])


def marginal(path, p, t):
    return p @ forward(path, t)


def log_h(path, p, t):
    """E[exp r | x_t] by Bayes, shape (27,); NaN where x_t cannot be."""
    kernel = forward(path, t)
    return ((p * TABLE.exp()) @ kernel / (p @ kernel)).log()


def live(path, p, t):
    return marginal(path, p, t) > 0


def generator(path, model, h, t, gamma, where):
    """The steered reverse generator over all states, column = from."""
    rates = torch.zeros(N, SITES, SYMBOLS, dtype=F64)
    rates[where] = guided_rates(model, h, STATES[where], time(t), gamma=gamma)
    matrix = torch.zeros(N, N, dtype=F64)
    matrix.index_put_((TO, torch.arange(N)[:, None, None].expand(TO.shape)), rates, accumulate=True)
    return matrix - torch.diag(matrix.sum(0))


def carried(path, model, h, gamma, p, t, s, where):
    """Probabilities carried from t down to s by the rates alone (DOP853, 1e-10)."""

    def slope(clock, q):
        return generator(path, model, h, -clock, gamma, where).numpy() @ q

    return torch.from_numpy(solve_ivp(slope, (-t, -s), p.numpy(), method="DOP853", rtol=1e-9, atol=1e-11).y[:, -1])


@every_path
@pytest.mark.parametrize("t", [0.2, 0.7])
@pytest.mark.parametrize("gamma", [0.0, 1.0, 2.5])
def test_guided_rates_are_the_ratios_written_out(name, t, gamma):
    """R_h = Q(x' -> x) p_t(x') / p_t(x) (h(x') / h(x))^gamma, every factor by enumeration, state by state."""
    path = PATHS[name]
    p = law_of(path)
    where, now, h, q = live(path, p, t), marginal(path, p, t), log_h(path, p, t), path.rates(time(t))
    got = guided_rates(exact(path, p), Lifted(exact(path, p), REWARD), STATES[where], time(t), gamma=gamma)
    for row, a in zip(got, STATES[where], strict=True):
        for i, k in itertools.product(range(SITES), range(SYMBOLS)):
            b = a.clone()
            b[i] = k
            x, y = int(a @ INDEX), int(b @ INDEX)
            want = 0.0 if x == y or now[y] == 0 else float(q[a[i], k] * now[y] / now[x] * (gamma * (h[y] - h[x])).exp())
            assert float(row[i, k]) == pytest.approx(want, rel=1e-9, abs=1e-12)


@every_path
def test_guided_rates_are_those_of_the_tilted_law(name):
    path = PATHS[name]
    p = law_of(path)
    where = live(path, p, 0.4)
    got = guided_rates(exact(path, p), Lifted(exact(path, p), REWARD), STATES[where], time(0.4))
    want = guided_rates(exact(path, tilted(p)), Lifted(exact(path, p), REWARD), STATES[where], time(0.4), gamma=0.0)
    torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["uniform", "masked"])
def test_guided_rates_lead_to_the_tilted_law(name):
    """Gamma = 1, carried by the rates from the tilted law of X_0.95 to that of X_0.01, to 1e-7."""
    path = PATHS[name]
    p = law_of(path)
    where = live(path, p, 0.5)
    h = Lifted(exact(path, p), REWARD)
    got = carried(path, exact(path, p), h, 1.0, marginal(path, tilted(p), 0.95), 0.95, 0.01, where)
    torch.testing.assert_close(got, marginal(path, tilted(p), 0.01), rtol=0, atol=1e-7)
    plain = carried(path, exact(path, p), h, 0.0, marginal(path, p, 0.95), 0.95, 0.01, where)
    torch.testing.assert_close(plain, marginal(path, p, 0.01), rtol=0, atol=1e-7)
    assert float((tilted(p) - p).abs().sum()) > 0.3  # there is something to steer


def leap(sampler, model, grid, p):
    """Probabilities over all states, pushed through every leap: a product over the sites."""
    for t, s in grid.pairs():
        where = p > 0
        ahead, _ = sampler.ahead(model, STATES[where], time(t), time(s))
        p = p[where] @ ahead.probs[:, torch.arange(SITES), STATES].prod(-1)
    return p


@every_path
@pytest.mark.parametrize("joint", [True, False], ids=["joint law", "site by site"])
def test_leaps_converge_at_first_order(name, joint):
    """To p e^r, from t = 1 to t = 0, through one-step matrices: order 1 within .15 at 64 to 128 steps."""
    path = PATHS[name]
    p = law_of(path)
    model = exact(path, p)
    sampler = TwistedLeaping(Lifted(model, REWARD))
    asked = model if joint else discrete.Factorised(model)
    start = marginal(path, tilted(p), 1.0)
    errors = [float((leap(sampler, asked, grids.uniform(None, n), start) - tilted(p)).abs().sum()) for n in (64, 128)]
    assert slopes(errors) == pytest.approx([1], abs=0.15)
    assert errors[-1] < 0.05


@pytest.mark.parametrize("name", ["uniform", "masked"])
def test_leaps_of_any_gamma_converge_to_their_rates(name):
    """Gamma = 2 has no closed end, but its rates have one: the ODE's, at first order on [.1, .9]."""
    path = PATHS[name]
    p = law_of(path)
    model, h = exact(path, p), Lifted(exact(path, p), REWARD)
    start = marginal(path, p, 0.9)
    want = carried(path, model, h, 2.0, start, 0.9, 0.1, start > 0)
    found = [leap(TwistedLeaping(h, 2.0), model, grids.uniform(None, n, 0.9, 0.1), start) for n in (64, 128)]
    assert slopes([float((q - want).abs().sum()) for q in found]) == pytest.approx([1], abs=0.15)
    assert float((want - leap(TwistedLeaping(h, 1.0), model, grids.uniform(None, 128, 0.9, 0.1), start)).abs().sum()) > 0.05


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.5), (0.6, 0.5), (0.3, 0.0)])
def test_masked_leaps_are_the_steered_laws_own(t, s):
    """Gamma = 1: exactly the step back of the tilted law's denoiser, site by site; so no mask is left at the end."""
    path = PATHS["masked"]
    p = law_of(path)
    model = exact(path, p)
    x = STATES[live(path, p, t)]
    got, _ = TwistedLeaping(Lifted(model, REWARD)).ahead(model, x, time(t), time(s))
    want = path.reverse(x, discrete.Factorised(exact(path, tilted(p)))(x, time(t)), time(t), time(s))
    torch.testing.assert_close(got.probs, want.probs, rtol=1e-9, atol=1e-12)
    if s == 0:
        assert float(got.probs[..., 2].max()) == 0


@every_path
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_conditioning_whole_events_is_exact_at_any_number_of_steps(name, steps):
    """guidance.condition and Ancestral: the tilted law to 1e-12, by enumeration of every step."""
    path = PATHS[name]
    p = law_of(path)
    steered, q = condition(exact(path, p), REWARD), marginal(path, tilted(p), 1.0)
    for t, s in grids.uniform(None, steps).pairs():
        where = q > 0
        x = STATES[where].repeat_interleave(N, 0)
        law = path.reverse(x, steered(x, time(t)), time(t), time(s))
        q = q[where] @ law.log_prob(STATES.repeat(int(where.sum()), 1)).exp().reshape(-1, N)
    torch.testing.assert_close(q, tilted(p), rtol=0, atol=1e-12)


@every_path
def test_lifts_are_martingales(name):
    """h_0 = e^r, and E[h_s(X_s) | X_t] = h_t(X_t) with the joint law's own step back; by enumeration."""
    path = PATHS[name]
    p = law_of(path)
    model = exact(path, p)
    h = Lifted(model, REWARD)
    support = STATES[p > 0]
    torch.testing.assert_close(h(support, time(0.0)), TABLE[p > 0], rtol=1e-12, atol=1e-12)
    t, s = 0.7, 0.3
    where, there = live(path, p, t), live(path, p, s)
    x, y = STATES[where], STATES[there]
    pairs = x.repeat_interleave(len(y), 0)
    law = path.reverse(pairs, model(pairs, time(t)), time(t), time(s))
    step = law.log_prob(y.repeat(len(x), 1)).exp().reshape(len(x), len(y))
    torch.testing.assert_close(step @ h(y, time(s)).exp(), h(x, time(t)).exp(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(h(x, time(t)), log_h(path, p, t)[where], rtol=1e-10, atol=1e-12)


@dataclass(frozen=True)
class NoisyClassifier:
    """P(y | x_t) of a label that depends on all clean symbols, exact."""

    model: discrete.Exact

    @staticmethod
    def clean(x):
        """P(y | x_0), shape (B, 3)."""
        return torch.softmax(torch.stack([x[:, 0] * x[:, 1] - 1.0, 0.5 * x[:, 2] * x[:, 1], 0.0 * x[:, 0] + 0.3], -1), -1)

    def __call__(self, x_t, t):
        law = self.model(x_t, t)
        return (law.log_weights.exp() @ self.clean(law.atoms.double()).to(F64)).log()


@pytest.mark.parametrize("name", ["uniform", "masked"])
def test_a_classifier_of_noisy_states_gives_the_conditional_law(name):
    """p(x | y) for each label, at first order; labels of a batch do not meet."""
    path = PATHS[name]
    p = law_of(path)
    model = exact(path, p)
    classifier = NoisyClassifier(model)
    for y in range(3):
        want = p * classifier.clean(STATES.double())[:, y]
        want = want / want.sum()
        start, sampler = marginal(path, want, 1.0), TwistedLeaping(Labelled(classifier, torch.tensor([y])))
        errors = [float((leap(sampler, model, grids.uniform(None, n), start) - want).abs().sum()) for n in (64, 128)]
        assert slopes(errors) == pytest.approx([1], abs=0.2)
        assert errors[-1] < 0.03
    x, t, s = STATES[live(path, p, 0.6)][[0, 3, 5, 7]], time(0.6), time(0.5)
    labels = torch.tensor([2, 0, 1, 0])
    together = TwistedLeaping(Labelled(classifier, labels)).ahead(model, x, t, s)[0].probs
    for i in range(4):
        alone = TwistedLeaping(Labelled(classifier, labels[i : i + 1])).ahead(model, x[i : i + 1], t, s)[0].probs
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-14)


def test_drawn_samples_follow_the_leaps():
    """20000 draws of `step` in 8 leaps against the enumerated law; chi-square, false alarm 1e-6, seed fixed."""
    path = PATHS["masked"]
    p = law_of(path)
    model = exact(path, p)
    sampler = TwistedLeaping(Lifted(model, REWARD), 1.5)
    grid = grids.uniform(None, 8)
    x = sample(model, sampler, grid, (20000, SITES), seed=0, rng=lambda: Shared(1))
    start = torch.zeros(N, dtype=F64)
    start[-1] = 1  # all masks
    want = 20000 * leap(sampler, model, grid, start)
    counts = torch.bincount(x @ INDEX, minlength=N)
    assert float(counts[want == 0].sum()) == 0
    assert float(((counts - want).square() / want)[want > 0].sum()) < chi2.isf(1e-6, int((want > 0).sum()) - 1)


@dataclass
class Tally:
    """A log h that counts the states it is asked of."""

    path: discrete.Path
    sizes: list[int] = field(default_factory=list)

    def __call__(self, x_t, t):
        self.sizes.append(x_t.shape[0])
        return 0.1 * x_t.reshape(x_t.shape[0], -1).sum(1).double()


@pytest.mark.parametrize("event", [(1,), (4,), (2, 3)])
def test_h_is_asked_as_often_as_stated(event):
    """Sites (symbols - 1) + 1 states a sample and step, in one batch; events of any shape; gamma = 0 asks nothing."""
    path = discrete.masked(4)
    tally, seen = Tally(path), Tally(path)

    @dataclass
    class Flat:
        path: discrete.Path

        def __call__(self, x_t, t):
            seen(x_t, t)
            probs = torch.nn.functional.one_hot(x_t, 5).double()
            clean = torch.tensor([0.25, 0.25, 0.25, 0.25, 0.0], dtype=F64)
            return Categorical.from_probabilities(torch.where((x_t == 4)[..., None], clean, probs))

    sampler, grid = TwistedLeaping(Stated(tally)), grids.uniform(None, 7)
    x = sample(Flat(path), sampler, grid, (6, *event), seed=0)
    assert x.shape == (6, *event)
    assert int(x.max()) < 4
    sites = int(torch.Size(event).numel())
    assert sampler.evaluations(sites, path.symbols) == sites * 4 + 1
    assert tally.sizes == [6 * (sites * 4 + 1)] * 7
    assert len(seen.sizes) == sampler.calls(grid) == 7
    tally.sizes.clear()
    plain = sample(Flat(path), TwistedLeaping(Stated(tally), 0.0), grid, (6, *event), seed=0)
    assert tally.sizes == []
    assert TwistedLeaping(Stated(tally), 0.0).evaluations(sites, 5) == 0
    assert torch.equal(plain, sample(Flat(path), Ancestral(), grid, (6, *event), seed=0))


def test_what_cannot_steer_is_refused():
    path = PATHS["masked"]
    p = law_of(path)
    model, x, t, s = exact(path, p), STATES[-1:], time(0.5), time(0.4)
    for gamma in (-1.0, float("nan"), float("inf")):
        with pytest.raises(PotentialError, match="finite number >= 0"):
            TwistedLeaping(Lifted(model, REWARD), gamma)
        with pytest.raises(PotentialError, match="finite number >= 0"):
            guided_rates(model, Lifted(model, REWARD), x, t, gamma=gamma)
    refuse = {
        "one number each": Stated(lambda x, t: x.double()),
        "log h is NaN": Stated(lambda x, t: x[:, 0] * torch.nan),
        "or -inf at a state": Stated(lambda x, t: x[:, 0] * 0.0 - torch.inf),
    }
    for message, h in refuse.items():
        with pytest.raises(PotentialError, match=message):
            TwistedLeaping(h).ahead(model, x, t, s)
    only = Stated(lambda x, t: torch.where((x == 2).all(1), 0.0, -torch.inf).double())
    with pytest.raises(PotentialError, match="no symbol left"):
        TwistedLeaping(only).ahead(model, x, t, time(0.0))
    for label in (torch.tensor([0.5]), torch.tensor([[1]]), torch.tensor([-1])):
        with pytest.raises(LabelError, match="labels are integers"):
            Labelled(NoisyClassifier(model), label)
    with pytest.raises(LabelError, match="asked for 3"):
        TwistedLeaping(Labelled(NoisyClassifier(model), torch.tensor([3]))).ahead(model, x, t, s)
    with pytest.raises(ShapeError, match="2 labels for 3 states"):
        Labelled(NoisyClassifier(model), torch.tensor([0, 1]))(STATES[-1:].expand(3, 3), t)
    with pytest.raises(FamilyError, match="serves discrete"):
        TwistedLeaping(Lifted(model, REWARD)).plan(GaussianPath(VP()), grids.uniform(None, 2))
