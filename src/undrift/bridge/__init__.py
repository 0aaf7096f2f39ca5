"""The bridge wing: x_t = a x_0 + b x_1 + gamma z. Brownian bridges, interpolants, data to data."""

from undrift.bridge.exact import Coupled, GaussianEnds, Pinned
from undrift.bridge.path import Path, interpolate

__all__ = ["Coupled", "GaussianEnds", "Path", "Pinned", "interpolate"]
