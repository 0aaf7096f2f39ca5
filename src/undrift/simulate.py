r"""The trajectory loop, and the one ancestral sampler of all families.

.. math:: x_1 \sim \text{prior}, \qquad x_s \sim \int p(x_s \mid x_t, x_0)\, q(dx_0 \mid x_t), \quad t \to s

`trajectory` is a generator: a caller stops, looks, or draws a progress bar without hooks. `sample` runs it from the prior to
the end of the grid, checks the result once, and if it is not finite replays the same noise to name the step.

Checked by: tests/test_simulate.py and tests/conformance/test_families.py
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from undrift.core import PerSample, Random
from undrift.errors import FamilyError, GridError, NonFiniteError, ShapeError, TimeError
from undrift.grids import Grid
from undrift.laws import Law
from undrift.protocols import Denoiser, Path, Sampler

__all__ = ["Ancestral", "OneCall", "Step", "check_family", "last", "sample", "trajectory"]


class Step(NamedTuple):
    """A stop on the way.

    Attributes:
        index: 0 before the first step, n after the last of n.
        t: the time of x.
        x: state, shape (B, *E).
        law: law of the clean end that led here; None at index 0.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    t: float
    x: Tensor
    law: Any


def check_family(sampler: Any, path: Path) -> None:
    """Raise `FamilyError` unless the sampler serves the path's family."""
    if sampler.family not in ("any", path.family):
        raise FamilyError(
            f"{type(sampler).__name__} serves {sampler.family} paths, and this model runs on a {path.family} path; "
            "use undrift.Ancestral(), which serves every family"
        )


def trajectory(denoiser: Denoiser, sampler: Sampler, grid: Grid, x: Tensor, *, rng: Random) -> Iterator[Step]:
    """Run a path backwards along a grid, yielding the start and every step.

    Args:
        denoiser: what the clean end could be; carries its path.
        sampler: how to step.
        grid: where to stop.
        x: state at the grid's first time, shape (B, *E).
        rng: source of every random number.

    Yields:
        grid.steps + 1 stops.

    Raises:
        FamilyError: the sampler serves another family than the denoiser's path.
        ShapeError: the denoiser answers in another dtype than the state's.

    Checked by: tests/test_simulate.py
    """
    check_family(sampler, denoiser.path)
    plan, state = sampler.plan(denoiser.path, grid), sampler.init(x)
    before = x.dtype
    yield Step(0, grid.times[0], x, None)
    for i, t in enumerate(grid.times[1:]):
        x, state, law = sampler.step(denoiser, plan, i, x, state, rng)
        if x.dtype != before:
            raise ShapeError(
                f"a state of {before} came back as {x.dtype}: the denoiser answers in {x.dtype}; start from a state of that "
                f"dtype (dtype={x.dtype}), or build its law or network in {before}"
            )
        yield Step(i + 1, t, x, law)
        del law  # its memory serves the next step


def last(stops: Iterable[Step]) -> Tensor:
    """The state at the last stop of a trajectory, shape (B, *E).

    Args:
        stops: a trajectory, or what a bar made of it.

    Raises:
        GridError: no stop came.

    Checked by: tests/test_simulate.py::test_a_loop_without_stops_is_refused
    """
    x = None
    for step in stops:
        x = step.x
        del step  # and with it the answer that made it, whose memory serves the next step
    if x is None:
        raise GridError("the loop came to no stop; what wraps a trajectory, such as progress=, must hand on every step")
    return x


@torch.no_grad()
def sample(
    denoiser: Denoiser,
    sampler: Sampler,
    grid: Grid,
    shape: Sequence[int],
    *,
    seed: int,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    prior: Law | None = None,
    rng: Callable[[], Random] | None = None,
    progress: Callable[[Iterator[Step]], Iterator[Step]] = iter,
) -> Tensor:
    """Draw from the path's prior and run it back to the grid's end.

    Args:
        denoiser: what the clean end could be.
        sampler: how to step.
        grid: where to stop.
        shape: (B, *E).
        seed: sample i of a seed is the same in any batch.
        dtype: of the state, for families of numbers.
        device: of the state.
        prior: law of the state at the grid's first time; the path's own prior by default, which lives at t = 1.
        rng: makes the source of randomness anew; per-sample streams of `seed` by default. `lambda: Shared(seed)` is
            faster for very many small samples.
        progress: wraps the loop, for a bar; gets and gives an iterator of `Step`.

    Returns:
        States at the grid's last time, shape (B, *E).

    Raises:
        FamilyError: the sampler serves another family.
        TimeError: the grid starts below t = 1 and no prior was given.
        NonFiniteError: the result holds NaN or infinity; names the step and the time.

    Checked by: tests/test_simulate.py::test_nan_is_named_by_step_and_time
    """
    if prior is None and grid.times[0] != 1:
        raise TimeError(
            f"the grid starts at t = {grid.times[0]:g}, and the path's prior is the law at t = 1; start the grid at 1, or give "
            "prior=, the law of the state at the grid's first time"
        )
    make = rng or (lambda: PerSample(seed, shape[0]))
    like = torch.empty(tuple(shape), dtype=dtype, device=device)

    def run() -> Iterator[Step]:
        source = make()
        start = (prior or denoiser.path.prior(like)).sample(source)
        return trajectory(denoiser, sampler, grid, start, rng=source)

    x = last(progress(run()))
    if bool(x.sum().isfinite() if x.dtype.is_floating_point else (x >= 0).all()) or not bool(_broken(x).any()):
        return x  # a finite sum has no other terms, and is the quickest to see
    for step in run():
        bad = _broken(step.x)
        if bool(bad.any()):
            raise NonFiniteError(
                f"step {step.index} of {grid.steps}, at t = {step.t:g}, made NaN or infinity in {int(bad.sum())} of "
                f"{shape[0]} samples (first: sample {int(bad.nonzero()[0])}); if the network was trained, look for a time "
                "outside its training range or an overflow of a half-precision dtype"
            )
    raise NonFiniteError("a sample was not finite, and the replay from the same seed was: the denoiser is not deterministic")


def _broken(x: Tensor) -> Tensor:
    """Rows that hold NaN, infinity, or (for symbols) the -1 that stands for no symbol, shape (B,)."""
    return (~torch.isfinite(x) if x.dtype.is_floating_point else x < 0).flatten(1).any(1)


class OneCall:
    """What every sampler without state that asks the denoiser once a step shares; it adds `family`, `order` and `step`."""

    family: Any

    def calls(self, grid: Grid) -> int:
        """One a step."""
        return grid.steps

    def plan(self, path: Path, grid: Grid) -> list[tuple[Tensor, Tensor]]:
        """(t, s) of every step, as float64 scalars on the CPU."""
        check_family(self, path)
        return [(torch.tensor(t, dtype=torch.float64), torch.tensor(s, dtype=torch.float64)) for t, s in grid.pairs()]

    def init(self, x: Tensor) -> None:
        """No state."""


@dataclass(frozen=True)
class Ancestral(OneCall):
    """The ancestral sampler: draw the step back from `path.reverse`, whatever the family.

    With the true joint posterior every one-time marginal is exact for any number of steps. A mean in place of the law
    (`Point`, or a factorised `Categorical`) loses covariance O((t - s)^2) a step: weak order 1.

    Source: Ho et al. 2020, algorithm 2; Austin et al. 2021; one line for all of them.
    Checked by: tests/conformance/test_families.py::test_reverse_keeps_marginals
    """

    @property
    def family(self) -> str:
        """Every family."""
        return "any"

    @property
    def order(self) -> int:
        """Weak order with a mean in place of the law."""
        return 1

    def step(
        self, denoiser: Denoiser, plan: list[tuple[Tensor, Tensor]], i: int, x: Tensor, state: None, rng: Random
    ) -> tuple[Tensor, None, Any]:
        """x_s ~ reverse(x_t, denoiser(x_t, t), t, s)."""
        t, s = plan[i]
        law = denoiser(x, t)
        return denoiser.path.reverse(x, law, t, s).sample(rng), None, law
