"""Tables on the page hold the cells, the shares and the differences that they were given."""

import re

import numpy as np
import pandas as pd

from undrift.report import tables

REAL = pd.DataFrame(
    {
        "price": [1.25, 2.5, np.nan, 300.0], "rooms": [1, 2, 3, 4], "town": ["a", "b", None, "a"],
        "built": pd.to_datetime(["2001-02-03", None, "2001-02-05", "2001-02-06"]), "sold": [True, False, True, True],
    }
)  # fmt: skip


def test_rows_hold_the_cells():
    found = tables.rows(REAL)
    assert found["names"] == ["price", "rooms", "town", "built", "sold"]
    assert found["numbers"] == [True, True, False, False, False]
    assert found["cells"][0] == ["1.25", "1", "a", "2001-02-03", "True"]
    assert found["cells"][1] == ["2.50", "2", "b", "", "False"]
    assert found["cells"][2][0] == found["cells"][2][2] == ""
    assert found["left_out"] == 0


def test_generated_rows_follow_the_real_ones():
    made = pd.DataFrame({"extra": ["x"], "town": ["c"], "price": [1.23456]})
    found = tables.rows(made, like=REAL)
    assert found["names"] == ["price", "town", "extra"]
    assert found["cells"] == [["1.23", "c", "x"]]  # two decimals, as in the real column


def test_wide_tables_are_cut_and_say_so():
    found = tables.rows({f"c{i}": np.arange(50) for i in range(45)})
    assert (len(found["names"]), len(found["cells"]), found["left_out"]) == (40, 12, 5)


def test_pairs_tell_what_is_the_same():
    found = tables.pairs(REAL[["price", "rooms", "town"]], REAL.assign(rooms=9)[["price", "rooms", "town"]], ["0.1", "0.2"])
    assert [line["same"] for line in found["lines"]] == [[True, False, True]] * 2
    assert [line["distance"] for line in found["lines"]] == ["0.1", "0.2"]


def test_a_journey_lists_the_first_record():
    assert tables.journey([REAL[1:].reset_index(drop=True), REAL])[:2] == [
        ("price", True, ["2.50", "1.25"]), ("rooms", True, ["2", "1"])
    ]  # fmt: skip


def test_columns_are_sorted_by_distance():
    judged = [{"name": "rooms", "kind": "levels", "distance": 0.1, "floor": 0.02}, {"name": "town", "distance": 0.3}]
    found = tables.multiples(REAL, REAL, judged)
    assert [column["name"] for column in found] == ["town", "rooms", "price", "built", "sold"]
    assert found[1]["distance"] == "0.10"
    assert found[1]["floor"] == "0.020"
    assert found[1]["baseline"] == "–"
    assert "rect" in found[1]["svg"]  # a category, although its cells are numbers
    assert "path" in found[2]["svg"]
    assert "2001-02-03" in found[3]["svg"]
    assert found[2]["lost"] == [0.25, 0.25]
    assert found[4]["lost"] is None


def test_shares_of_categories_leave_out_what_is_missing():
    (column,) = tables.multiples({"t": np.array(["a", "a", "b", None])}, {"t": np.array(["a", "c"], dtype=object)}, [])
    said = re.findall(r"<title>(\S+?|all others): real ([\d.]+) %, generated ([\d.]+) %</title>", column["svg"])
    assert dict.fromkeys(said) == {("a", "66.7", "50.0"): None, ("b", "33.3", "0.0"): None, ("all others", "0.0", "50.0"): None}


def test_the_difference_is_generated_less_real():
    given = {"names": ["a", "b"], "real": [[1, 0.5], [0.5, 1]], "generated": [[1, -0.25], [None, 1]]}
    found = tables.associations(given)
    titles, svgs = zip(*found["panels"], strict=True)
    assert titles == ("real", "generated", "difference")
    assert "a · b: −0.750" in svgs[2]
    assert "b · a" not in svgs[2]
    assert found["worst"] == ("a", "b", "0.500", "−0.250")


def test_of_many_columns_those_that_differ_are_shown():
    real, made = np.eye(40), np.eye(40)
    made[38, 39] = made[39, 38] = 0.9
    found = tables.associations({"names": list(range(40)), "real": real.tolist(), "generated": made.tolist()})
    assert found["left_out"] == 10
    assert "38 · 39: 0.900" in found["panels"][2][1]
