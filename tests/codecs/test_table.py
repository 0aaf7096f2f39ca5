"""A table comes back as it came: values, types, order, empty cells; what is left out, and what is wrong, is said."""

import gzip
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from undrift.codecs.columns import Category, Number
from undrift.codecs.table import Table, read_table, spreads
from undrift.errors import DataError, LabelError

DATA = Path(__file__).parents[3] / "shared" / "data"


def mixed(n=200, seed=0):
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "price": np.where(rng.random(n) < 0.1, np.nan, rng.lognormal(size=n)),
            "rooms": rng.integers(1, 6, n),
            "sold": rng.random(n) < 0.4,
            "town": rng.choice(["Ulm", "Bonn", "?", "Köln"], n),
            "rain": np.where(rng.random(n) < 0.5, 0.0, rng.gamma(2, size=n)),
            "built": pd.Timestamp("2001-05-01") + pd.to_timedelta(rng.integers(0, 3000, n), unit="D"),
        }
    )


@st.composite
def frames(draw):
    """A table of one to five columns of any kinds, half of them with empty cells."""
    n = draw(st.integers(4, 30))
    kinds = {
        "number": (st.floats(-1e4, 1e4, width=32).map(lambda v: v + 0.0), "float64"),
        "single": (st.floats(-100, 100, width=32).map(lambda v: v + 0.0), "float32"),
        "integer": (st.integers(-1000, 1000), "int64"),
        "nullable": (st.integers(-1000, 1000), "Int64"),
        "boolean": (st.booleans(), "boolean"),
        "category": (st.sampled_from(["a", "b", "c d", "é"]), "category"),
        "text": (st.sampled_from(["x", "y", "z"]), "str"),
        "date": (st.datetimes(pd.Timestamp("1950-01-01"), pd.Timestamp("2050-01-01")), "datetime64[us]"),
    }
    columns = {}
    for i, kind in enumerate(draw(st.lists(st.sampled_from(sorted(kinds)), min_size=1, max_size=5))):
        values, dtype = kinds[kind]
        empty = dtype not in ("int64",) and draw(st.booleans())
        cells = draw(st.lists(st.one_of(st.none(), values) if empty else values, min_size=n, max_size=n))
        columns[f"{kind} {i}"] = pd.Series(cells, dtype=dtype)
    return pd.DataFrame(columns)


@given(frames())
@settings(max_examples=40, deadline=None)
def test_any_table_comes_back_as_it_came(frame):
    if all(frame[name].nunique() + frame[name].isna().any() < 2 for name in frame.columns):
        with pytest.raises(DataError, match="no column to learn"):
            Table.guess(frame)
        return
    table = Table.guess(frame)
    table = Table.from_config(json.loads(json.dumps(table.config())))
    x = table.encode(frame)
    assert x.shape == (len(frame), *table.event_shape)
    assert x.dtype == torch.float32
    back = table.decode(x)
    lost = {name for name, why in table.left_out.items() if "identif" in why or "free text" in why}
    assert list(back.columns) == [name for name in frame.columns if name not in lost]
    for name in back.columns:
        want = frame[name]
        column = table.column(name)
        if want.isna().all():  # of an empty category column, pandas says no more than that it is one
            assert back[name].isna().all()
            assert str(back[name].dtype) == str(want.dtype)
            continue
        if isinstance(column, Number) and column.decimals is None:
            span = float(want.max() - want.min())
            np.testing.assert_allclose(back[name].to_numpy(), want.to_numpy(), atol=1e-5 * span, rtol=1e-6)
            assert back[name].dtype == want.dtype
        elif want.dtype.kind == "M" and name in table.order and column is not None:
            gaps = (back[name] - want).abs().max()
            assert pd.isna(gaps) or gaps <= 1e-5 * (want.max() - want.min())
            assert (back[name].isna() == want.isna()).all()
        else:
            pd.testing.assert_series_equal(back[name], want)


def test_all_coordinates_weigh_about_one():
    frame = mixed(4000)
    x = Table.guess(frame).encode(frame)
    assert 0.7 < float(x.square().mean().sqrt()) < 1.1
    assert float(x.abs().max()) < 5


def test_a_state_is_a_function_of_its_record():
    frame = mixed()
    table = Table.guess(frame)
    x = table.encode(frame)
    assert torch.equal(table.encode(frame.iloc[7:50]), x[7:50])
    assert torch.equal(table.encode(frame[frame.columns[::-1]]), x)  # whatever the order of columns


def test_spreads_are_even_and_a_records_own():
    rng = np.random.default_rng(0)
    cells = np.stack([np.arange(5000.0), rng.integers(0, 2, 5000).astype(float)], 1)
    u = spreads(cells)
    for column in u.T:
        gap = np.abs(np.sort(column) - (np.arange(5000) + 0.5) / 5000).max()
        assert gap < 1.95 / 5000**0.5  # Kolmogorov, passes by chance with probability 0.999
    assert abs(np.corrcoef(u.T)[0, 1]) < 0.05
    assert np.array_equal(spreads(cells[::-1])[::-1], u)
    equal = spreads(np.ones((1000, 1)))[:, 0]  # equal records by the golden ratio: gaps of 2 / 1000 at most
    assert np.diff(np.sort(equal)).max() < 0.002
    assert np.array_equal(spreads(np.array([[-0.0, np.nan]])), spreads(np.array([[0.0, -np.nan]])))


def test_samples_of_noise_are_records_of_the_same_schema():
    frame = mixed()
    table = Table.guess(frame)
    made = table.decode(torch.randn(300, *table.event_shape, generator=torch.Generator().manual_seed(0)))
    assert made.dtypes.to_dict() == frame.dtypes.to_dict()
    assert set(made["town"].dropna()) == {"Ulm", "Bonn", "Köln"}
    assert made["rooms"].between(1, 5).all()
    # A standard normal coordinate gives the column's own law: rain is zero half of the time, within 4 standard errors.
    assert abs((made["rain"] == 0).mean() - (frame["rain"] == 0).mean()) < 4 * (0.25 / 300) ** 0.5


def test_what_holds_nothing_to_learn_is_left_out_and_said():
    n = 60
    frame = pd.DataFrame(
        {
            "id": np.arange(n) * 7 + 3,
            "row": np.random.default_rng(0).permutation(n) + 1,
            "code": [f"K{i:03d}" for i in range(n)],
            "remark": [f"text number {i // 2}" for i in range(n)],
            "unit": ["EUR"] * n,
            "zero": [0] * n,
            "nothing": [None] * n,
            "value": np.random.default_rng(0).normal(size=n),
            "price": np.random.default_rng(1).permutation(n) * 13 + 500,
        }
    )
    table = Table.guess(frame)
    assert [column.name for column in table.columns] == ["value", "price"]
    assert table.left_out == {
        "id": "an identifier: every row has another whole number",
        "row": "an identifier: every row has another whole number",
        "code": "identifiers: every row has another text",
        "remark": "free text: 30 different texts in 60 cells",
        "unit": "every cell is EUR",
        "zero": "every cell is 0",
        "nothing": "every cell is empty",
    }
    back = table.decode(table.encode(frame))
    pd.testing.assert_frame_equal(back, frame[["unit", "zero", "nothing", "value", "price"]], rtol=1e-5)
    assert ("unit", "left out: every cell is EUR") in table.describe()


def test_kinds_overrule_the_guess():
    frame = pd.DataFrame({"zip": [89073, 53111, 89073, 50667] * 5, "id": np.arange(20), "x": np.arange(20) % 7 / 2})
    table = Table.guess(frame, {"zip": "category", "id": "integer", "x": "skip"})
    zips, ids = table.columns
    assert isinstance(zips, Category)
    assert zips.levels == (50667, 53111, 89073)
    assert isinstance(ids, Number)
    back = table.decode(table.encode(frame))
    pd.testing.assert_frame_equal(back, frame[["zip", "id"]])
    assert table.left_out == {"x": "skipped, as asked"}


def test_text_that_reads_as_numbers_is_numbers_but_codes_are_levels():
    frame = pd.DataFrame({"a": ["1.5", "?", "2", "10"] * 5, "b": ["01", "02", "10", "11"] * 5})
    a, b = Table.guess(frame).columns
    assert isinstance(a, Number)
    assert a.empty == 0.25
    assert isinstance(b, Category)


CELLS = [str(i * 3 % 499) for i in range(500)]


@pytest.mark.parametrize(
    ("frame", "kinds", "message"),
    [
        (
            {"a": [*CELLS[:99], "abc", *CELLS[100:]]},
            None,
            "column 'a' is numbers in 499 cells, and row 100 holds 'abc'.*kinds=",
        ),
        ({"a": [1.0, 2.0, np.inf, np.inf]}, None, r"column 'a' holds infinity in row 3 \(2 such cells\)"),
        ({"a": [1.0]}, None, "has 1 rows; give at least 2"),
        ({"a": [1.0, 1.0]}, None, "no column to learn: 'a' is every cell is 1.0"),
        ({"a": [1.0, 2.0]}, {"b": "number"}, "kinds names 'b', and the table has no such column; it has 'a'"),
        ({"a": [1.0, 2.0]}, {"a": "float"}, "said to be 'float'; it can be number, integer"),
        ({"a": [1.0, 2.5, 3.0]}, {"a": "integer"}, "said to be whole numbers, and row 2 holds 2.5"),
        ({"a": ["x", "y", "z"]}, {"a": "boolean"}, "yes or no, and holds 3 values"),
        ({"a": ["x", "y", "z"]}, {"a": "date"}, "said to be dates"),
        ({"a": [[1], [2]]}, None, "holds list cells"),
        ({"a": np.array([1, 2j])}, None, "holds complex128 values"),
    ],
)
def test_what_cannot_be_learned_is_named_with_the_cure(frame, kinds, message):
    with pytest.raises(DataError, match=message):
        Table.guess(pd.DataFrame(frame), kinds)


def test_two_columns_of_one_name_and_no_frame_are_refused():
    with pytest.raises(DataError, match="two columns 'a'"):
        Table.guess(pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"]))
    with pytest.raises(DataError, match="a table is a pandas DataFrame, got ndarray"):
        Table.guess(np.zeros((3, 2)))


def test_records_that_do_not_fit_are_named():
    frame = mixed()
    table = Table.guess(frame)
    with pytest.raises(DataError, match="has no column 'town'"):
        table.encode(frame.drop(columns="town"))
    with pytest.raises(LabelError, match=r"unknown level 'Bon' in row 2 of column 'town'.*did you mean 'Bonn'"):
        table.encode(frame.iloc[:3].assign(town=["Ulm", "Bon", "Ulm"]))


def test_files_of_text_and_parquet_are_read(tmp_path):
    frame = mixed().assign(town=lambda f: f["town"].replace("?", None)).drop(columns="built")
    frame.to_csv(tmp_path / "t.csv", index=False)
    frame.to_csv(tmp_path / "t.csv.gz", index=False)
    frame.to_csv(tmp_path / "t.tsv", index=False, sep="\t")
    frame.to_parquet(tmp_path / "t.parquet", index=False)
    for name in ("t.csv", "t.csv.gz", "t.tsv", "t.parquet"):
        read = read_table(tmp_path / name)
        pd.testing.assert_frame_equal(read, frame)
        assert read.attrs["name"] == name
        assert Table.guess(read).config() == Table.guess(frame).config()


def test_a_file_without_a_header_gets_names_and_says_so(tmp_path):
    (tmp_path / "t.csv").write_text("1.5,2\n3.5,4\n5.25,9\n")
    frame = read_table(tmp_path / "t.csv")
    assert list(frame.columns) == ["column 1", "column 2"]
    assert len(frame) == 3
    assert ("note", "t.csv has no header; its columns are named 'column 1' to 'column 2'") in Table.guess(frame).describe()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"", "t.csv is empty"),
        ("t.csv", b"a,b\n", "holds a header and no rows"),
        ("t.csv", b"a,b\n1,2\n1,2,3\n", "t.csv.*line 3.*saw 3"),
        ("t.csv", "a,b\nKöln,2\n".encode("latin-1"), "t.csv is not UTF-8 text"),
        ("t.csv", b"a,a\n1,2\n", "two columns 'a'"),
        ("t.csv.gz", gzip.compress(b"a,b\n1,2\n" * 999, mtime=0)[:40], "t.csv.gz cannot be read as csv.gz"),
        ("t.csv.gz", b"a,b\n1,2\n", "t.csv.gz cannot be read as csv.gz"),
        ("t.parquet", b"PAR1 and nothing", "t.parquet cannot be read as parquet"),
        ("t.xls", b"", r"ends in '.xls'; tables are read from .csv"),
    ],
)
def test_files_that_cannot_be_read_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read_table(tmp_path / "t.csv")


def test_errors_name_the_file(tmp_path):
    (tmp_path / "houses.csv").write_text("a,b\n" + "".join(f"{i},{i % 97}\n" for i in range(300)) + "301,abc\n")
    with pytest.raises(DataError, match=r"houses.csv: column 'b' is numbers in 300 cells, and row 301 holds 'abc'"):
        Table.guess(read_table(tmp_path / "houses.csv"))


@pytest.mark.parametrize("name", ["adult/adult_test.csv.gz", "california_housing/housing.csv.gz", "concrete/data.csv.gz"])
def test_real_tables_come_back(name):
    if not (DATA / name).exists():
        pytest.skip("the data sets are not beside the checkout")
    frame = read_table(DATA / name).head(5000)
    table = Table.guess(frame)
    assert not table.left_out
    back = table.decode(table.encode(frame))
    pd.testing.assert_frame_equal(back, frame.replace({"?": None}), rtol=1e-5)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"town": ["a", "b"] * 6}, "'town' has levels"),
        ({"gap": [1.5, None, *np.arange(10) / 7]}, "'gap' has empty cells"),
        ({"when": [*pd.date_range("2024-03-01", periods=11), pd.NaT]}, "'when' has empty cells"),
        ({}, "'size' is learned by its ranks"),
    ],
)
def test_a_table_has_no_density_and_says_why(columns, message):
    codec = Table.guess(pd.DataFrame({"size": np.arange(12) / 3.7, **columns}))
    with pytest.raises(DataError, match=f"{message}.*fit the numbers alone, as an array"):
        codec.log_jacobian()
