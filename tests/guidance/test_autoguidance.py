"""Autoguidance on Gaussians: the guided mean is affine, so what it does is known in closed form."""

import pytest
import torch

from oracles import Counted, draws, normal, time
from undrift import bridge, discrete, gaussian, guidance, schedules
from undrift.errors import FamilyError
from undrift.laws import Point

PATH, X, T = gaussian.Path(schedules.Cosine()), draws((4, 2), 3), time(0.6)
EYE = torch.eye(2, dtype=torch.float64)


def gain(variance: float) -> float:
    """E[X_0 | x_t] = gain x_t for N(0, variance I)."""
    alpha, sigma = float(PATH.schedule.alpha(T)), float(PATH.schedule.sigma(T))
    return alpha * variance / (alpha**2 * variance + sigma**2)


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_guided_gaussians_in_closed_form(scale):
    good, bad = (gaussian.Exact(PATH, normal(0 * EYE[0], v * EYE)) for v in (0.5, 2.0))
    wanted = (gain(0.5) + (scale - 1) * (gain(0.5) - gain(2.0))) * X
    torch.testing.assert_close(guidance.autoguidance(good, bad, scale)(X, T).mean, wanted, rtol=1e-13, atol=1e-13)


def test_it_removes_an_error_that_the_bad_model_has_more_of():
    """Good = truth + e, bad = truth + 3 e: at w = 3/2 the error cancels exactly."""
    truth, error = gaussian.Exact(PATH, normal(0 * EYE[0], EYE)), draws((4, 2), 4)

    def off(times):
        return Shifted(truth, times * error)

    guided = guidance.autoguidance(off(1), off(3), 1.5)(X, T).mean
    torch.testing.assert_close(guided, truth(X, T).mean, rtol=0, atol=1e-14)


class Shifted:
    """A denoiser with a known error."""

    def __init__(self, inner, error):
        self.inner, self.error, self.path = inner, error, inner.path

    def __call__(self, x_t, t):
        return Point(self.inner(x_t, t).mean + self.error)


def test_one_call_of_each_and_only_one_at_scale_one():
    for scale, calls in ((1.0, (1, 0)), (0.0, (0, 1)), (2.0, (1, 1)), (torch.tensor([1.0, 1.0, 1.0, 2.0]), (1, 1))):
        good, bad = (Counted(gaussian.Exact(PATH, normal(0 * EYE[0], v * EYE))) for v in (0.5, 2.0))
        guidance.autoguidance(good, bad, scale)(X, T)
        assert (good.calls, bad.calls) == calls


def test_two_paths_are_refused_and_equal_ones_are_not():
    good = gaussian.Exact(PATH, normal(0 * EYE[0], EYE))
    guidance.autoguidance(good, gaussian.Exact(gaussian.Path(schedules.Cosine()), good.data), 2.0)
    other = gaussian.Exact(gaussian.Path(schedules.VP()), good.data)
    with pytest.raises(FamilyError, match=r"bad.on\(good.path\)"):
        guidance.autoguidance(good, other, 2.0)
    guidance.autoguidance(good, other.on(good.path), 2.0)


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        (discrete.path.masked(3), discrete.path.masked(3), discrete.path.uniform(4)),
        (
            bridge.Path(schedules.BrownianBridge(), Point(EYE[:1])),
            bridge.Path(schedules.BrownianBridge(), Point(EYE[:1].clone())),
            bridge.Path(schedules.BrownianBridge(), Point(EYE[1:])),
        ),
    ],
)
def test_paths_that_hold_tensors_are_compared_by_value(one, same, other):
    guidance.autoguidance(On(one), On(same), 2.0)
    with pytest.raises(FamilyError, match="different paths"):
        guidance.autoguidance(On(one), On(other), 2.0)


class On:
    """A denoiser of which only the path is asked."""

    def __init__(self, path):
        self.path = path

    def __call__(self, x_t, t):
        return Point(x_t)
