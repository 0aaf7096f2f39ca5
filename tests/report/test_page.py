"""The page shows every part that it is given, leaves out what it is not, and asks nobody for anything."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from undrift.errors import DataError
from undrift.report import Neighbours, Page, page_html, write_page

EVIL = '<script>alert("1")</script> & naïve 東京'
FIGURES = [
    {"name": "sliced W2", "value": 0.0832, "floor": 0.0514, "baseline": 0.312, "low": 0.0781, "high": 0.0893,
     "better": "lower", "unit": "data"},
    {"name": "judge agreement", "value": 0.968, "floor": 0.955, "baseline": None, "low": None, "high": None,
     "better": "higher", "unit": "share"},
    {"name": EVIL, "value": None, "floor": float("nan"), "baseline": 7.77, "low": None, "high": 1.0,
     "better": "lower", "unit": EVIL},
]  # fmt: skip
EVIDENCE = {"figures": FIGURES, "samples": 1234, "train": 898, "held_out": 899, "cost": {"parameters": 1_842_210, EVIL: None}}
LEVELS = [0.0, 0.1, 1.0, 10.0]
METRICS = [
    {"step": 50 * i, "seconds": 1.0 * i, "loss": None if i == 1 else 1 / i, "gaussian": 1.0, "mean": 1.5, "rate": 9.0,
     "learning_rate": 1e-3, "levels": LEVELS, "losses": [0.5, None, 0.25], "gaussians": [1.0, None, 1.0],
     "means": [1.2, 1.2, 1.2], "counts": [3, 0, 9]}
    for i in range(1, 21)
]  # fmt: skip
PROSE = {
    "schema": [(EVIL, EVIL)],
    "recipe": {"name": EVIL},
    "reproduce": ["undrift fit " + EVIL],
    "versions": [("undrift", "0.1.0")],
}


def images():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (30, 9, 9, 3)).astype(np.uint8)
    return Page(
        EVIL, "images", subtitle=EVIL, evidence=EVIDENCE, metrics=METRICS, samples=x, labels=[EVIL, "tulip"] * 15, real=x[:5],
        neighbours=Neighbours(x[:3], x[3:6], [1.5, 2.25, float("nan")], EVIL),
        trace=[(float("inf"), x[:2]), (0.5, x[:2]), (0.0, x[:2])],
        head="v", **PROSE,
    )  # fmt: skip


def table():
    rng = np.random.default_rng(0)
    x = pd.DataFrame({"price": rng.random(50), EVIL: rng.choice([EVIL, "b"], 50), "<i>": rng.integers(0, 9, 50)})
    x.loc[3, "price"] = np.nan
    names = list(x.columns)
    more = {"columns": [{"name": EVIL, "kind": "category", "distance": 0.4, "floor": 0.1, "baseline": None}],
            "pairs": {"names": names, "real": np.eye(3).tolist(), "generated": [[None] * 3] * 3}}  # fmt: skip
    near = Neighbours(x[:4], x[4:8], np.arange(4.0))
    return Page(
        "t", "table", evidence=EVIDENCE | more, metrics=METRICS, samples=x, real=x, neighbours=near,
        trace=[(2.0, x), (0.0, x)], **PROSE,
    )  # fmt: skip


def signals():
    x = np.random.default_rng(0).normal(size=(20, 2, 64))
    return Page(
        "s", evidence=EVIDENCE, samples=x, real=x, neighbours=Neighbours(x[:2], x[2:4], [1.0, 2.0]), trace=[(1.0, x), (0.0, x)]
    )


def volumes():
    x = np.random.default_rng(0).normal(size=(6, 5, 6, 7))
    return Page(
        "v", samples=x, labels=["a", "b"] * 3, neighbours=Neighbours(x[:2], x[2:4], [1.0, 2.0]), trace=[(1.0, x), (0.0, x)]
    )


def points():
    x = np.random.default_rng(0).normal(size=(60, 2))
    return Page("p", samples=x, real=x, neighbours=Neighbours(x[:2], x[2:4], [1.0, 2.0]), trace=[(1.0, x), (0.0, x)])


def numbers():
    x = np.random.default_rng(0).normal(size=(60, 1))
    return Page("n", samples=x, real=x)


PAGES = {make.__name__: make for make in (images, table, signals, volumes, points, numbers)}
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Reader(HTMLParser):
    """Tags must balance; text, attributes and the order of ids are kept."""

    def __init__(self):
        super().__init__()
        self.open, self.text, self.attributes, self.tags = [], [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [(tag, *pair) for pair in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.attributes += [(tag, *pair) for pair in attrs]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "title"):
            self.text.append(data)


def read(page):
    reader = Reader()
    reader.feed(page_html(page))
    reader.close()
    assert reader.open == []
    return reader


@pytest.mark.parametrize("make", PAGES.values(), ids=PAGES)
def test_the_page_is_whole_and_asks_nobody_for_anything(make):
    html, reader = page_html(make()), read(make())
    for tag, name, value in reader.attributes:
        if name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert value.startswith(("data:image/png;base64,", "#")), (tag, name, value)
        assert not name.startswith("on"), (tag, name)
    ids = [value for _, name, value in reader.attributes if name == "id"]
    assert len(ids) == len(set(ids))
    assert {value[1:] for _, name, value in reader.attributes if name == "href"} <= set(ids)
    assert not re.search(r"url\(|@import|https?:", html)
    assert not {"script", "link", "iframe", "i"} & set(reader.tags)
    assert not re.search(r"\b[Nn]a[Nn]\b|\bNone\b|\binf\b|undefined", " ".join(reader.text))
    assert len(html) < 3_000_000


@pytest.mark.parametrize("make", [images, table, signals])
def test_every_figure_is_told(make):
    text = " ".join(read(make()).text)
    for number in (
        "0.0832",
        "0.0514",
        "0.312",
        "0.0781 to 0.0893",
        "0.968",
        "0.955",
        "7.77",
        "1.84 M",
        "1,842,210",
        "1,234",
        "898",
    ):
        assert number in text
    assert "1.62 times the floor" in text
    assert "6.07 times" in text


def test_what_users_wrote_is_shown_as_they_wrote_it():
    for make in (images, table):
        text = " ".join(read(make()).text)
        assert text.count(EVIL) >= 5
        assert json.dumps(EVIL, ensure_ascii=False) in text  # in the recipe


def test_each_section_stands_on_its_part():
    full = {"samples", "evidence", "neighbours", "trace", "loss", "cost", "again"}
    ids = {value for _, name, value in read(images()).attributes if name == "id"}
    assert ids == full
    assert {value for _, name, value in read(table()).attributes if name == "id"} == full | {"columns", "pairs"}
    assert {value for _, name, value in read(Page("bare")).attributes if name == "id"} == set()


def test_samples_stand_in_the_row_of_their_class():
    x = np.zeros((4, 2, 2), np.uint8)
    x[[1, 3]] = 255
    html = page_html(Page("p", "images", samples=x, labels=["dark", "light"] * 2))
    dark, light = (re.findall(r'src="([^"]+)"', part) for part in html.split("<span>light</span>"))
    assert len(dark) == len(light) == 2
    assert len(set(dark)) == len(set(light)) == 1
    assert set(dark) != set(light)


def test_losses_are_told_by_level_and_by_step():
    text = " ".join(read(images()).text)
    below = 1 - (1 / 19 + 1 / 20) / 2
    assert f"{100 * below:.0f} % below the Gaussian" in text
    assert "loss (v units)" in text
    dots = re.findall(
        r'<circle class="dot gen" cx="([\d.]+)" cy="([\d.]+)" r="3"><title>this model ([\d.]+)</title>', page_html(images())
    )
    assert [value for _, _, value in dots] == ["0.500", "0.250"]  # the level without a sample is a gap


def test_levels_are_means_weighted_by_counts():
    lines = [
        {**METRICS[-1], "losses": [loss, None, None], "counts": [count, 0, 0]}
        for loss, count in ((9, 99), (9, 9), (1.0, 3), (2.0, 1))
    ]
    lines = [*lines[:2] * 3, *lines[2:]]  # the last quarter of eight lines
    assert "this model 1.25" in page_html(Page("p", metrics=lines))


def test_a_large_run_stays_small():
    x = np.random.default_rng(0).integers(0, 256, (100, 160, 160, 3)).astype(np.uint8)  # noise: nothing compresses worse
    page = Page("p", "images", samples=x, labels=list("abcdefghij") * 10, real=x, neighbours=Neighbours(x, x, range(100)),
                trace=[(1.0, x)] * 20, metrics=METRICS * 300)  # fmt: skip
    assert len(page_html(page)) < 3_000_000


def test_the_file_is_written_where_told(tmp_path):
    file = write_page(Page("p"), tmp_path / "new" / "report.html")
    assert file == tmp_path / "new" / "report.html"
    assert file.read_text(encoding="utf-8") == page_html(Page("p"))


def test_errors_teach():
    with pytest.raises(DataError, match="images, table, arrays"):
        Page("p", "sound")
    with pytest.raises(DataError, match="one for each"):
        Page("p", samples=np.zeros((3, 4)), labels=["a"])
