"""Strength schedules: where they guide, what they cost, and on which clock."""

import math

import pytest
import torch

from oracles import Counted, draws, mixture, time
from undrift import gaussian, guidance, schedules
from undrift.errors import TimeError

PATH = gaussian.Path(schedules.VP())
GOOD, BAD = (gaussian.Exact(PATH, mixture(2, seed=seed)) for seed in (0, 1))
X = draws((3, 2), 2)


def test_interval_guides_inside_and_costs_one_call_outside():
    """Guided in (low, high], w = 1 elsewhere: the two ends tell the open one from the closed one."""
    interval = guidance.Interval(3.0, 0.25, 0.5)
    for t, inside in ((0.1, False), (0.25, False), (0.26, True), (0.5, True), (0.51, False)):
        good, bad = Counted(GOOD), Counted(BAD)
        got = guidance.autoguidance(good, bad, interval)(X, time(t)).mean
        wanted = guidance.autoguidance(GOOD, BAD, 3.0 if inside else 1.0)(X, time(t)).mean
        torch.testing.assert_close(got, wanted, rtol=0, atol=0)
        assert (good.calls, bad.calls) == (1, int(inside))


def test_interval_with_a_time_per_sample():
    """Each row by its own time; a batch that lies outside as a whole costs one call."""
    times, scales = time([0.1, 0.3, 0.9]), torch.tensor([2.0, 3.0, 4.0])
    guided = guidance.autoguidance(GOOD, BAD, guidance.Interval(scales, 0.2, 0.5))(X, times).mean
    wanted = guidance.autoguidance(GOOD, BAD, torch.tensor([1.0, 3.0, 1.0]))(X, times).mean
    torch.testing.assert_close(guided, wanted, rtol=0, atol=0)
    bad = Counted(BAD)
    guidance.autoguidance(GOOD, bad, guidance.Interval(2.0, 0.4, 0.5))(X, times)
    assert bad.calls == 0
    one_time = guidance.autoguidance(GOOD, BAD, guidance.Interval(scales, 0.2, 0.5))(X, time(0.3)).mean
    torch.testing.assert_close(one_time, guidance.autoguidance(GOOD, BAD, scales)(X, time(0.3)).mean, rtol=0, atol=0)


@pytest.mark.parametrize("clock", [schedules.VP(), schedules.EDM(), schedules.LinearFlow(), schedules.Cosine()])
def test_noise_levels_mean_the_same_on_every_clock(clock):
    interval = guidance.noise_interval(2.0, 0.5, 3.0, clock)
    for level, wanted in ((0.49, 1.0), (0.51, 2.0), (1.0, 2.0), (2.99, 2.0), (3.01, 1.0)):
        assert interval(clock.time(time(-2 * math.log(level)))) == wanted


def test_noise_levels_may_be_open_ended():
    assert guidance.noise_interval(2.0, 0.0, math.inf, schedules.LinearFlow()) == guidance.Interval(2.0, 0.0, 1.0)


@pytest.mark.parametrize(
    ("make", "cure"),
    [
        (lambda: guidance.Interval(2.0, 0.5, 0.4), "0 <= low < high <= 1"),
        (lambda: guidance.Interval(2.0, 0.5, 3.0), "use noise_interval"),
        (lambda: guidance.noise_interval(2.0, 3.0, 0.5, schedules.VP()), "swap them"),
        (lambda: guidance.noise_interval(2.0, 1e5, 1e6, schedules.EDM()), "reaches no noise level"),
    ],
)
def test_empty_intervals_are_refused(make, cure):
    with pytest.raises(TimeError, match=cure):
        make()
