"""Ground floor: the one place that broadcasts t, per-sample random streams, covariance algebra."""

from undrift.core.broadcast import check_order, check_state, pad, scalars
from undrift.core.brownian import Brownian
from undrift.core.covariance import Covariance
from undrift.core.files import write
from undrift.core.krylov import CG, Arnoldi, RowSum
from undrift.core.memory import out_of_memory
from undrift.core.random import Deterministic, PerSample, Random, Shared
from undrift.core.seen import Look, Seen

__all__ = [
    "CG",
    "Arnoldi",
    "Brownian",
    "Covariance",
    "Deterministic",
    "Look",
    "PerSample",
    "Random",
    "RowSum",
    "Seen",
    "Shared",
    "check_order",
    "check_state",
    "out_of_memory",
    "pad",
    "scalars",
    "write",
]
