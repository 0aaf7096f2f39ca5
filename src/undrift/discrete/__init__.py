"""The discrete wing: finite-state chains. Masked and uniform diffusion."""

from undrift.discrete.exact import Exact, Factorised, enumerate_events
from undrift.discrete.heads import RatioHead
from undrift.discrete.path import Path, masked, uniform
from undrift.discrete.twist import Labelled, Lifted, LogH, Stated, TwistedLeaping, guided_rates

__all__ = [
    "Exact",
    "Factorised",
    "Labelled",
    "Lifted",
    "LogH",
    "Path",
    "RatioHead",
    "Stated",
    "TwistedLeaping",
    "enumerate_events",
    "guided_rates",
    "masked",
    "uniform",
]
