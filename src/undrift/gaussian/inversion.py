r"""Records as noise, and back: the probability flow in both directions.

`encode` follows the flow from x_0 up to t = 1, `decode` follows it down; both are deterministic, and inverse to each other up
to the solver's error. Between two encodings one walks along the sphere (`slerp`), where the prior has its mass:

.. math:: x(w) = \frac{\sin((1-w)\,\Omega)}{\sin\Omega}\, a + \frac{\sin(w\,\Omega)}{\sin\Omega}\, b .

With :math:`\Omega = \pi/2` the weights are cosine and sine, whose squares add to 1: two independent draws of the prior then
combine to a draw of the prior, exactly. With the angle between a and b themselves the walk has constant speed and passes from
norm to norm; the direction still has the prior's law, the norm varies less than the prior's. In many dimensions the two agree.

Sources: Song, Meng and Ermon 2021 (2010.02502), section 5.3-5.4, eq. 67; Meng et al. 2022 (SDEdit; 2108.01073), algorithm 1.
Checked by: tests/gaussian/test_inversion.py
"""

from typing import Any

import torch
from torch import Tensor

from undrift.core import Deterministic, Random, pad
from undrift.errors import GridError, ShapeError
from undrift.gaussian.flow import FOLLOW, flow_grid
from undrift.grids import Grid
from undrift.protocols import Sampler
from undrift.simulate import last, trajectory
from undrift.typing import State

__all__ = ["decode", "edit", "encode", "interpolate", "slerp"]

STEPS = 32
"""Steps of the default solver, 128 calls."""


@torch.no_grad()
def encode(denoiser: Any, x_0: State, sampler: Sampler | None = None, grid: Grid | None = None) -> State:
    """The state at the grid's first time that the probability flow takes to x_0.

    Args:
        denoiser: on a Gaussian path.
        x_0: data, shape (B, *E), codec units.
        sampler: deterministic: DDIM, DPM-Solver++, Heun; by default Runge-Kutta of order 4, 128 calls on its own grid.
        grid: as for sampling, from noise to data; it must end at a little noise, for nothing is known of the direction of a
            noise that is not there. `flow_grid(path, steps)` ends at the noise level .002.

    Returns:
        Shape (B, *E). `decode` gives x_0 back up to the solver's error.

    Raises:
        GridError: the grid ends at sigma = 0, or does not fall, or the sampler is random.

    Source: Song, Meng and Ermon 2021, section 5.4. Checked by: tests/gaussian/test_inversion.py::test_round_trip
    """
    sampler, grid = _chosen(denoiser, sampler, grid)
    return last(trajectory(denoiser, sampler, grid.flipped(), x_0 * _signal(denoiser, grid), rng=Deterministic()))


@torch.no_grad()
def decode(denoiser: Any, x_1: State, sampler: Sampler | None = None, grid: Grid | None = None) -> State:
    """The data that the probability flow takes a state at the grid's first time to; arguments and errors as in `encode`."""
    sampler, grid = _chosen(denoiser, sampler, grid)
    return last(trajectory(denoiser, sampler, grid, x_1, rng=Deterministic())) / _signal(denoiser, grid)


def slerp(a: State, b: Tensor, weight: float | Tensor, angle: float | None = None) -> State:
    """The point at share `weight` of the way from a to b along a great circle.

    Args:
        a: shape (B, *E).
        b: shape (B, *E).
        weight: in [0, 1], one number or one a sample, shape (B,): 0 gives a, 1 gives b.
        angle: between a and b, radians, in (0, pi). None measures it, for each pair its own; pi / 2 is that of independent
            draws of the prior, whose combination is then a draw of the prior.

    Returns:
        Shape (B, *E). Parallel states are joined by a straight line.

    Raises:
        ShapeError: a and b differ in shape.

    Checked by: tests/gaussian/test_inversion.py::test_slerp_walks_the_great_circle,
        tests/gaussian/test_inversion.py::test_the_combination_of_independent_normals_is_normal
    """
    if a.shape != b.shape:
        raise ShapeError(f"a walk leads from shape {tuple(a.shape)} to shape {tuple(b.shape)}; give two of one shape")
    weight = torch.as_tensor(weight, dtype=torch.float64, device=a.device)
    if angle is None:
        u, v = (x.flatten(1).double() / x.flatten(1).double().norm(dim=1, keepdim=True) for x in (a, b))
        omega = 2 * torch.atan2((u - v).norm(dim=1), (u + v).norm(dim=1))  # exact where an arc cosine is not, near 0 and pi
    else:
        omega = torch.tensor(angle, dtype=torch.float64, device=a.device)
    flat = omega.sin().abs() < 1e-6
    first, second = (
        torch.where(flat, line, (line * omega).sin() / torch.where(flat, 1.0, omega.sin())) for line in (1 - weight, weight)
    )
    return pad(first, a) * a + pad(second, b) * b


def interpolate(denoiser: Any, a: State, b: State, n: int, sampler: Sampler | None = None, grid: Grid | None = None) -> Tensor:
    """Data between a and b: both are encoded, and n states of the walk between the encodings are decoded.

    Args:
        denoiser: as in `encode`.
        a: shape (B, *E), codec units.
        b: shape (B, *E), codec units.
        n: how many, >= 2; the first is a and the last is b, up to the error of a round trip.
        sampler: as in `encode`.
        grid: as in `encode`.

    Returns:
        Shape (B, n, *E).

    Raises:
        GridError: n < 2, or as in `encode`.

    Checked by: tests/gaussian/test_inversion.py::test_interpolation_of_a_gaussian_is_a_walk_of_its_whitened_states
    """
    if n < 2:
        raise GridError(f"a walk from a to b has at least two places, its ends; got n = {n}")
    start, end = (encode(denoiser, x, sampler, grid) for x in (a, b))
    walk = (slerp(start, end, i / (n - 1)) for i in range(n))
    return torch.stack([decode(denoiser, x, sampler, grid) for x in walk], 1)


@torch.no_grad()
def edit(denoiser: Any, x_0: State, sampler: Sampler, grid: Grid, rng: Random) -> State:
    """Data noised to the grid's first time and sampled back: what is finer than that noise is made anew.

    Args:
        denoiser: any.
        x_0: data, shape (B, *E), codec units.
        sampler: any.
        grid: from t* in (0, 1] to data; the noise level at t* says how much is kept.
        rng: draws the noise, and that of the sampler.

    Returns:
        State at the grid's last time, shape (B, *E). If x_0 follows the denoiser's law, so does the result of a sampler that is
        exact.

    Source: Meng et al. 2022 (SDEdit), algorithm 1.
    Checked by: tests/gaussian/test_inversion.py::test_an_edit_of_a_gaussian_by_hand
    """
    zero, t = (torch.tensor(time, dtype=torch.float64) for time in (0.0, grid.times[0]))
    x = denoiser.path.corrupt(x_0, zero, t).sample(rng)
    return last(trajectory(denoiser, sampler, grid, x, rng=rng))


def _chosen(denoiser: Any, sampler: Sampler | None, grid: Grid | None) -> tuple[Sampler, Grid]:
    grid = grid or flow_grid(denoiser.path, STEPS)
    if grid.times[0] < grid.times[-1]:
        raise GridError(
            f"give the grid of sampling, which falls, and not its flip from {grid.times[0]:g} to {grid.times[-1]:g}"
        )
    if float(denoiser.path.schedule.sigma(torch.tensor(grid.times[-1], dtype=torch.float64))) == 0:
        raise GridError(
            f"encoding starts from a little noise, and there is none at the grid's end, t = {grid.times[-1]:g}; end it "
            "earlier, or leave out grid="
        )
    return sampler or FOLLOW, grid


def _signal(denoiser: Any, grid: Grid) -> float:
    return float(denoiser.path.schedule.alpha(torch.tensor(grid.times[-1], dtype=torch.float64)))
