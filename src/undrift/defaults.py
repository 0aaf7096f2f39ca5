"""What records are trained with where the user says nothing: a network, settings and a law of training times for each kind.

Found by experiment on the digits for grids (`benchmarks/pictures.py`) and on three tables for vectors (`benchmarks/tables.py`).

Checked by: tests/test_defaults.py, tests/test_fitting.py, tests/test_model.py
"""

import math
from dataclasses import dataclass
from typing import Any

from undrift.recipes import Part, Times

__all__ = ["Defaults", "defaults", "hiding_noise"]


@dataclass(frozen=True)
class Defaults:
    """What a kind of records is trained with.

    Attributes:
        network: the network and its arguments.
        training: settings that differ from `training.Settings`.
        times: law of training times.
    """

    network: Part
    training: dict[str, Any]
    times: Times


def defaults(codec: Any, rows: int, columns: tuple[int, ...]) -> Defaults:
    """The default network, settings and time law for records of a codec.

    Vectors are passed over 1500 times at most; 600 times where conditions are asked, whose intervals grow too narrow with more.
    """
    event = tuple(codec.event_shape)
    asked = {"columns": list(columns)} if columns else {}
    if len(event) == 1:
        network = Part(name="MLP", config={"features": event[0], **vectors(rows, bool(columns)), **asked})
        training = {"batch": 256, "learning_rate": 2e-3, "label_dropout": 0.3, "epochs": 600 if columns else 1500}
        return Defaults(network, training, Times(mean=-1.2, std=1.2))
    return Defaults(Part(name="UNet", config={**grid_network(event), **asked}), {}, Times(mean=-0.3, std=1.0))


def vectors(rows: int, conditional: bool) -> dict[str, Any]:
    """The default MLP for vectors: dropout where few records are asked for conditions, whose intervals would be too narrow."""
    return {"width": 256, "blocks": 4, "dropout": (0.2 if rows < 2000 else 0.1) if conditional else 0.0}


def grid_network(event_shape: tuple[int, ...]) -> dict[str, Any]:
    """The default U-Net for signals, images and volumes: levels down to 4 to 8 pixels, attention on the coarsest.

    The longest axis sets the number of levels, for the short ones stop at 1 (a level has ceil(n/2) of n). So attention, whose
    cost is the square of the places it looks at, sees at most 8 x 8 x 8 of them, however flat a volume is.

    Checked by: tests/test_defaults.py
    """
    channels, *sizes = event_shape
    levels = max(1, max(sizes).bit_length() - 2)
    return {
        "channels": channels,
        "spatial": len(sizes),
        "widths": [min(32 * 2**i, 128) for i in range(levels)],
        "blocks": 1,
        "attention": [levels - 1],
    }


def hiding_noise(data_std: float, dim: int, gap: float = 0.06) -> float:
    """Noise level that hides the data: the prior is within `gap` nats of the law of X_1 (see `gaussian.Path.prior_gap`).

    At least 20. For 32 x 32 colour images it gives about the 80 of Karras et al. 2022; more would be trained for nothing.
    """
    return max(20.0, data_std * math.sqrt(dim / (2 * gap)))
