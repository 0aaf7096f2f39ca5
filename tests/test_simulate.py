"""Certifies `undrift.simulate`: the loop's stops and costs, its errors, and samples that no batch can change.

Every Gaussian solver and the ancestral sampler is driven through the same tests; a new one is found in `SOLVERS`.
"""

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from conformance.families import ROWS, SCHEDULES, SURVIVALS, f64
from undrift import Ancestral, PerSample, Shared, bridge, discrete, gaussian, grids, sample, schedules, trajectory
from undrift.core import Covariance
from undrift.errors import FamilyError, GridError, NonFiniteError, ShapeError, TimeError
from undrift.grids import Grid
from undrift.laws import Categorical, Normal, Point
from undrift.simulate import check_family, last

SAMPLERS = {name: make() for name, make in gaussian.SOLVERS.items()} | {"ancestral": Ancestral()}
GRIDS = {
    "to_data": (0.95, 0.6, 0.3, 0.0),
    "early_stop": (0.95, 0.6, 0.3, 0.01),
    "from_one": (1.0, 0.6, 0.3, 0.0),
    "one_to_early_stop": (1.0, 0.5, 0.02),
    "one_step": (1.0, 0.0),
}
# Steps in t, or of a frozen score, are infinite where alpha = 0; their GridError is certified in tests/gaussian.
SWEEPING = ("adaptive", "picard")  # documented: `calls` is the least that a grid can cost
STARTS_AT_NO_SIGNAL = [name for name in SAMPLERS if name not in ("euler_maruyama", "exponential")]


@dataclass
class Counted:
    """A denoiser that notes the times of its calls, and answers NaN for sample 1 when asked about one of them, if told."""

    inner: Any
    poison: float | None = None
    times: list[list[float]] = field(default_factory=list)
    which: Tensor | None = None
    poisoned: list[float] = field(default_factory=list)

    @property
    def path(self) -> Any:
        return self.inner.path

    def rows(self, which: Tensor) -> "Counted":
        return replace(self, inner=gaussian.rows(self.inner, which), which=which)  # the lists are shared

    def __call__(self, x_t: Tensor, t: Tensor) -> Any:
        asked = t.expand(len(x_t)).tolist()
        self.times.append(sorted(set(asked)))
        law = self.inner(x_t, t)
        which = range(len(x_t)) if self.which is None else self.which.tolist()
        hit = [i for i, (k, u) in enumerate(zip(which, asked, strict=True)) if k == 1 and u == self.poison]
        if not hit:
            return law
        self.poisoned.append(float(self.poison or 0))
        mean = law.mean.clone()
        mean[hit] = math.nan
        return Point(mean)


@dataclass(frozen=True)
class Netlike:
    """What a network is to a sampler: a smooth, nonlinear function of the state, row by row through a matrix product."""

    path: Any

    def rows(self, which: Tensor) -> "Netlike":
        return self

    def __call__(self, x_t: Tensor, t: Tensor) -> Any:
        generator = torch.Generator().manual_seed(1)
        if self.path.family == "discrete":
            k = self.path.symbols
            numbers = torch.nn.functional.one_hot(x_t, k).double().flatten(1)
            width = numbers.shape[1]
            logits = torch.tanh(numbers @ torch.randn(width, width, generator=generator).double() + t) * 2
            return Categorical(torch.log_softmax(logits.reshape(*x_t.shape, k), -1))
        flat = x_t.flatten(1)
        weight = torch.randn(flat.shape[1], flat.shape[1], generator=generator, dtype=torch.float64).to(flat.dtype)
        return Point(torch.tanh(flat @ weight + t.to(flat.dtype).reshape(-1, 1)).reshape(x_t.shape))


def exact(schedule: str) -> gaussian.Exact:
    return ROWS[f"gaussian-{schedule}"].denoiser


def start(batch: int = 4) -> Tensor:
    return torch.randn(batch, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("schedule", ["cosine", "vp", "edm"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_stops_and_calls_are_those_announced(name: str, schedule: str, grid: str) -> None:
    sampler, stops = SAMPLERS[name], Grid(GRIDS[grid])
    if schedule == "cosine" and stops.times[0] == 1 and name not in STARTS_AT_NO_SIGNAL:
        schedule = "vp"
    denoiser = Counted(exact(schedule))
    seen = list(trajectory(denoiser, sampler, stops, start(), rng=PerSample(0, 4)))
    assert [stop.index for stop in seen] == list(range(stops.steps + 1))
    assert tuple(stop.t for stop in seen) == stops.times
    assert torch.equal(seen[0].x, start())
    assert seen[0].law is None
    asked = {t for call in denoiser.times for t in call}
    assert len(denoiser.times) == sampler.calls(stops) or (name in SWEEPING and len(denoiser.times) > sampler.calls(stops))
    if len(denoiser.times) == stops.steps and name not in SWEEPING:  # others ask between the stops, or above them
        assert asked <= set(stops.times)
    assert 0 < min(asked) <= max(asked) <= 1  # at 0 a network would be asked about data itself, where sigma = 0
    for stop in seen[1:]:
        assert stop.law.mean.shape == stop.x.shape
        assert bool(torch.isfinite(stop.x).all())


@pytest.mark.parametrize("name", SAMPLERS)
def test_no_argument_is_mutated_and_a_run_repeats(name: str) -> None:
    x, kept = start(), start()
    runs = []
    for _ in range(2):
        states = []
        for stop in trajectory(exact("vp"), SAMPLERS[name], Grid(GRIDS["to_data"]), x, rng=PerSample(3, 4)):
            states.append((stop.x, stop.x.clone()))  # a state that was handed out stays as it was
        assert torch.equal(x, kept)
        assert all(torch.equal(now, then) for now, then in states)
        runs.append(states[-1][0])
    assert torch.equal(*runs)


def test_a_trajectory_is_lazy_and_can_be_left() -> None:
    denoiser = Counted(exact("vp"))
    walk = trajectory(denoiser, Ancestral(), Grid(GRIDS["to_data"]), start(), rng=PerSample(0, 4))
    next(walk)
    assert denoiser.times == []
    next(walk)
    assert denoiser.times == [[0.95]]


# ---- samples and batches ----------------------------------------------------------------------------------------------

NETLIKE = {
    **{f"gaussian-{name}": (Netlike(gaussian.Path(SCHEDULES["vp"])), sampler) for name, sampler in SAMPLERS.items()},
    "bridge": (
        Netlike(bridge.Path(schedules.BrownianBridge(), ROWS["bridge-gaussian_ends-brownian"].path.source)),
        Ancestral(),
    ),
    "uniform": (Netlike(discrete.uniform(5, SURVIVALS["cosine"])), Ancestral()),
    "masked": (Netlike(discrete.masked(4)), Ancestral()),
}


@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("name", NETLIKE)
def test_sample_i_of_a_seed_is_the_same_in_any_batch(name: str, batch: int) -> None:
    denoiser, sampler = NETLIKE[name]
    if name == "masked":
        denoiser = Unmask(denoiser)

    def run(n: int, seed: int = 9) -> Tensor:
        return sample(denoiser, sampler, grids.uniform(None, 12), (n, 3), seed=seed, dtype=torch.float64)

    # A matrix product of another batch size adds in another order: rounding, amplified by 12 steps. Symbols are equal.
    torch.testing.assert_close(run(batch), run(8)[:batch], rtol=1e-9, atol=1e-9)
    assert not torch.equal(run(8), run(8, seed=10))


@dataclass(frozen=True)
class Unmask:
    """A masked denoiser as it must be: certain of what is visible, and never answering the mask."""

    inner: Netlike

    @property
    def path(self) -> discrete.Path:
        return self.inner.path

    def __call__(self, x_t: Tensor, t: Tensor) -> Categorical:
        probs = self.inner(x_t, t).probs
        mask = self.path.symbols - 1
        probs = torch.cat([probs[..., :mask], torch.zeros_like(probs[..., mask:])], -1)
        here = torch.nn.functional.one_hot(x_t, self.path.symbols).double()
        return Categorical.from_probabilities(torch.where((x_t == mask)[..., None], probs, here))


@dataclass
class Recorded:
    """A source that keeps what it gave."""

    inner: PerSample
    drawn: list[Tensor] = field(default_factory=list)

    def normal(self, shape, *, dtype, device="cpu") -> Tensor:
        self.drawn.append(self.inner.normal(shape, dtype=dtype, device=device))
        return self.drawn[-1]

    def uniform(self, shape, *, dtype, device="cpu") -> Tensor:
        self.drawn.append(self.inner.uniform(shape, dtype=dtype, device=device))
        return self.drawn[-1]

    def replay(self) -> "Recorded":
        return Recorded(self.inner.replay())


@pytest.mark.parametrize("name", [n for n in NETLIKE if n != "masked"])
def test_the_noise_of_a_sample_is_the_same_bits_in_any_batch(name: str) -> None:
    denoiser, sampler = NETLIKE[name]

    def noise(n: int) -> Tensor:
        source = Recorded(PerSample(9, n))
        sample(denoiser, sampler, grids.uniform(None, 5), (n, 3), seed=0, dtype=torch.float64, rng=lambda: source)
        return torch.stack([z.flatten(1) for z in source.drawn], 1)

    whole = noise(8)
    for batch in (1, 3):
        assert torch.equal(noise(batch), whole[:batch])


def test_sample_is_the_trajectorys_last_stop() -> None:
    denoiser, grid = exact("vp"), grids.uniform(None, 7)
    rng = PerSample(5, 2)
    like = torch.empty(2, 3, dtype=torch.float64)
    x = denoiser.path.prior(like).sample(rng)
    stops = list(trajectory(denoiser, Ancestral(), grid, x, rng=rng))
    assert torch.equal(sample(denoiser, Ancestral(), grid, (2, 3), seed=5, dtype=torch.float64), stops[-1].x)
    assert last(stops) is stops[-1].x


def test_a_loop_without_stops_is_refused() -> None:
    with pytest.raises(GridError, match="must hand on every step"):
        sample(exact("vp"), Ancestral(), grids.uniform(None, 3), (2, 3), seed=0, progress=lambda loop: iter(()))


def test_another_source_of_randomness_is_used() -> None:
    shared = [
        sample(exact("vp"), Ancestral(), grids.uniform(None, 3), (2, 3), seed=0, dtype=torch.float64, rng=lambda s=s: Shared(s))
        for s in (0, 0, 1)
    ]
    assert torch.equal(shared[0], shared[1])
    assert not torch.equal(shared[0], shared[2])


def test_progress_sees_every_stop() -> None:
    seen = []

    def bar(steps):
        for step in steps:
            seen.append((step.index, step.t))
            yield step

    grid = grids.uniform(None, 4)
    sample(exact("vp"), Ancestral(), grid, (2, 3), seed=0, dtype=torch.float64, progress=bar)
    assert seen == list(enumerate(grid.times))


def test_sampling_keeps_no_graph() -> None:
    net = torch.nn.Linear(3, 3).double()
    path = gaussian.Path(SCHEDULES["vp"])
    denoiser = gaussian.NetDenoiser(lambda x, noise: net(x), path, "edm")
    assert not sample(denoiser, gaussian.DDIM(), grids.uniform(None, 3), (2, 3), seed=0, dtype=torch.float64).requires_grad


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLERS)
def test_states_keep_the_dtype_asked_for(name: str, dtype: torch.dtype) -> None:
    denoiser = Netlike(gaussian.Path(SCHEDULES["vp"]))
    assert sample(denoiser, SAMPLERS[name], grids.uniform(None, 3), (2, 3), seed=0, dtype=dtype).dtype == dtype


# ---- errors -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", gaussian.SOLVERS)
@pytest.mark.parametrize("row", ["bridge-gaussian_ends-brownian", "discrete-uniform-linear"])
def test_a_sampler_of_another_family_is_refused_with_the_cure(name: str, row: str) -> None:
    denoiser = ROWS[row].denoiser
    match = rf"serves gaussian paths, .* runs on a {denoiser.path.family} path; use undrift.Ancestral\(\)"
    with pytest.raises(FamilyError, match=match):
        next(trajectory(denoiser, SAMPLERS[name], grids.uniform(None, 3), ROWS[row].space.states(), rng=PerSample(0, 1)))
    with pytest.raises(FamilyError, match=match):
        SAMPLERS[name].plan(denoiser.path, grids.uniform(None, 3))
    with pytest.raises(FamilyError, match=match):
        sample(denoiser, SAMPLERS[name], grids.uniform(None, 3), (2, *ROWS[row].space.event), seed=0, dtype=torch.float64)
    check_family(Ancestral(), denoiser.path)


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize(("at", "step"), [(1.0, 1), (0.5, 3), (0.25, 4)])
def test_nan_is_named_by_step_and_time(name: str, at: float, step: int) -> None:
    """The denoiser answers NaN for sample 1 when asked at time `at`; the step that used the answer is named."""
    grid, sampler, denoiser = grids.uniform(None, 4), SAMPLERS[name], Counted(exact("vp"), poison=at)
    if name not in SWEEPING and sampler.calls(grid) > grid.steps:
        step = step_that_asks(denoiser, sampler, grid)  # some ask at their own target too, or again from higher up
    if step == 0:  # Langevin moves first, and has no question at the start
        assert at == 1
        assert bool(sample(denoiser, sampler, grid, (3, 3), seed=0, dtype=torch.float64).isfinite().all())
        return
    with pytest.raises(NonFiniteError, match="training range") as caught:
        sample(denoiser, sampler, grid, (3, 3), seed=0, dtype=torch.float64)
    if name == "adaptive":  # an error control cannot go on: it speaks before the step is over
        assert f"sample 1, in step {step} from t = {grid.times[step - 1]:g} to {grid.times[step]:g}, at t = " in str(
            caught.value
        )
    else:
        named = f"step {step} of 4, at t = {grid.times[step]:g}, made NaN or infinity in 1 of 3 samples (first: sample 1); "
        assert str(caught.value).startswith(named)


def step_that_asks(denoiser: Counted, sampler: Any, grid: Grid) -> int:
    """The step in the making when the NaN was answered, or 0."""
    rng = PerSample(0, 3)
    x = denoiser.path.prior(torch.empty(3, 3, dtype=torch.float64)).sample(rng)
    for stop in trajectory(denoiser, sampler, grid, x, rng=rng):
        if denoiser.poisoned:
            return stop.index
    return 0


def test_nan_that_does_not_come_back_is_called_by_its_cause() -> None:
    @dataclass
    class Flaky(Counted):
        def __call__(self, x_t: Tensor, t: Tensor) -> Any:
            law = super().__call__(x_t, t)
            return Point(law.mean * math.nan) if len(self.times) == 2 else law

    with pytest.raises(NonFiniteError, match="the denoiser is not deterministic"):
        sample(Flaky(exact("vp")), Ancestral(), grids.uniform(None, 4), (3, 3), seed=0, dtype=torch.float64)


def test_a_grid_below_one_needs_a_prior_of_its_own() -> None:
    denoiser, grid = exact("vp"), grids.uniform(None, 4, start=0.6)
    with pytest.raises(TimeError, match=r"starts at t = 0\.6, .* start the grid at 1, or give prior="):
        sample(denoiser, Ancestral(), grid, (2, 3), seed=0, dtype=torch.float64)
    marginal = denoiser.marginal(f64(0.6))
    assert isinstance(marginal, Normal)
    wide = Normal(marginal.mean.expand(4000, 3), marginal.cov)
    x = sample(denoiser, Ancestral(), grid, (4000, 3), seed=0, dtype=torch.float64, prior=wide)
    mean, cov = ROWS["gaussian-vp"].truth(0.0)
    # From the true law at 0.6 the exact chain gives the data's law: z < 5, a false alarm of 2e-6 for three numbers.
    assert bool(((x.mean(0) - mean).abs() < 5 * (cov.diagonal() / 4000).sqrt()).all())


def test_ancestral_draws_the_step_back() -> None:
    denoiser, x = exact("cosine"), start()
    grid = Grid((0.8, 0.3))
    *_, last = trajectory(denoiser, Ancestral(), grid, x, rng=PerSample(2, 4))
    expected = denoiser.path.reverse(x, denoiser(x, f64(0.8)), f64(0.8), f64(0.3)).sample(PerSample(2, 4))
    assert torch.equal(last.x, expected)
    assert torch.equal(last.law.mean, denoiser(x, f64(0.8)).mean)


def test_nan_from_a_discrete_network_is_named() -> None:
    """NaN probabilities must not become symbol 0."""

    class Broken:
        path = discrete.masked(3)

        def __call__(self, x_t, t):
            probs = torch.full((*x_t.shape, 4), 1 / 3, dtype=torch.float64)
            probs[..., 3] = 0
            if float(t) < 0.6:
                probs[1] = torch.nan
            return Categorical(probs.log())

    class Direct(Ancestral):
        def step(self, denoiser, plan, i, x, state, rng):
            law = denoiser(x, plan[i][0])
            return law.sample(rng), None, law

    with pytest.raises(NonFiniteError, match=r"step 3 of 4, at t = 0.25, .* 1 of 2 samples \(first: sample 1\)"):
        sample(Broken(), Direct(), grids.uniform(None, 4), (2, 5), seed=0)


def test_a_state_of_another_dtype_than_the_law_is_named() -> None:
    law = Normal(torch.zeros(1, 2, dtype=torch.float64), Covariance.isotropic(torch.ones(1, dtype=torch.float64), 2))
    exact = gaussian.Exact(gaussian.Path(schedules.VP()), law)
    for sampler in (Ancestral(), gaussian.Heun(), gaussian.DPMSolverPP()):
        with pytest.raises(ShapeError, match=r"came back as torch.float64.*\(dtype=torch.float64\)"):
            sample(exact, sampler, grids.uniform(None, 3), (4, 2), seed=0)
        assert sample(exact, sampler, grids.uniform(None, 3), (4, 2), seed=0, dtype=torch.float64).isfinite().all()
