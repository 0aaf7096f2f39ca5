"""The Gaussian wing: x_t = alpha_t x_0 + sigma_t z. VP, VE, EDM, flow matching with a Gaussian source."""

from undrift.gaussian.denoiser import NetDenoiser, Reclocked, noise_label, score
from undrift.gaussian.elbo import elbo
from undrift.gaussian.exact import Exact, ExactConditional, JointGaussian, LabelledMixture, subspace
from undrift.gaussian.heads import HEADS, Head
from undrift.gaussian.objectives import WEIGHTS, ExplicitScoreMatching, Regression
from undrift.gaussian.path import Path
from undrift.gaussian.solvers import (
    DDIM,
    DDPM,
    SOLVERS,
    DPMSolverPP,
    EulerMaruyama,
    ExponentialIntegrator,
    Heun,
)
from undrift.gaussian.times import LogNormalNoise, TimeLaw, UniformTime

__all__ = [
    "DDIM",
    "DDPM",
    "HEADS",
    "SOLVERS",
    "WEIGHTS",
    "DPMSolverPP",
    "EulerMaruyama",
    "Exact",
    "ExactConditional",
    "ExplicitScoreMatching",
    "ExponentialIntegrator",
    "Head",
    "Heun",
    "JointGaussian",
    "LabelledMixture",
    "LogNormalNoise",
    "NetDenoiser",
    "Path",
    "Reclocked",
    "Regression",
    "TimeLaw",
    "UniformTime",
    "elbo",
    "noise_label",
    "score",
    "subspace",
]
