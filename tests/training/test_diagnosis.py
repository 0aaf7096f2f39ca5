"""Seeded faults: each is named, with its step, its rows and its cure."""

import re

import pytest
import torch
from torch import nn

from undrift.training.diagnosis import StepRecord, explain


class Log(nn.Module):
    def forward(self, x):
        return torch.log(x)


class Blow(nn.Module):
    """Ten thousand times its input, in a precision."""

    def __init__(self, dtype, by=1e5):
        super().__init__()
        self.dtype, self.by = dtype, by

    def forward(self, x):
        return x.to(self.dtype) * self.by


class Between(nn.Module):
    """Spoils what its part is given: no module of its own did it."""

    def __init__(self):
        super().__init__()
        self.part = nn.Identity()

    def forward(self, x):
        return self.part(x / (x * 0))


class Small(nn.Module):
    def __init__(self, part):
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.middle = part
        self.last = nn.Linear(8, 3)

    def forward(self, x):
        return self.last(self.middle(self.first(x)).float())


def small(part):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Small(part)


def training(net, rate=1e-3, data=None, spoil=None, wrong=None):
    """A training whose step k can be done again: rows, data and noise level are functions of k alone."""
    optimiser = torch.optim.SGD(net.parameters(), lr=rate)

    def again(step):
        again.steps.append(step)
        rows = torch.arange(4) + 10 * step
        x = torch.randn(4, 3, generator=torch.Generator().manual_seed(step)) if data is None else data[rows]
        if spoil is not None:
            spoil(step, net)
        losses = (net(x) - x).square().mean(1)
        if wrong is not None:
            losses = wrong(step, losses)
        optimiser.zero_grad(set_to_none=True)
        losses.mean().backward()
        norm = nn.utils.clip_grad_norm_(net.parameters(), 1e30)
        optimiser.step()
        return StepRecord(rows, x, torch.tensor([1.0, 2.0, 0.5, 1.5]).log(), losses.detach(), norm, rate)

    again.steps = []
    return again


def test_nan_in_the_data_names_the_row_and_the_noise_level():
    data = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    data[73, 1] = float("nan")
    net = small(nn.SiLU())
    again = training(net, data=data)
    said = explain(again, 5, 9, net)
    assert again.steps == [5, 6, 7]  # it stops there
    assert said.startswith("training broke at step 7. The data hold NaN or infinity: row 73 (noise level sigma/alpha = 1.5).")
    assert "learning rate" not in said


def test_a_learning_rate_a_thousand_times_too_high_is_named_with_its_growth():
    # Least squares under gradient descent diverges geometrically once the rate passes 2 over the largest curvature.
    net = small(nn.Identity())
    said = explain(training(net, rate=0.3 * 1000), 1, 60, net)
    assert re.search(r"the gradient grew by a factor of [\d.e+]+ .*the learning rate \(300\) is too high; try a tenth", said)
    assert "lower the learning rate, or" not in said  # said once
    # Beside it: the same training at the rate itself goes well, and that is said, too.
    net = small(nn.Identity())
    assert "between steps 1 and 60, and doing them again from the last good state went well" in explain(
        training(net, 0.1), 1, 60, net
    )


def test_growth_is_measured_from_the_usual_norm_to_the_last_ones():
    from undrift.training.diagnosis import _rise

    assert _rise([1.0, 2.0, 1.0, 1.0, 1.0, 9.0], [1.0] * 6, 0.1) == ""
    said = _rise([1.0, 2.0, 1.0, 1.0, 4.0, 300.0], [0.5, 1, 1, 1, 1, 7.0], 0.1)
    assert "by a factor of 300 (norm 1 to 300)" in said
    assert "from 0.5 to 7" in said


def test_a_logarithm_of_a_negative_number_names_its_module():
    net = small(nn.Sequential(nn.SiLU(), Log()))
    said = explain(training(net), 3, 4, net)
    assert "step 3. Module 'middle.1' (Log) was the first to answer finite input" in said
    assert "with NaN, in float32" in said
    assert "logarithm or a root of a negative number" in said
    assert "row 30 (noise level sigma/alpha = 1)" in said or "all 4 samples" in said


@pytest.mark.parametrize(("dtype", "by", "cure"), [
    (torch.float16, 1e8, "Train in float32, or in bfloat16"),
    (torch.bfloat16, 1e39, "Train in float32, or normalise"),
])  # fmt: skip
def test_an_overflow_names_module_and_precision(dtype, by, cure):
    net = small(nn.Sequential(nn.SiLU(), Blow(dtype, by), nn.Identity()))
    said = explain(training(net), 1, 2, net)
    assert "Module 'middle.1' (Blow)" in said
    assert f"with infinity, in {str(dtype).removeprefix('torch.')}" in said
    assert f"ends at {torch.finfo(dtype).max:.3g}: an overflow" in said
    assert cure in said


def test_an_operation_between_modules_is_laid_to_the_one_that_holds_it():
    net = small(Between())
    said = explain(training(net), 1, 2, net)
    assert "Module 'middle.part' (Identity)" in said
    assert "what it was given was not finite either" in said


def test_one_sample_of_the_batch_is_named_alone():
    def wrong(step, losses):
        return torch.where(torch.arange(4) == 1, losses * 1e38 * 1e38, losses) if step == 6 else losses

    net = small(nn.SiLU())
    said = explain(training(net, wrong=wrong), 5, 9, net)
    assert "step 6. The network's answer is finite and the loss is not, for row 61 (noise level sigma/alpha = 2):" in said


def test_a_gradient_that_is_not_finite_where_the_loss_is():
    def wrong(step, losses):
        return losses + (losses * 0).sqrt() if step == 6 else losses  # d sqrt(x) at 0

    net = small(nn.SiLU())
    said = explain(training(net, wrong=wrong), 5, 9, net)
    assert "step 6. The loss is finite and its gradient is not (norm nan), in first.weight, first.bias, last.weight" in said


def test_weights_that_an_update_made_infinite():
    def spoil(step, net):
        if step == 7:
            with torch.no_grad():
                net.last.weight[0, 0] = float("inf")

    net = small(nn.SiLU())
    again = training(net)

    def step(k):
        record = again(k)
        spoil(k + 1, net)  # what the update of step k leaves behind
        return record

    said = explain(step, 5, 9, net)
    assert "step 7. The weights last.weight were no longer finite before it" in said
    assert "lower the learning rate" in said


def test_no_hook_stays_behind():
    net = small(nn.SiLU())
    explain(training(net), 1, 2, net)
    assert not any(module._forward_hooks for module in net.modules())
