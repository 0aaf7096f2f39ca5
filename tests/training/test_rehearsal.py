"""A rehearsal measures, decides, and leaves no trace."""

import copy
from dataclasses import replace

import pytest
import torch

from training.toy import PATH, Toy
from undrift import gaussian
from undrift.training import Settings, rehearsal, rehearse


def rehearsed(toy, **kwargs):
    return rehearse(
        toy.model, toy.net, toy.feed, objective=gaussian.Regression(), times=gaussian.LogNormalNoise(PATH.schedule),
        settings=toy.settings, seed=7, **kwargs,
    )  # fmt: skip


def test_minutes_become_steps_at_the_measured_pace():
    toy = Toy(Settings(minutes=0.5, precision="float32"), pause=0.02)
    plan = rehearsed(toy)
    assert plan.resolved
    assert plan.minutes is None
    # 30 s at 20 ms of reading and a few of computing; the lower end is for a machine that is a hundred times busier than usual.
    assert 10 < plan.steps < 1500
    assert replace(plan, steps=None, minutes=0.5) == toy.settings


def test_a_hiccup_does_not_decide(monkeypatch):
    """The median of the paces counts: one long step among five leaves the steps as they were."""
    now = [0.0]
    paces = iter([1.0, 1.0, 0.1, 0.1, 5.0, 0.1, 0.1])
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: now[0])
    toy = Toy(Settings(minutes=1.0, precision="float32"))
    step = rehearsal.Trainer.step

    def slow(self, *args):
        now[0] += next(paces)
        return step(self, *args)

    monkeypatch.setattr(rehearsal.Trainer, "step", slow)
    assert rehearsed(toy).steps == round((60 - 7.4) / 0.1)


def at_pace(monkeypatch, pace):
    """A clock that only steps move."""
    now = [0.0]
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: now[0])
    step = rehearsal.Trainer.step

    def slow(self, *args):
        now[0] += pace
        return step(self, *args)

    monkeypatch.setattr(rehearsal.Trainer, "step", slow)
    return now


def test_a_budget_of_less_than_a_step_is_told(monkeypatch):
    """One step is taken in any case, and only one is measured: two warm up, one counts."""
    now = at_pace(monkeypatch, 12.0)
    cure = "one step takes 12 s; 0.05 minutes buy 1 step: give more minutes, a smaller network or a smaller batch"
    with pytest.warns(UserWarning, match="buy 1 step") as told:
        assert rehearsed(Toy(Settings(minutes=0.05, precision="float32"))).steps == 1
    assert [str(w.message) for w in told] == [cure]
    assert now[0] == 36


def test_measuring_spends_half_of_a_short_budget_at_most(monkeypatch):
    """60 s at 8 s a step: two to warm up, two that count, and 3.5 steps are left; a warning would be an error here."""
    now = at_pace(monkeypatch, 8.0)
    assert rehearsed(Toy(Settings(minutes=1.0, precision="float32"))).steps == round((60 - now[0]) / 8) == 4
    assert now[0] == 32


def test_minutes_are_not_spent_on_learning_records_by_heart(monkeypatch):
    at_pace(monkeypatch, 1.0)
    toy = Toy(Settings(minutes=60.0, precision="float32", epochs=3))
    rows = len(toy.feed)
    assert rehearsed(toy).steps == -(-3 * rows // toy.settings.batch)


@pytest.mark.parametrize(("slow", "chosen"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_faster_precision_is_taken(monkeypatch, slow, chosen):
    now = [0.0]
    monkeypatch.setattr(rehearsal.time, "perf_counter", lambda: now[0])
    step = rehearsal.Trainer.step

    def timed(self, *args):
        now[0] += 0.2 if self.settings.precision == slow else 0.1
        return step(self, *args)

    monkeypatch.setattr(rehearsal.Trainer, "step", timed)
    plan = rehearsed(Toy(Settings(steps=9)))
    assert (plan.steps, plan.precision) == (9, chosen)


def test_nothing_is_touched():
    toy = Toy(Settings(minutes=0.02))
    before, kept = copy.deepcopy(toy.weights()), torch.get_rng_state()
    training = toy.net.training
    rehearsed(toy)
    assert torch.equal(kept, torch.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in toy.weights().items())
    assert toy.net.training == training
    assert toy.ema.step == 0
    assert all(p.grad is None for p in toy.net.parameters())


def test_what_is_resolved_is_kept():
    toy = Toy(Settings(steps=5, precision="float32"))
    assert rehearsed(toy) is toy.settings
