"""Commands: `undrift demo`."""

from undrift.cli.main import main

__all__ = ["main"]
