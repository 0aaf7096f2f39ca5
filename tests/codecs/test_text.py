"""Separated text: no cell is lost, decimal commas are numbers, codes keep their zeros, and what was decided is said."""

import gzip

import numpy as np
import pandas as pd
import pytest

from undrift.codecs.cells import decimal_commas, perhaps_thousands
from undrift.codecs.table import Table, read_table
from undrift.errors import DataError, LabelError


def written(tmp_path, text, name="t.csv"):
    file = tmp_path / name
    file.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return read_table(file)


@pytest.mark.parametrize(
    ("text", "line", "cells"),
    [("a,b\n1,2,3\n4,5,6\n", 2, 3), ("a,b\n\n1,2,,9\n1,2\n", 3, 4), ('a,b\n"x\ny",2,7\n', 3, 3), ("a;b\n1;2;3\n", 2, 3)],
)
def test_cells_that_are_too_many_are_never_dropped(tmp_path, text, line, cells):
    with pytest.raises(DataError, match=rf"t.csv: line {line} has {cells} cells, and the first line has 2.*quotes"):
        written(tmp_path, text)


def test_a_separator_at_the_end_of_lines_loses_nothing(tmp_path):
    assert written(tmp_path, "a,b\n1,2,\n3,4,\n").to_dict("list") == {"a": [1, 3], "b": [2, 4]}


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv"])
@pytest.mark.parametrize("bare", [False, True])
def test_european_files_are_read_as_numbers(tmp_path, name, bare):
    frame = written(tmp_path, "a;b;c\n"[6 * bare :] + "0,5;1;-1.234,25\n1,5;2;3\n2,25;3;1e1\n", name)
    assert frame.to_numpy().tolist() == [[0.5, 1, -1234.25], [1.5, 2, 3], [2.25, 3, 10]]
    assert [dtype.kind for dtype in frame.dtypes] == ["f", "i", "f"]
    names = ("'column 1', 'column 3'", "'a', 'c'")[not bare]
    notes = frame.attrs["notes"]
    assert (notes[0], notes[-1]) == (f"{name} is separated by ';'", f"numbers with decimal commas: {names}")


def test_empty_cells_and_mistakes_among_decimal_commas(tmp_path):
    frame = written(tmp_path, "a;b\n0,5;x\n;y\n1,5;x\n")
    np.testing.assert_array_equal(frame["a"], [0.5, np.nan, 1.5])
    bad = "a;b\n" + "".join(f"{i},5;{i % 3}\n" for i in range(40)) + "1,x;2\n"
    with pytest.raises(DataError, match=r"column 'a' is numbers in 40 cells, and row 41 holds '1,x'"):
        Table.guess(written(tmp_path, bad))


@pytest.mark.parametrize(
    ("text", "columns"),
    [
        ("a,b\nx;y,1\nu;v,2\n", ["a", "b"]),
        ('a,b\n"x;y;z",1\n"u;v;w",2\n', ["a", "b"]),
        ("a\tb\n0,5\t1\n1,5\t2\n", ["a", "b"]),
        ("size, mm;b\n1,5;2,5\n2,5;3,5\n", ["size, mm", "b"]),
        ("a\nx\ny\n", ["a"]),
        ("a;b;c\n1;2;3\n1;2\n", ["a", "b", "c"]),
    ],
)
def test_separators_are_told_outside_quotes(tmp_path, text, columns):
    assert list(written(tmp_path, text).columns) == columns


def test_two_separators_that_fit_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"can be split at ';' and at ','.*'id,lat'.*quotes"):
        written(tmp_path, "id,lat;lon\n1,5;6\n2,7;8\n")


def test_quoted_decimal_commas_are_numbers_and_thousands_are_said(tmp_path):
    frame = written(tmp_path, 'a,b\n"0,123","1,234"\n"1,500","12,500"\n2,"1,000,000"\n')
    assert frame["a"].tolist() == [0.123, 1.5, 2]
    assert frame["b"].tolist() == ["1,234", "12,500", "1,000,000"]
    assert "column 'b' stays text: '1,234' may be thousands or a decimal comma" in frame.attrs["notes"]


def test_decimal_commas_are_told_from_thousands():
    texts = ["0,5", " -1,25 ", "7", "1.234,5", "1.5", "1,234,567", "1,", "x", "1.23,4"]
    assert decimal_commas(texts).tolist() == [True, True, True, True, False, False, False, False, False]
    assert perhaps_thousands(["1,234", "999", "-12,345,678"])
    for text in ("0,123", "1,23", "1234,567"):
        assert not perhaps_thousands(["1,234", text])


def test_decimal_commas_in_a_frame_are_the_likely_cause():
    cells = [f"{i},{i}5" for i in range(40)]
    table = Table.guess(pd.DataFrame({"a": cells, "b": range(0, 80, 2)}))
    assert table.left_out["a"].endswith("; if they are numbers, write 0.5 for 0,5")


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.tsv"])
def test_codes_keep_their_zeros_wherever_they_are(tmp_path, name):
    rows = [f"{10000 + i % 7},{i},{i}.50" for i in range(3000)]
    rows[2900] = "00697,2900,007.25"
    text = "zip,n,x\n" + "\n".join(rows) + "\n"
    frame = written(tmp_path, text.replace(",", "\t") if name == "t.tsv" else text, name)
    assert frame["zip"].iloc[2900] == "00697"
    assert frame["zip"].iloc[0] == "10000"
    assert frame["n"].dtype.kind == "i"
    assert frame["x"].iloc[2900] == 7.25
    table = Table.guess(frame)
    assert table.column("zip").kind == "category"
    assert ("note", "column 'zip' holds codes such as '00697', so it is text") in table.describe()
    assert Table.guess(frame, {"zip": "integer"}).column("zip").kind == "integer"


def test_a_later_file_without_leading_zeros_has_the_same_codes(tmp_path):
    table = Table.guess(written(tmp_path, "zip,x\n" + "00697,1\n12345,2\n54321,4\n" * 4))
    later = written(tmp_path, "zip,x\n54321,4\n12345,2\n")
    assert later["zip"].dtype.kind == "i"
    assert table.column("zip").parse(later["zip"]).tolist() == [2, 1]
    with pytest.raises(LabelError, match=r"unknown level '697'.*did you mean '00697'"):
        table.encode(written(tmp_path, "zip,x\n697,1\n12345,2\n"))


@pytest.mark.parametrize("cell", ["0", "0.5", "-0.25", "10", "0e1"])
def test_zeros_that_belong_to_numbers_are_numbers(tmp_path, cell):
    assert written(tmp_path, f"a,b\n{cell},1\n2,3\n")["a"].dtype.kind in "if"


def test_codes_with_empty_cells_and_without_a_header(tmp_path):
    frame = written(tmp_path, "01,2\n,3\n11,4\n")
    assert frame["column 1"].isna().tolist() == [False, True, False]
    assert frame["column 1"].iloc[0] == "01"


def test_a_zero_at_the_seam_of_two_blocks_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr("undrift.codecs.text.BLOCK", 7)  # "a,b\n12," ends between separator and zero
    assert written(tmp_path, "a,b\n12,07\n33,11\n")["b"].tolist() == ["07", "11"]


def test_names_of_several_levels_are_refused():
    frame = pd.DataFrame([[1.0, 2], [3, 4]], columns=pd.MultiIndex.from_product([["a"], ["x", "y"]]))
    with pytest.raises(DataError, match="column names of 2 levels; give one name a column"):
        Table.guess(frame)
