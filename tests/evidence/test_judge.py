"""The judge learns real digits, deterministically and without global randomness."""

import subprocess
import sys

import pytest
import torch

from undrift.errors import DataError, NonFiniteError, ShapeError
from undrift.evidence import Judge


def test_accuracy_on_the_unseen_half_of_digits(digits, digits_judge):
    # Measured over seeds: 97.4 to 98.6 %. A nearest-mean classifier reaches about 90 %, so 96.5 % takes real training.
    train, labels, held_out, held_out_labels = digits
    assert digits_judge.agreement(train, labels) > 0.965
    assert Judge.fit(held_out, held_out_labels, seed=5).agreement(train, labels) > 0.965


def test_same_seed_same_judge_and_no_global_randomness(digits):
    x, y = digits[2][:200], digits[3][:200]
    before = torch.get_rng_state()
    one, two, other = (Judge.fit(x, y, seed=s, steps=20) for s in (0, 0, 1))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.features(x), two.features(x))
    assert not torch.equal(one.features(x), other.features(x))
    with torch.random.fork_rng():
        torch.manual_seed(123)  # another global state, the same judge
        assert torch.equal(Judge.fit(x, y, seed=0, steps=20).features(x), one.features(x))
    with torch.no_grad():  # training works where gradients are off
        assert torch.equal(Judge.fit(x, y, seed=0, steps=20).features(x), one.features(x))


def test_prediction_is_the_head_of_the_features(digits, digits_judge):
    x = digits[0][:50]
    features = digits_judge.features(x)
    assert features.shape == (50, 64)
    assert not features.requires_grad
    logits = features @ digits_judge.head.weight.T + digits_judge.head.bias
    assert torch.equal(digits_judge.predict(x), logits.argmax(1))
    assert torch.equal(digits_judge.predict(x.double()), digits_judge.predict(x))


def test_agreement_counts_matches(digits, digits_judge):
    x = digits[0][:100]
    seen = digits_judge.predict(x)
    asked = seen.clone()
    asked[:30] = (asked[:30] + 1) % 10
    assert digits_judge.agreement(x, asked) == 0.7


@pytest.mark.parametrize("event", [(1,), (3,), (2, 4), (1, 2, 3)])
def test_any_event_shape_scale_and_label_values(event):
    # Two well-separated classes with labels -5 and 40, in a unit of a million: classified without error.
    rng = torch.Generator().manual_seed(0)
    labels = torch.tensor([-5, 40]).repeat(100)
    x = 1e6 * ((labels == 40).float().view(-1, *[1] * len(event)) * 10 + torch.randn(200, *event, generator=rng))
    judge = Judge.fit(x[:100], labels[:100], steps=100)
    assert judge.agreement(x[100:], labels[100:]) == 1
    assert set(judge.predict(x).tolist()) == {-5, 40}
    # The unit does not matter: the same judge in another unit sees the same features (float32 rounding, 100 steps).
    other = Judge.fit(x[:100] / 1e6 + 3, labels[:100], steps=100)
    assert torch.allclose(other.features(x / 1e6 + 3), judge.features(x), rtol=1e-2, atol=1e-2)


def test_errors_say_the_cure(digits_judge):
    x, y = torch.randn(10, 3, generator=torch.Generator().manual_seed(0)), torch.arange(10) % 2
    with pytest.raises(DataError, match="at least two"):
        Judge.fit(x, y * 0)
    with pytest.raises(DataError, match="all points of x are equal"):
        Judge.fit(x * 0, y)
    with pytest.raises(DataError, match="at least one"):
        Judge.fit(x, y, steps=0)
    with pytest.raises(ShapeError, match=r"expected \(10,\)"):
        Judge.fit(x, y[:9])
    with pytest.raises(NonFiniteError, match="x: 10 of 10"):
        Judge.fit(x / 0, y)
    with pytest.raises(ShapeError, match="fit a judge on data of this shape"):
        digits_judge.predict(x)
    with pytest.raises(ShapeError, match="not one-hot"):
        digits_judge.agreement(torch.zeros(2, 1, 8, 8), y[:3])


def test_import_pulls_nothing_heavy():
    code = "import sys, undrift.evidence; print(*({'sklearn', 'pandas', 'matplotlib'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"


@pytest.mark.parametrize("event", [(1, 16, 20), (3, 60, 50)])
def test_pictures_are_judged_by_where_things_are_not_by_which_pixel(event):
    # A bright bar, upright or lying, anywhere: no single pixel tells the two apart.
    rng = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    x = 0.3 * torch.randn(400, *event, generator=rng)
    for row, upright in zip(x, labels.tolist(), strict=True):
        at = int(torch.randint(event[1 + upright] - 4, (1,), generator=rng))
        where = (slice(None), slice(None), slice(at, at + 4)) if upright else (slice(None), slice(at, at + 4))
        row[where] += 2
    before = torch.get_rng_state()
    judge = Judge.fit(x[:300], labels[:300], steps=60)
    assert torch.equal(before, torch.get_rng_state())
    assert judge.agreement(x[300:], labels[300:]) > 0.95
    assert torch.allclose(judge.features(x[300:301]), judge.features(x[300:])[:1], atol=1e-5)  # its batch does not matter
