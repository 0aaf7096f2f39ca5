"""Snapshots: everything that going on needs, in one file of safetensors and JSON, from which nothing is executed.

`state/snapshot.safetensors` holds the weights, their moving average, the optimiser's moments and the sums of the running
report; its header holds the step and what the run was (`identity`). Randomness and the position in the data follow from the
step. The file is copied while training waits, which is a copy in memory, and written by a thread while training goes on; it is
renamed into place, so there is a whole snapshot at any moment. If it cannot be written (a full disk) the previous one stands,
training goes on, and people are told; the next one is tried as usual.

Checked by: tests/training/test_snapshot.py, tests/training/test_resume.py
"""

import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from undrift.core import write
from undrift.errors import CheckpointError

__all__ = ["NAME", "Snapshot", "Writer", "load", "matched"]

NAME = "snapshot.safetensors"

_FORMAT = 1


@dataclass(frozen=True)
class Snapshot:
    """The state of a training between two steps.

    Attributes:
        step: steps done.
        tensors: weights, moments and sums, on the CPU.
        facts: plain numbers beside them.
        identity: what the run was: a snapshot is of use to the same run only.
    """

    step: int
    tensors: dict[str, Tensor]
    facts: dict[str, Any]
    identity: dict[str, Any]

    @property
    def finite(self) -> bool:
        """Whether it holds no NaN or infinity: only such a one is worth going back to."""
        trained = [name.removeprefix("adam.exp_avg.") for name in self.tensors if name.startswith("adam.exp_avg.")]
        names = [f"{part}.{name}" for name in trained for part in ("net", "adam.exp_avg", "adam.exp_avg_sq")]
        names += [name for name in self.tensors if name.startswith("sums.")]
        return all(bool(torch.isfinite(self.tensors[name]).all()) for name in names)  # a buffer may well hold infinity

    def to_bytes(self) -> bytes:
        """The file's content."""
        from safetensors.torch import save

        head = {"format": _FORMAT, "step": self.step, "facts": self.facts, "identity": self.identity}
        return save(self.tensors, metadata={"undrift": json.dumps(head)})


def load(folder: Path) -> Snapshot | None:
    """The snapshot in a folder, or None if there is none.

    Raises:
        CheckpointError: it is damaged, foreign, or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    file = folder / NAME
    if not file.exists():
        return None
    try:
        with safe_open(file, "pt") as opened:
            head = json.loads((opened.metadata() or {})["undrift"])
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (not a mapping)
        if head["format"] != _FORMAT:
            raise CheckpointError(
                f"{file} is of format {head['format']}, this version reads {_FORMAT}; use the version that wrote it"
            )
        return Snapshot(head["step"], tensors, head["facts"], head["identity"])
    except (SafetensorError, KeyError, json.JSONDecodeError, OSError) as error:
        raise CheckpointError(
            f"{file} cannot be gone on with: it is damaged or foreign ({error}); delete it to train from the start"
        ) from error


def matched(snapshot: Snapshot, identity: dict[str, Any], file: Path) -> None:
    """Check that a snapshot is of this run.

    Raises:
        CheckpointError: it is not; says what differs.
    """
    then, now = snapshot.identity, json.loads(json.dumps(identity))
    if then.get("processes") != now["processes"]:
        raise CheckpointError(
            f"{file} was written by {then.get('processes')} process(es), and {now['processes']} run now; sums would be taken "
            f"in another order: start {then.get('processes')} to go on with it, or delete the file to train from the start"
        )
    differing = [name for name in now if then.get(name) != now[name]]
    if differing:
        told = ", ".join(f"{n}: {then.get(n)} there, {now[n]} here" for n in differing)
        raise CheckpointError(
            f"{file} belongs to another run ({told}); go on with the recipe it was made with, or choose another folder"
        )


class Writer:
    """Writes snapshots in a thread, one at a time.

    Args:
        folder: for the file; made if need be.
    """

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        for part in folder.glob(f"{NAME}.*.part"):  # of a process that was killed while writing
            part.unlink(missing_ok=True)
        self.file = folder / NAME
        self._thread: threading.Thread | None = None
        self._failure: OSError | None = None

    def start(self, snapshot: Snapshot) -> None:
        """Begin to write; waits for the one before."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="undrift-snapshot")
        self._thread.start()

    def wait(self) -> None:
        """Wait until what was begun is written, or has failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def complaint(self) -> str:
        """What people should be told of writing, once; "" if all went well."""
        failure, self._failure = self._failure, None
        if failure is None:
            return ""
        stands = "the previous one stands" if self.file.exists() else "there is none yet"
        return (
            f"{self.file} could not be written ({failure.strerror or failure}): {stands}, and training goes on; free some space"
        )

    def _write(self, snapshot: Snapshot) -> None:
        try:
            write(self.file, snapshot.to_bytes())
            self._failure = None
        except OSError as error:
            self._failure = error
