"""The moving average against its closed form."""

import copy

import pytest
import torch
from torch import nn

from undrift.errors import DataError
from undrift.training import Ema


@pytest.mark.parametrize("gamma", [0.0, 1.0, 6.9, 16.0])
def test_average_weighs_step_j_like_j_to_the_gamma(gamma):
    """Product form of the recursion: the weight of step j is proportional to (j^(g+1) - (j-1)^(g+1)), that is about j^g."""
    net = nn.Linear(1, 1, bias=False).double()
    ema, steps = Ema(net, gamma), 400
    values = torch.randn(steps, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for value in values:
        nn.init.constant_(net.weight, float(value))
        ema.update()
    j = torch.arange(1, steps + 1, dtype=torch.float64)
    beta = (1 - 1 / j) ** (gamma + 1)
    weights = (1 - beta) * torch.flip(torch.cumprod(torch.flip(torch.cat([beta[1:], torch.ones(1)]), [0]), 0), [0])
    torch.testing.assert_close(ema.net.weight.squeeze(), (weights * values).sum(), rtol=1e-9, atol=1e-9)
    assert float(weights.sum()) == pytest.approx(1, abs=1e-12)
    # and the product telescopes to the power law: beta_j ... beta_k = ((j - 1) / k)^(g + 1)
    power = (j / steps) ** (gamma + 1) - ((j - 1) / steps) ** (gamma + 1)
    torch.testing.assert_close(weights, power, rtol=1e-6, atol=1e-12)


def test_first_update_copies_and_the_source_is_not_touched():
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = Ema(net)
    before = copy.deepcopy(net.state_dict())
    nn.init.constant_(net[0].weight, 0.25)
    net[1].running_mean.fill_(3.0)
    ema.update()
    for name, value in ema.net.state_dict().items():
        torch.testing.assert_close(value, net.state_dict()[name])
    assert not torch.equal(before["0.weight"], net.state_dict()["0.weight"])
    assert not any(p.requires_grad for p in ema.net.parameters())


def test_bad_exponent_is_refused():
    with pytest.raises(DataError, match="gamma must be > -1"):
        Ema(nn.Linear(1, 1), -1.0)
