"""Fitting a denoiser: the loop, the moving average of its weights, and the bar."""

from undrift.training.ema import Ema
from undrift.training.loop import Progress, Settings, forked, train

__all__ = ["Ema", "Progress", "Settings", "forked", "train"]
