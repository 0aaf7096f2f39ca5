"""The discrete wing: finite-state chains. Masked and uniform diffusion."""

from undrift.discrete.exact import Exact, Factorised, enumerate_events
from undrift.discrete.heads import RatioHead
from undrift.discrete.path import Path, masked, uniform

__all__ = ["Exact", "Factorised", "Path", "RatioHead", "enumerate_events", "masked", "uniform"]
