"""What is held out never comes by; everything else comes once an epoch, under its own number."""

import numpy as np

from undrift.codecs.kept import Kept
from undrift.codecs.sources import InMemory, Source


def test_held_out_rows_never_come_and_others_keep_their_numbers():
    records = np.arange(50.0)[:, None]
    whole = InMemory(records, list(range(50)), "numbers")
    kept = Kept(whole, np.array([0, 7, 49]))
    assert isinstance(kept, Source)
    rows = np.concatenate(list(kept.order(np.random.Generator(np.random.Philox(1)))))
    assert sorted(rows) == [i for i in range(50) if i not in (0, 7, 49)]
    assert len(kept) == 47
    assert kept.take(np.array([8, 3]))[:, 0].tolist() == [8.0, 3.0]
    assert kept.digest() == whole.digest()
