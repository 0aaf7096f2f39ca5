"""Inverse problems: measurements as potentials, samplers that hold one, and the methods side by side."""

from undrift.inverse.dps import DPS
from undrift.inverse.likelihood import Measurement, gaussian_likelihood, measurement
from undrift.inverse.posterior import METHODS, Method, Posterior, posterior

__all__ = ["DPS", "METHODS", "Measurement", "Method", "Posterior", "gaussian_likelihood", "measurement", "posterior"]
