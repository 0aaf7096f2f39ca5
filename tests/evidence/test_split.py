"""Two stratified halves."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.errors import DataError, ShapeError
from undrift.evidence import split_half


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(2, 9), min_size=1, max_size=6), st.integers(0, 1000))
def test_halves_are_disjoint_complete_and_stratified(counts, seed):
    labels = torch.cat([torch.full((n,), 3 * k - 4) for k, n in enumerate(counts)])
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    before = torch.get_rng_state()
    first, second = split_half(labels, seed)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(torch.cat([first, second]).sort().values, torch.arange(len(labels)))
    assert torch.equal(first, first.sort().values)
    assert 0 <= len(first) - len(second) <= 1
    for value in labels.unique():
        assert abs(int((labels[first] == value).sum()) - int((labels[second] == value).sum())) <= 1
    again = split_half(labels, seed)
    assert torch.equal(first, again[0])
    assert torch.equal(second, again[1])


def test_the_seed_decides_and_shuffles_within_classes():
    labels = torch.arange(100) % 4
    halves = [split_half(labels, seed)[0] for seed in range(3)]
    assert not torch.equal(halves[0], halves[1])
    # Not the file's order: a half that took the first members of each class would be 0..49.
    assert all((half >= 50).sum() > 10 for half in halves)


def test_errors_say_the_cure():
    with pytest.raises(DataError, match=r"classes \[7\] have a single one; gather more"):
        split_half(torch.tensor([1, 1, 7]), 0)
    with pytest.raises(DataError, match="there is no data"):
        split_half(torch.zeros(0, dtype=torch.long), 0)
    with pytest.raises(ShapeError, match=r"\.long\(\)"):
        split_half(torch.zeros(4), 0)
    with pytest.raises(ShapeError, match="one integer a point"):
        split_half(torch.zeros(4, 2, dtype=torch.long), 0)
