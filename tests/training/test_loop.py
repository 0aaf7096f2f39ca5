"""The loop learns what is learnable, repeats itself, leaves no trace, and stops where it must."""

import copy
import os
import signal
import threading

import pytest
import torch

from training.toy import PATH, Toy
from undrift import gaussian
from undrift.core import Covariance
from undrift.errors import DataError, NonFiniteError, OutOfMemory
from undrift.laws import Normal
from undrift.networks import UNet
from undrift.training import Ema, Held, Settings, train
from undrift.training.snapshot import load

F32 = {"precision": "float32", "learning_rate": 3e-3, "warmup": 20}


def settings(steps=20, **kwargs):
    return Settings(steps=steps, **{**F32, **kwargs})


def trained(toy, **kwargs):
    list(toy.train(**kwargs))
    return toy.weights()


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def gap(a, b, part=""):
    return max(float((a[k] - b[k]).abs().max()) for k in a if k.startswith(part))


def test_a_trained_model_nears_the_exact_conditional_denoiser():
    """Held-out error of the averaged network within 15 % of the exact law's; the untrained one is far off."""
    toy = Toy(settings(400), dropout=0.0, width=32)
    exact = gaussian.Exact(PATH, Normal(torch.full((1, 2), -1.0), Covariance.isotropic(torch.full((1,), 0.09), 2)))
    t = PATH.schedule.time(-2 * torch.log(torch.tensor(0.5, dtype=torch.float64)))
    x_0 = 0.3 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(6)) - 1
    x_t = x_0 + 0.5 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))

    @torch.no_grad()
    def error(denoiser):
        return float((denoiser(x_t, t).mean - x_0).square().mean())

    zero = torch.zeros(1, dtype=torch.long)
    before, floor = error(toy.model.given(zero)), error(exact)
    trained(toy)
    after = error(gaussian.NetDenoiser(toy.ema.net, PATH, "edm", data_std=1.0).given(zero))
    assert before > 1.5 * floor
    assert after < 1.15 * floor


def test_a_seed_repeats_bit_for_bit_and_leaves_the_global_generator_alone():
    first = trained(Toy(settings()))
    torch.rand(3)
    kept = torch.get_rng_state()
    assert equal(first, trained(Toy(settings())))
    assert torch.equal(kept, torch.get_rng_state())
    assert not equal(first, trained(Toy(settings(), seed=8)))


@pytest.mark.parametrize("accumulate", [4, 16])
def test_micro_batches_change_nothing_but_rounding(accumulate):
    """The same noise, times and silence; 15 steps of Adam let a last bit grow to about 1e-5."""
    whole, parts = Toy(settings(15), dropout=0.0), Toy(settings(15, accumulate=accumulate), dropout=0.0)
    one, many = [p.loss for p in whole.train()], [p.loss for p in parts.train()]
    assert one == pytest.approx(many, rel=1e-4)
    assert gap(whole.weights(), parts.weights()) < 1e-3
    other = trained(Toy(settings(15), dropout=0.0, seed=8))
    assert gap(whole.weights(), other) > 1e-2


def test_every_label_can_be_dropped_or_kept():
    """With dropout 1 the null row alone learns; with 0 it stays as it was."""
    for share, null_moves in ((1.0, True), (0.0, False)):
        toy = Toy(settings(label_dropout=share, weight_decay=0.0))
        name = next(n for n, p in toy.net.named_parameters() if p.shape[0] == 3 and p.ndim == 2)
        before = toy.net.get_parameter(name).detach().clone()
        trained(toy)
        moved = (toy.net.get_parameter(name).detach() - before).abs().sum(1) > 1e-6
        assert moved.tolist() == [not null_moves, not null_moves, null_moves]


def test_silence_has_its_rate_and_is_nan_for_numbers(monkeypatch):
    seen = []
    given = gaussian.NetDenoiser.given
    monkeypatch.setattr(gaussian.NetDenoiser, "given", lambda self, cond: (seen.append(cond), given(self, cond))[1])
    trained(Toy(settings(30, label_dropout=0.25), classes=None, columns=(2, 0)))
    cond = torch.cat(seen)
    assert len(cond) == 30 * 64
    silent = float(cond.isnan().all(1).double().mean())
    expected = 0.25 + 0.75 * 0.5 * 0.25  # wholly, or both entries by themselves
    assert abs(silent - expected) < 5 * (expected * (1 - expected) / len(cond)) ** 0.5


def test_a_grid_beside_columns_is_seen_or_not_seen_as_a_whole():
    """It is one entry among the columns: hidden wholly, at the rate of an entry, and not always together with them."""
    net, seen = UNet(1, widths=(8,), blocks=1, columns=(0, 3), image=1), []

    class Model:
        path = PATH

        def given(self, cond):
            seen.append(cond)
            return self

    def objective(model, x, t, rng):
        return next(net.parameters()).sum() * 0 + torch.zeros(len(x))

    cond = torch.cat([torch.arange(400.0).reshape(200, 2), torch.arange(200.0 * 9).reshape(200, 9)], 1)
    plan = Settings(steps=20, batch=100, precision="float32", label_dropout=0.25)
    feed, times = Held(torch.zeros(200, 1, 3, 3), cond), gaussian.LogNormalNoise(PATH.schedule)
    list(train(Model(), net, Ema(net), feed, objective=objective, times=times, settings=plan, seed=3))
    told, grid = (~torch.cat(seen).isnan()).split([2, 9], 1)
    assert torch.equal(grid.all(1), grid.any(1))
    grid = grid[:, 0]
    every, some = 0.25 + 0.75 / 2 / 8, 0.75 / 2 / 8  # all three hidden; the columns alone hidden
    for share, expected in (
        (~grid, 0.25 + 0.75 / 4),
        (~grid & ~told.any(1), every),
        (grid & ~told.any(1), some),
        (~grid & told.all(1), some),
    ):
        assert abs(float(share.double().mean()) - expected) < 5 * (expected * (1 - expected) / 2000) ** 0.5


def test_reports_count_steps():
    toy = Toy(settings(35, warmup=5))
    reports = list(toy.train())
    assert [p.step for p in reports] == [5, 15, 25, 35]  # from the end: the last one is about ten whole steps
    assert all(p.steps == 35 and p.rate > 0 for p in reports)
    assert reports[-1].seconds_left == 0
    assert [p.learning_rate for p in reports] == [toy.settings.rate(p.step - 1) for p in reports]
    for p in reports:  # the two ways of summing agree
        assert p.levels.loss == pytest.approx(p.loss, rel=1e-5)
    assert [sum(p.levels.counts) for p in reports] == [320, 640, 640, 640]
    assert not toy.net.training


@pytest.mark.parametrize("steps", [1, 9, 10, 11, 20, 21])
def test_the_last_report_is_about_whole_steps(steps):
    """All steps are reported once, and the last report holds the last ten, or all if there are fewer."""
    reports = list(Toy(settings(steps)).train())
    assert reports[-1].step == steps
    assert sum(reports[-1].levels.counts) == 64 * min(10, steps)
    assert sum(sum(p.levels.counts) for p in reports) == 64 * steps


def test_learning_rate_rises_stays_and_falls_to_zero():
    plan = Settings(steps=1000, learning_rate=2.0, warmup=100, decay=0.5)
    assert plan.rate(0) == pytest.approx(0.02)
    assert plan.rate(99) == plan.rate(300) == plan.rate(500) == 2
    assert plan.rate(750) == pytest.approx(1.0)
    assert plan.rate(1000) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("where", ["data", "rate"])
def test_divergence_names_its_step_and_keeps_the_last_good_state(where, tmp_path):
    toy = Toy(settings(40, learning_rate=1e30 if where == "rate" else 3e-3, warmup=0, clip=1e30))
    if where == "data":
        toy.feed.x[17] = float("inf")
    with pytest.raises(NonFiniteError, match="row 17" if where == "data" else "training broke at step") as caught:
        list(toy.train(tmp_path))
    assert "last good" in str(caught.value)
    assert load(tmp_path).step == 0
    assert all(bool(p.isfinite().all()) for p in toy.net.parameters())


class Narrow(torch.nn.Module):
    """A network that runs out of memory for more than 8 samples."""

    def __init__(self, net, limit=8):
        super().__init__()
        self.inner, self.limit, self.classes = net, limit, 2

    def forward(self, x, noise, cond):
        if len(x) > self.limit:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")
        return self.inner(x, noise, cond)


def narrow(limit):
    toy = Toy(settings(30), dropout=0.0)
    net = Narrow(toy.net, limit)
    toy.model = gaussian.NetDenoiser(net, PATH, "edm", data_std=1.0)
    toy.net, toy.ema = net, type(toy.ema)(net)
    return toy


def test_out_of_memory_halves_the_micro_batch_and_nothing_else():
    toy, wide = narrow(8), narrow(1000)
    reports = list(toy.train())
    assert "8 samples at once" in reports[0].note
    assert [p.note for p in reports[1:]] == ["", ""]
    assert toy.ema.step == 30
    assert [p.loss for p in reports] == pytest.approx([p.loss for p in wide.train()], rel=1e-4)
    assert gap(toy.weights(), wide.weights()) < 1e-3
    with pytest.raises(OutOfMemory, match="a single sample at once"):
        list(narrow(0).train())


@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_step_finish_and_saves(which, tmp_path):
    toy = Toy(settings(500), pause=0.002)
    before = signal.getsignal(which)
    threading.Timer(0.15, os.kill, (os.getpid(), which)).start()
    with pytest.raises(KeyboardInterrupt, match="stopped after step"):
        list(toy.train(tmp_path))
    assert signal.getsignal(which) is before
    stopped = load(tmp_path).step
    assert 0 < stopped < 500
    assert equal({k: v for k, v in load(tmp_path).tensors.items() if k in toy.weights()}, toy.weights())


def test_whoever_stops_reading_loses_nothing(tmp_path):
    loop = Toy(settings(40)).train(tmp_path)
    next(loop)
    loop.close()
    assert load(tmp_path).step == 10
    resumed = Toy(settings(40))
    list(resumed.train(tmp_path))
    assert equal(resumed.weights(), trained(Toy(settings(40))))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "exactly one budget"), ({"steps": 1, "minutes": 1.0}, "exactly one budget"), ({"steps": 5, "decay": 2.0}, "decay"),
        ({"steps": 5, "precision": "float16"}, "precision"), ({"steps": 5, "batch": 6, "accumulate": 4}, "equal parts"),
        ({"minutes": 0.0}, "minutes"), ({"steps": 5, "average": -1.0}, "average"),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Settings(**arguments)


def test_what_cannot_be_trained_is_refused():
    with pytest.raises(DataError, match="no rows"):
        Held(torch.zeros(0, 2))
    with pytest.raises(DataError, match="one for each"):
        Held(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(DataError, match="call rehearse"):
        Settings(minutes=1.0).rate(0)
    with pytest.raises(DataError, match=r"settings = rehearse"):
        list(Toy(Settings(minutes=1.0)).train())


def test_bfloat16_learns_and_its_weights_stay_float32():
    toy, exact = Toy(settings(50, precision="bfloat16"), dropout=0.0), Toy(settings(50), dropout=0.0)
    rough, fine = [p.loss for p in toy.train()], [p.loss for p in exact.train()]
    assert rough != fine
    assert rough == pytest.approx(fine, rel=0.05)
    assert all(p.dtype == torch.float32 for p in toy.net.parameters())


def test_dropping_activations_changes_nothing():
    toy, plain = Toy(settings(checkpoint=True)), Toy(settings())
    one, two = trained(toy), trained(plain)
    assert toy.net.checkpoint
    assert gap(one, two) < 1e-5
    odd = narrow(8)
    odd.settings = settings(checkpoint=True)
    with pytest.raises(DataError, match="checkpoint"):
        list(odd.train())


def test_the_model_is_not_copied_along():
    """Training changes the network that was given, not a copy."""
    toy = Toy(settings(5))
    before = copy.deepcopy(toy.net.state_dict())
    trained(toy)
    assert not equal(before, toy.net.state_dict())
