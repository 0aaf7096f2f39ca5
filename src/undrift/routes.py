"""The routes that tuning found for a model: kept by network calls and strength of conditions, saved beside its weights.

Checked by: tests/test_routes.py
"""

import json
from pathlib import Path as File
from typing import Any

from undrift.core import write
from undrift.errors import CheckpointError, GridError
from undrift.gaussian import Tuned

__all__ = ["NAME", "Routes"]

NAME = "tuned.json"
"""Their file in the folder of a run."""


class Routes(dict[tuple[int, float], Tuned]):
    """Routes by (network calls, scale)."""

    def fewest(self, tolerance: float, scale: float) -> int:
        """As few calls as have an error below a tolerance in the median, by what was measured.

        Raises:
            GridError: nothing was measured at this scale, or nothing is that near; names the nearest and its calls.
        """
        of_scale = [route for (_, of), route in self.items() if of == scale]
        if not of_scale:
            raise GridError(
                'steps="auto" needs to know the error of this model at some numbers of calls: call model.tune(calls=8) once'
                + ("" if scale == 1 else f", with scale={scale:g}")
            )
        known = [error for route in of_scale for error in (route.error, *route.curve)]
        enough = [error.calls for error in known if error.median <= tolerance]
        if enough:
            return min(enough)
        least = min(known, key=lambda error: error.median)
        raise GridError(
            f"no number of calls is known to have an error below {tolerance:g}: the least is {least.median:.3g}, at "
            f"{least.calls} calls (codec units); ask for a larger tolerance, or call model.tune(calls={2 * least.calls})"
        )

    def save(self, folder: str | File, recipe: str) -> None:
        """Write them into the folder of a run, with the digest of the recipe of the weights that they are for."""
        file = File(folder) / NAME
        if not self:
            file.unlink(missing_ok=True)  # of another model that was saved here
            return
        routes = [{"scale": scale, **route.to_config()} for (_, scale), route in sorted(self.items())]
        write(file, json.dumps({"recipe": recipe, "routes": routes}).encode())

    @staticmethod
    def load(folder: str | File, recipe: str) -> "Routes":
        """Those in the folder of a run, if any.

        Raises:
            CheckpointError: the file is damaged, or of another model.
        """
        file = File(folder) / NAME
        if not file.exists():
            return Routes()
        try:
            saved: dict[str, Any] = json.loads(file.read_bytes())
            routes = Routes({(r["calls"], float(r["scale"])): Tuned.from_config(r) for r in saved["routes"]})
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{file} is damaged ({error}); delete it, and tune again") from error
        if saved.get("recipe") != recipe:
            raise CheckpointError(f"{file} was measured on another model than the one there; delete it, and tune again")
        return routes
