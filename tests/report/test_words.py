"""Numbers are written as people write them, and the verdict follows its stated rules."""

import math

import numpy as np
import pytest

from undrift.report import words

DISTANCE = {"name": "sliced W2", "value": 2.0, "floor": 1.0, "baseline": 11.0, "low": 1.9, "high": 2.1, "better": "lower"}
COPIES = {"name": "memorised fraction", "value": 0.01, "floor": 0.01, "baseline": None, "better": "lower", "unit": "share"}


@pytest.mark.parametrize(
    ("x", "text"),
    [
        (0.08321, "0.0832"), (3.2, "3.20"), (12345, "12,345"), (12345.6, "12,346"), (-0.5, "−0.500"), (0, "0"), (0.0, "0"),
        (9.999, "10.0"), (1.5e-7, "1.50 × 10⁻⁷"), (3.2e8, "3.20 × 10⁸"), (None, "–"), (math.nan, "–"), (math.inf, "–"),
        (np.float32(0.25), "0.250"), (np.int64(7), "7"), ("x", "–"), (999.6, "1,000"),
    ],
)  # fmt: skip
def test_numbers(x, text):
    assert words.number(x) == text


def test_an_interval_is_written_like_its_value():
    assert words.alike([0.968, 0.95, 1.0]) == ["0.968", "0.950", "1.000"]
    assert words.alike([8.7, -1.0, None]) == ["8.70", "−1.00", "–"]
    assert words.alike([1e-9, 2e-9]) == ["1.00 × 10⁻⁹", "2.00 × 10⁻⁹"]


def test_percentages_and_durations():
    assert [words.percent(v) for v in (0.312, 0.0099, 0.0996, 0, 1, None)] == ["31 %", "1.0 %", "10 %", "0 %", "100 %", "–"]
    spans = [words.duration(v) for v in (0.84, 42, 521.3, 59.7, 3599, 3 * 3600 + 120, math.nan)]
    assert spans == ["0.8 s", "42 s", "8 min 41 s", "1 min 0 s", "60 min", "3 h 2 min", "–"]


def test_counts_are_shortened():
    counts = [words.short(v) for v in (9999, 12_345, 1_842_210, 999_600, 2.5e9, 7e12, None)]
    assert counts == ["9,999", "12.3 k", "1.84 M", "1.00 M", "2.50 G", "7,000 G", "–"]


def test_the_gain_is_that_of_the_last_tenth():
    lines = [{"loss": 9.0, "gaussian": 1.0}] * 18 + [{"loss": 0.2, "gaussian": 1.0}, {"loss": 0.4, "gaussian": 1.0}]
    assert words.gain(lines) == pytest.approx(0.7)
    assert words.gain([*lines, {"loss": None, "gaussian": 1.0}]) == pytest.approx(0.7)
    assert words.gain([{"loss": 1.0}]) is None


@pytest.mark.parametrize(
    ("change", "tone", "said"),
    [
        ({}, "good", "2.00 times the floor away from held-out data; the Gaussian baseline is 11.0 times"),
        ({"low": 0.9}, "good", "as close to held-out data as real data is"),
        ({"value": 0.97, "low": None}, "good", "as close to held-out data as real data is"),
        ({"value": 2.9}, "good", "2.90 times the floor"),
        ({"value": 3.1}, "fair", "3.10 times the floor"),
        ({"value": 8.9}, "fair", "8.90 times"),
        ({"value": 9.1}, "poor", "9.10 times"),
        ({"baseline": None, "value": 1.2, "low": 1.1}, "good", "1.20 times the floor away from held-out data."),
        ({"baseline": 0.5}, "fair", "2.00 times the floor away from held-out data."),
        ({"baseline": None, "value": 3.2}, "poor", "3.20 times"),
        ({"value": math.nan}, "unknown", "no evidence"),
        ({"better": "higher"}, "unknown", "no evidence"),
        ({"unit": "share"}, "unknown", "no evidence"),
        ({"floor": 0.0}, "unknown", "no evidence"),
    ],
)
def test_the_verdict_follows_its_rules(change, tone, said):
    found = words.verdict({"figures": [COPIES | {"value": None}, DISTANCE | change]})
    assert found.tone == tone
    assert said in found.sentence
    assert not found.warning


@pytest.mark.parametrize(
    ("value", "low", "tone", "head"),
    [
        (0.51, 0.48, "good", "As close as real data"),
        (0.55, 0.52, "good", "Close to real data"),
        (0.80, 0.77, "fair", "Told apart by a classifier"),
    ],
)
def test_a_classifier_has_a_say(value, low, tone, head):
    at_floor = DISTANCE | {"value": DISTANCE["floor"], "low": None}
    c2st = {"name": "C2ST accuracy", "value": value, "low": low, "floor": 0.5, "better": "lower", "unit": "share"}
    found = words.verdict({"figures": [at_floor, c2st]})
    assert (found.tone, found.head) == (tone, head)
    assert ("a guess is 50 %" in found.sentence) == (low > 0.5)


@pytest.mark.parametrize(
    ("change", "warned"),
    [({}, False), ({"value": 0.021}, True), ({"value": 0.019}, False), ({"value": 0.1, "low": 0.009}, False),
     ({"value": 0.015, "low": 0.011}, True)],
)  # fmt: skip
def test_memorisation_is_warned_of_above_expectation(change, warned):
    found = words.verdict({"figures": [COPIES | change]})
    assert bool(found.warning) == warned
    close = words.verdict({"figures": [DISTANCE, COPIES | change]})
    assert (close.tone, "repeated" in close.head) == (("poor", True) if warned else ("good", False))
    assert ("no sign that training records are repeated" in found.sentence) != warned


def test_the_loss_is_told_on_both_sides_of_the_gaussian():
    assert "62 % below" in words.verdict(None, [{"loss": 0.38, "gaussian": 1.0}]).sentence
    assert "5.0 % above" in words.verdict(None, [{"loss": 1.05, "gaussian": 1.0}]).sentence


def test_costs_get_their_words():
    cost = {
        "training_seconds": 61.0,
        "network_calls_per_sample": 50,
        "device": "CPU",
        "sampling": {"samples_per_second": 83.42},
        "flops_per_call": 3_100_000_000,
        "peak_memory_mib": 812.3,
    }
    assert words.cost_rows(cost) == [
        ("training time", "1 min 1 s"), ("network calls per sample", "50"), ("device", "CPU"),
        ("sampling: samples per second", "83.4"), ("operations per network call", "3.10 G"), ("peak memory", "812 MiB"),
    ]  # fmt: skip
    assert words.key_numbers({"samples": 1000, "cost": cost})[:2] == [
        ("samples judged", "1,000"),
        ("training time", "1 min 1 s"),
    ]


def test_meanings():
    assert "held-out" in words.meaning("Sliced W2 (mm)")
    assert words.meaning("my figure", {"My": "mine"}) == "mine"
    assert words.meaning("zzz") == ""


@pytest.mark.parametrize(
    ("change", "behind"),
    [
        ({"value": 0.61, "low": 0.58, "high": 0.64}, True),
        ({"value": 0.61, "low": 0.4, "high": 0.8}, False),  # the Gaussian lies within the interval
        ({"value": 0.85}, False),
        ({"value": 0.61, "baseline": None}, False),
        ({"value": 0.61, "baseline": 0.95}, False),  # a Gaussian above the floor is no yardstick
    ],
)
def test_a_figure_on_which_a_gaussian_does_better_is_named(change, behind):
    at_floor = DISTANCE | {"value": DISTANCE["floor"], "low": None}
    recall = {"name": "recall", "value": 0.6, "floor": 0.9, "baseline": 0.785, "better": "higher", "unit": "share"}
    found = words.verdict({"figures": [at_floor, recall | change]})
    assert (found.tone, "A Gaussian does better in recall." in found.sentence) == (
        ("fair", True) if behind else ("good", False)
    )


@pytest.mark.parametrize(
    ("baseline", "behind"),
    [(1.5, True), (1.95, False), (0.5, False)],  # below the interval, within it, and below the floor, which is no yardstick
)
def test_a_distance_at_which_a_gaussian_does_better_is_named(baseline, behind):
    found = words.verdict({"figures": [DISTANCE | {"baseline": baseline}]})
    assert ("A Gaussian does better in sliced W2." in found.sentence) == behind
