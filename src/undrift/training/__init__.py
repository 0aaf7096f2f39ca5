"""Fitting a denoiser: settings, the loop, the moving average of its weights, snapshots, losses by noise level."""

from undrift.training.draws import forked
from undrift.training.ema import Ema
from undrift.training.feed import Feed, Held, Streamed
from undrift.training.group import gathered, is_main, my_rows
from undrift.training.levels import LevelReport, Levels, spectrum
from undrift.training.loop import Progress, train
from undrift.training.metrics import Metrics
from undrift.training.rehearsal import rehearse
from undrift.training.settings import Settings

__all__ = [
    "Ema",
    "Feed",
    "Held",
    "LevelReport",
    "Levels",
    "Metrics",
    "Progress",
    "Settings",
    "Streamed",
    "forked",
    "gathered",
    "is_main",
    "my_rows",
    "rehearse",
    "spectrum",
    "train",
]
