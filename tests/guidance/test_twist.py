"""Certifies `guidance.twist`: steered means and laws against exact conditionals computed densely, and every pair of conditions.

The oracle conditions a mixture by natural parameters (sums of precisions), which shares no formula with the Kalman updates
that it judges. float64. The particle runs at the end have fixed seeds; see there for what they are held to.
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch

from oracles import F64, SCHEDULES, Counted, MeanOnly, draws, mixture, normal, run, spd, time
from undrift import discrete, gaussian, grids
from undrift.bridge import Path as BridgePath
from undrift.bridge import Pinned
from undrift.core import CG, Covariance, Shared
from undrift.errors import LawError, PotentialError, ScheduleError, ShapeError
from undrift.evidence import sliced_w2
from undrift.gaussian import Exact, ExactConditional, LabelledMixture
from undrift.guidance import (
    Likelihood,
    Linear,
    Potential,
    Reward,
    at_mean,
    condition,
    isotropic,
    jacobian,
    second_order,
    twist,
    weigh,
)
from undrift.laws import Empirical, Mixture, Normal, Point
from undrift.operators import Matrix
from undrift.particles import smc
from undrift.schedules import BrownianBridge
from undrift.simulate import Ancestral

D, B = 4, 3
A, Y, R = draws((2, D), 0), draws((1, 2), 1), time([0.3, 0.6])
G = draws((1, D), 2)
LOOK, OTHER = Likelihood(Matrix(A), Y, R), Likelihood(Matrix(draws((1, D), 3)), time([[0.4]]), time([0.2]))
LEAN = Linear(0.7 * G)
SOLVE = jacobian(CG(iterations=D, tolerance=0.0))
X = draws((B, D), 4)
TIMES = {"one": time(0.4), "each": time([0.1, 0.5, 0.8])}
CLOCKS = ("vp", "edm", "linear_flow", "custom", "bridge")
every_clock = pytest.mark.parametrize("clock", CLOCKS)
every_time = pytest.mark.parametrize("when", TIMES)
GAUSSIAN, MIXTURE = normal(draws((D,), 5), spd(D, 6)), mixture(D, k=4, seed=7)


def path_of(clock: str) -> Any:
    if clock == "bridge":
        return BridgePath(BrownianBridge(0.8), Point(draws((1, D), 8)))
    return gaussian.Path(SCHEDULES[clock])


def model(clock: str, data: Any) -> Any:
    return (Pinned if clock == "bridge" else Exact)(path_of(clock), data)


def given(data: Any, looks: list[Likelihood], leans: list[Linear], allowed: Any = None) -> Any:
    """The law proportional to p exp(sum of rewards): precisions add, and so do precisions times means."""
    if isinstance(data, Normal):
        one = given(Mixture(torch.zeros(1, 1, dtype=F64), data.mean[:, None], lead(data.cov)), looks, leans)
        return normal(one.means[0, 0], one.cov.dense()[0, 0])
    weights, means, covs = data.log_weights[0], data.means[0], data.cov.dense()[0]
    parts = []
    for w, m, c in zip(weights, means, covs, strict=True):
        before = torch.linalg.inv(c)
        precision, shift, value = before.clone(), before @ m, w - 0.5 * (m @ before @ m + torch.logdet(c))
        for look in looks:
            a, r, y = look.look.matrix, look.variance.expand(look.y.shape[1]), look.y[0]
            precision, shift = precision + a.mT @ (a / r[:, None]), shift + a.mT @ (y / r)
            value = value - 0.5 * (y.square() / r).sum() - 0.5 * (2 * math.pi * r).log().sum()
        for lean in leans:
            shift = shift + lean.direction[0]
        cov = torch.linalg.inv(precision)
        parts.append((value + 0.5 * (shift @ cov @ shift + torch.logdet(cov)), cov @ shift, 0.5 * (cov + cov.mT)))
    log_weights = torch.stack([v for v, _, _ in parts])
    if allowed is not None:
        log_weights = torch.where(allowed, log_weights, -torch.inf)
    full = Covariance.full(torch.stack([c for _, _, c in parts]))
    return Mixture.of(log_weights.softmax(0), torch.stack([m for _, m, _ in parts]), full)


def lead(cov: Covariance) -> Covariance:
    return Covariance(cov.values[None], cov.tail[None], None if cov.basis is None else cov.basis[None], cov.dim)


def close(got, want, tolerance=1e-9):
    torch.testing.assert_close(got, want.expand_as(got), rtol=tolerance, atol=tolerance * max(1.0, float(want.abs().max())))


def same_law(got: Any, want: Any) -> None:
    """Two laws, number by number; components of no weight do not count."""
    if isinstance(want, Mixture):
        close(got.log_weights.exp(), want.log_weights.exp())
        counts = (want.log_weights > -30)[..., None]
        close(got.means * counts, want.means * counts)
        close(got.cov.dense(), want.cov.dense())
    else:
        close(got.mean, want.mean)
        close(got.cov.dense(), want.cov.dense())


# Means and laws.

POTENTIALS = {
    "look": (LOOK, [LOOK], []),
    "lean": (LEAN, [], [LEAN]),
    "two_looks": (LOOK & OTHER, [LOOK, OTHER], []),
    "all": (OTHER & LEAN & LOOK, [LOOK, OTHER], [LEAN]),
}
every_potential = pytest.mark.parametrize("what", POTENTIALS)


@every_clock
@every_time
@every_potential
def test_the_twisted_mean_is_exact_on_exact_laws(clock, when, what):
    """Under the whole law (Gaussian or mixture), and on a Gaussian under every covariance that is the true one."""
    potential, looks, leans = POTENTIALS[what]
    t = TIMES[when]
    for data in (GAUSSIAN, MIXTURE):
        want = model(clock, given(data, looks, leans))(X, t).mean
        close(twist(model(clock, data), potential)(X, t).mean, want)
    want = model(clock, given(GAUSSIAN, looks, leans))(X, t).mean
    learned = MeanOnly(model(clock, GAUSSIAN))
    for cov in ("full", SOLVE):
        close(twist(second_order(learned, cov), potential)(X, t).mean, want)
    close(twist(second_order(model(clock, GAUSSIAN), "exact"), potential)(X, t).mean, want)
    for cov in ("full", SOLVE):  # Bayes' rule in the second-order law itself
        close(condition(second_order(learned, cov), potential)(X, t).mean, want)


@every_clock
def test_cheap_covariances_are_exact_where_the_data_have_their_shape(clock):
    t = time(0.4)
    diagonal = Normal(draws((1, D), 5), Covariance.diagonal(0.2 + draws((1, D), 9).square()))
    round_ = Normal(draws((1, D), 5), Covariance.isotropic(time([0.8**2]), D))
    for data, covs in ((diagonal, ("diagonal", "row_sum")), (round_, ("diagonal", "row_sum", isotropic(0.8)))):
        want = model(clock, given(data, [LOOK], [LEAN]))(X, t).mean
        for cov in covs:
            close(twist(second_order(MeanOnly(model(clock, data)), cov), LOOK & LEAN)(X, t).mean, want)


def test_without_covariance_it_is_dps_and_biased():
    """zero: mean - sigma^2/alpha grad |y - A mean|^2 / (2 R), by autodiff; its bias on the Gaussian is on record: above 10%."""
    q, t = SCHEDULES["vp"], time(0.4)
    exact = model("vp", GAUSSIAN)
    x = X.clone().requires_grad_()
    loss = ((Y - exact(x, t).mean @ A.mT).square() / (2 * R)).sum()
    want = exact(X, t).mean - q.sigma(t) ** 2 / q.alpha(t) * torch.autograd.grad(loss, x)[0]
    got = twist(second_order(MeanOnly(exact), "zero"), LOOK)(X, t).mean
    close(got, want)
    close(twist(MeanOnly(exact), LOOK)(X, t).mean, want)  # a network's Point is the same
    truth = model("vp", given(GAUSSIAN, [LOOK], []))(X, t).mean
    assert float((got - truth).norm() / truth.norm()) > 0.1


def test_the_mean_alone_is_biased_on_a_mixture():
    """A Gaussian posterior is a model: within 30% here (on record), and not exact."""
    t, exact = time(0.5), model("vp", MIXTURE)
    truth, plain = model("vp", given(MIXTURE, [LOOK], []))(X, t).mean, exact(X, t).mean
    got = twist(second_order(MeanOnly(exact), "full"), LOOK)(X, t).mean
    error = float((got - truth).norm() / (truth - plain).norm())
    assert 1e-3 < error < 0.3


@pytest.mark.parametrize("clock", [c for c in CLOCKS if c != "bridge"])
@every_time
def test_log_h_is_the_ratio_of_marginals(clock, when):
    """Log h_t(x) = log Z + log p_t(x | y) - log p_t(x): the lift against densities of the noised laws."""
    for i, row in enumerate(X):
        t = TIMES[when] if TIMES[when].ndim == 0 else TIMES[when][i]
        exact, after = model(clock, MIXTURE), model(clock, given(MIXTURE, [LOOK], [LEAN]))
        here = row[None]
        log_z = (LOOK & LEAN).lift(MIXTURE)
        want = log_z + after.marginal(t).log_prob(here) - exact.marginal(t).log_prob(here)
        close(twist(exact, LOOK & LEAN).log_h(here, t), want, 1e-8)


SUBSPACE = gaussian.subspace(
    torch.linalg.qr(draws((D, 2), 10))[0], time([0.3, 0.7]), draws((2, 2), 11), torch.stack([spd(2, 12), spd(2, 13)])
)
ATOMS = Empirical.of(draws((5, D), 14), time([0.1, 0.2, 0.3, 0.25, 0.15]))


@every_clock
@every_time
@pytest.mark.parametrize("kind", ["gaussian", "mixture", "subspace", "atoms"])
def test_condition_is_the_posteriors_own_denoiser(clock, when, kind):
    """q(x_0 | x_t, y) is the denoiser of p(x_0 | y): law for law. On a subspace the oracle works inside it."""
    data = {"gaussian": GAUSSIAN, "mixture": MIXTURE, "subspace": SUBSPACE, "atoms": ATOMS}[kind]
    t, got = TIMES[when], condition(model(clock, data), LOOK & LEAN)(X, TIMES[when])
    if kind == "atoms":
        prior = data.log_weights[0] + (LOOK & LEAN)(data.atoms)
        want = model(clock, Empirical.of(data.atoms, prior.softmax(0)))(X, t)
        close(got.log_weights.exp(), want.log_weights.exp())
        return
    if kind == "subspace":
        basis, local = SUBSPACE.cov.basis[0, 0], SUBSPACE  # pyright: ignore
        inside = Mixture(local.log_weights, local.means @ basis, Covariance.full(basis.mT @ local.cov.dense() @ basis))
        seen = Likelihood(Matrix(A @ basis), Y, R)
        inner = given(inside, [seen], [Linear(LEAN.direction @ basis)])
        want = model(clock, gaussian.subspace(basis, inner.log_weights[0].exp(), inner.means[0], inner.cov.dense()[0]))(X, t)
    else:
        want = model(clock, given(data, [LOOK], [LEAN]))(X, t)
    same_law(got, want)


def test_condition_on_a_reward_of_symbols():
    """Three symbols at two sites, masked and uniform: posterior of the joint law tilted by any reward, by enumeration."""
    atoms = discrete.enumerate_events(3, 2)
    data = Empirical.of(atoms, torch.softmax(draws((9,), 15), 0))
    reward = Reward(lambda x: (x[:, 0] * (x[:, 1] + 1)).double().sin())
    for path in (discrete.uniform(3), discrete.masked(3)):
        x, t = torch.tensor([[0, 2], [1, 1]]), time(0.6)
        got = condition(discrete.Exact(path, data), reward)(x, t)
        want = discrete.Exact(path, Empirical.of(atoms, (data.log_weights[0] + reward(atoms)).softmax(0)))(x, t)
        close(got.log_weights.exp(), want.log_weights.exp())


# Nesting and scale.


@pytest.mark.parametrize("data", [GAUSSIAN, MIXTURE], ids=["gaussian", "mixture"])
def test_nested_twists_are_joined(data):
    """(h_p, then h_q) is h_{p & q}; a second look at the same coordinates counts the prior once."""
    t, exact = time(0.4), model("vp", data)
    nested = twist(twist(twist(exact, LOOK), LEAN), LOOK)
    want = model("vp", given(data, [LOOK, LOOK], [LEAN]))(X, t).mean
    close(nested(X, t).mean, want)
    close(nested(X, t).mean, twist(exact, LOOK & LEAN & LOOK)(X, t).mean, 1e-12)
    assert nested.denoiser is exact
    close(twist(condition(exact, LOOK), LEAN & LOOK)(X, t).mean, want)
    same_law(condition(condition(exact, LOOK), LEAN & LOOK)(X, t), model("vp", given(data, [LOOK, LOOK], [LEAN]))(X, t))


@every_clock
@every_time
def test_second_order_laws_nest(clock, when):
    """The Jacobian of a steered mean is the covariance of the steered law: two looks in turn are two looks together."""
    learned, t = MeanOnly(model(clock, GAUSSIAN)), TIMES[when]
    inner = twist(second_order(learned, SOLVE), LOOK)
    want = model(clock, given(GAUSSIAN, [LOOK, OTHER], []))(X, t).mean
    close(twist(second_order(inner, SOLVE), OTHER)(X, t).mean, want, 1e-10)
    close(condition(second_order(inner, SOLVE), OTHER)(X, t).mean, want, 1e-10)
    inside = condition(second_order(learned, SOLVE), LOOK)
    close(twist(second_order(inside, SOLVE), OTHER)(X, t).mean, want, 1e-10)
    close(twist(inside, OTHER)(X, t).mean, want, 1e-10)
    dense = twist(second_order(twist(second_order(learned, "full"), LOOK), "full"), OTHER)
    close(dense(X, t).mean, want, 1e-10)


def test_a_batch_of_columns_cannot_pass_a_solve_and_the_cure_is_named():
    inner = twist(second_order(MeanOnly(model("vp", GAUSSIAN)), SOLVE), LOOK)
    for outer in ("full", "diagonal"):
        with pytest.raises(LawError, match=r"in one batch.*'jacobian' or 'row_sum'"):
            second_order(inner, outer)(X, time(0.4))
    c = model("vp", given(GAUSSIAN, [LOOK], []))(X, time(0.4)).covariance()
    close(second_order(inner, "row_sum")(X, time(0.4)).cov.variances(), c.sum(2).clamp_min(0))


def test_a_scale_multiplies_the_pull():
    exact, t = model("vp", MIXTURE), TIMES["each"]
    plain, full = exact(X, t).mean, twist(exact, LOOK)(X, t).mean
    each = time([0.0, 0.5, 2.0])
    scales = {
        "number": (2.5, 2.5),
        "whole": (2, 2.0),
        "nothing": (0.0, 0.0),
        "each": (each, each[:, None]),
        "time": (lambda u: 3 * u, 3 * t[:, None]),
        "time_number": (lambda u: 0.3, 0.3),
    }
    for given_, factor in scales.values():
        close(twist(exact, LOOK, scale=given_)(X, t).mean, plain + factor * (full - plain))
    close(
        twist(exact, LOOK, scale=lambda u: 1 + u)(X, time(0.4)).mean,
        1.4 * twist(exact, LOOK)(X, time(0.4)).mean - 0.4 * exact(X, time(0.4)).mean,
    )
    with pytest.raises(ShapeError, match="2 scales were given for a batch of 3"):
        twist(exact, LOOK, scale=time([1.0, 2.0]))(X, t)


def test_a_scaled_twist_cannot_be_nested():
    exact = model("vp", MIXTURE)
    for inner, outer in ((0.5, 1.0), (1.0, 0.5), (time([0.5, 1.0, 2.0]), 1.0), (lambda t: t, 1.0)):
        with pytest.raises(PotentialError, match=r"p & q.*temper one of them"):
            twist(twist(exact, LOOK, scale=inner), LEAN, scale=outer)
    close(twist(twist(exact, LOOK, scale=1.0), LEAN)(X, time(0.4)).mean, twist(exact, LOOK & LEAN)(X, time(0.4)).mean)


# Graphs.


@pytest.mark.parametrize("cov", ["law", "zero", "full", "row_sum", "jacobian"])
def test_no_graph_is_left_behind_and_none_is_needed(cov):
    exact = model("vp", MIXTURE)
    steered = twist(exact if cov == "law" else second_order(exact, cov), LOOK)
    t = time(0.4)
    with torch.no_grad():
        quiet = steered(X, t).mean
    loud = steered(X, t).mean
    assert not quiet.requires_grad
    assert not loud.requires_grad
    torch.testing.assert_close(quiet, loud, rtol=0, atol=0)
    assert not X.requires_grad
    x = X.clone().requires_grad_()
    attached = steered(x, t).mean
    assert attached.requires_grad
    torch.testing.assert_close(attached.detach(), loud, rtol=1e-12, atol=1e-12)


def test_a_twisted_mean_is_differentiable_where_the_state_is_tracked():
    """Against the Jacobian of the exact conditional's mean; under no_grad outside as well."""
    x, t = X.clone().requires_grad_(), time(0.4)
    with torch.no_grad():
        mean = twist(second_order(MeanOnly(model("vp", GAUSSIAN)), SOLVE), LOOK)(x, t).mean
    u = draws((B, D), 16)
    (got,) = torch.autograd.grad((mean * u).sum(), x)
    y = X.clone().requires_grad_()
    (want,) = torch.autograd.grad((model("vp", given(GAUSSIAN, [LOOK], []))(y, t).mean * u).sum(), y)
    close(got, want)


def test_one_call_a_step():
    for steer in (twist, condition, weigh):
        denoiser = Counted(model("vp", MIXTURE))
        steer(denoiser, LOOK & LEAN)(X, time(0.4))
        assert denoiser.calls == 1


# Refusals.


@pytest.mark.parametrize("clock", ["linear_flow", "cosine", "bridge"])
def test_pure_noise_cannot_be_twisted_and_the_cure_is_named(clock):
    steered = twist(model(clock, MIXTURE), LOOK)
    with pytest.raises(ScheduleError, match="from the second step on"):
        steered(X, time(1.0))
    assert bool(torch.isfinite(steered(X, time(0.999)).mean).all())
    assert bool(torch.isfinite(condition(model(clock, MIXTURE), LOOK)(X, time(1.0)).mean).all())


def test_a_point_cannot_be_conditioned():
    learned = MeanOnly(model("vp", MIXTURE))
    for denoiser in (learned, twist(learned, LOOK), second_order(learned, "zero")):
        with pytest.raises(PotentialError, match=r"steer nothing.*second_order.*twist"):
            condition(denoiser, LEAN)(X, time(0.4))


def test_rewards_without_a_slope_or_a_closed_form_say_what_to_do():
    half = Reward(lambda x: torch.where(x[:, 0] > 0, 0.0, -5.0).double())
    with pytest.raises(PotentialError, match=r"no gradient.*condition.*weigh"):
        twist(MeanOnly(model("vp", MIXTURE)), half)(X, time(0.4))
    with torch.inference_mode(), pytest.raises(PotentialError, match=r"inference mode.*no_grad"):
        twist(model("vp", MIXTURE), LOOK)(X, time(0.4))
    with pytest.raises(LawError, match=r"at_mean.*monte_carlo.*smc"):
        twist(model("vp", MIXTURE), half)(X, time(0.4))
    with pytest.raises(LawError, match="twist"):
        condition(model("vp", MIXTURE), half)(X, time(0.4))
    got = condition(model("vp", ATOMS), half)(X, time(0.4)).log_weights
    weights = model("vp", ATOMS)(X, time(0.4)).log_weights
    close(got.exp(), (weights + half(ATOMS.atoms)).softmax(1))


# Samplers.

SAMPLERS = {**{name: make() for name, make in gaussian.SOLVERS.items()}, "ancestral": Ancestral()}
PARALLEL = ("picard",)  # documented: asks about some rows of the batch alone, and a guide holds something for each


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("how", ["twist", "second_order", "condition"])
def test_every_sampler_takes_it(name, how):
    """State by state it is the sampler on the exact conditional's own denoiser, with the same noise."""
    steered = {
        "twist": twist(model("vp", GAUSSIAN), LOOK & LEAN),
        "second_order": twist(second_order(MeanOnly(model("vp", GAUSSIAN)), SOLVE), LOOK & LEAN),
        "condition": condition(model("vp", GAUSSIAN), LOOK & LEAN),
    }[how]
    truth = model("vp", given(GAUSSIAN, [LOOK], [LEAN]))
    truth = truth if how == "condition" else MeanOnly(truth)
    grid = grids.uniform(None, 6, 0.9, 0.1)
    if name in PARALLEL:
        with pytest.raises(ShapeError, match="give it a method rows"):
            run(steered, SAMPLERS[name], grid, X, Shared(3))
        return
    with torch.no_grad():
        ends = [run(denoiser, SAMPLERS[name], grid, X, Shared(3)) for denoiser in (steered, truth)]
    close(ends[0], ends[1])


# Every pair of conditions, on one mixture of four components with two labels.

LABELS = torch.tensor([0, 1, 0, 1])
ALLOWED = LABELS == 1
LABELLED = ExactConditional(path_of("vp"), LabelledMixture(MIXTURE, LABELS), 2)
PAIRS = {"label": None, "look": LOOK, "other": OTHER, "lean": LEAN, "second_lean": Linear(draws((1, D), 17))}


def asked(names: tuple[str, str], clock: str = "vp") -> tuple[Any, list[Likelihood], list[Linear], Any, Any]:
    """(denoiser, looks, leans, allowed, joined potential) of a pair."""
    conditional = ExactConditional(path_of(clock), LabelledMixture(MIXTURE, LABELS), 2)
    label = "label" in names
    denoiser = conditional.given(torch.ones(B) if label else torch.full((B,), 2.0))
    potentials = [PAIRS[n] for n in names if n != "label"]
    joined = potentials[0] if len(potentials) == 1 else potentials[0] & potentials[1]
    looks = [p for p in potentials if isinstance(p, Likelihood)]
    leans = [p for p in potentials if isinstance(p, Linear)]
    return denoiser, looks, leans, ALLOWED if label else None, joined


@pytest.mark.parametrize("names", list(itertools.combinations(PAIRS, 2)), ids="-".join)
@pytest.mark.parametrize("clock", ["vp", "edm", "linear_flow"])
def test_conjugate_pairs_are_exact(names, clock):
    """Condition gives the exact conditional's law, twist its mean, in any nesting."""
    denoiser, looks, leans, allowed, joined = asked(names, clock)
    truth = Exact(path_of(clock), given(MIXTURE, looks, leans, allowed))
    for t in TIMES.values():
        want = truth(X, t)
        same_law(condition(denoiser, joined)(X, t), want)
        close(twist(denoiser, joined)(X, t).mean, want.mean)
        for part in (*looks, *leans):
            rest = [p for p in (*looks, *leans) if p is not part]
            if rest:
                close(twist(condition(denoiser, part), rest[0])(X, t).mean, want.mean)


BOWL = Reward(lambda x: 0.5 * (2 * x).sin().sum(1) - 0.1 * x.pow(4).sum(1).sqrt())
NORMAL = time([1.0, 1.0, 0.0, 0.0])


@dataclass(frozen=True)
class Half(Potential):
    """The half space x_1 + x_2 > 1/2, lifted by the error function under a mixture."""

    def __call__(self, x_0):
        return torch.where(x_0 @ NORMAL > 0.5, 0.0, -torch.inf).to(x_0.dtype)

    def lift(self, law):
        mean, std = law.means @ NORMAL, law.cov.quadratic(lambda v: v, NORMAL.expand(*law.cov.values.shape[:2], D)).sqrt()
        return torch.logsumexp(law.log_weights + torch.special.log_ndtr((mean - 0.5) / std), -1)


@dataclass(frozen=True)
class Apart(Potential):
    """Two rewards whose lifts are added, though lifts do not add: a twist that is wrong on purpose, for weights to repair."""

    first: Potential
    second: Potential

    def __call__(self, x_0):
        return self.first(x_0) + self.second(x_0)

    def lift(self, law):
        return self.first.lift(law) + self.second.lift(law)


HALF = Half()
N, PARTICLES = 500, 6000
CASES = {
    "look-bowl": ([LOOK], [], None, BOWL),
    "lean-bowl": ([], [LEAN], None, BOWL),
    "label-bowl": ([], [], ALLOWED, BOWL),
    "bowl-half": ([], [], None, Apart(at_mean(BOWL), HALF)),
    "label-half": ([], [], ALLOWED, HALF),
    "look-half": ([LOOK], [], None, HALF),
    "lean-half": ([], [LEAN], None, HALF),
}


def drawn(law: Mixture, reward: Any, seed: int) -> torch.Tensor:
    """N exact draws of law x exp reward by rejection (the rewards are at most 2)."""
    rng = Shared(seed)
    x = law.expand(1 << 17).sample(rng)
    top = 2.0 if reward is not HALF else 0.0
    u = rng.uniform((len(x),), dtype=F64)
    kept = x[u.log() < reward(x) - top]
    assert len(kept) >= N
    return kept[:N]


@pytest.mark.parametrize("case", CASES)
def test_other_pairs_are_reached_by_particles(case):
    """500 draws out of 6000 particles, within 1.5 times the floor: the mean distance of exact draws of the same size.

    Seeds are fixed. Over three seeds a case the ratio was 0.8 to 1.2 (1.0 to 1.4 for a look and a half space, the worst); the
    unsteered law is at more than 3 floors (asserted).
    """
    looks, leans, allowed, reward = CASES[case]
    closed = [*looks, *leans]
    lifted = at_mean(reward) if reward is BOWL else reward
    potential = lifted & closed[0] if closed else lifted
    denoiser = LABELLED.given(torch.full((PARTICLES,), 2.0 if allowed is None else 1.0))
    grid = grids.log_snr(SCHEDULES["vp"], 20, sigma_min=0.05)
    done = smc(twist(denoiser, potential), grid, event=(D,), particles=PARTICLES, rng=Shared(0), dtype=F64)
    got = done.draw(Shared(1), N)[0]
    target = given(MIXTURE, looks, leans, allowed)
    truth = [drawn(target, reward, seed) for seed in range(4)]
    floor = sum(sliced_w2(a, b, projections=64) for a, b in itertools.combinations(truth, 2)) / 6
    distance = sum(sliced_w2(got, x, projections=64) for x in truth) / 4
    assert distance < 1.5 * floor
    plain = sliced_w2(MIXTURE.expand(N).sample(Shared(2)), truth[0], projections=64)
    assert plain > 3 * floor
