"""diffusers 0.42.1: its schedulers, driven as their pipelines drive them; `set_timesteps` is their plan, and is timed too."""

from collections.abc import Callable
from functools import partial
from typing import Any

import diffusers
from overhead import Run, largest, run
from torch import Tensor

ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {"clip_sample": False}),
    "multistep": ("DPMSolverMultistepScheduler", {"solver_order": 2}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "order 3": ("UniPCMultistepScheduler", {"solver_order": 3}),
}


def entry(net: Callable[[Tensor], Tensor], calls: int, x: Tensor, kind: str, config: dict[str, Any]) -> Run:
    """The loop of a pipeline; the network answers with the noise."""
    scheduler = getattr(diffusers, kind)(**config)

    def cost(n: int) -> int:
        scheduler.set_timesteps(n)
        return len(scheduler.timesteps)

    n = largest(calls, cost)

    def go(x: Tensor) -> Tensor:
        scheduler.set_timesteps(n)
        for t in scheduler.timesteps:
            x = scheduler.step(net(scheduler.scale_model_input(x, t)), t, x).prev_sample
        return x

    return go


if __name__ == "__main__":
    run("diffusers", {title: partial(entry, kind=kind, config=c) for title, (kind, c) in ENTRIES.items()}, ("diffusers",))
