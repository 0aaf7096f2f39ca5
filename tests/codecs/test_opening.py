"""Data of every form are recognised and come back from their codec; what cannot be opened is refused with its cure."""

import gzip
import inspect
import struct
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from undrift.codecs import Arrays, Images, InMemory, MemoryMapped, Opened, Source, Table, open_data
from undrift.codecs.opening import READING, check_reading
from undrift.errors import DataError

RNG = np.random.default_rng(0)
BYTES = RNG.integers(0, 256, (12, 5, 4), dtype=np.uint8)
VECTORS = RNG.normal(size=(12, 3))
DATA = Path(__file__).parents[3] / "shared" / "data"


def same(opened, records):
    """The first records come back through source and codec."""
    back = opened.codec.decode(opened.codec.encode(opened.source.take(np.arange(3))))
    assert back.dtype == records.dtype
    np.testing.assert_allclose(back, records[:3], atol=1e-6)


@pytest.mark.parametrize(
    ("records", "kind"),
    [
        (BYTES, "images"),
        (BYTES.astype(np.int64) * 200, "images"),
        (BYTES.astype(np.float32), "images"),
        (BYTES / 255.0, "images"),
        (BYTES / 127.5 - 1, "images"),
        (BYTES > 99, "images"),
        (RNG.integers(0, 256, (6, 5, 4, 3), dtype=np.uint8), "images"),
        (RNG.integers(0, 256, (6, 5, 4, 7), dtype=np.uint8), "array"),
        (BYTES.astype(np.int64) - 100, "array"),
        (BYTES.astype(np.int64) * 300, "array"),
        (BYTES / 1000.0, "array"),
        (RNG.normal(size=(6, 5, 4)), "array"),
        (RNG.normal(size=(6, 5, 4, 3, 2)), "array"),
        (VECTORS, "array"),
        (VECTORS[:, 0], "array"),
    ],
)
def test_an_array_is_recognised_by_its_shape_and_values(records, kind, tmp_path):
    opened = open_data(records)
    assert (opened.kind, type(opened.codec)) == (kind, Images if kind == "images" else Arrays)
    same(opened, records)
    np.save(tmp_path / "a.npy", records)
    mapped = open_data(tmp_path / "a.npy")
    assert isinstance(mapped.source, MemoryMapped)
    assert (mapped.kind, mapped.codec) == (opened.kind, opened.codec)
    same(mapped, records)


def test_what_is_recognised_can_be_overruled():
    assert isinstance(open_data(BYTES, kind="array").codec, Arrays)
    assert isinstance(open_data(RNG.normal(size=(6, 5, 4)), kind="images").codec, Images)
    opened = open_data(BYTES, channels="first")
    assert (opened.kind, opened.codec.event_shape) == ("array", (5, 4))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.uint8])
def test_tensors_and_lists_are_arrays(dtype):
    tensor = torch.arange(12).reshape(4, 3).to(dtype).requires_grad_(dtype.is_floating_point)
    np.testing.assert_array_equal(open_data(tensor).source.take(np.array([2])), [[6, 7, 8]])
    np.testing.assert_array_equal(open_data([[1, 2], [3, 4]]).source.take(np.array([1])), [[3, 4]])


def test_tables_are_recognised(tmp_path):
    frame = pd.DataFrame({"price": RNG.normal(60, 9, 30), "rooms": RNG.integers(1, 6, 30), "town": ["a", "b", "c"] * 10})
    frame.to_csv(tmp_path / "a.csv", index=False)
    frame.to_csv(tmp_path / "b.csv.gz", index=False)
    frame.to_csv(tmp_path / "c.TSV", index=False, sep="\t")
    for data in (frame, *(tmp_path / name for name in ("a.csv", "b.csv.gz", "c.TSV"))):
        opened = open_data(data)
        assert opened.kind == "table"
        assert isinstance(opened.codec, Table)
        back = opened.codec.decode(opened.codec.encode(opened.source.take(np.array([5, 2]))))
        np.testing.assert_allclose(back["price"], frame["price"].iloc[[5, 2]], rtol=1e-5)
        assert list(back["town"]) == ["c", "c"]
        assert dict(opened.describe())["kind"] == "table"
    assert open_data(frame, kinds={"rooms": "category"}).codec != opened.codec


def test_a_parquet_file_is_a_table_read_as_needed(tmp_path):
    frame = pd.DataFrame({"price": RNG.normal(60, 9, 30), "town": ["a", "b", "c"] * 10})
    frame.to_parquet(tmp_path / "a.parquet")
    opened = open_data(tmp_path / "a.parquet")
    assert opened.kind == "table"
    assert isinstance(opened.source, Source)
    np.testing.assert_allclose(opened.source.take(np.array([5, 2]))["price"], frame["price"].iloc[[5, 2]])


def test_a_folder_of_pictures(tmp_path):
    for i, image in enumerate(BYTES):
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "ab"[i % 2] / f"{i:02d}.png")
    opened = open_data(tmp_path)
    assert (opened.kind, opened.codec) == ("images", Images((5, 4), 0.0, 255.0, 256, "uint8"))
    assert opened.labels == ["a"] * 6 + ["b"] * 6
    same(opened, BYTES[::2])
    said = dict(opened.describe())
    assert said["classes"] == "2 classes: a (6), b (6)"
    assert said["images"] == "5 x 4 pixels, 1 channel"
    assert open_data(tmp_path, labels=False).labels is None
    assert open_data(str(tmp_path), size=8, channels=3).codec.event_shape == (3, 8, 8)


def test_a_folder_of_arrays_has_its_channels_last(tmp_path):
    fields = RNG.normal(size=(4, 5, 6, 2))
    for i, field in enumerate(fields):
        np.save(tmp_path / f"{i}.npy", field)
    opened = open_data(tmp_path)
    assert (opened.kind, opened.codec.event_shape) == ("array", (2, 5, 6))
    same(opened, fields)


@pytest.mark.parametrize(
    ("arrays", "options", "labels"),
    [
        ({"x": VECTORS}, {}, None),
        ({"x": VECTORS, "y": np.arange(12)}, {}, list(range(12))),
        ({"anything": VECTORS}, {}, None),
        ({"x_train": VECTORS, "y_train": np.arange(12)[:, None], "x_test": BYTES}, {}, list(range(12))),
        ({"data": VECTORS, "labels": np.arange(3)}, {}, None),
        (
            {"audio": VECTORS, "digit": np.arange(12), "name": np.array(["a"])},
            {"key": "audio", "labels": "digit"},
            list(range(12)),
        ),
        ({"x": BYTES, "audio": VECTORS, "y": np.arange(12)}, {"key": "audio", "labels": False}, None),
        ({"x": VECTORS, "y": np.arange(12)}, {"labels": list("abababababab")}, list("abababababab")),
    ],
)
def test_arrays_in_an_archive_are_found_by_name(arrays, options, labels, tmp_path):
    np.savez(tmp_path / "a.npz", **arrays)
    opened = open_data(tmp_path / "a.npz", **options)
    np.testing.assert_array_equal(opened.source.take(np.arange(12)), VECTORS)
    assert opened.labels == labels


def idx(path, array, code=8):
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape) + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def test_digit_files_are_read_with_the_labels_beside_them(tmp_path):
    idx(tmp_path / "train-images-idx3-ubyte.gz", BYTES)
    assert open_data(tmp_path / "train-images-idx3-ubyte.gz").labels is None
    idx(tmp_path / "train-labels-idx1-ubyte.gz", np.arange(12, dtype=np.uint8))
    opened = open_data(tmp_path / "train-images-idx3-ubyte.gz")
    assert (opened.kind, opened.labels) == ("images", list(range(12)))
    same(opened, BYTES)
    assert open_data(tmp_path / "train-images-idx3-ubyte.gz", labels=False).labels is None
    idx(tmp_path / "deep-idx3-ubyte", BYTES.astype(">i2"), 11)
    np.testing.assert_array_equal(open_data(tmp_path / "deep-idx3-ubyte").source.take(np.arange(12)), BYTES)


def test_labels_come_as_lists_arrays_and_files(tmp_path):
    np.save(tmp_path / "y.npy", np.arange(12))
    (tmp_path / "y.csv").write_text("\n".join("ab"[i % 2] for i in range(12)))
    assert open_data(VECTORS, np.arange(12)).labels == list(range(12))
    assert open_data(VECTORS, torch.arange(12)).labels == list(range(12))
    assert open_data(VECTORS, tmp_path / "y.npy").labels == list(range(12))
    opened = open_data(VECTORS, str(tmp_path / "y.csv"))
    assert opened.labels == ["a", "b"] * 6
    assert ("labels", "2 distinct: a, b") in opened.describe()
    np.save(tmp_path / "x.npy", VECTORS)
    assert open_data(tmp_path / "x.npy", list(range(12))).source.labels == list(range(12))


def broken(tmp_path):
    """Files that hold nothing that can be read."""
    (tmp_path / "empty.csv").write_bytes(b"")
    (tmp_path / "cut.npz").write_bytes(b"PK\3\4 and no more")
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "odd.wav").write_bytes(b"RIFF")
    (tmp_path / "short-idx3-ubyte").write_bytes(struct.pack(">BBBBI", 0, 0, 8, 1, 99) + b"x")
    (tmp_path / "other-ubyte").write_bytes(b"abcdefgh")
    (tmp_path / "cut-ubyte.gz").write_bytes(gzip.compress(b"x" * 999)[:-9])
    np.savez(tmp_path / "many.npz", a=VECTORS, b=VECTORS)
    np.savez(tmp_path / "objects.npz", x=np.array([{}, 1], dtype=object))
    np.save(tmp_path / "array.npy", VECTORS)
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    np.save(tmp_path / "one.npy", VECTORS[:1])
    (tmp_path / "bare").mkdir()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("emty.csv", {}, "does not exist; did you mean empty.csv"),
        ("no/such.csv", {}, "does not exist; the folder .* does not exist"),
        ("empty.csv", {}, "is empty"),
        ("cut.npz", {}, "cannot be read as .npz"),
        ("array.npz", {}, "cannot be read as .npz"),
        ("cut.npy", {}, "cannot be read as .npy"),
        ("odd.wav", {}, r"is of a kind that is not read; give a folder of pictures or a file .csv, .*\.npz"),
        ("short-idx3-ubyte", {}, "of another length; it was cut off"),
        ("other-ubyte", {}, "is no idx file"),
        ("cut-ubyte.gz", {}, "cannot be unpacked"),
        ("many.npz", {}, "holds a, b; none of them is named like data: give key="),
        ("many.npz", {"key": "c"}, "holds a, b; there is no 'c'"),
        ("objects.npz", {}, "cannot be read as .npz"),
        ("one.npy", {}, "holds 1 record; give at least 2"),
        ("one.npy", {"size": 8}, "size=8 says nothing about a file .npy; leave it out"),
        ("bare", {}, "holds no pictures"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_its_cure(name, options, message, tmp_path):
    broken(tmp_path)
    with pytest.raises(DataError, match=message):
        open_data(tmp_path / name, **options)


@pytest.mark.parametrize(
    ("data", "options", "message"),
    [
        (VECTORS, {"kind": "tabel"}, "kind='tabel' is not known; give 'images', 'array', 'table'"),
        (VECTORS, {"kind": "table"}, "is an array, not a table"),
        (VECTORS, {"labels": [1, 2]}, "2 labels were given for the 12 records"),
        (VECTORS, {"labels": "nowhere.csv"}, "is no file"),
        (VECTORS, {"key": "x"}, "key='x' says nothing about an array"),
        (VECTORS, {"kinds": {"a": "number"}}, "kinds="),
        (VECTORS[:1], {}, "holds 1 record"),
        (np.zeros((0, 3)), {}, "holds no records"),
        (np.array([["a"], ["b"]]), {}, "give numbers"),
        ([[1, 2], [3]], {}, "are not of one shape"),
        (7, {}, "data of type int cannot be opened"),
        ({"x": VECTORS}, {}, "data of type dict cannot be opened"),
        (pd.DataFrame({"a": [1, 2]}), {"labels": [1, 2]}, "labels= is for pictures and arrays"),
        (pd.DataFrame({"a": [1, 2]}), {"kind": "images"}, "is a table"),
        (pd.DataFrame({"a": []}), {}, "holds no records"),
    ],
)
def test_what_cannot_be_learned_from_is_refused_with_its_cure(data, options, message):
    with pytest.raises(DataError, match=message):
        open_data(data, **options)


def test_unknown_options_are_named():
    check_reading(READING)
    with pytest.raises(DataError, match=r"'knds' is no option of reading data; there are kind, kinds, .*did you mean 'kinds'"):
        check_reading(["size", "knds"])
    named = inspect.signature(open_data).parameters.values()
    assert tuple(p.name for p in named if p.kind is p.KEYWORD_ONLY and p.name != "least") == READING


def test_one_record_is_enough_where_that_is_said(tmp_path):
    x = np.random.default_rng(0).normal(size=(1, 4, 5))
    np.save(tmp_path / "x.npy", x)
    pd.DataFrame({"a": [1.5], "b": ["x"]}).to_csv(tmp_path / "t.csv", index=False)
    pd.DataFrame({"a": [1.5], "b": ["x"]}).to_parquet(tmp_path / "t.parquet", index=False)
    for name, kind in (("x.npy", "array"), ("t.csv", "table"), ("t.parquet", "table")):
        opened = open_data(tmp_path / name, least=1)
        assert (len(opened.source), opened.kind, opened.codec) == (1, kind, None)
        assert opened.describe()[-1] == ("kind", kind)
        with pytest.raises(DataError, match=r"holds 1 .*give at least 2"):
            open_data(tmp_path / name)
    assert len(open_data(np.zeros((3, 4)), least=1).source) == 3  # nothing to learn from, but to be changed


def test_bad_values_are_named_by_their_row(tmp_path):
    bad = np.zeros((5000, 2))
    bad[:, 0] = np.arange(5000)
    bad[4999, 1] = np.nan
    np.save(tmp_path / "a.npy", bad)
    for data in (bad, tmp_path / "a.npy"):
        with pytest.raises(DataError, match="first: record 4999"):
            open_data(data)


def test_what_was_opened_is_said():
    opened = open_data(VECTORS)
    assert isinstance(opened, Opened)
    assert isinstance(opened.source, InMemory)
    assert opened.describe()[:2] == [("data", "the array, 12 records in memory"), ("kind", "array")]


@pytest.mark.parametrize(
    ("path", "options", "kind", "n", "event"),
    [
        ("fashion_mnist/t10k-images-idx3-ubyte.gz", {}, "images", 10000, (1, 28, 28)),
        ("sign_digits/sign_digits_32.npz", {}, "images", 2062, (3, 32, 32)),
        ("fsdd/fsdd_8k_int16.npz", {"key": "audio", "labels": "digit", "channels": "first"}, "array", 1200, (1, 8192)),
        ("molecules_3d/gdb1k_3d.npz", {"key": "position_angstrom"}, "array", 991, (1, 23, 3)),
        ("mri_slices/mri_slices.npz", {"key": "b0_axial_128"}, "images", 10, (1, 128, 128)),
    ],
)
def test_real_files_are_opened(path, options, kind, n, event):
    if not (DATA / path).exists():
        pytest.skip("the real data are not beside the checkout")
    opened = open_data(DATA / path, **options)
    assert (opened.kind, len(opened.source), opened.codec.event_shape) == (kind, n, event)
    records = opened.source.take(np.arange(0, n, max(1, n // 50)))
    back = opened.codec.decode(opened.codec.encode(records))
    np.testing.assert_allclose(back, records, atol=0 if records.dtype.kind in "iu" else 1e-5)
