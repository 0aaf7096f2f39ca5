"""The Gaussian wing: x_t = alpha_t x_0 + sigma_t z. VP, VE, EDM, flow matching with a Gaussian source."""

from undrift.gaussian.default import Route, default
from undrift.gaussian.denoiser import NetDenoiser, Reclocked, noise_label, rows, score
from undrift.gaussian.elbo import elbo
from undrift.gaussian.exact import Exact, ExactConditional, JointGaussian, LabelledMixture, subspace
from undrift.gaussian.flow import flow_grid
from undrift.gaussian.fokker_planck import Box, FokkerPlanck, total_variation
from undrift.gaussian.heads import HEADS, Head
from undrift.gaussian.inversion import decode, edit, encode, interpolate, slerp
from undrift.gaussian.likelihood import Bits, Likelihood, bits_per_dim, dequantised, log_likelihood
from undrift.gaussian.localisation import Localisation
from undrift.gaussian.objectives import WEIGHTS, ExplicitScoreMatching, Regression
from undrift.gaussian.path import Path
from undrift.gaussian.solvers import (
    DDIM,
    DDPM,
    SOLVERS,
    Adaptive,
    Churn,
    DPMSolverPP,
    DPMSolverSingle,
    EulerMaruyama,
    ExplicitRungeKutta,
    ExponentialIntegrator,
    Heun,
    Langevin,
    Multistep,
    Picard,
    PredictorCorrector,
    Restart,
    SASolver,
    SDEDPMSolverPP,
    Spent,
    StochasticHeun,
    Swept,
    UniPC,
    langevin,
)
from undrift.gaussian.solvers.fitted import Fitted
from undrift.gaussian.times import LogNormalNoise, TimeLaw, UniformTime
from undrift.gaussian.tune import Tuned, discretisation, tune

__all__ = [
    "DDIM",
    "DDPM",
    "HEADS",
    "SOLVERS",
    "WEIGHTS",
    "Adaptive",
    "Bits",
    "Box",
    "Churn",
    "DPMSolverPP",
    "DPMSolverSingle",
    "EulerMaruyama",
    "Exact",
    "ExactConditional",
    "ExplicitRungeKutta",
    "ExplicitScoreMatching",
    "ExponentialIntegrator",
    "Fitted",
    "FokkerPlanck",
    "Head",
    "Heun",
    "JointGaussian",
    "LabelledMixture",
    "Langevin",
    "Likelihood",
    "Localisation",
    "LogNormalNoise",
    "Multistep",
    "NetDenoiser",
    "Path",
    "Picard",
    "PredictorCorrector",
    "Reclocked",
    "Regression",
    "Restart",
    "Route",
    "SASolver",
    "SDEDPMSolverPP",
    "Spent",
    "StochasticHeun",
    "Swept",
    "TimeLaw",
    "Tuned",
    "UniPC",
    "UniformTime",
    "bits_per_dim",
    "decode",
    "default",
    "dequantised",
    "discretisation",
    "edit",
    "elbo",
    "encode",
    "flow_grid",
    "interpolate",
    "langevin",
    "log_likelihood",
    "noise_label",
    "rows",
    "score",
    "slerp",
    "subspace",
    "total_variation",
    "tune",
]
