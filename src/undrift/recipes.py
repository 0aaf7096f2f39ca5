"""What a run is: everything that rebuilds it, as plain data that round-trips through JSON.

A recipe names its parts by registry keys and constructor arguments. It is written before the first training step and is
enough to repeat the run, to go on with it after a kill, and to rebuild the model around its weights. Reading one never runs
code from the file, and a misspelt key is named with the key that was probably meant.

Checked by: tests/test_recipes.py
"""

import difflib
import hashlib
import json
import re
from dataclasses import asdict
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from undrift.codecs import CODECS
from undrift.codecs.conditions import Conditions
from undrift.errors import CheckpointError, UndriftError
from undrift.gaussian import NetDenoiser, Path
from undrift.networks import NETWORKS
from undrift.schedules import SCHEDULES
from undrift.training import Settings

__all__ = ["FORMAT", "Data", "Part", "Recipe", "Times"]

FORMAT = 2

_NUMBERS = re.compile(r"\[\s+-?\d[^\[\]{}\"]*\]")


class _Strict(BaseModel):
    """Plain frozen data that refuses what it does not know."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Part(_Strict):
    """A registry key and its constructor arguments."""

    name: str
    config: dict[str, Any] = Field(default_factory=dict)

    @field_validator("config")
    @classmethod
    def _plain(cls, value: dict[str, Any]) -> dict[str, Any]:
        return json.loads(json.dumps(value))  # tuples become lists now, not when the file is read again


class Data(_Strict):
    """Where the records came from.

    Attributes:
        path: file or folder; None for records given in memory.
        labels: file of labels beside it, or None.
        reading: options that the data were opened with.
        digest: of what was read; a run is only repeated on the same data.
        rows: how many records there are.
        held_out: how many of them were kept from training, for judging.
        split: seed of the choice of those.
    """

    path: str | None
    labels: str | None = None
    reading: dict[str, Any] = Field(default_factory=dict)
    digest: str
    rows: int = Field(ge=1)
    held_out: int = Field(ge=0)
    split: int = 0

    @model_validator(mode="after")
    def _some_are_left(self) -> "Data":
        if self.held_out >= self.rows:
            raise ValueError(f"{self.held_out} of {self.rows} records are held out; none is left to train on")
        return self


class Times(_Strict):
    """Law of training times: log(sigma / alpha) is normal."""

    mean: float
    std: float = Field(gt=0)


class Recipe(_Strict):
    """A Gaussian model of any records.

    Attributes:
        undrift: format of the file.
        data: where the records came from.
        codec: records <-> states.
        conditions: what may be asked for, or None.
        network: key of `networks.NETWORKS` and its arguments.
        schedule: key of `schedules.SCHEDULES` and its arguments.
        head: key of `gaussian.HEADS`.
        data_std: root mean square of the encoded data about zero, measured.
        times: law of training times.
        training: `training.Settings` as a mapping; its budget is in steps once training has begun.
        start: run whose weights training began from, or None.
        seed: of first weights, order, times, noise and dropout.
        measured: what the run found out: steps done, loss, seconds. Empty until it is finished.
    """

    undrift: Literal[2] = FORMAT
    data: Data
    codec: Part
    conditions: dict[str, Any] | None = None
    network: Part
    schedule: Part
    head: str
    data_std: float = Field(gt=0)
    times: Times
    training: dict[str, Any]
    start: str | None = None
    seed: int
    measured: dict[str, Any] = Field(default_factory=dict)

    @field_validator("conditions")
    @classmethod
    def _plain(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        return json.loads(json.dumps(value))

    @field_validator("training")
    @classmethod
    def _training(cls, value: dict[str, Any]) -> dict[str, Any]:
        return asdict(settings(value))

    @model_validator(mode="after")
    def _conditions_fit(self) -> "Recipe":
        conditions = self.build_conditions()
        asked = [] if conditions is None else list(conditions.columns)
        known = list(self.network.config.get("columns", ()))
        if asked != known:
            raise ValueError(f"conditions {asked} were given for a network of {known}; the recipe was edited")
        return self

    def build(self) -> NetDenoiser:
        """The denoiser, with fresh weights.

        Raises:
            CheckpointError: a name that this version does not know, or arguments that it refuses.
        """
        net = _make(NETWORKS, self.network, "network")
        schedule = _make(SCHEDULES, self.schedule, "schedule")
        try:
            return NetDenoiser(net, Path(schedule), self.head, self.data_std)
        except UndriftError as error:
            raise CheckpointError(f"the recipe's head {self.head!r} does not fit its schedule: {error}") from error

    def build_codec(self) -> Any:
        """The codec.

        Raises:
            CheckpointError: as `build`.
        """
        if self.codec.name not in CODECS:
            raise CheckpointError(f"the recipe names the codec {self.codec.name!r}; this version knows {', '.join(CODECS)}")
        try:
            return CODECS[self.codec.name].from_config(self.codec.config)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the recipe's codec {self.codec.name} refuses its configuration: {error!r}") from error

    def build_conditions(self) -> Conditions | None:
        """What may be asked for, or None."""
        try:
            return None if self.conditions is None else Conditions.from_config(self.conditions)
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise CheckpointError(f"the recipe's conditions are not understood: {error!r}; it was edited") from error

    def settings(self) -> Settings:
        """How to train."""
        return settings(self.training)

    def digest(self) -> str:
        """Digest of everything but what was measured: two recipes of one digest are one run."""
        plain = self.model_dump(mode="json", exclude={"measured"})
        return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()

    def to_json(self) -> bytes:
        """The file's content."""
        text = json.dumps(self.model_dump(mode="json"), indent=2, allow_nan=False)
        return _NUMBERS.sub(lambda found: " ".join(found.group().split()), text).encode()  # a list of numbers is one line

    @staticmethod
    def from_json(content: bytes | str, name: str = "recipe.json") -> "Recipe":
        """The recipe that a file's content describes.

        Args:
            content: of the file.
            name: what errors call the file.

        Raises:
            CheckpointError: not JSON, not written by undrift, of another format, or with a field missing, unknown or wrong.
        """
        try:
            data = json.loads(content)
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            raise CheckpointError(
                f"{name} is not JSON ({error}); it was damaged: take it from a backup or fit again"
            ) from error
        if not isinstance(data, dict) or "undrift" not in data:
            raise CheckpointError(f"{name} was not written by undrift: it has no field 'undrift'")
        if data["undrift"] != FORMAT:
            raise CheckpointError(
                f"{name} has format {data['undrift']!r}, this version reads {FORMAT}; fit again, or use the one that wrote it"
            )
        try:
            return Recipe.model_validate(data)
        except ValidationError as error:
            found = sorted(error.errors(), key=lambda e: e["type"] == "missing")  # a misspelt key is also a missing one
            raise CheckpointError(f"{name}: {'; '.join(_problem(e) for e in found[:5])}") from error


def settings(config: dict[str, Any]) -> Settings:
    """Training settings from a mapping.

    Raises:
        ValueError: a key that is not a setting (names the one that was probably meant), or a value out of its range.
    """
    known = list(Settings.__dataclass_fields__)
    for key in config:
        if key not in known:
            raise ValueError(f"{key!r} is no training setting{_meant(key, known)}")
    return Settings(**config)


def _meant(key: str, known: list[str]) -> str:
    close = difflib.get_close_matches(key, known, 1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(known)}"


def _problem(error: Any) -> str:
    """One problem of pydantic's, in words."""
    where = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        kind: Any = {"data": Data, "codec": Part, "network": Part, "schedule": Part, "times": Times}.get(error["loc"][0])
        known = kind if len(error["loc"]) > 1 and kind else Recipe
        return f"{where} is unknown{_meant(str(error['loc'][-1]), list(known.model_fields))}"
    if error["type"] == "missing":
        return f"{where} is missing; the file was edited or damaged"
    return f"{where + ': ' if where else ''}{error['msg'].removeprefix('Value error, ')}"


def _make(registry: dict[str, Any], part: Part, what: str) -> Any:
    if part.name not in registry:
        raise CheckpointError(f"the recipe names the {what} {part.name!r}; this version knows {', '.join(sorted(registry))}")
    try:
        return registry[part.name](**part.config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the recipe's {what} {part.name} refuses its arguments: {error}") from error
