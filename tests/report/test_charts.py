"""Charts put each number where their own axes say: shapes are read back from the SVG."""

import math
import re
from xml.etree import ElementTree

import numpy as np
import pytest

from undrift.report import charts, marks


def shapes(svg, name, *styles):
    """Elements of that tag that carry all of the classes."""
    return [e for e in ElementTree.fromstring(svg).iter(name) if set(styles) <= set(e.get("class", "").split())]


def vertices(element):
    """Corners of a path of M and L, one array a piece."""
    pieces = [re.findall(r"(-?[\d.]+) (-?[\d.]+)", piece) for piece in element.get("d").split("M")[1:]]
    return [np.array(piece, dtype=float) for piece in pieces]


def axis(svg, which, log=False):
    """Paper to data, from the ticks alone."""
    ticks = shapes(svg, "text", "tick", which)
    paper = [float(e.get(which)) for e in ticks]
    data = [float(e.text.replace(",", "").replace("−", "-")) for e in ticks]
    slope, start = np.polyfit(paper, np.log(data) if log else data, 1)
    return lambda at: np.exp(start + slope * at) if log else start + slope * at


@pytest.mark.parametrize("log", [False, True])
def test_points_lie_where_the_axes_say(log):
    x, y = np.geomspace(0.01, 50, 9) if log else np.linspace(-3, 900, 9), np.cos(np.arange(9.0)) * 7 - 2
    svg = charts.lines([charts.Line("a", "gen", x, y)], x="x", y="y", label="l", log_x=log)
    (path,) = (e for e in shapes(svg, "path", "line", "gen") if "key" not in e.get("class"))
    (corners,) = vertices(path)
    assert np.all(np.diff(corners[:, 0]) > 0)
    assert np.argmin(corners[:, 1]) == np.argmax(y)  # up is more: paper counts from the top
    found_x, found_y = axis(svg, "x", log)(corners[:, 0]), axis(svg, "y")(corners[:, 1])
    np.testing.assert_allclose(found_x, x, rtol=0.004 if log else 0, atol=0 if log else 0.2)  # a tenth of a point of paper
    np.testing.assert_allclose(found_y, y, atol=0.02 * 7)
    left, bottom, right = (float(v) for v in re.findall(r"[\d.]+", shapes(svg, "path", "axis")[0].get("d")))
    assert all(left <= float(e.get("x")) <= right for e in shapes(svg, "text", "tick", "x"))
    assert all(float(e.get("y")) <= bottom for e in shapes(svg, "text", "tick", "y"))


def test_gaps():
    y = [1.0, None, 3.0, math.nan, 5.0, 6.0, math.inf]
    svg = charts.lines([charts.Line("a", "gen", range(7), y, dots=True)], x="x", y="y", label="l")
    (path,) = (e for e in shapes(svg, "path", "line", "gen") if "key" not in e.get("class"))
    assert [len(piece) for piece in vertices(path)] == [1, 1, 2]
    assert len(shapes(svg, "circle", "dot")) == 4
    assert "nan" not in svg
    assert "inf" not in svg


@pytest.mark.parametrize("y", [[None] * 3, [2.0] * 3, [0.0] * 3, []])
def test_nothing_and_constants_still_make_a_chart(y):
    svg = charts.lines([charts.Line("a", "gen", range(len(y)), y)], x="x", y="y", label="l", log_x=True)
    assert "nan" not in svg
    ElementTree.fromstring(svg)


def test_names_are_escaped():
    line = charts.Line("<a&b>", "gen", [0, 1], [0, 1])
    svg = charts.lines([line], x="<x>", y="<y>", label='"<l>"')
    assert "<a&b>" in [e.text for e in ElementTree.fromstring(svg).iter("text")]
    assert ElementTree.fromstring(marks.bars(["<i>"], [1.0], [1.0], "b")) is not None
    assert ElementTree.fromstring(marks.matrix(np.eye(2), ["<i>", "&"], "m")) is not None


def area(path, floor=74.0):
    """Area between a path of V and H and its floor, by bins."""
    numbers = re.findall(r"V([\d.]+)H([\d.]+)", path.get("d"))
    ends = np.array([float(re.match(r"M([\d.]+)", path.get("d")).group(1)), *(float(h) for _, h in numbers)])
    return np.diff(ends), np.array([floor - float(v) for v, _ in numbers])


def test_histogram_areas_are_the_shares():
    """Of 100 real values 25 and 75 lie in two of the bins, of 10 generated ones 5 and 5: heights are in that proportion."""
    real, made = np.repeat([1.0, 3.0], [25, 75]), np.repeat([1.0, 3.0], [5, 5])
    svg = charts.histogram(real, np.append(made, np.nan), "h")
    (filled,), (drawn,) = shapes(svg, "path", "fill", "real"), shapes(svg, "path", "line", "gen")
    (widths, real_bars), (_, made_bars) = area(filled), area(drawn)
    np.testing.assert_allclose(widths, widths[0], atol=0.11)
    np.testing.assert_allclose(real_bars / real_bars.sum(), [0.25, 0, 0.75], atol=0.01)
    np.testing.assert_allclose(made_bars / real_bars.max(), [0.5 / 0.75, 0, 0.5 / 0.75], atol=0.01)
    assert [e.text for e in shapes(svg, "text", "tick")] == ["1", "3"]


def test_a_wild_value_does_not_squeeze_the_rest():
    rng = np.random.default_rng(0)
    real = np.append(rng.normal(size=999), 1e9)
    (filled,) = shapes(charts.histogram(real, real, "h"), "path", "fill", "real")
    assert (area(filled)[1] > 1).sum() > 10


def test_the_outermost_bins_hold_what_lies_beyond():
    """Ten of 20 generated values are wild; of all 10000 they are one in a thousand, so the axis ends before them."""
    svg = charts.histogram(np.linspace(0, 1, 9980), np.repeat([0.5, 1e9], 10), "h")
    bars = area(shapes(svg, "path", "line", "gen")[0])[1]
    assert (bars > 0).sum() == 2
    assert bars[-1] == bars[:-1].max() == 68  # half of the values each, as high as the paper


def test_whole_numbers_get_a_bin_each_wherever_the_quantiles_fall():
    """A quantile between 0 and 1 is taken for one of them, and the outermost bin holds what lies beyond."""
    real, made = np.repeat(np.arange(10.0), [1, *[6] * 9]), np.repeat(np.arange(1.0, 10.0), 5)
    for more in (1, 2, 3, 4):
        svg = charts.histogram(real, np.append(made, [5.0] * more), "h")
        first, last = (int(e.text) for e in shapes(svg, "text", "tick"))
        assert (first in (0, 1), last) == (True, 9)
        bars = area(shapes(svg, "path", "fill", "real")[0])[1]
        assert len(bars) == last - first + 1
        assert bars[1:] / bars[0] == pytest.approx(6 if first == 0 else 6 / 7, rel=0.02)  # a tenth of a point of paper


def test_an_empty_histogram_says_so():
    assert "no values" in charts.histogram(np.full(3, np.nan), np.zeros(0), "h")


def test_bars_are_as_long_as_the_shares():
    svg = marks.bars(["a", "b"], [0.8, 0.2], [0.4, 0.6], "b")
    long = {s: [float(e.get("width")) for e in shapes(svg, "rect", "fill", s)] for s in ("real", "gen")}
    assert long["real"][0] == 220 - 78 - 2  # the longest fills the paper beside the names
    np.testing.assert_allclose(np.array(long["real"]) / long["real"][0], [1, 0.25], atol=0.002)
    np.testing.assert_allclose(np.array(long["gen"]) / long["real"][0], [0.5, 0.75], atol=0.002)


def test_matrix_cells():
    values = np.array([[1.0, -0.5], [np.nan, 0.25]])
    cells = shapes(marks.matrix(values, ["a", "b"], "m"), "rect", "cell")
    assert [e.get("class") for e in cells] == ["cell pos", "cell neg", "cell pos"]
    assert [float(e.get("fill-opacity")) for e in cells] == [1, 0.5, 0.25]
    assert [e[0].text for e in cells] == ["a · a: 1.00", "a · b: −0.500", "b · b: 0.250"]
    first, second, last = [(float(e.get("x")), float(e.get("y"))) for e in cells]
    assert first[1] == second[1] < last[1]
    assert first[0] < second[0] == last[0]


@pytest.mark.parametrize(("floor", "baseline"), [(1.0, 5.0), (0.9, 0.5)])
def test_gauge_puts_values_between_floor_and_baseline(floor, baseline):
    """A quarter of the way from floor to baseline lies a quarter of the way between the ticks, whichever is larger."""
    value = floor + (baseline - floor) / 4
    svg = marks.gauge(value, floor, baseline, floor, baseline)
    ticks = [float(re.match(r"M([\d.]+)", shapes(svg, "path", "mark", s)[0].get("d")).group(1)) for s in ("real", "gauss")]
    (dot,) = shapes(svg, "circle", "dot")
    assert float(dot.get("cx")) == pytest.approx(ticks[0] + (ticks[1] - ticks[0]) / 4, abs=0.06)
    assert ticks[0] < ticks[1]
    (span,) = shapes(svg, "path", "span")
    assert [float(v) for v in re.findall(r"[MH]([\d.]+)", span.get("d"))] == pytest.approx(ticks, abs=0.06)


def test_gauge_without_yardsticks():
    assert marks.gauge(1.0, None, 2.0) == ""
    assert marks.gauge(math.nan, 1.0, 2.0) == ""
    svg = marks.gauge(1.0, 1.0, None)
    assert not shapes(svg, "path", "mark", "gauss")
    assert shapes(marks.gauge(99.0, 1.0, 2.0), "path", "dot")  # beyond the paper: an arrow
    assert shapes(marks.gauge(-99.0, 1.0, 2.0), "path", "dot")


def test_a_signal_is_drawn_between_its_limits():
    (path,) = shapes(charts.signal(np.array([-2.0, 0.0, np.nan, 2.0]), -2, 2, "gen", "s"), "path", "gen")
    pieces = vertices(path)
    np.testing.assert_allclose(pieces[0][:, 1], [70, 37])
    np.testing.assert_allclose(pieces[1], [[199, 4]])
    assert len(shapes(charts.signal(np.zeros((3, 20)), -1, 1, "gen", "s"), "path", "gen")) == 3


def test_scatter_points():
    real, made = np.array([[0.0, 0], [10, 20]]), np.array([[5.0, 10], [np.nan, 1]])
    svg = charts.scatter(real, made, "s")
    at = {s: [[float(e.get(k)) for k in ("cx", "cy")] for e in shapes(svg, "circle", s)] for s in ("real", "gen")}
    assert at["real"][0][1] > at["real"][1][1]  # up is more: paper counts from the top
    np.testing.assert_allclose(at["gen"], [np.mean(at["real"], 0)], atol=0.11)
    np.testing.assert_allclose(axis(svg, "y")(np.array(at["real"])[:, 1]), [0, 20], atol=0.02)


def test_thinning_keeps_means_and_leaves_gaps_out():
    x, y = charts.thin(np.arange(1000.0), np.where(np.arange(1000) % 2 == 0, np.nan, 3.0), 100)
    np.testing.assert_allclose(x, np.arange(100) * 10 + 4.5)
    np.testing.assert_allclose(y, 3.0)
