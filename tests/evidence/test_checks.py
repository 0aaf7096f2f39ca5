"""Every bad array is refused, with an error that says the cure."""

import pytest
import torch

from undrift import evidence
from undrift.errors import DataError, NonFiniteError, ShapeError
from undrift.evidence import checks

GOOD = torch.arange(6.0).view(3, 2)


@pytest.mark.parametrize(
    ("bad", "error", "cure"),
    [
        ([[0.0]], ShapeError, "torch.as_tensor"),
        (torch.arange(6).view(3, 2), ShapeError, r"\.float\(\)"),
        (torch.zeros(3, 2, dtype=torch.complex64), ShapeError, "real floating"),
        (torch.zeros(3), ShapeError, r"\[:, None\]"),
        (torch.tensor(1.0), ShapeError, r"\(N, \*E\)"),
        (torch.zeros(3, 0), ShapeError, "at least one number"),
        (torch.zeros(0, 2), DataError, "draw or gather more"),
        (torch.tensor([[0.0, float("nan")], [1, 2]]), NonFiniteError, "1 of 2 points"),
        (torch.tensor([[0.0, float("inf")], [1, 2]]), NonFiniteError, "finer grid"),
    ],
)
def test_bad_points_are_refused_with_the_cure(bad, error, cure):
    for call in (
        lambda: checks.points(bad, "x"),
        lambda: evidence.sliced_w2(bad, GOOD),
        lambda: evidence.sliced_w2(GOOD, bad),
        lambda: evidence.frechet(GOOD, bad),
        lambda: evidence.nearest(bad, GOOD),
        lambda: evidence.nearest(GOOD, bad),
    )[: None if isinstance(bad, torch.Tensor) else 1]:  # the public ones refuse a non-tensor by their annotation already
        with pytest.raises(error, match=cure):
            call()


def test_good_points_keep_their_numbers():
    x = torch.randn(4, 2, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64, requires_grad=True)
    flat = checks.points(x, "x", 4)
    assert flat.dtype == torch.float64
    assert not flat.requires_grad
    assert torch.equal(flat.view(4, 2, 3), x.detach())
    with pytest.raises(DataError, match="at least 5"):
        checks.points(x, "x", 5)


def test_events_must_agree():
    other = torch.zeros(3, 2, 1)
    for call in (evidence.sliced_w2, evidence.frechet, evidence.nearest):
        with pytest.raises(ShapeError, match="bring both to one shape"):
            call(GOOD, other)
    with pytest.raises(ShapeError, match=r"move one.*\.to\("):
        checks.same_event(GOOD, GOOD.to("meta"), ("x", "y"))


@pytest.mark.parametrize(
    ("bad", "cure"),
    [
        ([0, 1, 2], "torch.as_tensor"),
        (torch.zeros(3), r"\.long\(\)"),
        (torch.zeros(3, dtype=torch.bool), r"\.long\(\)"),
        (torch.zeros(3, 1, dtype=torch.long), "not one-hot"),
        (torch.zeros(4, dtype=torch.long), r"expected \(3,\)"),
    ],
)
def test_bad_labels_are_refused_with_the_cure(bad, cure):
    with pytest.raises(ShapeError, match=cure):
        checks.labels(bad, 3, "labels")
    good = checks.labels(torch.tensor([1, 2, 3], dtype=torch.uint8), 3, "labels")
    assert good.dtype == torch.int64
    assert good.tolist() == [1, 2, 3]
