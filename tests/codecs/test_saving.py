"""Records on disk: what is read back is what was written, and a failure leaves nothing half-written."""

import numpy as np
import pytest

from undrift.codecs.saving import save_records
from undrift.errors import DataError

RNG = np.random.Generator(np.random.Philox(0))


@pytest.mark.parametrize("shape", [(5, 6, 7), (5, 6, 7, 3), (5, 6, 7, 4)])
def test_pictures_come_back_from_png(tmp_path, shape):
    from PIL import Image

    images = RNG.integers(0, 256, shape, dtype=np.uint8)
    folder = save_records(images, tmp_path / "out", names=["a/b", "c", "d", "e", "f"])
    files = sorted(folder.iterdir())
    assert files[0].name == "0-a_b.png"
    for file, image in zip(files, images, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), image)


def test_sixteen_bits_are_kept(tmp_path):
    from PIL import Image

    images = RNG.integers(0, 65536, (2, 4, 4)).astype(np.uint16)
    files = sorted(save_records(images, tmp_path / "out").iterdir())
    np.testing.assert_array_equal(np.asarray(Image.open(files[1])), images[1])


def test_pictures_of_an_earlier_call_are_replaced_and_nothing_else(tmp_path):
    from PIL import Image

    images = RNG.integers(0, 256, (12, 4, 4), dtype=np.uint8)
    folder = save_records(images, tmp_path / "out", names=["rose"] * 12)
    (folder / "notes.txt").write_text("mine")
    Image.fromarray(images[0]).save(folder / "7.png")  # numbered, and not ours
    save_records(images[5:7], folder)
    assert sorted(file.name for file in folder.iterdir()) == ["0.png", "1.png", "7.png", "notes.txt"]
    save_records(images[5:7], folder)  # the same names again
    np.testing.assert_array_equal(np.asarray(Image.open(folder / "1.png")), images[6])


def test_a_picture_that_is_not_ours_is_never_overwritten(tmp_path):
    from PIL import Image

    images = RNG.integers(0, 256, (3, 4, 4), dtype=np.uint8)
    Image.fromarray(images[0]).save(tmp_path / "2.png")
    before = (tmp_path / "2.png").read_bytes()
    with pytest.raises(DataError, match=r"2\.png is there already, and no sample written here; give another folder"):
        save_records(images, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["2.png"]
    assert (tmp_path / "2.png").read_bytes() == before


@pytest.mark.parametrize("end", [".csv", ".parquet"])
def test_tables_come_back(tmp_path, end):
    import pandas as pd

    frame = pd.DataFrame({"a": [1, 2], "b": [0.5, np.nan], "c": ["x", "y, z"]})
    file = save_records(frame, tmp_path / f"t{end}")
    pd.testing.assert_frame_equal(pd.read_csv(file) if end == ".csv" else pd.read_parquet(file), frame)


def test_arrays_come_back(tmp_path):
    x = RNG.normal(size=(3, 2, 2, 2))
    np.testing.assert_array_equal(np.load(save_records(x, tmp_path / "x.npy")), x)
    with np.load(save_records(x, tmp_path / "x.npz", names=["u", "v", "w"])) as found:
        np.testing.assert_array_equal(found["x"], x)
        assert found["y"].tolist() == ["u", "v", "w"]


def test_a_wrong_ending_names_the_right_ones(tmp_path):
    with pytest.raises(DataError, match=r"written as \.npy, \.npz"):
        save_records(np.zeros((2, 3)), tmp_path / "x.csv")
    assert list(tmp_path.iterdir()) == []
