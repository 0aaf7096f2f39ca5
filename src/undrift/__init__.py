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
from undrift.evaluation import Judged, evaluate
from undrift.fitting import fit, repeat
from undrift.model import Model, load
from undrift.particles import Particles, smc
from undrift.simulate import Ancestral, sample, trajectory

__all__ = [
    "Ancestral",
    "Judged",
    "Model",
    "Particles",
    "PerSample",
    "Shared",
    "bridge",
    "codecs",
    "discrete",
    "errors",
    "evaluate",
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
    "repeat",
    "sample",
    "schedules",
    "smc",
    "training",
    "trajectory",
]
__version__ = "0.1.0"
