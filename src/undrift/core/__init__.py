"""Ground floor: the one place that broadcasts t, per-sample random streams, covariance algebra."""

from undrift.core.broadcast import check_order, check_state, pad, scalars
from undrift.core.covariance import Covariance
from undrift.core.random import PerSample, Random, Shared

__all__ = ["Covariance", "PerSample", "Random", "Shared", "check_order", "check_state", "pad", "scalars"]
