r"""Arrays of any shape as standardised tensors, and back in the type of the originals.

.. math:: x_{n c s} = \frac{v_{n c s} - \mu_c}{\sigma_c}

with one mean and one standard deviation a channel, so that an array of one channel keeps the proportions within a record.
What the channels of a record of shape S are:

| record | channels= | event | mean and standard deviation |
|---|---|---|---|
| a number, S = () | None | (1,) | one |
| a vector, S = (d,) | None | (d,) | one a coordinate: coordinates are different quantities |
| a signal, S = (L,) | "first" or "last" | (1, L) | one: all places of a signal are one quantity |
| a field, S = (H, W), (D, H, W), ... | None | (1, *S) | one |
| channels in front, S = (C, ...) | "first" | S | one a channel |
| channels behind, S = (..., C) | "last" | (C, ...) | one a channel |

Nothing in an array says which of its axes are channels, so without `channels=` none is.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from undrift.codecs.sources import check_numbers
from undrift.errors import DataError
from undrift.typing import State

__all__ = ["Arrays"]

CHUNK = 2**22
"""Numbers that are converted to float64 at once while measuring."""


@dataclass(frozen=True)
class Arrays:
    """Arrays of shape (N, *S), standardised a channel at a time; see the module's table.

    A channel without any spread becomes 0 and decodes to its constant. Whole numbers are rounded back and kept within the range
    that was seen of their channel. A state has 24 significant bits: whole numbers that differ by less than 2^-24 of their range
    are not told apart.

    Attributes:
        shape: S, shape of one record as the user has it.
        channels: "first", "last" or None: which axis of S the channels are.
        mean: one a channel, in the user's units.
        std: one a channel, in the user's units; 0 where the channel is constant.
        low: least value seen, one a channel.
        high: greatest value seen, one a channel.
        dtype: numpy name of the type of the records; decoding gives it back.

    Checked by: tests/codecs/test_arrays.py
    """

    shape: tuple[int, ...]
    channels: str | None
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    dtype: str

    @staticmethod
    def guess(records: np.ndarray, channels: Any = None, rows: np.ndarray | None = None) -> "Arrays":
        """The codec that fits an array, or a sample of one.

        Args:
            records: shape (N, *S), N >= 2; integers, floats or booleans.
            channels: "first", "last" or None.
            rows: the row of each record in the source that it was taken from, shape (N,); errors name it.

        Raises:
            DataError: fewer than two records, empty ones, no numbers, NaN or infinity (with row and count), or all equal.
        """
        records = np.asarray(records)
        if channels not in (None, "first", "last"):
            raise DataError(f"channels={channels!r} is not understood for arrays; give 'first', 'last' or None")
        if records.ndim == 0 or len(records) < 2 or records.size == 0:
            raise DataError(f"arrays come as (N, ...) with N >= 2 and nothing empty, got shape {records.shape}")
        if channels is not None and records.ndim < 2:
            raise DataError(f"records of shape () have no channels={channels!r}; leave it out")
        check_numbers(records, "records", rows)
        if records.dtype.kind in "iu" and max(abs(int(records.min())), abs(int(records.max()))) > 2**53:
            raise DataError("records hold whole numbers beyond 2^53, which float64 cannot tell apart; subtract an offset first")
        shape = tuple(records.shape[1:])
        mean, std, low, high = _measured(_as_channels(records, shape, channels))
        if not std.any():
            raise DataError(f"all {len(records)} records are equal; there is nothing to learn")
        plain = [tuple(map(float, values)) for values in (mean, std, low, high)]
        return Arrays(shape, channels, *plain, dtype=records.dtype.name)

    @property
    def event_shape(self) -> tuple[int, ...]:
        """(C, ...) of fields and signals, (d,) of vectors."""
        return _event(self.shape, self.channels)

    def encode(self, records: np.ndarray) -> State:
        """Arrays to states of mean 0 and standard deviation 1 a channel, float32, shape (N, *E).

        Raises:
            DataError: another shape than the codec's, no numbers, NaN or infinity (with row and count).
        """
        records = np.asarray(records)
        if records.shape[1:] != self.shape or records.ndim == 0:
            raise DataError(
                f"records have shape {records.shape[1:]} each, this model was fitted on {self.shape}; bring them to that shape"
            )
        check_numbers(records, "records")
        x = _as_channels(records, self.shape, self.channels).astype(np.float64)
        x -= self._along(self.mean)
        x *= self._along([1 / s if s else 0.0 for s in self.std])
        return torch.from_numpy(x.astype(np.float32)).reshape(len(records), *self.event_shape)

    def decode(self, x: Tensor) -> np.ndarray:
        """States to arrays in the user's units, layout and type."""
        values = x.detach().cpu().double().reshape(len(x), *_flat(self.event_shape)).numpy()
        values = values * self._along(self.std) + self._along(self.mean)
        kind = np.dtype(self.dtype)
        if kind.kind in "iub":
            values = np.clip(np.rint(values), self._along(self.low), self._along(self.high))
        values = values.reshape(len(x), *self.event_shape)
        if self.channels == "last" and len(self.shape) > 1:
            values = np.moveaxis(values, 1, -1)
        return np.ascontiguousarray(values.reshape(len(x), *self.shape).astype(kind))

    def log_jacobian(self) -> float:
        r"""Log of the factor by which volumes shrink on encoding, nats a record: :math:`-\sum \log \sigma_c` over its numbers.

        The density of records in the user's units is that of states times this factor.

        Raises:
            DataError: a channel is constant: encoding forgets it, so records have no density.

        Checked by: tests/codecs/test_arrays.py::test_the_jacobian_is_that_of_encoding
        """
        constant = [i for i, s in enumerate(self.std) if s == 0]
        if constant:
            raise DataError(
                f"channel or coordinate {constant[0]} never changes ({len(constant)} of {len(self.std)} are constant), so the "
                "records have no density; fit the model without it"
            )
        places = _flat(self.event_shape)[1]
        return -places * sum(math.log(s) for s in self.std)

    def describe(self) -> list[tuple[str, str]]:
        """The schema in words, for people."""
        size = " x ".join(map(str, self.shape)) or "one number"
        if len(self.event_shape) == 1:
            kind = f"vectors of {self.event_shape[0]}, each coordinate scaled by its own mean and standard deviation"
        else:
            places = " x ".join(map(str, self.event_shape[1:]))
            own = "each scaled by its own" if self.event_shape[0] > 1 else "scaled by one"
            kind = f"fields of {places} places and {self.event_shape[0]} channel(s), {own} mean and standard deviation"
            if self.channels is None and len(self.shape) > 1:
                kind += "; no axis is taken for channels, channels='first' or 'last' says otherwise"
        lines = [("arrays", f"{size}, {self.dtype}"), ("read as", kind)]
        constant = sum(s == 0 for s in self.std)
        if constant:
            lines.append(
                ("constant", f"{constant} of {len(self.std)} channels or coordinates never change and are kept as they are")
            )
        lines.append(("values", f"{min(self.low):g} to {max(self.high):g}"))
        return lines

    def config(self) -> dict[str, Any]:
        """JSON-able constructor arguments."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @staticmethod
    def from_config(config: dict[str, Any]) -> "Arrays":
        """The codec that `config` describes."""
        plain: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
        return Arrays(**plain)

    def _along(self, values: Any) -> np.ndarray:
        """One value a channel, shaped to meet (N, C, places)."""
        return np.asarray(values, dtype=np.float64).reshape(1, -1, 1)


def _event(shape: tuple[int, ...], channels: str | None) -> tuple[int, ...]:
    if channels is None:
        return shape or (1,) if len(shape) < 2 else (1, *shape)
    if len(shape) == 1:
        return (1, *shape)
    return shape if channels == "first" else (shape[-1], *shape[:-1])


def _flat(event: tuple[int, ...]) -> tuple[int, int]:
    """(channels, places) of an event."""
    return event[0], math.prod(event[1:])


def _as_channels(records: np.ndarray, shape: tuple[int, ...], channels: str | None) -> np.ndarray:
    """Records as (N, C, places)."""
    moved = np.moveaxis(records, -1, 1) if channels == "last" and len(shape) > 1 else records
    return moved.reshape(len(records), *_flat(_event(shape, channels)))


def _measured(x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Mean, standard deviation, least and greatest value a channel, in float64; x has shape (N, C, places).

    Two passes in parts: no copy of the whole, and no cancellation of large squares.
    """
    low = x.min((0, 2)).astype(np.float64)
    high = x.max((0, 2)).astype(np.float64)
    count = x.shape[0] * x.shape[2]
    step = max(1, CHUNK // max(1, x.shape[1] * x.shape[2]))
    parts = range(0, len(x), step)
    mean = sum((x[i : i + step].astype(np.float64) - low[:, None]).sum((0, 2)) for i in parts) / count + low
    square = sum(((x[i : i + step].astype(np.float64) - mean[:, None]) ** 2).sum((0, 2)) for i in parts) / count
    constant = low == high
    return np.where(constant, low, mean), np.where(constant, 0.0, np.sqrt(square)), low, high
