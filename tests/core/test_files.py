"""Files are written whole or not at all."""

import os

import pytest

from undrift.core import write


def test_a_failed_write_leaves_the_previous_file(tmp_path, monkeypatch):
    file = tmp_path / "recipe.json"
    write(file, b"good")

    def full_disk(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write(file, b"half")
    assert file.read_bytes() == b"good"
    assert [f.name for f in tmp_path.iterdir()] == ["recipe.json"]


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "a"
    write(file, b"first, and longer")
    write(file, b"second")
    assert file.read_bytes() == b"second"
