"""A step against the same step written out by hand."""

import copy

import pytest
import torch

from training.toy import PATH, Toy
from undrift import gaussian
from undrift.core import Shared
from undrift.errors import OutOfMemory, UndriftError
from undrift.training import Settings
from undrift.training.draws import Slots, counted
from undrift.training.feed import row_batches
from undrift.training.group import Group
from undrift.training.step import Trainer

PLAN = Settings(steps=8, batch=40, precision="float32", warmup=3, learning_rate=0.02, weight_decay=0.1, clip=0.1, average=2.0)
TIMES = gaussian.LogNormalNoise(PATH.schedule)


def test_weights_and_their_average_are_those_of_adamw_on_the_clipped_mean_gradient():
    """Mean over the batch, clip, rate(k), decay of matrices alone, AdamW, average: six lines of algebra, in float32."""
    toy = Toy(PLAN, classes=None, dropout=0.0)
    net = copy.deepcopy(toy.net)
    model, objective = gaussian.NetDenoiser(net, PATH, "edm", data_std=1.0), gaussian.Regression()
    weights = dict(net.named_parameters())
    moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in weights.items()}
    average = {name: p.detach().clone() for name, p in weights.items()}
    clipped = 0
    for k, rows in zip(range(8), row_batches(toy.feed, 40, 7), strict=False):
        seed = counted(7, "step", k)
        t = TIMES.sample(40, Shared(counted(seed, "times")))
        loss = objective(model, toy.feed.batch(rows)[0], t, Slots(counted(seed, "noise"), 0, 40)).mean()
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = float(torch.stack([g.square().sum() for g in gradients.values()]).sum().sqrt())
        clipped += norm > 0.1
        with torch.no_grad():
            for name, p in weights.items():
                g = gradients[name] * min(1.0, 0.1 / norm)
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * g)
                second.mul_(0.99).add_(0.01 * g.square())
                if p.ndim >= 2:
                    p.mul_(1 - PLAN.rate(k) * 0.1)
                p.sub_(PLAN.rate(k) * (first / (1 - 0.9 ** (k + 1))) / ((second / (1 - 0.99 ** (k + 1))).sqrt() + 1e-8))
                average[name].lerp_(p, 1 - (1 - 1 / (k + 1)) ** 3)
    assert clipped == 8
    reports = list(toy.train())
    assert reports[-1].learning_rate == PLAN.rate(7)
    for name, p in toy.net.named_parameters():
        torch.testing.assert_close(p, weights[name], rtol=1e-3, atol=2e-5)
        torch.testing.assert_close(toy.ema.net.get_parameter(name), average[name], rtol=1e-3, atol=2e-5)


def test_dropout_is_drawn_anew_for_each_step_and_part():
    """Masks are functions of (seed, step, process, first sample of the part), and of nothing that was drawn before."""

    def losses(number, seed=7, accumulate=1, dropout=0.5):
        toy = Toy(
            Settings(steps=8, batch=40, precision="float32", accumulate=accumulate), classes=None, dropout=dropout, seed=seed
        )
        for p in toy.net.parameters():  # layers that begin at 0 would hide what is dropped
            torch.nn.init.normal_(p, std=0.3, generator=torch.Generator().manual_seed(1))
        trainer = Trainer(
            toy.model, toy.net, toy.ema, objective=Constant(), times=TIMES, settings=toy.settings, seed=seed,
            group=Group(0, 1, torch.device("cpu")),
        )  # fmt: skip
        toy.net.train()
        return trainer.step(number, (torch.arange(40).numpy(), toy.x[:40], None)).losses

    class Constant:
        """The network's answer to the same input, whatever the step: what differs is what is dropped."""

        def __call__(self, model, x, t, rng):
            return model.net(torch.ones_like(x), torch.zeros(len(x)), None).square().mean(1)

    one = losses(0)
    assert torch.equal(one, losses(0))
    assert len(one.unique()) > 20
    assert not torch.equal(one, losses(1))
    assert not torch.equal(one, losses(0, seed=8))
    parts = losses(0, accumulate=2)
    assert not torch.equal(parts[:20], parts[20:])
    assert len(losses(0, dropout=0.0).unique()) == 1


@pytest.mark.parametrize("accumulate", [1, 4])
def test_a_record_says_what_was_trained_on(accumulate):
    toy = Toy(Settings(steps=8, batch=40, precision="float32", accumulate=accumulate), classes=None, dropout=0.0)
    trainer = Trainer(
        toy.model, toy.net, toy.ema, objective=gaussian.Regression(), times=TIMES, settings=toy.settings, seed=7,
        group=Group(0, 1, torch.device("cpu")),
    )  # fmt: skip
    rows = torch.arange(40).numpy()
    record = trainer.step(5, (rows, toy.x[:40], None))
    assert record.rows is rows
    assert torch.equal(record.data, toy.x[:40])
    assert record.learning_rate == toy.settings.rate(5)
    assert record.losses.shape == record.log_noise.shape == (40,)
    t = TIMES.sample(40, Shared(counted(counted(7, "step", 5), "times")))
    torch.testing.assert_close(record.log_noise, (PATH.schedule.sigma(t) / PATH.schedule.alpha(t)).log())


def test_one_of_several_processes_cannot_halve_alone():
    toy = Toy(Settings(steps=8, batch=40, precision="float32"), classes=None)
    trainer = Trainer(
        toy.model, toy.net, toy.ema, objective=gaussian.Regression(), times=TIMES, settings=toy.settings, seed=7,
        group=Group(0, 1, torch.device("cpu")),
    )  # fmt: skip
    trainer.group, trainer.local = Group(1, 2, torch.device("cpu")), 20
    with pytest.raises(OutOfMemory, match="20 samples at once in process 1 of 2; start again with accumulate=2") as caught:
        trainer._halve(MemoryError())
    assert isinstance(caught.value, UndriftError)
    assert isinstance(caught.value, MemoryError)
    assert trainer.accumulate == 1
