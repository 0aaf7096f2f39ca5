"""Files written so that nothing is ever lost: a kill at any moment, or a full disk, leaves the previous file whole.

Checked by: tests/core/test_files.py
"""

import os
from pathlib import Path

__all__ = ["write"]


def write(file: Path, content: bytes) -> None:
    """Write a file under a temporary name, bring it to the disk, and rename it.

    Args:
        file: where; its folder exists.
        content: all of it.

    Raises:
        OSError: the disk is full or the folder cannot be written; the previous file stands as it was.
    """
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as out:
            out.write(content)
            out.flush()
            os.fsync(out.fileno())
        os.replace(part, file)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
