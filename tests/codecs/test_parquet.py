"""Rows of a Parquet file: the right ones in the order asked, each once an epoch, in memory that does not grow with the file."""

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from undrift.codecs.parquet import ParquetRows
from undrift.codecs.sources import Source
from undrift.codecs.table import Table
from undrift.errors import DataError


def written(path, n=1000, group=64, seed=0):
    rng = np.random.default_rng(seed)
    frame = pd.DataFrame({"i": np.arange(n), "v": rng.normal(size=n), "c": rng.choice(["a", "b"], n)})
    frame.to_parquet(path, index=False, row_group_size=group)
    return frame


def test_rows_come_in_the_order_asked(tmp_path):
    frame = written(tmp_path / "t.parquet")
    source = ParquetRows(tmp_path / "t.parquet")
    assert isinstance(source, Source)
    assert len(source) == 1000
    rows = np.array([999, 0, 64, 63, 500, 0])
    pd.testing.assert_frame_equal(source.take(rows), frame.iloc[rows].reset_index(drop=True))
    assert len(source.take(np.array([], dtype=int))) == 0
    assert source.take(rows).attrs["name"] == "t.parquet"


@pytest.mark.parametrize("kept", [1, 2**28], ids=["one group", "all"])
@pytest.mark.parametrize("sizes", [[64] * 15 + [40], [10, 300, 7, 83]], ids=["equal", "unequal"])
def test_an_epoch_has_every_row_once_and_is_shuffled(tmp_path, sizes, kept):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"i": np.arange(sum(sizes))})
    with pq.ParquetWriter(tmp_path / "t.parquet", table.schema) as writer:
        start = 0
        for size in sizes:
            writer.write_table(table.slice(start, size), row_group_size=10**6)
            start += size
    source = ParquetRows(tmp_path / "t.parquet", kept)
    first = np.concatenate(list(source.order(np.random.default_rng(0))))
    assert sorted(first) == list(range(sum(sizes)))
    assert not np.array_equal(first, np.sort(first))
    assert np.array_equal(first, np.concatenate(list(source.order(np.random.default_rng(0)))))
    assert not np.array_equal(first, np.concatenate(list(source.order(np.random.default_rng(1)))))


def test_an_epoch_reads_every_group_once(tmp_path):
    written(tmp_path / "t.parquet", 4096, 64)
    source = ParquetRows(tmp_path / "t.parquet", kept=40_000)  # a window of four groups, and not many more
    reads = []
    whole = source._file

    class Counted:
        metadata, schema_arrow = whole.metadata, whole.schema_arrow

        def read_row_group(self, i, **settings):
            reads.append(i)
            return whole.read_row_group(i, **settings)

    source._file = Counted()
    rows = np.concatenate(list(source.order(np.random.default_rng(0))))
    for batch in np.split(rows, 128):
        assert source.take(batch)["i"].tolist() == batch.tolist()
    assert source.window == 4
    assert sorted(reads) == list(range(64))
    spread = np.abs(np.diff(rows))
    assert np.median(spread) > 64  # neighbours in training come from different groups


def test_look_brings_every_level_and_an_empty_cell(tmp_path):
    n = 5000
    frame = pd.DataFrame({"v": np.arange(n) * 1.5, "c": ["a"] * n, "w": np.zeros(n)})
    frame.loc[4321, "c"] = "rare"
    frame.loc[77, "w"] = np.nan
    frame.loc[78, "w"] = -5.0
    frame.to_parquet(tmp_path / "t.parquet", index=False, row_group_size=500)
    source = ParquetRows(tmp_path / "t.parquet")
    look = source.look(50)
    assert 50 <= len(look) <= 60
    assert set(look["c"]) == {"a", "rare"}
    assert look["w"].isna().sum() == 1
    assert look["w"].min() == -5
    assert look["v"].min() == 0
    assert look["v"].max() == (n - 1) * 1.5
    x = Table.guess(look).encode(frame)  # what was not looked at can be encoded
    assert len(x) == n
    pd.testing.assert_frame_equal(source.look(), frame)


def test_the_digest_tells_other_data(tmp_path):
    written(tmp_path / "a.parquet")
    written(tmp_path / "b.parquet")
    written(tmp_path / "c.parquet", seed=1)
    a, b, c = (ParquetRows(tmp_path / f"{name}.parquet").digest() for name in "abc")
    assert a == b != c


def test_what_is_no_parquet_is_named(tmp_path):
    (tmp_path / "t.parquet").write_bytes(b"PAR1 no more than that")
    with pytest.raises(DataError, match=r"t.parquet cannot be read as Parquet"):
        ParquetRows(tmp_path / "t.parquet")
    pd.DataFrame({"a": []}).to_parquet(tmp_path / "e.parquet")
    with pytest.raises(DataError, match=r"e.parquet holds no rows"):
        ParquetRows(tmp_path / "e.parquet")
    written(tmp_path / "r.parquet")
    with pytest.raises(DataError, match=r"rows 0 to 999, and 5 to 1000 were asked for"):
        ParquetRows(tmp_path / "r.parquet").take(np.array([5, 1000]))


EPOCH = """
import sys, numpy as np, psutil
from undrift.codecs.parquet import ParquetRows
source = ParquetRows(sys.argv[1], kept=2**21)
def anonymous():
    return min(psutil.Process().memory_full_info().uss for _ in range(3))
peak = 0
for piece in source.order(np.random.default_rng(0)):
    for batch in np.array_split(piece, max(1, len(piece) // 4096)):
        source.take(batch)
    peak = max(peak, anonymous())
print(peak)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    """An epoch of a file ten times as long takes at most a tenth more memory."""
    pytest.importorskip("psutil")
    peaks = []
    for n in (40_000, 400_000):
        path = tmp_path / f"{n}.parquet"
        rng = np.random.default_rng(0)
        frame = pd.DataFrame(rng.normal(size=(n, 5)), columns=[f"c{i}" for i in range(5)])
        frame.to_parquet(path, index=False, row_group_size=8_000)
        del frame
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        out = subprocess.run([sys.executable, "-c", EPOCH, str(path)], capture_output=True, text=True, env=env, check=True)
        peaks.append(int(out.stdout))
    assert peaks[1] < 1.1 * peaks[0]
