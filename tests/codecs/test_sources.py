"""Every row once an epoch, in an order that a generator fixes; records as asked for; memory flat however large the file."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from undrift.codecs import InMemory, MemoryMapped, Source, sources
from undrift.errors import DataError


def epoch(source, seed):
    return np.concatenate(list(source.order(np.random.default_rng(seed))))


def mapped(folder, array):
    np.save(folder / "a.npy", array)
    return MemoryMapped(folder / "a.npy")


@pytest.fixture(params=["array", "table", "mapped"])
def source(request, tmp_path):
    values = np.arange(100).reshape(50, 2)
    if request.param == "array":
        return InMemory(values)
    return InMemory(pd.DataFrame(values, columns=["a", "b"])) if request.param == "table" else mapped(tmp_path, values)


def test_records_are_those_of_the_rows_in_their_order(source):
    assert isinstance(source, Source)
    assert len(source) == 50
    np.testing.assert_array_equal(np.asarray(source.take(np.array([7, 3, 7]))), [[14, 15], [6, 7], [14, 15]])


def test_an_epoch_has_every_row_once_and_follows_its_generator(source):
    first = epoch(source, 0)
    np.testing.assert_array_equal(np.sort(first), np.arange(50))
    np.testing.assert_array_equal(first, epoch(source, 0))
    assert (first != epoch(source, 1)).any()
    assert (first != np.arange(50)).sum() > 40


def test_two_epochs_of_one_generator_differ(source):
    rng = np.random.default_rng(0)
    a, b = (np.concatenate(list(source.order(rng))) for _ in range(2))
    assert (a != b).any()


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 300), st.integers(1, 20), st.integers(1, 20), st.integers(0, 9))
def test_blocks_hold_every_row_once(n, block, pool, seed):
    rows = np.concatenate(list(sources.blockwise(n, block, pool, np.random.default_rng(seed))))
    np.testing.assert_array_equal(np.sort(rows), np.arange(n))


def test_a_big_file_of_small_rows_is_shuffled_a_pool_of_whole_pages_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "CACHED", 0)
    monkeypatch.setattr(sources, "POOL", 16 * sources.PAGE)
    rows = epoch(mapped(tmp_path, np.zeros((2**16, 2), np.float64)), 0)  # 16 bytes a row: 256 rows a page, 256 pages
    pools = rows.reshape(16, 16 * 256) // 256
    assert all(len(np.unique(pages)) == 16 for pages in pools)  # a pool touches its own pages and no others
    assert abs(np.corrcoef(rows[:-1], rows[1:])[0, 1]) < 0.2  # neighbours on disk are apart: 16 pools, 1/16 expected
    assert (np.diff(rows) == 1).mean() < 0.01


def test_pieces_are_short(tmp_path):
    assert [len(p) for p in InMemory(np.zeros(2 * sources.PIECE + 5)).order(np.random.default_rng(0))] == [2**14, 2**14, 5]


def test_labels_are_a_plain_list_one_a_record():
    assert InMemory(np.zeros((3, 1)), np.array([1, 2, 1])).labels == [1, 2, 1]
    with pytest.raises(DataError, match="2 labels were given for the 3 records of digits; give one for each"):
        InMemory(np.zeros((3, 1)), ["a", "b"], "digits")


def test_no_records_are_refused(tmp_path):
    with pytest.raises(DataError, match="the data holds no records"):
        InMemory(np.zeros((0, 3)))
    with pytest.raises(DataError, match=r"holds no rows, its shape is \(0, 3\)"):
        mapped(tmp_path, np.zeros((0, 3)))


def test_a_damaged_file_is_named_and_objects_are_never_unpickled(tmp_path):
    (tmp_path / "bad.npy").write_bytes(b"\x93NUMPY and no more")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    for name in ("bad.npy", "objects.npy"):
        with pytest.raises(DataError, match=f"{name} cannot be read as .npy.*numpy.save"):
            MemoryMapped(tmp_path / name)


def test_other_bytes_order_is_the_machines_own_on_taking(tmp_path):
    taken = mapped(tmp_path, np.arange(6, dtype=">i4")).take(np.array([5, 1]))
    assert taken.dtype.isnative
    np.testing.assert_array_equal(taken, [5, 1])


@pytest.mark.parametrize("where", [(0, 0), (17, 1), (49, 1)])
def test_a_digest_tells_one_changed_value(where, tmp_path):
    a = np.arange(100.0).reshape(50, 2)
    b = a.copy()
    b[where] += 1
    assert InMemory(a).digest() == InMemory(a.copy()).digest() != InMemory(b).digest()
    frames = [InMemory(pd.DataFrame(v, columns=["a", "b"])).digest() for v in (a, a.copy(), b)]
    assert frames[0] == frames[1] != frames[2]
    assert mapped(tmp_path, a).digest() != mapped(tmp_path, b).digest()


def test_a_digest_tells_shape_type_columns_and_labels():
    a = np.arange(12, dtype=np.int32)
    digests = [InMemory(a), InMemory(a.reshape(6, 2)), InMemory(a.view(np.float32)), InMemory(a, list("abcabcabcabc"))]
    digests += [InMemory(pd.DataFrame({name: a})) for name in "xy"]
    assert len({source.digest() for source in digests}) == 6


def test_a_digest_of_much_reads_little_and_still_sees_the_ends(monkeypatch):
    monkeypatch.setattr(sources, "HASHED", 800)
    a = np.zeros((1000, 10))
    first = sources.digest_array(a)
    for row in (0, 999):
        b = a.copy()
        b[row, 3] = 1
        assert sources.digest_array(b) != first


def test_a_sample_is_spread_over_the_whole_source(tmp_path):
    source = mapped(tmp_path, np.arange(1000))
    records, rows = sources.looked_at(source, 11)
    np.testing.assert_array_equal(records, rows)
    assert rows[0] == 0
    assert rows[-1] == 999
    assert np.ptp(np.diff(rows)) <= 1
    assert len(sources.looked_at(InMemory(np.arange(1000)), 11)[0]) == 1000


MEASURE = """
import sys
import numpy as np
from pathlib import Path
from undrift.codecs import MemoryMapped
from undrift.codecs.folder import PictureFolder

def anonymous():
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Anonymous"))

def peak(path):
    source = MemoryMapped(path) if path.endswith(".npy") else PictureFolder(path, size=128)
    seen = 0
    for i, piece in enumerate(source.order(np.random.default_rng(0))):
        for start in range(0, len(piece), 32):
            source.take(piece[start:start + 32])
            if start % 512 == 0:
                seen = max(seen, anonymous())
    return seen

for small, large in zip(sys.argv[1::2], sys.argv[2::2]):
    peak(small)
    print(peak(large) / peak(small))
"""


@pytest.mark.skipif(not Path("/proc/self/smaps_rollup").exists(), reason="needs Linux's account of memory")
def test_anonymous_memory_is_flat_when_a_mapped_array_or_a_folder_grows_tenfold(tmp_path):
    for name, n in (("small.npy", 800), ("large.npy", 8000)):  # 10 and 98 MB
        np.save(tmp_path / name, np.zeros((n, 32, 32, 3), np.float32))
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    for name, n in (("small", 200), ("large", 2000)):  # decoded: 10 and 98 MB
        (tmp_path / name).mkdir()
        for i in range(n):
            picture.save(tmp_path / name / f"{i}.bmp")
    paths = [str(tmp_path / name) for name in ("small.npy", "large.npy", "small", "large")]
    done = subprocess.run([sys.executable, "-c", MEASURE, *paths], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratios = [float(ratio) for ratio in done.stdout.split()]
    assert len(ratios) == 2
    assert max(ratios) < 1.1
