"""Half of the records are mirrored, and with them the grid that conditions them."""

import pytest
import torch
from torch import nn

from training.toy import PATH, Toy
from undrift import gaussian
from undrift.errors import DataError
from undrift.training import Ema, Held, Settings, train
from undrift.training.group import Group
from undrift.training.step import Trainer

TIMES = gaussian.LogNormalNoise(PATH.schedule)
X = torch.arange(40 * 2 * 3 * 4, dtype=torch.float32).reshape(40, 2, 3, 4)


class Net(nn.Module):
    """Reads one column and one grid, or nothing."""

    def __init__(self, columns=(), image=0):
        super().__init__()
        self.columns, self.image, self.weight = columns, image, nn.Parameter(torch.zeros(()))


class Kept:
    """A model and its objective that keep what they are given, batch by batch."""

    def __init__(self, net):
        self.net, self.seen, self.path = net, [], PATH

    def given(self, cond):
        self.cond = cond
        return self

    def null(self, cond):
        return torch.full_like(cond, torch.nan)

    def __call__(self, model, x, t, rng):
        self.seen.append((x, self.cond))
        return (self.net.weight * x).flatten(1).mean(1)

    cond = None


def run(cond=None, net=None, steps=8, accumulate=1, flips=True):
    """What the network was shown, and the rows that it was shown."""
    kept = Kept(Net() if net is None else net)
    feed = Held(X, cond)
    plan = Settings(steps=steps, batch=40, precision="float32", flips=flips, label_dropout=0.0, accumulate=accumulate)
    list(train(kept, kept.net, Ema(kept.net), feed, objective=kept, times=TIMES, settings=plan, seed=3))
    x = torch.cat([x for x, _ in kept.seen])
    return x, (None if cond is None else torch.cat([c for _, c in kept.seen]))


def mirrored(x):
    """Which of these are mirror images, and which rows they are of; each must be a row or a row's mirror image."""
    rows = x.amin((1, 2, 3)).long() // 24
    flipped = ~(x == X[rows]).flatten(1).all(1)
    assert torch.equal(x, torch.where(flipped[:, None, None, None], X[rows].flip(3), X[rows]))
    return flipped, rows


def test_half_are_mirrored_along_the_last_axis_anew_in_each_step():
    flipped, rows = mirrored(run()[0])
    assert sorted(rows.tolist()) == sorted(list(range(40)) * 8)
    assert abs(float(flipped.double().mean()) - 0.5) < 5 * 0.5 / 320**0.5
    steps = flipped.reshape(8, 40)
    assert len({tuple(s) for s in steps.tolist()}) == 8
    assert not mirrored(run(flips=False)[0])[0].any()


def test_parts_and_processes_change_nothing():
    whole = run()[0]
    assert torch.equal(whole, run(accumulate=5)[0])
    kept = Kept(Net())
    plan, alone = Settings(steps=8, batch=40, precision="float32", flips=True), Group(0, 1, torch.device("cpu"))
    trainer = Trainer(kept, kept.net, Ema(kept.net), objective=kept, times=TIMES, settings=plan, seed=3, group=alone)
    one = trainer._mirrored(X, None, 5)[0]
    trainer.local = 20
    trainer.group = Group(1, 2, torch.device("cpu"))
    assert torch.equal(trainer._mirrored(X[20:], None, 5)[0], one[20:])


@pytest.mark.parametrize("columns", [(), (0,)])
def test_the_grid_is_mirrored_with_its_record_and_columns_are_not(columns):
    grid = X[:, :1] + 0.5
    told = torch.arange(40.0)[:, None]
    x, cond = run(torch.cat([told, grid.flatten(1)], 1) if columns else grid, Net(columns, 1), steps=2)
    shown = cond[:, len(columns) :].reshape(-1, 1, 3, 4) if columns else cond
    known = ~shown.isnan()  # beside columns, the grid of some records is hidden
    assert float(known.double().mean()) > 0.5
    assert torch.equal(shown[known], (x[:, :1] + 0.5)[known])
    if columns:
        told = ~cond[:, 0].isnan()
        assert torch.equal(cond[told, 0].long(), mirrored(x)[1][told])


def test_vectors_have_no_mirror_image():
    with pytest.raises(DataError, match="vectors have no mirror image"):
        list(Toy(Settings(steps=2, precision="float32", flips=True)).train())
