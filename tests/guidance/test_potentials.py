"""Certifies `guidance.potentials`: lifts, joins, negation, tempering, and the estimates of a lift, each against a closed form.

float64. Monte Carlo lifts use fixed seeds; where a rate is measured, its tolerance is stated beside it.
"""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from oracles import F64, SCHEDULES, draws, hermite, line, mixture, normal, slopes, spd, time
from undrift import gaussian
from undrift.core import CG, Covariance, Shared
from undrift.errors import LawError, PotentialError, ShapeError
from undrift.guidance import All, Likelihood, Linear, Reward, at_mean, monte_carlo
from undrift.guidance.potentials import Complement
from undrift.laws import Affine, Categorical, Empirical, Implicit, Mixture, Normal, Point
from undrift.operators import Mask, Matrix

ALGEBRA = {"rtol": 1e-9, "atol": 1e-10}
D, B = 3, 4
A, Y, R = draws((2, D), 0), draws((1, 2), 1), time([0.3, 0.6])
G = draws((1, D), 2)
LAWS = {
    "point": Point(draws((B, D), 3)),
    "normal": Normal(draws((B, D), 3), Covariance.full(spd(D, 4)[None])),
    "mixture": mixture(D).expand(B),
    "empirical": Empirical(torch.log_softmax(draws((B, 6), 5), -1), draws((6, D), 6)),
}
FINITE = ("point", "empirical")
every_law = pytest.mark.parametrize("name", LAWS)


def look(values, y, variance, constant=0.0) -> Likelihood:
    return Likelihood(Matrix(values), y, variance, constant)


def wave(x):
    return -x.square().flatten(1).sum(1) + x.flatten(1).sin().sum(1)


def below(x):
    """A log-probability: at most 0 everywhere."""
    return -torch.nn.functional.softplus(-x.flatten(1).sum(1))


# The potentials themselves.


def test_a_likelihood_integrates_to_one_over_what_it_measures():
    """By Gauss-Legendre quadrature over y in [-12, 12], where nothing is left outside; the constant multiplies."""
    nodes, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(200))
    y, x = (12 * nodes)[:, None], draws((1, D), 3)
    values = torch.stack([look(A[:1], row[None], time([0.4]), 0.7)(x)[0] for row in y])
    assert float((12 * weights * values.exp()).sum()) == pytest.approx(math.exp(0.7), rel=1e-10)


def test_rewards_are_what_they_say():
    x = draws((B, D), 3)
    want = torch.distributions.Normal(x @ A.mT, R.sqrt()).log_prob(Y).sum(1)
    torch.testing.assert_close(look(A, Y, R)(x), want, **ALGEBRA)
    torch.testing.assert_close(Linear(G)(x), x @ G[0], **ALGEBRA)
    torch.testing.assert_close(Reward(wave)(x), wave(x), rtol=0, atol=0)
    joint = look(A, Y, R) & Linear(G) & Reward(wave)
    torch.testing.assert_close(joint(x), want + x @ G[0] + wave(x), **ALGEBRA)


@pytest.mark.parametrize("weight", [0.25, 1.0, 3.0])
@every_law
def test_tempered_potentials_are_multiples_and_closed_ones_stay_closed(weight, name):
    law, x = LAWS[name], draws((B, D), 3)
    for potential in (look(A, Y, R, 0.2), look(A, Y, time([0.5])), Linear(G), look(A, Y, R) & Linear(G)):
        tempered = weight * potential
        assert tempered.closed
        torch.testing.assert_close(tempered(x), weight * potential(x), **ALGEBRA)
        if name in FINITE:  # the same potential as an arbitrary reward, by enumeration
            torch.testing.assert_close(tempered.lift(law), law.log_mean_exp(lambda v, p=potential: weight * p(v)), **ALGEBRA)
    for potential in (Reward(wave), at_mean(Reward(wave)), monte_carlo(Reward(wave), 8), ~Reward(below)):
        torch.testing.assert_close((weight * potential)(x), weight * potential(x), **ALGEBRA)
    torch.testing.assert_close((weight * at_mean(Reward(wave))).lift(law), weight * wave(law.mean), **ALGEBRA)
    drawn = (weight * monte_carlo(Reward(wave), 8)).lift(law)
    torch.testing.assert_close(drawn, monte_carlo(weight * Reward(wave), 8).lift(law), **ALGEBRA)


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan])
def test_measurements_that_repel_are_refused(weight):
    with pytest.raises(PotentialError, match=r"weight > 0.*bounded Reward"):
        weight * look(A, Y, R)


def test_noiseless_measurements_cannot_be_tempered():
    with pytest.raises(PotentialError, match=r"noiseless.*some noise"):
        0.5 * look(A, Y, time([0.3, 0.0]))


@every_law
def test_measurements_of_other_events_are_refused(name):
    """An operator for another event, or measurements for other rows; one law of one row takes any number of measurements."""
    for wrong in (look(draws((2, D + 1), 0), Y, R), look(A, draws((B - 1, 2), 0), R)):
        for ask in (wrong.lift, wrong.absorb):
            with pytest.raises(ShapeError, match="one measurement serves all rows"):
                ask(LAWS[name])
        with pytest.raises(ShapeError, match="as it is sampled"):
            wrong(draws((B, D), 3))
    own = look(A, draws((B, 2), 0), R)
    assert own.lift(LAWS[name]).shape == own.lift(LAWS[name].rows(slice(0, 1))).shape == (B,)


def test_a_tempered_reward_keeps_its_rows():
    """Data per row are repeated for particles, however deep they sit."""
    own = look(A, draws((2, 2), 7), R)
    x = draws((6, D), 8)
    want = torch.cat([look(A, own.y[i : i + 1], R)(x[3 * i : 3 * i + 3]) for i in range(2)])
    for wrap, undo in (
        (lambda p: p, lambda v: v),
        (lambda p: p & Linear(G), lambda v: v - x @ G[0]),
        (lambda p: 0.5 * p, lambda v: 2 * v),
        (lambda p: 0.5 * at_mean(p), lambda v: 2 * v),
        (lambda p: 0.5 * (p & Reward(wave)), lambda v: 2 * v - wave(x)),
        (monte_carlo_of, lambda v: v),
    ):
        torch.testing.assert_close(undo(wrap(own).per(3)(x)), want, **ALGEBRA)
    hidden = Likelihood(own.look, own.y, own.variance, -50.0)  # a log-probability at these points
    torch.testing.assert_close(Complement(hidden).per(3)(x), torch.log1p(-(want - 50).exp()), **ALGEBRA)


def test_densities_have_no_complement():
    with pytest.raises(PotentialError, match="no probability"):
        ~look(A, draws((1, 2), 7), R)
    with pytest.raises(PotentialError, match="no probability"):
        ~Linear(G)


def test_what_is_no_potential_is_refused():
    with pytest.raises(PotentialError, match=r"guidance\.Reward"):
        Linear(G) & (lambda x: x.sum(1))
    with pytest.raises(ShapeError, match="give direction"):
        Linear(G[0])
    with pytest.raises(ShapeError, match="rows cannot be joined"):
        look(A, draws((2, 2), 7), R) & look(A, draws((3, 2), 7), R)


def monte_carlo_of(potential):
    return monte_carlo(potential, 2)


def test_what_all_rows_share_is_not_repeated():
    for shared in (look(A, Y, R), Linear(G), Reward(wave)):
        assert shared.per(5) is shared
    rows = Linear(draws((2, D), 9)).per(3).direction
    torch.testing.assert_close(rows, draws((2, D), 9).repeat_interleave(3, 0), rtol=0, atol=0)


@pytest.mark.parametrize(
    "function",
    [lambda x: x.sum(), lambda x: x, lambda x: x[:1, 0], lambda x: x.sum(1, keepdim=True), lambda x: 1.0],
)
def test_a_reward_of_the_wrong_shape_is_refused(function):
    with pytest.raises(PotentialError, match=r"one number each, shape \(4,\).*never over the batch"):
        Reward(function)(draws((B, D), 0))


# Lifting.


@every_law
def test_closed_potentials_lift_to_what_the_law_says(name):
    law = LAWS[name]
    for potential in (look(A, Y, R, 0.4), Linear(G)):
        lifted = potential.lift(law)
        if name in FINITE:
            torch.testing.assert_close(lifted, law.log_mean_exp(potential), **ALGEBRA)
        else:  # an average of 2^18 draws; 5 standard errors: a false alarm once in 2e6
            rows = law.rows(slice(0, 1))
            samples = rows.expand(1 << 18) if isinstance(rows, Mixture) else Normal(rows.mean.expand(1 << 18, -1), rows.cov)
            value = potential(samples.sample(Shared(0))).exp()
            error = float(value.std()) / 512
            assert abs(float(value.mean()) - float(lifted[0].exp())) < 5 * error
            assert error < 0.02 * float(value.mean())


def test_two_looks_at_one_coordinate_have_the_joint_gain():
    """Prior variance 1/2, noise variance 1/4: the gain at y = 1 is 2/2.5 x 2 = 1.60 and not twice 1/.75 = 2.67 (by hand)."""
    law = Normal(torch.zeros(1, 1, dtype=F64, requires_grad=True), Covariance.isotropic(time([0.5]), 1))
    one = look(torch.ones(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64), time([0.25]))

    def gain(value):
        return float(torch.autograd.grad(value.sum(), law.mean)[0])

    assert gain((one & one).lift(law)) == pytest.approx(1.6, rel=1e-12)
    assert gain(one.lift(law)) * 2 == pytest.approx(8 / 3, rel=1e-12)


PARTS = {
    "look": look(A[:1], Y[:, :1], time([0.3])),
    "mask": Likelihood(Mask(torch.tensor([True, False, False])), time([[0.4]]), time([0.2]), 0.3),
    "linear": Linear(G),
    "rows": Linear(draws((B, D), 10)),
    "own": look(A[1:], draws((B, 1), 11), time([0.6])),
}


@every_law
@pytest.mark.parametrize("names", [*list(itertools.combinations(PARTS, 3)), tuple(PARTS)])
def test_joining_does_not_depend_on_order_and_lifts_the_sum(name, names):
    """Against enumeration (finite laws) or one part after the other by the laws' own algebra (tested elsewhere)."""
    law, parts = LAWS[name], [PARTS[n] for n in names]
    want = All(parts).lift(law)
    for order in list(itertools.permutations(parts))[:: 23 if len(parts) > 3 else 1]:
        torch.testing.assert_close(All(order).lift(law), want, **ALGEBRA)
        a, b, *rest = order
        left, right = (a & b) & All(rest), a & (b & All(rest))
        torch.testing.assert_close(left.lift(law), want, **ALGEBRA)
        torch.testing.assert_close(right.lift(law), want, **ALGEBRA)
        torch.testing.assert_close(left.absorb(law).mean, All(parts).absorb(law).mean, **ALGEBRA)
    total, state = torch.zeros(B, dtype=F64), law
    for part in parts:
        total, state = total + part.lift(state), part.absorb(state)
    torch.testing.assert_close(want, total, **ALGEBRA)
    torch.testing.assert_close(All(parts).absorb(law).mean, state.mean.expand(B, D), **ALGEBRA)
    assert All(parts).closed


def test_joined_lifts_are_integrals():
    """Two looks and a lean on a mixture on the line, by Gauss-Hermite with 200 nodes a component."""
    law = line([0.4, 0.6], [-1.0, 0.7], [0.3, 0.5])
    nodes, weights = hermite(200)
    x = (law.means[0] + law.cov.values[0].sqrt() * nodes)[..., None]
    mass = law.log_weights[0].exp()[:, None] * weights
    potential = (
        look(time([[1.3]]), time([[0.5]]), time([0.4]))
        & Linear(time([[0.8]]))
        & look(time([[-1.0]]), time([[0.2]]), time([0.9]))
    )
    values = potential(x.reshape(-1, 1)).reshape(2, -1)
    torch.testing.assert_close(potential.lift(law)[0], (mass * values.exp()).sum().log(), rtol=1e-10, atol=1e-12)


def test_what_has_no_closed_form_is_lifted_under_what_the_rest_leaves():
    joint = PARTS["look"] & Reward(wave) & Linear(G) & Reward(below)
    assert not joint.closed
    atoms = LAWS["empirical"]
    torch.testing.assert_close(joint.lift(atoms), atoms.log_mean_exp(joint), **ALGEBRA)
    torch.testing.assert_close(joint.absorb(atoms).log_weights, atoms.reweight(joint).log_weights, **ALGEBRA)
    law = LAWS["mixture"]
    seen = Linear(G).absorb(PARTS["look"].absorb(law))
    closed = (PARTS["look"] & Linear(G)).lift(law)
    got = (PARTS["look"] & at_mean(Reward(wave)) & Linear(G)).lift(law)
    torch.testing.assert_close(got, closed + wave(seen.mean), **ALGEBRA)
    torch.testing.assert_close((joint.tractable or joint).lift(law), closed, **ALGEBRA)
    assert All([Reward(wave)]).tractable is None


@every_law
def test_joined_estimates_stay_estimates(name):
    """at_mean(p) & at_mean(q) is at_mean(p & q), and likewise for draws of one seed; other mixtures are refused."""
    law, p, q = LAWS[name], Reward(wave), Reward(below)
    torch.testing.assert_close((at_mean(p) & at_mean(q)).lift(law), at_mean(p & q).lift(law), **ALGEBRA)
    drawn = (monte_carlo(p, 5, seed=3) & monte_carlo(q, 5, seed=3)).lift(law)
    torch.testing.assert_close(drawn, monte_carlo(p & q, 5, seed=3).lift(law), **ALGEBRA)
    for other in (p, at_mean(p), monte_carlo(p, 6, seed=3)):
        with pytest.raises(PotentialError, match=r"different ways.*at_mean\(p & q\)"):
            other & monte_carlo(q, 5, seed=3)


def test_arbitrary_rewards_say_what_to_do_under_gaussians():
    for name in ("normal", "mixture"):
        with pytest.raises(LawError, match=r"at_mean.*monte_carlo"):
            Reward(wave).lift(LAWS[name])
        with pytest.raises(LawError, match=r"twist"):
            Reward(wave).absorb(LAWS[name])
    with pytest.raises(LawError, match="monte_carlo"):
        Reward(wave).lift(Implicit(draws((1, D), 0), torch.zeros_like, CG()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_law
def test_a_law_keeps_its_dtype_under_potentials_of_another(name, dtype):
    """A potential is stated once, in any precision; the states' own is kept (within single precision of the answer)."""
    law = LAWS[name]
    tensors = {k: v.to(dtype) for k, v in vars(law).items() if torch.is_tensor(v)}
    if hasattr(law, "cov"):
        c = law.cov
        tensors["cov"] = Covariance(*(None if v is None else v.to(dtype) for v in (c.values, c.tail, c.basis)), c.dim)
    cast = replace(law, **tensors)
    for potential in (look(A, Y, R, 0.1), Linear(G), look(A, Y, R) & Linear(G)):
        assert potential.lift(cast).dtype == dtype
        assert potential.absorb(cast).mean.dtype == dtype
        torch.testing.assert_close(potential.lift(cast).double(), potential.lift(law), rtol=1e-4, atol=1e-4)


# Negation.


@pytest.mark.parametrize("name", FINITE)
def test_negation_is_one_minus_h(name):
    law, p = LAWS[name], Reward(below)
    torch.testing.assert_close((~p).lift(law).exp(), 1 - p.lift(law).exp(), **ALGEBRA)
    torch.testing.assert_close(law.log_mean_exp(~p), (~p).lift(law), **ALGEBRA)
    torch.testing.assert_close((~p)(draws((B, D), 3)).exp(), 1 - below(draws((B, D), 3)).exp(), **ALGEBRA)
    assert ~~p is p
    torch.testing.assert_close((~at_mean(p)).lift(law).exp(), 1 - below(law.mean).exp(), **ALGEBRA)


def test_negation_of_symbols():
    """Two symbols at two sites, p = log-probability table by hand: E[1 - e^p] = 1 - E[e^p]."""
    law = Categorical(torch.log_softmax(draws((2, 2, 2), 0), -1))
    table = time([[0.1, 0.9], [0.5, 0.25]])
    p = Reward(lambda x: table[x[:, 0], x[:, 1]].log())
    h = torch.einsum("bi,bj,ij->b", law.probs[:, 0], law.probs[:, 1], table)
    torch.testing.assert_close(p.lift(law), h.log(), **ALGEBRA)
    torch.testing.assert_close((~p).lift(law), (1 - h).log(), **ALGEBRA)


@pytest.mark.parametrize("p", [-1e-17, -1e-9, -0.1, -0.693, -0.6932, -1.0, -30.0, -800.0])
def test_negation_is_accurate_with_its_gradient_at_both_ends(p):
    """D log(1 - e^p) / dp = -e^p / (1 - e^p) = -1 / expm1(-p), in closed form; never NaN."""
    x = torch.full((1, 1), p, dtype=F64, requires_grad=True)
    value = (~Reward(lambda v: v[:, 0]))(x)
    (slope,) = torch.autograd.grad(value.sum(), x)
    want = math.log(-math.expm1(p))
    assert float(value.detach()) == pytest.approx(want if p > -30 else math.log1p(-math.exp(p)), rel=1e-12)
    assert float(slope) == pytest.approx(-math.exp(p) / -math.expm1(p), rel=1e-12)


def test_only_log_probabilities_have_a_complement():
    with pytest.raises(PotentialError, match=r"reaches 0.5 > 0.*other sign"):
        (~Reward(lambda x: x[:, 0]))(time([[0.5], [-1.0]]))


# Estimates of a lift.


@every_law
def test_at_mean_is_universal_guidance(name):
    """r(E[X_0 | x_t]) and its gradient through the denoiser, as DPS and universal guidance have it."""
    law, reward = LAWS[name], Reward(wave)
    torch.testing.assert_close(at_mean(reward).lift(law), wave(law.mean), rtol=0, atol=0)
    exact = gaussian.Exact(gaussian.Path(SCHEDULES["vp"]), mixture(D))
    x = draws((B, D), 3).requires_grad_()
    (got,) = torch.autograd.grad(at_mean(reward).lift(exact(x, time(0.4))).sum(), x)
    (want,) = torch.autograd.grad(wave(exact(x, time(0.4)).mean).sum(), x)
    torch.testing.assert_close(got, want, rtol=0, atol=0)


def test_monte_carlo_converges():
    """Root mean square error over 48 seeds at 4, 16 and 64 draws falls by 2 a step: order 1 in log2 over two steps of 4.

    Rows share their draws, so 48 errors count: the measured rate has a standard error of sqrt(2 / 96) / (2 ln 2) = .10, and .4
    is four of them (a false alarm once in 16000; seeds fixed). The mean of exp r itself is unbiased: no bias at few draws.
    """
    law, potential = LAWS["normal"], PARTS["look"]
    exact = potential.lift(law).exp()

    def error(count: int) -> float:
        lifts = torch.stack([monte_carlo(potential, count, seed=s).lift(law).exp() - exact for s in range(48)])
        return float(lifts.square().mean().sqrt())

    measured = slopes([error(4), error(16), error(64)])
    assert abs(sum(measured) / 2 - 1) < 0.4


@every_law
def test_draws_of_a_row_do_not_depend_on_its_batch_and_come_back(name):
    law, potential = LAWS[name], monte_carlo(Reward(wave), 7, seed=2)
    whole = potential.lift(law)
    for i in range(B):
        torch.testing.assert_close(potential.lift(law.rows(slice(i, i + 1))), whole[i : i + 1], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(potential.lift(law), whole, rtol=0, atol=0)
    if name in ("normal", "mixture"):
        assert bool((monte_carlo(Reward(wave), 7, seed=3).lift(law) != whole).all())


def test_draws_of_a_gaussian_have_the_gradient_of_the_average():
    """Reparametrised: by central differences of the lift itself, 1e-6 wide (error 1e-9)."""
    potential, cov = monte_carlo(Reward(wave), 9, seed=1), LAWS["normal"].cov
    mean = draws((1, D), 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda m: potential.lift(Normal(m, cov)), (mean,))


def test_a_floor_keeps_the_unlucky_alive():
    """All draws miss: the lift is the floor, and not -inf; where they hit, the floor adds its own mass."""
    miss = Reward(lambda x: torch.full((len(x),), -torch.inf, dtype=F64))
    law = LAWS["normal"]
    assert bool((monte_carlo(miss, 3).lift(law) == -torch.inf).all())
    torch.testing.assert_close(
        monte_carlo(miss, 3, floor=-9.0).lift(law), torch.full((B,), -9.0, dtype=F64), rtol=1e-14, atol=0
    )
    plain = monte_carlo(Reward(wave), 3)
    want = torch.logaddexp(plain.lift(law), time(-2.0))
    torch.testing.assert_close(monte_carlo(Reward(wave), 3, floor=-2.0).lift(law), want, **ALGEBRA)


@pytest.mark.parametrize("count", [0, -3])
def test_no_draws_are_refused(count):
    with pytest.raises(PotentialError, match="at least one draw"):
        monte_carlo(Reward(wave), count)


# The two facts that make it Doob's transform.


@pytest.mark.parametrize("name", ["vp", "edm", "linear_flow"])
@pytest.mark.parametrize("law", [normal(draws((D,), 12), spd(D, 13)), mixture(D)], ids=["normal", "mixture"])
def test_at_the_clean_end_the_lift_is_the_reward(name, law):
    exact, x = gaussian.Exact(gaussian.Path(SCHEDULES[name]), law), draws((B, D), 14)
    for potential in (look(A, Y, R, 0.1), Linear(G), look(A, Y, R) & Linear(G)):
        torch.testing.assert_close(potential.lift(exact(x, time(0.0))), potential(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", ["vp", "edm", "linear_flow"])
@pytest.mark.parametrize("kind", ["normal", "mixture", "empirical"])
@pytest.mark.parametrize("s", [0.0, 0.2])
def test_lifts_are_martingales(name, kind, s):
    """E[h_s(X_s) | X_t = x] = h_t(x) on the line, under the exact step back: Gauss-Hermite with 160 nodes a component, 1e-8.

    From t = .5 to s in one step, exact for any step; likelihoods and linear rewards and both.
    """
    data = {
        "normal": line([1.0], [0.4], [0.7]),
        "mixture": line([0.3, 0.7], [-1.2, 0.6], [0.2, 0.5]),
        "empirical": Empirical.of(time([[-1.0], [0.2], [0.9]]), time([0.2, 0.5, 0.3])),
    }[kind]
    path = gaussian.Path(SCHEDULES[name])
    exact, t, x = gaussian.Exact(path, data), time(0.5), time([[0.3]])
    law = exact(x, t)
    step = path.reverse(x, law, t, time(s))
    nodes, weights = hermite(160)
    if isinstance(step, Mixture):
        mass, means, stds = step.log_weights[0].exp(), step.means[0], step.cov.values[0].sqrt()
    else:  # an atom, then the kernel at it
        inside = step.kernel.at(step.base.atoms)  # pyright: ignore
        mass, means, stds = law.log_weights[0].exp(), inside.mean, inside.cov.values.sqrt()
    states = (means + stds * nodes).reshape(-1, 1)
    mass = (mass[:, None] * weights).flatten()
    one = look(time([[1.1]]), time([[0.3]]), time([0.4]))
    for potential in (one, Linear(time([[0.6]])), one & Linear(time([[0.6]]))):
        there = potential.lift(exact(states, time(s))) if s else potential(states)
        torch.testing.assert_close((mass * there.exp()).sum(), potential.lift(law)[0].exp(), rtol=1e-8, atol=0)


def test_a_step_back_of_the_line_is_an_affine_kernel_of_each_component():
    """The quadrature above rests on it: one component through the kernel, by hand."""
    kernel = Affine(time(0.5), time([[0.1]]), time(0.2))
    through = line([1.0], [0.4], [0.7]).through(kernel)
    assert float(through.means) == pytest.approx(0.3, rel=1e-12)
    assert float(through.cov.values) == pytest.approx(0.375, rel=1e-12)
