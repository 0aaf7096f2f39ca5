"""Class names survive the round trip, and an unknown one is named beside those that are known."""

import numpy as np
import pytest
import torch

from undrift.codecs import Labels
from undrift.codecs.labels import read_labels
from undrift.errors import DataError, LabelError


@pytest.mark.parametrize("labels", [["rose", "tulip", "rose"], np.array([3, 1, 3]), np.array([2.0, 1.0]), torch.tensor([0, 5])])
def test_names_round_trip(labels):
    codec = Labels.guess(labels)
    assert codec.decode(codec.encode(labels)) == [v.item() if hasattr(v, "item") else v for v in labels]


def test_indices_follow_the_sorted_names_and_the_null_index_is_none():
    codec = Labels.guess(["b", "a", "c", "a"])
    assert codec.encode(["a", "c"]).tolist() == [0, 2]
    assert codec.decode([2, 3]) == ["c", None]


def test_numbers_sort_as_numbers():
    assert Labels.guess([10, 9, 2]).names == (2, 9, 10)


def test_unknown_class_is_named_beside_the_known():
    with pytest.raises(LabelError, match="unknown class 'tulp'; this model knows 'rose', 'tulip'"):
        Labels.guess(["rose", "tulip"]).encode(["rose", "tulp"])


@pytest.mark.parametrize(("labels", "message"), [([1, 1], "name 1 class"), ([1.5, 2], "text or a whole number, got 1.5")])
def test_labels_that_name_no_classes_are_refused(labels, message):
    with pytest.raises(DataError, match=message):
        Labels.guess(labels)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("3\n1\n2\n", [3, 1, 2]),
        ("class\nb\na\nb\n", ["b", "a", "b"]),
        ("t\n0.5\n1\n2\n", [0.5, 1.0, 2.0]),
        ("i,label\n7,x\n8,y\n9,z\n", list("xyz")),
    ],
)
def test_a_file_of_labels_is_read(text, wanted, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    assert repr(read_labels(tmp_path / "labels.csv", 3)) == repr(wanted)  # 3 is not 3.0
    np.save(tmp_path / "labels.npy", np.array([4, 5, 4]))
    assert read_labels(str(tmp_path / "labels.npy"), 3) == [4, 5, 4]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "has the columns a, b; give one column, or name one of them 'class'"),
        ("1\n2\n", "2 labels were given for the 3 records"),
        ("class\nx\n\ny\n", "2 labels were given for the 3 records"),
    ],
)
def test_a_file_of_labels_that_does_not_fit_is_refused(text, message, tmp_path):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        read_labels(tmp_path / "labels.csv", 3)
    with pytest.raises(DataError, match=r"is no file; give a \.npy or \.csv"):
        read_labels("nowhere.csv", 3)
