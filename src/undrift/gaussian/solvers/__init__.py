"""Ways to run a Gaussian path backwards: one file each, one row each.

A new solver is a new file beside these and a new entry in `SOLVERS`; the conformance tests find it there.
"""

from collections.abc import Callable

from undrift.gaussian.solvers.ddim import DDIM
from undrift.gaussian.solvers.ddpm import DDPM
from undrift.gaussian.solvers.dpmpp import DPMSolverPP
from undrift.gaussian.solvers.euler_maruyama import EulerMaruyama
from undrift.gaussian.solvers.exponential import ExponentialIntegrator
from undrift.gaussian.solvers.heun import Heun
from undrift.protocols import Sampler

__all__ = ["DDIM", "DDPM", "SOLVERS", "DPMSolverPP", "EulerMaruyama", "ExponentialIntegrator", "Heun"]

SOLVERS: dict[str, Callable[..., Sampler]] = {
    "ddim": DDIM,
    "ddpm": DDPM,
    "dpmpp": DPMSolverPP,
    "euler_maruyama": EulerMaruyama,
    "exponential": ExponentialIntegrator,
    "heun": Heun,
}
