"""Certifies `undrift.core.broadcast`: a time multiplies the rows of a state, nothing else passes, and order is enforced."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.core import check_order, check_state, pad, scalars
from undrift.errors import ShapeError, TimeError

SHAPES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
DTYPES = st.sampled_from([torch.float16, torch.float32, torch.float64])


def times(*values: float) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


@settings(max_examples=50, deadline=None)
@given(shape=SHAPES, dtype=DTYPES, seed=st.integers(0, 99))
def test_every_row_is_multiplied_by_its_own_time(shape: list[int], dtype: torch.dtype, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator).to(dtype)
    t = torch.rand(shape[0], generator=generator, dtype=torch.float64)
    padded = pad(t, x)
    assert padded.dtype == dtype
    expected = torch.stack([t[i].to(dtype) * x[i] for i in range(shape[0])])
    assert torch.equal(padded * x, expected)
    assert torch.equal(pad(t[0], x) * x, t[0].to(dtype) * x)


@pytest.mark.parametrize(
    ("t", "x"),
    [
        (torch.rand(2), torch.zeros(3, 2)),  # the event's size, not the batch's
        (torch.rand(1), torch.zeros(3)),  # would broadcast silently
        (torch.rand(3, 1), torch.zeros(3, 2)),
        (torch.rand(3, 2), torch.zeros(3, 2)),
        (torch.rand(1), torch.zeros(())),
    ],
)
def test_another_time_shape_is_refused_with_the_cure(t: torch.Tensor, x: torch.Tensor) -> None:
    with pytest.raises(ShapeError, match=r"one time, shape \(\), or one per sample, shape \("):
        pad(t, x)


def test_schedules_see_float64_of_the_same_value() -> None:
    t = torch.tensor([0.1, 0.7], dtype=torch.float32)
    assert scalars(t).dtype == torch.float64
    assert torch.equal(scalars(t).float(), t)


def test_a_scalar_state_is_refused_with_the_cure() -> None:
    check_state(torch.zeros(1))
    with pytest.raises(ShapeError, match=r"x_s is a scalar; .* x_s\[None\]"):
        check_state(torch.zeros(()), "x_s")


@pytest.mark.parametrize(("t", "s"), [(1.0, 0.0), (0.5, math.nextafter(0.5, 0)), (5e-324, 0.0)])
def test_ordered_times_pass(t: float, s: float) -> None:
    check_order(times(t)[0], times(s)[0])
    check_order(times(1.0, t), times(0.0, s))


@pytest.mark.parametrize(
    ("t", "s"), [(0.5, 0.5), (0.2, 0.5), (1.5, 0.5), (0.5, -0.1), (math.nan, 0.1), (0.5, math.nan), (math.inf, 0.1)]
)
def test_other_times_are_refused_with_the_cure(t: float, s: float) -> None:
    match = r"0 <= s < t <= 1 .* swap them, or rescale your times to \[0, 1\]"
    with pytest.raises(TimeError, match=match):
        check_order(times(t)[0], times(s)[0])
    with pytest.raises(TimeError, match=match):  # one bad row among good ones
        check_order(times(0.9, t, 0.8), times(0.1, s, 0.2))


def test_times_of_two_shapes_are_refused_with_the_cure() -> None:
    with pytest.raises(ShapeError, match=r"give both the same shape, \(\) or \(B,\)"):
        check_order(times(0.9, 0.8), times(0.1)[0])
