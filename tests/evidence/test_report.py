"""A perfect model stands at the floor; each planted fault moves its own figure."""

import json

import pytest
import torch

from undrift.errors import DataError, NonFiniteError, ShapeError
from undrift.evidence import Judge, evaluate, expected_fraction, frechet, sliced_w2

NAMES = ["sliced W2", "Frechet", "judge agreement", "class imbalance", "memorised fraction"]


def randn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussians(n, seed, classes=4):
    """Four classes on the axes of R^4: a law that can be sampled again, so a perfect model exists."""
    labels = torch.arange(n) % classes
    return 3 * torch.eye(4)[labels] + randn(n, 4, seed=seed), labels


@pytest.fixture(scope="module")
def toy():
    train, held_out = gaussians(1000, 0), gaussians(1200, 1)
    return *train, *held_out, Judge.fit(*held_out, seed=0)


def test_real_data_reaches_the_floor(toy):
    # A perfect model: fresh draws of the law. Over 12 other seeds value / floor was 0.86 to 1.24 for sliced W2 and 0.66
    # to 1.57 for Frechet, hence a factor of two; agreement within 5 binomial standard errors of both sets.
    samples, labels = gaussians(2000, 2)
    evidence = evaluate(samples, labels, *toy, seed=0)
    assert [figure.name for figure in evidence.figures] == NAMES
    for name in ("sliced W2", "Frechet"):
        assert 0.5 < evidence[name].value / evidence[name].floor < 2
    agreement = evidence["judge agreement"]
    assert 0.8 < agreement.floor < 1
    assert abs(agreement.value - agreement.floor) < 5 * (agreement.floor * (1 - agreement.floor) * 1.5 / 1000) ** 0.5
    assert evidence["class imbalance"].value < 0.05
    assert evidence["memorised fraction"].floor == expected_fraction(1200)
    assert evidence["memorised fraction"].value < 0.03


def test_each_figure_sees_its_own_fault(toy):
    samples, labels = gaussians(2000, 2)
    good = evaluate(samples, labels, *toy)
    shifted = evaluate(samples + 1, labels, *toy)
    # A shift by 1 in R^4 is 1 in sliced W2 (|delta|^2 / d = 1), within the 512 directions and the finite-sample floor.
    assert shifted["sliced W2"].value == pytest.approx(1, abs=0.15)
    assert shifted["Frechet"].value > 2 * good["Frechet"].value
    wrong = evaluate(samples, (labels + 1) % 4, *toy)
    assert wrong["judge agreement"].value < 0.1
    lost = evaluate(samples[labels != 0], labels[labels != 0], *toy)
    assert lost["class imbalance"].value == pytest.approx(0.25, abs=0.05)
    copied = evaluate(toy[0], toy[1], *toy)
    assert copied["memorised fraction"].value == 1
    assert copied["sliced W2"].value == copied["sliced W2"].floor


def test_distances_are_taken_at_matched_size(toy):
    # 2500 samples, 1000 training points: two whole blocks of 1000, the floor from all 1000. 300 samples: the floor of
    # 300 training points.
    train, _, held_out, _, judge = toy
    samples, _ = gaussians(2500, 2)
    many, few = evaluate(samples, None, *toy), evaluate(samples[:300], None, *toy)
    assert (many.matched, few.matched) == (1000, 300)
    assert many["sliced W2"].floor == pytest.approx(sliced_w2(train, held_out), rel=1e-12)
    assert many["Frechet"].floor == pytest.approx(frechet(judge.features(train), judge.features(held_out)), rel=1e-9)
    assert few["sliced W2"].floor > 1.2 * many["sliced W2"].floor  # smaller sets, higher floor
    assert few["sliced W2"].value == pytest.approx(sliced_w2(samples[:300], held_out), rel=1e-12)
    real = evaluate(held_out, toy[3], *toy)["judge agreement"]
    assert real.floor == judge.agreement(train, toy[1]) != judge.agreement(held_out, toy[3]) == real.value
    assert "judge agreement" not in [figure.name for figure in many.figures]


def test_sorted_samples_are_shuffled_before_they_are_cut(toy):
    samples, labels = gaussians(2000, 2)
    order = labels.argsort()
    mixed, by_class = evaluate(samples, labels, *toy), evaluate(samples[order], labels[order], *toy)
    assert by_class["class imbalance"].value < 0.05
    assert by_class["sliced W2"].value == pytest.approx(mixed["sliced W2"].value, rel=0.25)
    assert evaluate(samples, labels, *toy, seed=3) == evaluate(samples, labels, *toy, seed=3)


def test_json_and_rows_hold_every_number(toy):
    evidence = evaluate(*gaussians(500, 2), *toy)
    plain = json.loads(json.dumps(evidence.to_json()))
    rows = evidence.rows()
    assert [row[0] for row in rows] == [figure["name"] for figure in plain["figures"]] == NAMES
    for figure, row in zip(plain["figures"], rows, strict=True):
        assert evidence[figure["name"]].value == figure["value"]
        assert float(row[1]) == pytest.approx(figure["value"], rel=1e-3)
        assert float(row[2]) == pytest.approx(figure["floor"], rel=1e-3)
        assert row[3] == figure["better"]
        assert row[4] == figure["unit"]
    assert [figure["better"] for figure in plain["figures"]] == ["lower", "lower", "higher", "lower", "lower"]
    assert (plain["samples"], plain["train"], plain["held_out"], plain["matched"]) == (500, 1000, 1200, 500)
    with pytest.raises(KeyError, match="sliced W2"):
        evidence["nothing"]


def test_errors_say_the_cure(toy):
    samples, labels = gaussians(100, 2)
    train, train_labels, held_out, held_out_labels, judge = toy
    with pytest.raises(NonFiniteError, match="samples: 100 of 100"):
        evaluate(samples * float("nan"), labels, *toy)
    with pytest.raises(ShapeError, match=r"samples has points of shape \(2,\).*bring both"):
        evaluate(samples[:, :2], labels, *toy)
    with pytest.raises(ShapeError, match=r"labels has shape \(99,\)"):
        evaluate(samples, labels[:99], *toy)
    with pytest.raises(DataError, match="samples holds 1 points, at least 2"):
        evaluate(samples[:1], labels[:1], *toy)
    with pytest.raises(DataError, match="at least 99 held-out points"):
        evaluate(samples, labels, train, train_labels, held_out[:98], held_out_labels[:98], judge)
