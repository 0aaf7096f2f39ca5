"""k-diffusion 0.1.1.post1: `sample_*` on a ladder made beforehand; the model is the denoiser."""

from collections.abc import Callable
from functools import partial

from kdiffusion_samplers import sampling
from overhead import Run, largest, run
from torch import Tensor

ENTRIES = {"DDIM": "euler", "multistep": "dpmpp_2m", "Heun": "heun", "order 3": "dpmpp_3m_sde"}


def entry(net: Callable[[Tensor], Tensor], calls: int, x: Tensor, name: str) -> Run:
    """A sampler that is given its noise levels."""
    n = largest(calls, lambda n: 2 * n - 1 if name == "heun" else n)
    sigmas, sampler = sampling.get_sigmas_karras(n, 0.002, 80.0), getattr(sampling, f"sample_{name}")
    extra = {"eta": 0.0} if name.endswith("sde") else {}
    return lambda x: sampler(lambda x, sigma, **_: net(x), x, sigmas, disable=True, **extra)


if __name__ == "__main__":
    run("k-diffusion", {title: partial(entry, name=name) for title, name in ENTRIES.items()}, ("k-diffusion",))
