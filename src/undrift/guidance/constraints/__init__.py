"""Constraints: sets that samples must lie in, their projections, and samples made to obey.

Checked by: tests/guidance/test_constraints.py
"""

from undrift.guidance.constraints.base import Constraint
from undrift.guidance.constraints.box import Box, Integer
from undrift.guidance.constraints.enforce import Constrained, Enforced, Projection, constrained
from undrift.guidance.constraints.equality import Equality
from undrift.guidance.constraints.intersection import Intersection
from undrift.guidance.constraints.monotone import Monotone
from undrift.guidance.constraints.shapes import Ball, Simplex

__all__ = [
    "Ball",
    "Box",
    "Constrained",
    "Constraint",
    "Enforced",
    "Equality",
    "Integer",
    "Intersection",
    "Monotone",
    "Projection",
    "Simplex",
    "constrained",
]
