"""metrics.jsonl: one line of JSON a report.

A run that goes on after a kill reports some steps a second time; the lines of the first time are dropped, so a file tells the
same whether a run was killed or not, but for its times.

Checked by: tests/training/test_resume.py::test_metrics_drop_what_is_reported_again
"""

import json
from pathlib import Path
from typing import Any

from undrift.core import write

__all__ = ["Metrics"]


class Metrics:
    """Appends reports to a file.

    Args:
        file: metrics.jsonl; begun if it is not there.
    """

    def __init__(self, file: Path | str):
        self.file, self._begun = Path(file), False

    def add(self, state: Any) -> None:
        """Append a `Progress`; the first one drops what the file says of its step and later ones.

        Raises:
            OSError: the disk is full.
        """
        if not self._begun:
            self._trim(state.step)
            self._begun = True
        line = {
            "step": state.step,
            "seconds": round(state.seconds, 3),
            "loss": state.loss,
            "rate": round(state.rate, 3),
            "learning_rate": state.learning_rate,
        }
        if state.note:
            line["note"] = state.note
        if state.levels is not None:
            line |= state.levels.to_json()
        with self.file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line, allow_nan=False) + "\n")

    def _trim(self, step: int) -> None:
        if not self.file.exists():
            return
        kept = [line for line in self.file.read_text("utf-8").splitlines() if _step(line) < step]
        write(self.file, "".join(line + "\n" for line in kept).encode())


def _step(line: str) -> float:
    """The step of a line; a line that a kill cut short is of no step."""
    try:
        return float(json.loads(line)["step"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return float("inf")
