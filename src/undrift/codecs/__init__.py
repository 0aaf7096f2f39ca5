"""Data in and out: the user's records as tensors, and back in the user's units."""

from undrift.codecs.images import Images
from undrift.codecs.labels import Labels

__all__ = ["Images", "Labels"]
