"""Receipts: what the theory claims, as experiments that anybody can run. No network, fixed seeds, seconds on a CPU.

A receipt is a function without compulsory arguments that answers with frozen data: `claim` (what the theory says), `rows()`
(a table of strings, the head first), and `picture(file)` (a PNG).
"""

from collections.abc import Callable
from typing import Any

from undrift.receipts.centre_split import CentreSplit, centre_split
from undrift.receipts.guidance_strength import GuidanceStrength, guidance_strength

__all__ = ["RECEIPTS", "CentreSplit", "GuidanceStrength", "centre_split", "guidance_strength"]

RECEIPTS: dict[str, Callable[..., Any]] = {
    "guidance_strength": guidance_strength,
    "centre_split": centre_split,
}
"""Every receipt by name; a new one is one file and one entry."""
