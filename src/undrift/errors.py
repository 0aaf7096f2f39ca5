"""Every error that undrift raises on purpose: what is wrong, where, and the cure.

All of them derive from `UndriftError`, and each also from the built-in that a caller who does not know undrift would
expect (`ValueError`, `TypeError`, ...). A message names the thing, the place and the cure.
"""

__all__ = [
    "CheckpointError",
    "DataError",
    "FamilyError",
    "GridError",
    "HeadError",
    "LabelError",
    "LawError",
    "NonFiniteError",
    "OperatorError",
    "OutOfMemory",
    "PotentialError",
    "ScheduleError",
    "ShapeError",
    "TimeError",
    "UndriftError",
]


class UndriftError(Exception):
    """Root of the tree: `except undrift.errors.UndriftError` catches everything undrift raises on purpose."""


class ShapeError(UndriftError, ValueError):
    """A tensor does not have the shape (or the kind of dtype) that the place it was given to needs."""


class TimeError(UndriftError, ValueError):
    """A time lies outside [0, 1], or two times are in the wrong order."""


class GridError(UndriftError, ValueError):
    """A list of times is no grid, or a grid or a solver on it cannot be built or used with these settings."""


class ScheduleError(UndriftError, ValueError):
    """A schedule's functions or constants do not describe a valid noise process."""


class HeadError(UndriftError, ValueError):
    """A head is unknown, or singular on the times it was asked to serve."""


class FamilyError(UndriftError, TypeError):
    """A sampler or objective of one family was given a path of another."""


class LawError(UndriftError, ValueError):
    """A law was built from tensors that do not describe a distribution."""


class OperatorError(UndriftError, ValueError):
    """A linear operator is not what it claims: not linear, without an adjoint, or empty."""


class PotentialError(UndriftError, ValueError):
    """What was asked for cannot steer: NaN in a measurement, no noise, a reward of the wrong shape, an empty constraint."""


class LabelError(UndriftError, ValueError):
    """A label is not among those the model was trained on."""


class DataError(UndriftError, ValueError):
    """User data cannot be read as what it was said to be."""


class CheckpointError(UndriftError, ValueError):
    """A saved run is missing, damaged, or was not written by undrift."""


class OutOfMemory(UndriftError, MemoryError):
    """Memory is used up, and nothing smaller is left to try; the message says what to make smaller."""


class NonFiniteError(UndriftError, ArithmeticError):
    """NaN or infinity appeared; the message names the step and the time."""
