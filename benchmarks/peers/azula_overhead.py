"""azula 0.11.1: its samplers, made anew for each run as their plan is; the model answers with the clean end."""

from collections.abc import Callable
from functools import partial
from typing import Any

from azula import sample as samplers
from azula.denoise import Denoiser, DiracPosterior
from azula.noise import RectifiedSchedule
from overhead import Run, run
from torch import Tensor

ENTRIES: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMSampler", {}),
    "multistep": ("xEABSampler", {"order": 2}),
    "Heun": ("HeunSampler", {}),
    "order 3": ("vABSampler", {"order": 3}),
}


class Bare(Denoiser):
    """The network's answer is the clean end."""

    def __init__(self, net: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.schedule = net, RectifiedSchedule()

    def forward(self, x_t: Tensor, t: Tensor, **_: object) -> DiracPosterior:
        """A posterior at the answer."""
        return DiracPosterior(self.net(x_t))


def entry(net: Callable[[Tensor], Tensor], calls: int, x: Tensor, kind: str, extra: dict[str, Any]) -> Run:
    """A sampler from a given start."""
    denoiser, steps = Bare(net), calls // 2 if kind == "HeunSampler" else calls
    return lambda x: getattr(samplers, kind)(denoiser, steps=steps, silent=True, **extra)(x)


if __name__ == "__main__":
    run("azula", {title: partial(entry, kind=kind, extra=extra) for title, (kind, extra) in ENTRIES.items()}, ("azula",))
