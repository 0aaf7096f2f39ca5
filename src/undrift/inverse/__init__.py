"""Inverse problems: measurements as potentials, samplers that hold one, and the methods side by side."""

from undrift.inverse.daps import DAPS, Closed, Langevin
from undrift.inverse.ddnm import DDNM
from undrift.inverse.ddrm import DDRM
from undrift.inverse.diffpir import DiffPIR
from undrift.inverse.dps import DPS
from undrift.inverse.likelihood import Measurement, gaussian_likelihood, measurement
from undrift.inverse.mcgdiff import mcgdiff
from undrift.inverse.posterior import METHODS, Method, Posterior, posterior
from undrift.inverse.reddiff import Adam, Descent, REDdiff
from undrift.inverse.repaint import RePaint

__all__ = [
    "DAPS",
    "DDNM",
    "DDRM",
    "DPS",
    "METHODS",
    "Adam",
    "Closed",
    "Descent",
    "DiffPIR",
    "Langevin",
    "Measurement",
    "Method",
    "Posterior",
    "REDdiff",
    "RePaint",
    "gaussian_likelihood",
    "mcgdiff",
    "measurement",
    "posterior",
]
