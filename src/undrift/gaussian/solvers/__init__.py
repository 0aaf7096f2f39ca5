"""Ways to run a Gaussian path backwards: one file each, one row each.

A new solver is a new file beside these and a new entry in `SOLVERS`; the conformance tests find it there.
"""

from collections.abc import Callable

from undrift.gaussian.solvers.adaptive import Adaptive, Spent
from undrift.gaussian.solvers.churn import Churn
from undrift.gaussian.solvers.ddim import DDIM
from undrift.gaussian.solvers.ddpm import DDPM
from undrift.gaussian.solvers.dpm_singlestep import DPMSolverSingle
from undrift.gaussian.solvers.dpmpp import DPMSolverPP
from undrift.gaussian.solvers.euler_maruyama import EulerMaruyama
from undrift.gaussian.solvers.exponential import ExponentialIntegrator
from undrift.gaussian.solvers.heun import Heun
from undrift.gaussian.solvers.langevin import Langevin, langevin
from undrift.gaussian.solvers.multistep import Multistep
from undrift.gaussian.solvers.picard import Picard, Swept
from undrift.gaussian.solvers.predictor_corrector import PredictorCorrector
from undrift.gaussian.solvers.restart import Restart
from undrift.gaussian.solvers.runge_kutta import ExplicitRungeKutta
from undrift.gaussian.solvers.sa import SASolver
from undrift.gaussian.solvers.sde_dpmpp import SDEDPMSolverPP
from undrift.gaussian.solvers.stochastic_heun import StochasticHeun
from undrift.gaussian.solvers.unipc import UniPC
from undrift.protocols import Sampler

__all__ = [
    "DDIM",
    "DDPM",
    "SOLVERS",
    "Adaptive",
    "Churn",
    "DPMSolverPP",
    "DPMSolverSingle",
    "EulerMaruyama",
    "ExplicitRungeKutta",
    "ExponentialIntegrator",
    "Heun",
    "Langevin",
    "Multistep",
    "Picard",
    "PredictorCorrector",
    "Restart",
    "SASolver",
    "SDEDPMSolverPP",
    "Spent",
    "StochasticHeun",
    "Swept",
    "UniPC",
    "langevin",
]

SOLVERS: dict[str, Callable[..., Sampler]] = {
    "adaptive": Adaptive,
    "churn": Churn,
    "ddim": DDIM,
    "ddpm": DDPM,
    "dpm_singlestep": DPMSolverSingle,
    "dpmpp": DPMSolverPP,
    "euler_maruyama": EulerMaruyama,
    "explicit_runge_kutta": ExplicitRungeKutta,
    "exponential": ExponentialIntegrator,
    "heun": Heun,
    "langevin": Langevin,
    "multistep": Multistep,
    "picard": Picard,
    "predictor_corrector": PredictorCorrector,
    "restart": Restart,
    "sa": SASolver,
    "sde_dpmpp": SDEDPMSolverPP,
    "stochastic_heun": StochasticHeun,
    "unipc": UniPC,
}
