"""Inverse problems: measurements as potentials, samplers that hold one, and the methods side by side."""

from undrift.inverse.likelihood import Measurement, gaussian_likelihood, measurement

__all__ = ["Measurement", "gaussian_likelihood", "measurement"]
