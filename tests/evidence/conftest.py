"""Real digits and their judge, made once a session."""

import pytest
import torch

from undrift.evidence import Judge, split_half


@pytest.fixture(scope="session")
def digits():
    """The real handwritten digits, cut in two: (train, labels, held_out, labels), pixels in [-1, 1]."""
    datasets = pytest.importorskip("sklearn.datasets")
    pixels, labels = (torch.as_tensor(a) for a in datasets.load_digits(return_X_y=True))
    images = pixels.float().view(-1, 1, 8, 8) / 8 - 1
    first, second = split_half(labels, 0)
    return images[first], labels[first], images[second], labels[second]


@pytest.fixture(scope="session")
def digits_judge(digits):
    return Judge.fit(digits[2], digits[3], seed=0)
