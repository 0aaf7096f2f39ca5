"""Certifies every family against the grammar: one registry (`families.ROWS`), one set of tests, and no Monte Carlo.

`corrupt` composes, `reverse` under the true posterior keeps every one-time marginal whatever the step, a row of a batch
knows nothing of its neighbours, times broadcast one way only, and what is documented to be refused is refused.
"""

import pytest
import torch
from torch import Tensor

from conformance.families import ROWS, Row, f64
from undrift import Ancestral, PerSample, grids, simulate
from undrift.errors import ShapeError, TimeError

NAMES = list(ROWS)
ROUNDING = {"rtol": 1e-11, "atol": 1e-11}  # float64, few operations; a batched product may add in another order


def each(names: list[str] = NAMES) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("name", names)


def stepped(row: Row, x: Tensor, t: Tensor, s: Tensor):
    return row.path.reverse(x, row.denoiser(x, t), t, s)


@each([n for n in NAMES if ROWS[n].forward == "chain"])
def test_corrupt_composes(name: str) -> None:
    """Going s to t to u is going s to u, from every start; and from the true law at s it leads to the true law at u."""
    row, (u, t, s) = ROWS[name], ROWS[name].interior()
    for early, middle, late in ((s, t, u), (0.0, s, u), (0.0, t, 1.0)):
        if early < row.span[1] or late > row.span[0]:
            continue
        one, two, three = f64(early), f64(middle), f64(late)
        for start in [*row.space.deltas(), row.truth(early)]:
            half = row.space.push(start, lambda x, a=one, b=two: row.path.corrupt(x, a, b))
            composed = row.space.push(half, lambda x, b=two, c=three: row.path.corrupt(x, b, c))
            direct = row.space.push(start, lambda x, a=one, c=three: row.path.corrupt(x, a, c))
            assert row.space.gap(composed, direct) < row.space.tolerance
        assert row.space.gap(direct, row.truth(late)) < row.space.tolerance


@pytest.mark.parametrize("t", [1e-3, 0.3, 0.9, 1.0])
@each([n for n in NAMES if ROWS[n].forward != "pairs" and ROWS[n].span[1] == 0])
def test_corrupt_takes_data_to_the_marginal(name: str, t: float) -> None:
    row = ROWS[name]
    t = max(t, row.space.shortest)
    law = row.space.push(row.truth(0.0), lambda x: row.path.corrupt(x, f64(0.0), f64(t)))
    assert row.space.gap(law, row.truth(t)) < row.space.tolerance


@each()
@pytest.mark.parametrize("steps", [1, 2, 5, 200])
def test_reverse_keeps_marginals(name: str, steps: int) -> None:
    """From the true law at the first time, through every step, to the true law at the last; checked at every stop."""
    row = ROWS[name]
    start, end = row.long_span if steps == 200 and row.long_span else row.span
    law = row.truth(start)
    for t, s in grids.uniform(None, steps, start, end).pairs():
        law = row.space.push(law, lambda x, t=t, s=s: stepped(row, x, f64(t), f64(s)))
        assert row.space.gap(law, row.truth(s)) < row.space.tolerance, f"t = {t:g}, s = {s:g}"


@each()
def test_a_sample_is_unchanged_by_its_neighbours(name: str) -> None:
    row, x = ROWS[name], ROWS[name].space.states()
    u, _, s = row.interior()
    together = stepped(row, x, f64(u), f64(s)).sample(PerSample(5, len(x)))
    corrupted = row.path.corrupt(x, f64(s), f64(u)).sample(PerSample(6, len(x)))
    for i in range(len(x)):
        alone = stepped(row, x[i : i + 1], f64(u), f64(s)).sample(PerSample(5, [i]))
        torch.testing.assert_close(alone[0], together[i], **ROUNDING)
        alone = row.path.corrupt(x[i : i + 1], f64(s), f64(u)).sample(PerSample(6, [i]))
        torch.testing.assert_close(alone[0], corrupted[i], **ROUNDING)


@each()
def test_times_broadcast_row_by_row(name: str) -> None:
    """One time is B equal times, and mixed times are each row's own."""
    row, x = ROWS[name], ROWS[name].space.states()
    n = len(x)
    t, s = torch.linspace(0.4, 0.9, n).double(), torch.linspace(0.3, 0.1, n).double()
    equal, mixed = PerSample(7, n), PerSample(7, n)
    one = stepped(row, x, f64(0.6), f64(0.2)).sample(PerSample(7, n))
    torch.testing.assert_close(stepped(row, x, f64(0.6).expand(n), f64(0.2).expand(n)).sample(equal), one, **ROUNDING)
    back = stepped(row, x, t, s).sample(mixed)
    on = row.path.corrupt(x, s, t).sample(PerSample(8, n))
    for i in range(n):
        alone = stepped(row, x[i : i + 1], t[i], s[i]).sample(PerSample(7, [i]))
        torch.testing.assert_close(alone[0], back[i], **ROUNDING)
        alone = row.path.corrupt(x[i : i + 1], s[i], t[i]).sample(PerSample(8, [i]))
        torch.testing.assert_close(alone[0], on[i], **ROUNDING)


@each()
@pytest.mark.parametrize("batch", [1, 5])
def test_the_prior_is_the_law_at_one_within_its_stated_gap(name: str, batch: int) -> None:
    row = ROWS[name]
    like = torch.zeros(batch, *row.space.event, dtype=torch.float64)
    prior = row.path.prior(like)
    x = prior.sample(PerSample(0, batch))
    assert x.shape == like.shape
    assert x.dtype == row.space.states().dtype  # numbers as asked for, symbols as integers
    if row.path.family == "gaussian":  # the other families' priors are made of their own source or symbols
        assert row.path.prior(like.float()).sample(PerSample(0, batch)).dtype == torch.float32
    if row.prior_bound is None:
        return
    given = row.space.read(row.path.prior)
    if row.prior_bound == 0:
        assert row.space.gap(row.truth(1.0), given) < row.space.tolerance
    else:
        assert 0 < row.space.divergence(row.truth(1.0), given) <= row.prior_bound


@each()
def test_times_out_of_order_are_refused_with_the_cure(name: str) -> None:
    row, x = ROWS[name], ROWS[name].space.states()
    law = row.denoiser(x, f64(0.5))
    for t, s in ((0.5, 0.5), (0.3, 0.5), (1.2, 0.5), (0.5, -0.1), (float("nan"), 0.1)):
        with pytest.raises(TimeError, match="swap them, or rescale your times"):
            row.path.reverse(x, law, f64(t), f64(s))
        with pytest.raises(TimeError, match="swap them, or rescale your times"):
            row.path.corrupt(x, f64(s), f64(t))


@each()
def test_other_time_shapes_are_refused_with_the_cure(name: str) -> None:
    row, x = ROWS[name], ROWS[name].space.states()
    n, law = len(x), row.denoiser(x, f64(0.5))
    for shape in ((n + 1,), (1,), (n, 1)):
        t, s = torch.full(shape, 0.5, dtype=torch.float64), torch.full(shape, 0.2, dtype=torch.float64)
        with pytest.raises(ShapeError, match="or one per sample"):
            row.path.reverse(x, law, t, s)
        with pytest.raises(ShapeError, match="or one per sample"):
            row.path.corrupt(x, s, t)
        with pytest.raises(ShapeError, match="or one per sample"):
            row.denoiser(x, t)
    for call in (lambda t, s: row.path.reverse(x, law, t, s), lambda t, s: row.path.corrupt(x, s, t)):
        with pytest.raises(ShapeError, match="give both the same shape"):
            call(f64(0.5), f64(0.2).expand(n))


@each()
def test_a_tilt_moves_the_law_towards_the_reward(name: str) -> None:
    """No signal, no move. A signal moves the mean along it (for a softmax: the signal's own mean rises)."""
    row, x = ROWS[name], ROWS[name].space.states()
    law = (row.tiltable or row.denoiser)(x, f64(0.5))
    mean = law.mean.expand(len(x), *law.mean.shape[1:])
    signal = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    still = row.path.tilt(law, torch.zeros_like(signal), f64(0.5)).mean
    torch.testing.assert_close(still, mean, **ROUNDING)
    moved = ((row.path.tilt(law, signal, f64(0.5)).mean - mean) * signal).flatten(1).sum(1)
    free = law.variance.expand_as(mean).flatten(1).sum(1) > 1e-9  # a law that is certain cannot move
    assert bool(free.any())
    if name == "bridge-gaussian_ends-linear":
        assert bool((moved == 0).all())  # no noise: x_t alone, the other end held, leaves nothing to tilt
    else:
        assert bool((moved[free] > 0).all())


@each([n for n in NAMES if ROWS[n].span == (1.0, 0.0)])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_seed_gives_the_same_samples_in_any_batch(name: str, batch: int) -> None:
    row = ROWS[name]

    def run(n: int) -> Tensor:
        grid = grids.uniform(None, 6)
        return simulate.sample(row.denoiser, Ancestral(), grid, (n, *row.space.event), seed=4, dtype=torch.float64)

    torch.testing.assert_close(run(batch), run(8)[:batch], rtol=1e-9, atol=1e-9)  # rounding, amplified by six steps
