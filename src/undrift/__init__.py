"""undrift: run any diffusion backwards, under control, and know how far to trust the result.

The nouns: `schedules`, `laws`, `grids`, the wings `gaussian`, `bridge`, `discrete`, and the loop in `simulate`. See
`docs/architecture.md` for the house and `docs/notation.md` for its words.
"""

from undrift import bridge, discrete, errors, gaussian, grids, laws, schedules
from undrift.core import PerSample, Shared
from undrift.simulate import Ancestral, sample, trajectory

__all__ = [
    "Ancestral",
    "PerSample",
    "Shared",
    "bridge",
    "discrete",
    "errors",
    "gaussian",
    "grids",
    "laws",
    "sample",
    "schedules",
    "trajectory",
]
__version__ = "0.1.0"
