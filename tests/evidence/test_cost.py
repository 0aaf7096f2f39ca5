"""Operations counted by hand, time that has passed."""

import json
import time

import pytest
import torch
from torch import nn

from undrift.errors import DataError
from undrift.evidence.cost import cost, flops, parameters


def test_operations_by_hand():
    # A multiplication and an addition count two: 2 * 3 * 8 for a linear layer, 2 * 9 * 4 * 5 * 36 for a 3x3 convolution.
    assert flops(nn.Linear(3, 8), torch.zeros(1, 3)) == 2 * 3 * 8
    assert flops(nn.Linear(3, 8), torch.zeros(7, 3)) == 7 * 2 * 3 * 8
    assert flops(nn.Conv2d(4, 5, 3, padding=1), torch.zeros(1, 4, 6, 6)) == 2 * 9 * 4 * 5 * 36


def test_cost_of_a_known_network():
    net = nn.Sequential(nn.Linear(4, 10), nn.ReLU(), nn.Linear(10, 2, bias=False))
    net[2].weight.requires_grad_(False)
    drawn = []
    found = cost(net, (torch.zeros(1, 4),), lambda: (time.sleep(0.05), drawn.append(1)), samples=20, calls=12)
    assert drawn == [1]
    assert found.parameters == parameters(net) == 4 * 10 + 10 + 10 * 2  # a frozen layer counts like the others
    assert found.flops_per_call == 2 * (40 + 20)
    assert found.network_calls_per_sample == 12
    assert 0.05 <= found.sampling_seconds < 2
    assert found.samples_per_second == pytest.approx(20 / found.sampling_seconds)
    assert found.peak_memory_mib is None or 50 < found.peak_memory_mib < 100_000  # torch alone is 100 MiB and more
    assert json.loads(json.dumps(found.to_json()))["parameters"] == 70
    with pytest.raises(DataError, match="at least one"):
        cost(net, (torch.zeros(1, 4),), lambda: None, samples=0, calls=1)
