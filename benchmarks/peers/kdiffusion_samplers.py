"""k-diffusion 0.1.1.post1: every deterministic `sample_*` on exact mixtures, on its own noise ladders.

From sigma_max = 80 down to sigma_min, then 0; alpha = 1. Samplers with a share of noise run with eta = 0. `dpm_fast` and
`dpm_adaptive` stop at sigma_min. `dpm_adaptive` chooses its steps itself, with one error norm over the whole batch: of several
tolerances the one that used the most calls within the budget counts.

`import k_diffusion` runs modules that need torchvision and others; its `__init__` is skipped, as in `kdiffusion_pictures.py`.
"""

import importlib.util
import sys
import types
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from endpoints import F64, Entry, Problem, largest, run
from torch import Tensor

package = types.ModuleType("k_diffusion")
package.__path__ = list(importlib.util.find_spec("k_diffusion").submodule_search_locations)
sys.modules["k_diffusion"] = package
for name in ("torchvision", "torchvision.transforms"):
    sys.modules[name] = types.ModuleType(name)
sys.modules["torchvision.transforms"].functional = types.ModuleType("torchvision.transforms.functional")

from k_diffusion import sampling  # noqa: E402

TOP = 80.0
COSTS: dict[str, Callable[[int], int]] = {"heun": lambda n: 2 * n - 1, "dpm_2": lambda n: 2 * n - 1}
COSTS["dpmpp_2s_ancestral"] = COSTS["heun"]
TOLERANCES = (3.0, 1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)


def model(problem: Problem) -> Callable[..., Tensor]:
    """The denoiser as k-diffusion calls it."""
    return lambda x, sigma, **_: problem.clean(x, 1.0, float(sigma[0]))


def ladder(kind: str, n: int, low: float, rho: float) -> Tensor:
    """A ladder of n noise levels and 0, made with k-diffusion's own functions, in float64."""
    torch.set_default_dtype(F64)
    try:
        if kind == "karras":
            return sampling.get_sigmas_karras(n, low, TOP, rho)
        if kind == "exponential":
            return sampling.get_sigmas_exponential(n, low, TOP)
        if kind == "vp":
            return sampling.get_sigmas_vp(n, eps_s=low)
        return sampling.get_sigmas_polyexponential(n, low, TOP, rho)
    finally:
        torch.set_default_dtype(torch.float32)


def on_ladder(problem: Problem, calls: int, name: str, kind: str, low: float, rho: float, **extra: Any) -> Tensor | None:
    """A sampler that is given its noise levels."""
    n = largest(calls, COSTS.get(name, lambda n: n))
    if n < 2:
        return None
    sigmas = ladder(kind, n, low, rho)
    return getattr(sampling, f"sample_{name}")(
        model(problem), problem.start(1.0, float(sigmas[0])), sigmas, disable=True, **extra
    )


def fast(problem: Problem, calls: int, low: float) -> Tensor:
    """`dpm_fast`, which is given its calls."""
    return sampling.sample_dpm_fast(model(problem), problem.start(1.0, TOP), low, TOP, calls, disable=True)


class Spent(Exception):
    """The budget is used up."""


def adaptive(problem: Problem, calls: int, low: float, order: int) -> Tensor | None:
    """`dpm_adaptive` with the tolerance that uses the most calls within the budget."""
    inner, best, most = model(problem), None, 0
    for tolerance in TOLERANCES:
        problem.calls = 0

        def counted(x: Tensor, sigma: Tensor, **extra: Any) -> Tensor:
            if problem.calls >= calls:
                raise Spent
            return inner(x, sigma, **extra)

        try:
            made = sampling.sample_dpm_adaptive(
                counted, problem.start(1.0, TOP), low, TOP, order=order, rtol=tolerance, atol=0.156 * tolerance, disable=True
            )
        except Spent:  # and so would tighter ones
            break
        if problem.calls > most:
            best, most = made, problem.calls
    problem.calls = most
    return best


NAMES = ("euler", "heun", "dpm_2", "lms", "dpmpp_2m", "dpmpp_2s_ancestral", "dpmpp_2m_sde", "dpmpp_3m_sde")


def entries() -> list[Entry]:
    """Every sampler on every ladder."""
    made = []
    ladders = [("karras", low, rho) for low in (0.002, 0.01, 0.03, 0.06, 0.1, 0.2) for rho in (7.0, 5.0, 3.0)]
    ladders += [("exponential", low, 1.0) for low in (0.002, 0.01, 0.03, 0.06, 0.1)]
    ladders += [("polyexponential", low, rho) for low in (0.002, 0.01, 0.03) for rho in (0.7, 1.5)]
    ladders += [("vp", 1e-3, 1.0)]
    for name in NAMES:
        extra = {"eta": 0.0} if name in NAMES[-3:] else {}
        for kind, low, rho in ladders:
            title = f"{name} {kind} {low:g}" + ("" if rho == {"karras": 7.0}.get(kind, 1.0) else f" rho {rho:g}")
            default = (kind, low, rho) == ("karras", 0.002, 7.0)
            made.append(Entry(title, partial(on_ladder, name=name, kind=kind, low=low, rho=rho, **extra), default))
    for low in (0.002, 0.01, 0.03, 0.1):
        made.append(Entry(f"dpm_fast {low:g}", partial(fast, low=low), low == 0.002))
        for order in (2, 3):
            made.append(
                Entry(f"dpm_adaptive {order} {low:g}", partial(adaptive, low=low, order=order), (order, low) == (3, 0.002))
            )
    return made


if __name__ == "__main__":
    run("k-diffusion", entries(), ["k-diffusion"])
