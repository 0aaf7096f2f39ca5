"""The loop learns what is learnable, repeats itself, leaves no trace, and stops where it must."""

import time

import pytest
import torch

from undrift import gaussian, schedules
from undrift.errors import DataError, NonFiniteError
from undrift.networks import MLP
from undrift.training import Ema, Settings, forked, train

PATH = gaussian.Path(schedules.EDM(sigma_max=20.0))


def setting(classes=None, dropout=0.0, **kwargs):
    with forked(3):
        net = MLP(2, width=64, classes=classes, dropout=dropout) if dropout else MLP(2, width=64, classes=classes)
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 2, (512,), generator=generator)
    data = 0.3 * torch.randn(512, 2, generator=generator) + torch.where(labels[:, None] == 0, -1.0, 1.0)
    model = gaussian.NetDenoiser(net, PATH, "edm", data_std=float(data.std()))
    ema = Ema(net)
    loop = train(
        model,
        net,
        ema,
        data,
        labels if classes else None,
        objective=gaussian.Regression(),
        times=gaussian.LogNormalNoise(PATH.schedule),
        settings=Settings(batch=64, learning_rate=3e-3, warmup=20, **kwargs),
        seed=7,
    )
    return model, net, ema, loop


def test_a_trained_model_nears_the_exact_conditional_denoiser():
    """Held-out error of the averaged network within 15 % of the exact law's; the untrained one is far off."""
    model, _, ema, loop = setting(classes=2, steps=600)
    start = model.given(torch.zeros(1, dtype=torch.long))
    mean = torch.full((1, 1, 2), -1.0)
    exact = gaussian.Exact(PATH, gaussian_law(mean))
    t = PATH.schedule.time(-2 * torch.log(torch.tensor(0.5, dtype=torch.float64)))
    z = torch.randn(4000, 2, generator=torch.Generator().manual_seed(5))
    x_0 = 0.3 * torch.randn(4000, 2, generator=torch.Generator().manual_seed(6)) - 1
    x_t = x_0 + 0.5 * z

    def error(denoiser):
        return float((denoiser(x_t, t).mean - x_0).square().mean())

    with torch.no_grad():
        before = error(start)
        list(loop_grad(loop))
        after = error(
            gaussian.NetDenoiser(ema.net, PATH, "edm", data_std=model.data_std).given(torch.zeros(1, dtype=torch.long))
        )
    floor = error(exact)
    assert before > 1.5 * floor
    assert after < 1.15 * floor


def gaussian_law(mean):
    from undrift.core import Covariance
    from undrift.laws import Normal

    return Normal(mean[0], Covariance.isotropic(torch.full((1,), 0.09), 2))


def loop_grad(loop):
    with torch.enable_grad():
        yield from loop


def test_a_seed_repeats_bit_for_bit_and_leaves_the_global_generator_alone():
    kept = torch.get_rng_state()
    nets = []
    for _ in range(2):
        torch.rand(3)
        kept = torch.get_rng_state()
        _, net, ema, loop = setting(classes=2, steps=30)
        list(loop)
        assert torch.equal(kept, torch.get_rng_state())
        nets.append((net, ema.net))
    for first, second in zip(*nets, strict=True):
        for a, b in zip(first.parameters(), second.parameters(), strict=True):
            assert torch.equal(a, b)


def test_every_label_can_be_dropped_or_kept():
    """With dropout 1 the null row alone learns; with 0 it stays as it was."""
    for share, null_moves in ((1.0, True), (0.0, False)):
        _, net, _, loop = setting(classes=2, steps=20, label_dropout=share, weight_decay=0.0)
        name = next(n for n, p in net.named_parameters() if p.shape[0] == 3 and p.ndim == 2)
        before = net.get_parameter(name).detach().clone()
        list(loop)
        moved = (net.get_parameter(name).detach() - before).abs().sum(1) > 1e-6
        assert moved.tolist() == [not null_moves, not null_moves, null_moves]


def test_reports_count_steps_and_a_budget_in_seconds_is_kept():
    _, _, _, loop = setting(steps=120)
    assert [p.step for p in loop] == [50, 100, 120]
    _, _, _, loop = setting(seconds=2.0)
    start = time.perf_counter()
    last = list(loop)[-1]
    spent = time.perf_counter() - start
    assert last.step == last.steps
    assert last.step > 30
    assert spent < 6  # a shared machine may slow down after the pace was measured; three times is the alarm


def test_learning_rate_rises_stays_and_falls_to_zero():
    from undrift.training.loop import Clock

    clock, share = Clock(Settings(steps=1000, warmup=100, decay=0.5)), []
    for _ in range(1001):
        share.append(clock.share(clock.used()))
        clock.tick()
    assert share[0] == pytest.approx(0.01)
    assert share[99] == share[300] == share[500] == 1
    assert share[750] == pytest.approx(0.5)
    assert share[1000] == pytest.approx(0, abs=1e-12)


def test_a_slow_start_does_not_shorten_a_run(monkeypatch):
    """The budget is timed, not extrapolated: a pace measured on a busy machine must not end the run early."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    from undrift.training.loop import Clock

    clock = Clock(Settings(seconds=10.0))
    for pace in [1.0] * 4 + [0.01] * 500:
        assert clock.used() < 1
        now[0] += pace
        clock.tick()
    assert clock.used() == pytest.approx(0.9)
    assert clock.report(0.0).seconds_left == pytest.approx(1.0)


def test_divergence_stops_with_its_step():
    model, net, ema, _ = setting(steps=10)
    data = torch.zeros(16, 2)
    data[3] = float("inf")
    loop = train(
        model, net, ema, data, None, objective=gaussian.Regression(), times=gaussian.UniformTime(0.1, 0.9),
        settings=Settings(steps=40, batch=16), seed=0, every=10,
    )  # fmt: skip
    with pytest.raises(NonFiniteError, match="between steps 0 and 10; lower the learning rate"):
        list(loop)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({}, "exactly one budget"), ({"steps": 1, "seconds": 1.0}, "exactly one budget"), ({"steps": 5, "decay": 2.0}, "decay")],
)
def test_bad_settings_are_refused(arguments, message):
    with pytest.raises(DataError, match=message):
        Settings(**arguments)


def test_no_data_is_refused():
    model, net, ema, _ = setting(steps=1)
    loop = train(
        model, net, ema, torch.zeros(0, 2), None, objective=gaussian.Regression(), times=gaussian.UniformTime(),
        settings=Settings(steps=1), seed=0,
    )  # fmt: skip
    with pytest.raises(DataError, match="no rows"):
        list(loop)
