"""Certifies `undrift.particles`: the evidence is unbiased, resampling and genealogies are exact, problems do not mix. float64.

Unbiasedness: the mean of Z_hat / Z over 600 runs of 24 particles lies within 5 standard errors of 1 (a false alarm once in 1.7
million, seeds fixed), and the standard errors are below the share of Z stated in each test, so that a bias of five times that
would be seen.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch

from oracles import F64, Counted, MeanOnly, draws, mixture, time
from undrift import bridge, discrete, gaussian, grids, particles
from undrift.core import CG, Covariance, PerSample, Shared
from undrift.errors import GridError, NonFiniteError, PotentialError, ShapeError, TimeError
from undrift.evidence import sliced_w2
from undrift.guidance import Likelihood, Linear, Potential, Reward, condition, jacobian, monte_carlo, second_order, twist, weigh
from undrift.laws import Empirical, Mixture, Normal, Point
from undrift.operators import Matrix
from undrift.particles import Particles, effective_size, smc, systematic
from undrift.schedules import VP, BrownianBridge, LinearFlow

D, RUNS, N = 4, 600, 24
DATA = mixture(D, k=3, seed=0)
LOOK = Likelihood(Matrix(draws((2, D), 1)), draws((1, 2), 2), time([0.5, 0.8]))
PATH = gaussian.Path(VP())
EXACT = gaussian.Exact(PATH, DATA)
GRID = grids.log_snr(PATH.schedule, 8, sigma_min=0.05)


def start(rows: int, t: float = 1.0, data: Mixture = DATA) -> Any:
    """The exact law of the states at the grid's first time."""
    return gaussian.Exact(PATH, data).marginal(time(t)).expand(rows)


def evidence(steering: Any, **settings: Any) -> torch.Tensor:
    """Z_hat of every run."""
    done = smc(
        steering,
        settings.pop("grid", GRID),
        event=settings.pop("event", (D,)),
        particles=N,
        problems=RUNS,
        rng=Shared(settings.pop("seed", 0)),
        dtype=F64,
        **settings,
    )
    return done.log_evidence.exp()


def check(values: torch.Tensor, truth: float, error: float) -> None:
    """Unbiased within 5 standard errors, each below `error`."""
    ratio = values / truth
    spread = float(ratio.std()) / math.sqrt(len(ratio))
    assert spread < error
    assert abs(float(ratio.mean()) - 1) < 5 * spread


@dataclass(frozen=True)
class Mistaken(Potential):
    """One potential, lifted as another: a bad twist with the right end."""

    true: Potential
    believed: Potential

    def __call__(self, x_0):
        return self.true(x_0)

    def lift(self, law):
        return self.believed.lift(law)

    def absorb(self, law):
        return self.believed.absorb(law)

    @property
    def closed(self):
        return True


WRONG = Mistaken(LOOK, Likelihood(LOOK.look, LOOK.y + 0.7, 3 * LOOK.variance))
STEERINGS = {
    "twist": (lambda: twist(EXACT, LOOK), 0.02),
    "condition": (lambda: condition(EXACT, LOOK), 0.02),
    "weigh": (lambda: weigh(EXACT, LOOK), 0.03),
    "half_twist": (lambda: twist(EXACT, LOOK, scale=0.5), 0.03),
    "strong_twist": (lambda: twist(EXACT, LOOK, scale=1.5), 0.04),
    "wrong_noise": (lambda: condition(EXACT, WRONG), 0.03),
    "wrong_twist": (lambda: twist(EXACT, WRONG), 0.03),
    "lean": (lambda: twist(EXACT, LOOK & Linear(draws((1, D), 3))), 0.1),
}


@pytest.mark.parametrize("threshold", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", STEERINGS)
def test_the_evidence_is_unbiased(name, threshold):
    """Good, bad and absent twists, resampled never, sometimes and always: E Z_hat = E e^r under the exact law."""
    make, error = STEERINGS[name]
    steering = make()
    potential = LOOK & Linear(draws((1, D), 3)) if name == "lean" else LOOK
    truth = float(potential.lift(DATA).exp())
    check(evidence(steering, threshold=threshold, prior=start(RUNS * N)), truth, error if threshold else 3 * error)


def test_perfect_steering_has_equal_weights():
    """Conditioning by Bayes' rule makes the proposal the target's own kernel: weights are those of the start, to rounding.

    Only the last step, which is the model's own, changes them.
    """
    done = smc(
        condition(EXACT, LOOK), GRID, event=(D,), particles=500, rng=Shared(0), dtype=F64, prior=start(500), threshold=0.0
    )
    torch.testing.assert_close(done.sizes[1:-1], done.sizes[:1].expand(GRID.steps - 1, 1), rtol=1e-6, atol=0)


def test_the_evidence_is_unbiased_from_pure_noise():
    """A clock with alpha = 0 at t = 1: the path's own prior is exact there, and conditioning needs no gradient."""
    exact = gaussian.Exact(gaussian.Path(LinearFlow()), DATA)
    grid = grids.uniform(None, 8)
    for steering in (condition(exact, LOOK), weigh(exact, LOOK)):
        check(evidence(steering, grid=grid), float(LOOK.lift(DATA).exp()), 0.03)


def test_the_evidence_is_unbiased_on_a_bridge():
    source = draws((1, D), 5)
    path = bridge.Path(BrownianBridge(0.8), Point(source.expand(RUNS * N, D)))
    exact = bridge.Pinned(path, DATA)
    for steering in (condition(exact, LOOK), weigh(exact, LOOK)):
        check(evidence(steering, grid=grids.uniform(None, 6)), float(LOOK.lift(DATA).exp()), 0.03)


def test_the_evidence_is_unbiased_for_symbols():
    """Three symbols at two sites, the joint posterior, a reward of whole events; Z by enumeration."""
    atoms = discrete.enumerate_events(3, 2)
    data = Empirical.of(atoms, torch.softmax(draws((9,), 6), 0))
    reward = Reward(lambda x: (x[:, 0] * (x[:, 1] + 1)).double().sin())
    truth = float((data.log_weights[0].exp() * reward(atoms).exp()).sum())
    for path in (discrete.uniform(3), discrete.masked(3)):
        exact = discrete.Exact(path, data)
        for steering in (weigh(exact, reward), condition(exact, reward)):
            check(evidence(steering, grid=grids.uniform(None, 4), event=(2,)), truth, 0.02)


def test_a_rough_lift_is_repaired():
    """A half space by 4 draws with a floor: the lift is a bad twist, and the weights know."""
    half = Reward(lambda x: torch.where(x[:, 0] > 0, 0.0, -torch.inf).to(x.dtype))
    inside = DATA.log_weights[0].exp() @ torch.special.ndtr(DATA.means[0, :, 0] / DATA.cov.variances()[0, :, 0].sqrt())
    check(evidence(weigh(EXACT, monte_carlo(half, 4, floor=-3.0)), prior=start(RUNS * N)), float(inside), 0.03)


def test_second_order_steering_runs():
    """The law of a mean with products alone steps like a point: weights correct the twist, and Z is that of the coarse model.

    On 8 steps a point at the mean loses covariance; on 64 the evidence is within 10% of the truth (weak order 1).
    """
    steering = twist(second_order(MeanOnly(EXACT), jacobian(CG(tolerance=0.0))), LOOK)
    grid = grids.log_snr(PATH.schedule, 64, sigma_min=0.02)
    done = smc(steering, grid, event=(D,), particles=500, rng=Shared(0), dtype=F64, prior=start(500))
    assert bool(torch.isfinite(done.x).all())
    assert not done.x.requires_grad
    assert abs(float(done.log_evidence) - float(LOOK.lift(DATA))) < 0.3


# Resampling, sizes and genealogies.


def test_effective_sizes():
    """(sum w)^2 / sum w^2 by hand; scale does not matter; the dead have none."""
    w = time([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    want = time([4.0, 1.0, 36 / 14, 0.0])
    for shift in (0.0, -2000.0, 900.0):
        torch.testing.assert_close(effective_size(w.log() + shift), want, rtol=1e-12, atol=0)


def test_systematic_resampling_keeps_expected_counts():
    """Counts are floor or ceil of n w for every u, and n w on average over 1000 midpoints (each steps twice: within .002)."""
    weights = torch.cat([torch.softmax(2 * draws((1, 7), 7), -1), time([[0.5, 0.0, 0.25, 0.0, 0.0, 0.25, 0.0]])])
    for n in (3, 7, 16):
        total = torch.zeros(2, 7, dtype=F64)
        for u in (torch.arange(1000, dtype=F64) + 0.5) / 1000:
            index = systematic(weights.log(), u.expand(2), n)
            counts = torch.stack([torch.bincount(row, minlength=7) for row in index])
            assert bool((counts >= (n * weights - 1e-9).floor()).all())
            assert bool((counts <= (n * weights + 1e-9).ceil()).all())
            total += counts
        torch.testing.assert_close(total / 1000, n * weights, rtol=0, atol=2e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_dead_are_never_chosen(dtype):
    """At the largest uniform number below 1, where n - 1 + u rounds to n, and at 0."""
    for n in (3, 1000, 4096):
        log_weights = torch.zeros(1, n, dtype=dtype)
        log_weights[0, -n // 3 :] = -torch.inf
        log_weights[0, 0] = -torch.inf
        for u in (0.0, 1 - torch.finfo(dtype).eps / 2):
            index = systematic(log_weights, torch.full((1,), u, dtype=dtype), n)
            assert bool(torch.isfinite(log_weights[0, index[0]]).all())


def test_equal_weights_are_left_alone():
    for u in (0.001, 0.3, 0.999):  # at 0 itself rounding decides
        assert systematic(torch.zeros(1, 5, dtype=F64), time([u]), 5).tolist() == [[0, 1, 2, 3, 4]]


class Still(gaussian.Path):
    """A path on which nothing moves: children are where their parents were."""

    def reverse(self, x_t, law, t, s):
        return Point(x_t)


@dataclass
class Logged:
    """A steering that notes every state, and weighs by it."""

    path: Any
    seen: list
    wanted: Any = None

    @property
    def potential(self):
        return self.wanted or Reward(lambda x: x[:, 0])

    def ask(self, x_t, t):
        self.seen.append(x_t)
        law = Point(x_t)
        return law, (3 - 2 * float(t)) * x_t[:, 0].sin(), law

    def per(self, particles):
        return self


def test_ancestors_are_parents_and_weights_follow_them():
    """On a path where nothing moves, the state of a child is that of its parent: every ancestor is seen in the states."""
    grid = grids.of_times([1.0, 0.7, 0.5, 0.2, 0.0])
    steering = Logged(Still(VP()), [])
    done = smc(steering, grid, event=(1,), particles=6, problems=5, rng=Shared(1), dtype=F64, threshold=0.7)
    states = [x.reshape(5, 6) for x in steering.seen] + [done.x[..., 0]]
    for before, after, parents in zip(states[:-1], states[1:], done.ancestors, strict=True):
        torch.testing.assert_close(after, before.gather(1, parents), rtol=0, atol=0)
    here = torch.arange(6).expand(5, 6)
    moved = (done.ancestors != here).any(-1)
    assert bool(moved.any())
    assert not bool(moved.all())  # adaptive: some problems rest at some steps
    assert bool((done.sizes[:-1][moved] < 0.7 * 6).all())
    # The evidence by hand: products of mean weights since the last resampling.
    log_z, log_w = torch.zeros(5, dtype=F64), 1.0 * states[0].sin()
    for i, (t, s) in enumerate(grid.pairs()):
        size = effective_size(log_w)
        torch.testing.assert_close(done.sizes[i], size, rtol=1e-10, atol=0)
        need = size < 0.7 * 6
        log_z = torch.where(need, log_z + log_w.logsumexp(1) - math.log(6), log_z)
        log_w = torch.where(need[:, None], 0.0, log_w)
        now = states[i + 1]
        log_w = log_w + (now if s == 0 else (3 - 2 * s) * now.sin()) - (3 - 2 * t) * now.sin()
    torch.testing.assert_close(done.log_evidence, log_z + log_w.logsumexp(1) - math.log(6), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(done.log_weights, log_w.log_softmax(1), rtol=1e-10, atol=1e-12)
    roots = [{*range(6)} for _ in range(5)]
    for p in range(5):
        lines = list(range(6))
        for parents in reversed(done.ancestors[:, p].tolist()):
            lines = [parents[i] for i in lines]
        roots[p] = set(lines)
    assert done.lineages.tolist() == [len(r) for r in roots]


def test_thresholds():
    """0 never resamples, 1 at every step whose weights differ, one half only below half."""
    settings = {"event": (D,), "particles": 16, "problems": 20, "dtype": F64, "prior": start(320)}
    here = torch.arange(16).expand(GRID.steps, 20, 16)
    never = smc(weigh(EXACT, LOOK), GRID, rng=Shared(0), threshold=0.0, **settings)
    assert bool((never.ancestors == here).all())
    assert bool((never.lineages == 16).all())
    always = smc(weigh(EXACT, LOOK), GRID, rng=Shared(0), threshold=1.0, **settings)
    assert bool((always.lineages < 16).all())
    weights = always.sizes[:-1] < 16 * (1 - 1e-9)
    assert bool(weights[1:].all())
    half = smc(weigh(EXACT, LOOK), GRID, rng=Shared(0), threshold=0.5, **settings)
    rested = (half.ancestors == here).all(-1)
    assert bool(rested[half.sizes[:-1] >= 8].all())
    assert bool((half.sizes > 0).all())
    assert bool((half.sizes <= 16 * (1 + 1e-12)).all())


def test_calls_are_steps():
    denoiser = Counted(EXACT)
    done = smc(weigh(denoiser, LOOK), GRID, event=(D,), particles=4, rng=Shared(0), dtype=F64)
    assert done.calls == denoiser.calls == GRID.steps


# Problems side by side.


@pytest.mark.parametrize("name", ["twist", "condition", "weigh", "scaled"])
def test_problems_side_by_side_equal_separate_runs(name):
    """Each with its own measurement (and scale), streams per row: the same particles alone, within rounding."""
    problems, n = 3, 8
    ys, scales = draws((problems, 2), 8), time([0.3, 0.7, 1.0])

    def steering(which):
        potential = replace(LOOK, y=ys[which])
        if name == "scaled":
            return twist(EXACT, potential, scale=scales[which])
        return {"twist": twist, "condition": condition, "weigh": weigh}[name](EXACT, potential)

    settings = {"event": (D,), "particles": n, "dtype": F64}
    together = smc(steering(slice(None)), GRID, problems=problems, rng=PerSample(4, problems * n), **settings)
    for p in range(problems):
        alone = smc(steering(slice(p, p + 1)), GRID, rng=PerSample(4, range(p * n, p * n + n)), **settings)
        torch.testing.assert_close(together.x[p], alone.x[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.log_weights[p], alone.log_weights[0], rtol=1e-8, atol=1e-9)
        torch.testing.assert_close(together.log_evidence[p], alone.log_evidence[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(together.ancestors[:, p], alone.ancestors[:, 0], rtol=0, atol=0)
        torch.testing.assert_close(together.sizes[:, p], alone.sizes[:, 0], rtol=1e-9, atol=0)


def test_particles_fall_to_the_floor_with_their_number():
    """One draw of each of 1000 unsteered runs with 1, 8 and 64 particles, against exact draws of the conditional.

    The distance falls with the number, from more than 4 floors to below 1.3 (the floor's spread over seeds is about 10%).
    """
    post = condition(EXACT, LOOK).potential.absorb(DATA)
    truth = [post.expand(1000).sample(Shared(seed)) for seed in range(4)]
    floor = sum(sliced_w2(truth[i], truth[j], projections=64) for i in range(4) for j in range(i)) / 6
    found = []
    for n in (1, 8, 64):
        done = smc(weigh(EXACT, LOOK), GRID, event=(D,), particles=n, problems=1000, rng=Shared(5), dtype=F64)
        got = done.draw(Shared(6), 1)[:, 0]
        found.append(sum(sliced_w2(got, x, projections=64) for x in truth) / 4 / floor)
    assert found[0] > 4
    assert found[0] > 1.5 * found[1] > 1.5 * found[2]
    assert found[2] < 1.3


# What is left.


def example(log_weights: torch.Tensor, log_evidence: torch.Tensor) -> Particles:
    p, n = log_weights.shape
    x = torch.arange(p * n, dtype=F64).reshape(p, n, 1)
    return Particles(x, log_weights, log_evidence, torch.ones(1, p, dtype=F64), torch.zeros(0, p, n, dtype=torch.long), 1)


def test_draws_and_means_are_weighted():
    log_weights = time([[0.5, 0.25, 0.25, 0.0], [0.0, 0.0, 0.0, 1.0]]).log()
    done = example(log_weights, torch.zeros(2, dtype=F64))
    torch.testing.assert_close(done.mean, time([[0.75], [7.0]]), rtol=1e-12, atol=0)
    drawn = done.draw(Shared(0))
    assert sorted(drawn[0, :, 0].tolist()) == [0.0, 0.0, 1.0, 2.0]
    assert drawn[1, :, 0].tolist() == [7.0] * 4
    assert done.draw(PerSample(0, 2), 11).shape == (2, 11, 1)


def test_a_problem_whose_particles_are_all_dead_says_so():
    """Half a space that is never reached, in the second of two problems: the first is untouched."""
    limit = time([[0.0], [1e6]])

    @dataclass(frozen=True)
    class Beyond(Potential):
        limit: torch.Tensor

        def __call__(self, x_0):
            return torch.where(x_0[:, :1] > self.limit, 0.0, -torch.inf)[:, 0].to(x_0.dtype)

        def lift(self, law):
            return torch.zeros_like(law.mean[:, 0])

        def per(self, count):
            return Beyond(self.limit.repeat_interleave(count, 0))

    done = smc(weigh(EXACT, Beyond(limit)), GRID, event=(D,), particles=32, problems=2, rng=Shared(0), dtype=F64)
    assert math.isfinite(float(done.log_evidence[0]))
    assert float(done.log_evidence[1]) == -math.inf
    assert float(done.sizes[-1, 1]) == 0
    for read in (lambda: done.mean, lambda: done.draw(Shared(0))):
        with pytest.raises(PotentialError, match=r"1 of 2 problems has weight 0 \(first: problem 1\).*more particles"):
            read()


def test_a_nan_is_told_and_not_buried():
    """A NaN of the potential, of the lift, or of the denoiser is an error; -inf is a particle of no weight."""
    nan = Reward(lambda x: torch.where(x[:, 0] > 0, torch.nan, 0.0).to(x.dtype))
    settings = {"event": (D,), "particles": 16, "rng": Shared(0), "dtype": F64}
    with pytest.raises(NonFiniteError, match="1 of 1 problems"):
        smc(weigh(MeanOnly(EXACT), nan), GRID, **settings)
    late = Mistaken(nan, LOOK)
    with pytest.raises(NonFiniteError, match="not finite"):
        smc(weigh(EXACT, late), GRID, **settings)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"particles": 0}, PotentialError, "at least one particle"),
        ({"problems": 0}, PotentialError, "at least one particle"),
        ({"threshold": -0.1}, PotentialError, r"threshold in \[0, 1\]"),
        ({"threshold": 1.5}, PotentialError, r"threshold in \[0, 1\]"),
        ({"threshold": math.nan}, PotentialError, r"threshold in \[0, 1\]"),
        ({"grid": grids.of_times([0.0, 0.5, 1.0])}, GridError, "times fall"),
        ({"grid": grids.of_times([1.0, 0.5, 0.1])}, GridError, r"stops at t = 0.1; end it at 0"),
        ({"grid": grids.of_times([0.9, 0.5, 0.0])}, TimeError, r"starts at t = 0.9.*prior="),
    ],
)
def test_bad_arguments_are_refused_before_any_call(change, error, says):
    denoiser = Counted(EXACT)
    settings = {"grid": GRID, "event": (D,), "particles": 4, "rng": Shared(0), "dtype": F64, **change}
    with pytest.raises(error, match=says):
        smc(weigh(denoiser, LOOK), settings.pop("grid"), **settings)
    assert denoiser.calls == 0


def test_a_model_of_another_dtype_is_refused():
    with pytest.raises(ShapeError, match=r"float32 came back as torch.float64.*dtype=torch.float64"):
        smc(weigh(EXACT, LOOK), GRID, event=(D,), particles=4, rng=Shared(0))


def test_a_law_that_cannot_be_moved_is_refused():
    atoms = gaussian.Exact(PATH, Empirical.of(draws((5, D), 9)))
    with pytest.raises(PotentialError, match=r"cannot move a Empirical.*condition.*weigh"):
        smc(twist(atoms, LOOK), GRID, event=(D,), particles=4, rng=Shared(0), dtype=F64)
    done = smc(condition(atoms, LOOK), GRID, event=(D,), particles=300, rng=Shared(0), dtype=F64)
    mean = LOOK.absorb(atoms.data).mean
    assert float((done.mean - mean).abs().max()) < 0.5


def test_one_particle_alone_is_a_sample_of_the_proposals():
    done = smc(condition(EXACT, LOOK), GRID, event=(D,), particles=1, problems=3, rng=PerSample(0, 3), dtype=F64)
    assert done.x.shape == (3, 1, D)
    assert done.log_weights.tolist() == [[0.0]] * 3
    assert particles.__all__ == ["Particles", "Steering", "effective_size", "smc", "systematic"]


def test_a_gaussian_without_rows_of_its_own_steps_too():
    """A shared covariance stays shared while particles change places."""
    data = Normal(torch.zeros(1, D, dtype=F64), Covariance.isotropic(time([1.0]), D))
    check(evidence(twist(gaussian.Exact(PATH, data), LOOK)), float(LOOK.lift(data).exp()), 0.02)
