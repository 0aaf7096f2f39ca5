"""The discrete wing: finite-state chains. Masked and uniform diffusion."""

from undrift.discrete.exact import Exact, Factorised, enumerate_events
from undrift.discrete.path import Path, masked, uniform

__all__ = ["Exact", "Factorised", "Path", "enumerate_events", "masked", "uniform"]
