"""Codecs: the user's records and labels <-> tensors, with units, layout and levels kept."""

from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from undrift.codecs.arrays import Arrays
from undrift.codecs.conditions import Conditions
from undrift.codecs.folder import PictureFolder
from undrift.codecs.images import Images, flipped
from undrift.codecs.labels import Labels
from undrift.codecs.opening import Opened, open_data
from undrift.codecs.sources import InMemory, MemoryMapped, Source
from undrift.codecs.table import Table

__all__ = [
    "CODECS",
    "Arrays",
    "Codec",
    "Conditions",
    "Images",
    "InMemory",
    "Labels",
    "MemoryMapped",
    "Opened",
    "PictureFolder",
    "Source",
    "Table",
    "flipped",
    "open_data",
]


@runtime_checkable
class Codec(Protocol):
    """Records <-> states: `decode(encode(records))` gives the records back, in the user's units, layout and type.

    A codec also has `from_config(config)`, static, which rebuilds it from what `config()` returned and JSON carried. Where
    `encode` is one affine map for all records, `log_jacobian()` is the log of its Jacobian, nats a record; any other codec says
    there why it has none (DataError).

    Attributes:
        event_shape: shape of one state.
    """

    @property
    def event_shape(self) -> tuple[int, ...]:
        """Shape of one state."""
        ...

    def encode(self, records: Any) -> Tensor:
        """States of N records, float32, shape (N, *event_shape). DataError names the row of a bad record."""
        ...

    def decode(self, x: Tensor) -> Any:
        """Records of states of shape (N, *event_shape)."""
        ...

    def describe(self) -> list[tuple[str, str]]:
        """The schema in words, for people."""
        ...

    def config(self) -> dict[str, Any]:
        """What rebuilds the codec, JSON-able."""
        ...


CODECS: dict[str, Any] = {"Images": Images, "Table": Table, "Arrays": Arrays}
"""Codecs by the name that a recipe gives them."""
