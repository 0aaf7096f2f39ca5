"""undrift: `trajectory`, its plan included, and `simulate.sample`, with the network's answer as a `Point`."""

from collections.abc import Callable
from functools import partial
from typing import Any

from overhead import Run, largest, run
from torch import Tensor

from undrift import gaussian, grids, schedules
from undrift.core import Shared
from undrift.laws import Point
from undrift.simulate import sample, trajectory

PATH = gaussian.Path(schedules.LinearFlow())


class Denoiser:
    """The network's answer is the clean end."""

    path = PATH

    def __init__(self, net: Callable[[Tensor], Tensor]) -> None:
        self.net = net

    def __call__(self, x_t: Tensor, t: Tensor) -> Point:
        """Point at the answer."""
        return Point(self.net(x_t))


def route(name: str, calls: int) -> gaussian.Route:
    """A solver and its grid; the default is a route itself."""
    if name == "default":
        return gaussian.default(PATH, calls)
    sampler: Any = {"DDIM": gaussian.DDIM, "multistep": gaussian.Multistep, "Heun": gaussian.Heun}[name]()
    n = largest(calls, lambda n: sampler.calls(grids.flow(PATH.schedule, n)))
    return gaussian.Route(sampler, grids.flow(PATH.schedule, n))


def walked(net: Callable[[Tensor], Tensor], calls: int, x: Tensor, name: str) -> Run:
    """The last stop of a trajectory."""
    denoiser, chosen, rng = Denoiser(net), route(name, calls), Shared(0)

    def go(x: Tensor) -> Tensor:
        for step in trajectory(denoiser, chosen.sampler, chosen.grid, x, rng=rng):
            x = step.x
        return x

    return go


def sampled(net: Callable[[Tensor], Tensor], calls: int, x: Tensor, name: str) -> Run:
    """`sample` from a given start."""
    denoiser, chosen, start = Denoiser(net), route(name, calls), Point(x)
    shape, source = tuple(x.shape), partial(Shared, 0)
    return lambda x: sample(denoiser, chosen.sampler, chosen.grid, shape, seed=0, prior=start, rng=source)


if __name__ == "__main__":
    names = ("DDIM", "multistep", "Heun", "default")
    entries = {f"{name}, trajectory": partial(walked, name=name) for name in names}
    run("undrift", entries | {f"{name}, sample": partial(sampled, name=name) for name in names}, ("undrift",))
