"""The bridge wing: x_t = a x_0 + b x_1 + gamma z. Brownian bridges, interpolants, data to data."""

from undrift.bridge.exact import BothEnds, Coupled, GaussianEnds, Pinned
from undrift.bridge.path import Path, interpolate

__all__ = ["BothEnds", "Coupled", "GaussianEnds", "Path", "Pinned", "interpolate"]
