"""Label guidance: denoisers made from denoisers."""

from undrift.guidance.cfg import ClassifierFree, cfg

__all__ = ["ClassifierFree", "cfg"]
