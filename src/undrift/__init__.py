"""undrift: run any diffusion backwards, under control, and know how far to trust the result.

The nouns: `schedules`, `laws`, `grids`, the wings `gaussian`, `bridge`, `discrete`, and the loop in `simulate`. See
`docs/architecture.md` for the house and `docs/notation.md` for its words.
"""

from undrift import (
    bridge,
    codecs,
    discrete,
    errors,
    evidence,
    gaussian,
    grids,
    guidance,
    inverse,
    laws,
    networks,
    operators,
    schedules,
    training,
)
from undrift.core import PerSample, Shared
from undrift.model import Model, fit, load
from undrift.particles import Particles, smc
from undrift.simulate import Ancestral, sample, trajectory

__all__ = [
    "Ancestral",
    "Model",
    "Particles",
    "PerSample",
    "Shared",
    "bridge",
    "codecs",
    "discrete",
    "errors",
    "evidence",
    "fit",
    "gaussian",
    "grids",
    "guidance",
    "inverse",
    "laws",
    "load",
    "networks",
    "operators",
    "sample",
    "schedules",
    "smc",
    "training",
    "trajectory",
]
__version__ = "0.1.0"
