"""What people and logs read while a model is trained."""

from dataclasses import dataclass

import pytest

from undrift.training import progress
from undrift.training.levels import LevelReport


@dataclass(frozen=True)
class State:
    """The fields of `training.Progress`."""

    step: int = 50
    steps: int = 100
    loss: float = 0.12345
    rate: float = 12.04
    seconds_left: float = 181.0
    learning_rate: float = 1e-3
    note: str = ""
    levels: LevelReport | None = None


def report(loss):
    return LevelReport((0.1, 1.0), (loss,), (1.0,), (2.0,), (10,))


@pytest.mark.parametrize(("state", "said"), [
    (State(levels=report(0.66)), "loss 0.1235, 34 % below the Gaussian, 12 steps/s, 3 min left"),
    (State(levels=report(1.2)), "loss 0.1235, 20 % above the Gaussian, 12 steps/s, 3 min left"),
    (State(rate=0.25, seconds_left=9, note="float32"), "loss 0.1235, 4 s a step, 9 s left, float32"),
    (State(levels=LevelReport((0.1, 1.0), (None,), (1.0,), (2.0,), (0,))), "loss 0.1235, 12 steps/s, 3 min left"),
])  # fmt: skip
def test_the_sentence_is_exact(state, said):
    assert progress.sentence(state) == said


@pytest.mark.parametrize(("seconds", "said"), [
    (0, "0 s"), (59.4, "59 s"), (59.6, "1 min"), (181, "3 min"), (3599, "1 h 00 min"), (7500, "2 h 05 min"),
    (float("inf"), "an unknown time"),
])  # fmt: skip
def test_durations_in_words(seconds, said):
    assert progress.duration(seconds) == said


def test_lines_say_where_training_stands(capsys):
    states = [State(step=s, levels=report(0.5)) for s in (1, 50, 100)]
    assert list(progress.show(iter(states), "fit")) == states
    # The first at once, then none within ten seconds, and the last in any case.
    said = "loss 0.1235, 50 % below the Gaussian, 12 steps/s, 3 min left"
    assert capsys.readouterr().err.splitlines() == [f"fit: 1/100  {said}", f"fit: 100/100  {said}"]


def test_steps_pass_items_on(capsys):
    assert list(progress.steps("abc", "draw", 3)) == ["a", "b", "c"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("draw: 1/3  ")
    assert lines[-1] == "draw: 3/3  0 s left"


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "160")
    assert len(list(progress.show(iter([State(step=100)]), "[fit]"))) == 1
    shown = capsys.readouterr().err
    assert "━" in shown
    assert "[fit]" in shown
    assert "12 steps/s" in shown


def test_only_the_first_process_draws(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert len(list(progress.show(iter([State()]), "fit"))) == 1
    assert list(progress.steps("ab", "draw", 2)) == ["a", "b"]
    assert capsys.readouterr().err == ""
