"""Counted randomness: the same wherever it is drawn, and different elsewhere."""

import itertools

import pytest
import torch

from undrift.errors import ShapeError
from undrift.training.draws import Slots, counted, forked


@pytest.mark.parametrize("kind", ["normal", "uniform"])
@pytest.mark.parametrize("cuts", [(0, 64), (0, 16, 32, 48, 64), (0, 7, 33, 50, 64), tuple(range(65))])
def test_a_slot_draws_the_same_however_the_batch_is_cut(kind, cuts):
    def drawn(start, stop):
        rng = Slots(5, start, stop)
        return [getattr(rng, kind)((stop - start, *e), dtype=torch.float32) for e in ((3,), (), (2, 5))]

    whole = drawn(0, 64)
    parts = [drawn(a, b) for a, b in itertools.pairwise(cuts)]
    for i, expected in enumerate(whole):
        assert torch.equal(torch.cat([p[i] for p in parts]), expected)


def test_slots_and_seeds_do_not_repeat_each_other():
    x = Slots(5, 0, 4096).normal((4096,), dtype=torch.float64)
    assert len(x.unique()) == 4096
    assert abs(float(x.mean())) < 5 / 64  # five standard errors
    assert abs(float(x.var()) - 1) < 5 * (2 / 4096) ** 0.5
    y = Slots(6, 0, 4096).normal((4096,), dtype=torch.float64)
    assert abs(float((x * y).mean())) < 5 / 64
    assert torch.equal(Slots(5, 3, 9).normal((6,), dtype=torch.float64), x[3:9])
    rng = Slots(5, 3, 9)
    first = rng.normal((6,), dtype=torch.float64)
    assert not torch.equal(first, rng.normal((6,), dtype=torch.float64))
    assert torch.equal(first, rng.replay().normal((6,), dtype=torch.float64))


def test_counted_seeds_differ_by_place():
    seeds = {counted(s, w, k) for s in range(5) for w in ("order", "step") for k in range(200)}
    assert len(seeds) == 2000
    assert all(0 <= s < 2**63 for s in seeds)
    assert counted(1, "step", 2) == counted(1, "step", 2)


def test_another_batch_axis_is_refused():
    with pytest.raises(ShapeError, match="first axis"):
        Slots(0, 0, 4).normal((5,), dtype=torch.float32)


def test_forked_puts_the_generator_back():
    kept = torch.get_rng_state()
    with forked(1):
        a = torch.rand(3)
    with forked(1):
        assert torch.equal(a, torch.rand(3))
    assert torch.equal(kept, torch.get_rng_state())
