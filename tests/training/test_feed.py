"""Batches come in the right order, from the right place, and a reader's trouble is the loop's."""

import itertools
import threading
import time

import numpy as np
import pytest
import torch

from undrift.errors import DataError
from undrift.training import Feed, Held, Streamed
from undrift.training.feed import batches, row_batches


class Source:
    """Rows that are their own numbers; counts what is read."""

    name, labels = "numbers.npy", None

    def __init__(self, n=50, broken=None):
        self.n, self.broken, self.read = n, broken, []

    def __len__(self):
        return self.n

    def take(self, rows):
        self.read.append(rows)
        if self.broken in rows:
            raise OSError(5, "Input/output error", "numbers.npy")
        return rows

    def order(self, rng):
        return iter(np.array_split(rng.permutation(self.n), 7))


class Codec:
    def encode(self, records):
        return torch.from_numpy(records).float()[:, None]


def streamed(**kwargs):
    return Streamed(Source(**kwargs), Codec())


def take(iterator, n):
    return list(itertools.islice(iterator, n))


@pytest.mark.parametrize("feed", [Held(torch.arange(50.0)[:, None]), streamed()])
def test_every_epoch_holds_every_row_once(feed):
    assert isinstance(feed, Feed)
    rows = np.concatenate(take(row_batches(feed, 8, seed=1), 25))  # 4 epochs
    epochs = rows.reshape(4, 50)
    assert all(sorted(e) == list(range(50)) for e in epochs.tolist())
    assert len({tuple(e) for e in epochs.tolist()}) == 4
    assert (np.concatenate(take(row_batches(feed, 8, seed=2), 25)) != rows).any()


@pytest.mark.parametrize("size", [8, 50, 64, 130])
@pytest.mark.parametrize("feed", [Held(torch.arange(50.0)[:, None]), streamed()])
def test_rows_go_on_where_they_were(feed, size):
    whole = take(row_batches(feed, size, seed=1), 20)
    for step in (0, 1, 6, 7, 13, 19):
        for a, b in zip(take(row_batches(feed, size, seed=1, step=step), 20 - step), whole[step:], strict=True):
            assert a.tolist() == b.tolist()
    assert getattr(feed, "source", Source()).read == []  # row numbers alone


def test_reading_ahead_keeps_the_order_and_its_bound():
    feed = streamed()
    loop = batches(feed, row_batches(feed, 8, seed=1))
    got = []
    for rows, x, cond in itertools.islice(loop, 12):
        assert x[:, 0].tolist() == rows.tolist()
        assert cond is None
        got.append(rows.tolist())
        time.sleep(0.005)
        assert len(feed.source.read) <= len(got) + feed.ahead + 1
    assert got == [rows.tolist() for rows in take(row_batches(feed, 8, seed=1), 12)]
    loop.close()
    assert "undrift-reader" not in {t.name for t in threading.enumerate()}


def test_trouble_of_the_reader_is_raised_and_its_thread_ends():
    feed = streamed(broken=33)
    with pytest.raises(DataError, match=r"numbers\.npy cannot be read while training"):
        take(batches(feed, row_batches(feed, 8, seed=1)), 7)
    feed.codec = None
    with pytest.raises(AttributeError):
        take(batches(feed, row_batches(feed, 8, seed=1)), 1)
    assert "undrift-reader" not in {t.name for t in threading.enumerate()}


def test_a_finite_list_of_rows_ends():
    feed = streamed()
    assert len(list(batches(feed, iter([np.arange(3), np.arange(4)])))) == 2


def test_conditions_come_with_their_rows():
    source = Source()
    source.labels = [f"c{i}" for i in range(50)]

    class Conditions:
        def of(self, records):
            return torch.tensor([[float(str(r).removeprefix("c"))] for r in records])

    rows = np.array([4, 7, 1])
    assert Streamed(source, Codec(), Conditions()).batch(rows)[1][:, 0].tolist() == [4, 7, 1]
    source.labels = None
    assert Streamed(source, Codec(), Conditions()).batch(rows)[1][:, 0].tolist() == [4, 7, 1]
    x, cond = Held(torch.arange(50.0)[:, None], torch.arange(50)).batch(rows)
    assert x[:, 0].tolist() == cond.tolist() == [4, 7, 1]
