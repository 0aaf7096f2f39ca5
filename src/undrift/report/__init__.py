"""Pictures of a run: what people would rather look at than read."""

from undrift.report.pictures import class_grid, neighbours, noise_to_sample

__all__ = ["class_grid", "neighbours", "noise_to_sample"]
