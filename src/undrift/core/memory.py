"""Running out of memory, told from every other error.

Checked by: tests/core/test_memory.py
"""

import torch

__all__ = ["out_of_memory"]


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, on whichever device."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)  # the allocator of the processor raises a plain RuntimeError
    return isinstance(error, RuntimeError) and any(
        said in text for said in ("can't allocate memory", "not enough memory", "out of memory")
    )
