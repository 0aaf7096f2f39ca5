"""What a run is: everything that rebuilds a model from its weights, as plain data that round-trips through JSON.

A recipe names its parts by registry keys and constructor arguments. Reading one never runs code from the file.

Checked by: tests/test_recipes.py
"""

from dataclasses import asdict, dataclass, fields
from typing import Any

from undrift.errors import CheckpointError, UndriftError
from undrift.gaussian import NetDenoiser, Path
from undrift.networks import NETWORKS
from undrift.schedules import SCHEDULES

__all__ = ["FORMAT", "Recipe"]

FORMAT = 1


@dataclass(frozen=True)
class Recipe:
    """A Gaussian model of images.

    Attributes:
        network: key of `networks.NETWORKS`.
        network_config: its constructor arguments.
        schedule: key of `schedules.SCHEDULES`.
        schedule_config: its constructor arguments.
        head: key of `gaussian.HEADS`.
        data_std: measured standard deviation of the encoded data.
        codec: configuration of the codec.
        class_names: names in the order of their indices, or None.
        training: settings of the run that made the weights, and what it measured.
        seed: of that run.
    """

    network: str
    network_config: dict[str, Any]
    schedule: str
    schedule_config: dict[str, Any]
    head: str
    data_std: float
    codec: dict[str, Any]
    class_names: list[Any] | None
    training: dict[str, Any]
    seed: int

    def build(self) -> NetDenoiser:
        """The denoiser, with fresh weights.

        Raises:
            CheckpointError: a name that this version does not know, or arguments that it refuses.
        """
        net = _make(NETWORKS, self.network, self.network_config, "network")
        schedule = _make(SCHEDULES, self.schedule, self.schedule_config, "schedule")
        try:
            return NetDenoiser(net, Path(schedule), self.head, self.data_std)
        except UndriftError as error:
            raise CheckpointError(f"the recipe's head {self.head!r} does not fit its schedule: {error}") from error

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"undrift": FORMAT, **asdict(self)}

    @staticmethod
    def from_json(data: Any) -> "Recipe":
        """The recipe that plain data describe.

        Raises:
            CheckpointError: not written by undrift, by a newer format, or with a field missing or unknown.
        """
        if not isinstance(data, dict) or "undrift" not in data:
            raise CheckpointError("recipe.json was not written by undrift: it has no field 'undrift'")
        if data["undrift"] != FORMAT:
            raise CheckpointError(f"recipe.json has format {data['undrift']!r}, this version reads {FORMAT}; update undrift")
        given = {key: value for key, value in data.items() if key != "undrift"}
        known = {field.name: field.type for field in fields(Recipe)}
        for problem, names in (("lacks", known.keys() - given.keys()), ("has unknown", given.keys() - known.keys())):
            if names:
                raise CheckpointError(f"recipe.json {problem} {', '.join(sorted(names))}; it was edited or damaged")
        kinds = {
            "network": str, "schedule": str, "head": str, "network_config": dict, "schedule_config": dict, "codec": dict,
            "training": dict, "data_std": (int, float), "seed": int, "class_names": (list, type(None)),
        }  # fmt: skip
        for name, kind in kinds.items():
            if not isinstance(given[name], kind):
                raise CheckpointError(f"recipe.json: {name} is {given[name]!r}, which is not what undrift writes there")
        recipe = Recipe(**given)
        classes = None if recipe.class_names is None else len(recipe.class_names)
        if recipe.network_config.get("classes") != classes:
            raise CheckpointError(
                f"recipe.json names {classes} classes for a network of {recipe.network_config.get('classes')}; it was edited"
            )
        return recipe


def _make(registry: dict[str, Any], name: str, config: dict[str, Any], what: str) -> Any:
    if name not in registry:
        raise CheckpointError(f"the recipe names the {what} {name!r}; this version knows {', '.join(sorted(registry))}")
    try:
        return registry[name](**config)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"the recipe's {what} {name} refuses its arguments: {error}") from error
