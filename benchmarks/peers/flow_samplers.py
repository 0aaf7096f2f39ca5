"""flow_matching 1.0.10 and torchcfm 1.0.7: the ODE solvers that they hand a flow's velocity to, on exact mixtures.

The path is x_t = (1 - t) x_0 + t z, the velocity E[x_0 | x] - E[z | x] in their clock, which runs from noise at 0 to data at 1,
in equal steps. flow_matching's `ODESolver` calls torchdiffeq, torchcfm's examples call torchdyn's `NeuralODE`. The adaptive
solvers, which they use too, have one error norm over the batch: of several tolerances the one that used the most calls within
the budget counts. torchcfm and torchdyn ask at import for packages that draw pictures, train and fit splines: those are
empty modules here.
"""

import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from endpoints import F64, Entry, Problem, largest, run
from torch import Tensor, nn


class Blank(types.ModuleType):
    """A module in which every name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (nn.Module,), {})


BLANK = ("matplotlib", "matplotlib.pyplot", "mpl_toolkits", "mpl_toolkits.mplot3d", "ot", "pytorch_lightning", "torchcde")
for blank in BLANK:
    sys.modules[blank] = Blank(blank)
sys.modules["mpl_toolkits"].__path__ = sys.modules["matplotlib"].__path__ = []

from flow_matching.solver import ODESolver  # noqa: E402
from torchdyn.core import NeuralODE  # noqa: E402

TOLERANCES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 1e-5)


class Spent(Exception):
    """The budget is used up."""


def velocity(problem: Problem, calls: int) -> Callable[[Tensor, Tensor], Tensor]:
    """(x, t) -> velocity; refuses to be asked more often than allowed."""

    def slope(x: Tensor, t: Tensor) -> Tensor:
        if problem.calls >= calls:
            raise Spent
        clean, noise = problem.clean_and_noise(x, float(t), 1 - float(t))
        return clean - noise

    return slope


def by_ode_solver(problem: Problem, calls: int, method: str, times: Tensor, **extra: Any) -> Tensor:
    """The way of flow_matching."""
    slope = velocity(problem, calls)
    solver = ODESolver(velocity_model=lambda x, t, **_: slope(x, t))
    return solver.sample(problem.start(0.0, 1.0), step_size=None, method=method, time_grid=times, **extra)


class Field(nn.Module):
    """A velocity as torchcfm's examples wrap it for torchdyn."""

    def __init__(self, slope: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.slope = slope

    def forward(self, t: Tensor, x: Tensor, args: Any = None) -> Tensor:
        """Velocity at (t, x)."""
        return self.slope(x, t)


def by_neural_ode(problem: Problem, calls: int, method: str, times: Tensor, atol: float = 1e-4, rtol: float = 1e-4) -> Tensor:
    """The way of torchcfm."""
    node = NeuralODE(Field(velocity(problem, calls)), solver=method, sensitivity="adjoint", atol=atol, rtol=rtol)
    return node.trajectory(problem.start(0.0, 1.0), t_span=times)[-1]


def fixed(problem: Problem, calls: int, solve: Callable[..., Tensor], method: str, stages: int) -> Tensor | None:
    """Equal steps, as many as the calls allow."""
    n = largest(calls, lambda n: stages * n)
    while n > 0:  # some make a call or two more than their stages
        problem.calls = 0
        try:
            return solve(problem, calls, method, torch.linspace(0, 1, n + 1, dtype=F64))
        except Spent:
            n -= 1
    return None


def adaptive(problem: Problem, calls: int, solve: Callable[..., Tensor], method: str) -> Tensor | None:
    """The tolerance that uses the most calls within the budget."""
    best, most = None, 0
    for tolerance in TOLERANCES:
        problem.calls = 0
        try:
            made = solve(problem, calls, method, torch.tensor([0.0, 1.0], dtype=F64), atol=tolerance, rtol=tolerance)
        except Spent:  # and so would tighter ones
            break
        except AssertionError:  # torchdiffeq asserts where a tolerance is so loose that its step vanishes
            continue
        if problem.calls > most:
            best, most = made, problem.calls
    problem.calls = most
    return best


FIXED = {
    "flow_matching": (by_ode_solver, {"euler": 1, "midpoint": 2, "heun2": 2, "heun3": 3, "rk4": 4, "explicit_adams": 1}),
    "torchcfm": (by_neural_ode, {"euler": 1, "midpoint": 2, "rk4": 4}),
}
ADAPTIVE = {"flow_matching": ("bosh3", "dopri5", "dopri8"), "torchcfm": ("tsit5", "dopri5")}
DEFAULTS = {("flow_matching", "euler"), ("flow_matching", "midpoint"), ("torchcfm", "euler"), ("torchcfm", "dopri5")}


def entries(package: str) -> list[Entry]:
    """The solvers of one package."""
    solve, methods = FIXED[package]
    made = [
        Entry(method, partial(fixed, solve=solve, method=method, stages=stages), (package, method) in DEFAULTS)
        for method, stages in methods.items()
    ]
    return made + [
        Entry(method, partial(adaptive, solve=solve, method=method), (package, method) in DEFAULTS)
        for method in ADAPTIVE[package]
    ]


if __name__ == "__main__":
    package = sys.argv.pop(1)
    run(package, entries(package), [package, {"flow_matching": "torchdiffeq", "torchcfm": "torchdyn"}[package]])
