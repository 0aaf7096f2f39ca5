"""Progress as a bar for people at a terminal, as lines for logs; with several processes the first one alone draws.

A line says what the numbers mean: the loss stands beside the best Gaussian denoiser of the same data, time is in words.

Checked by: tests/training/test_progress.py
"""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from undrift.training.group import is_main

if TYPE_CHECKING:
    from undrift.training.loop import Progress

__all__ = ["duration", "sentence", "show", "steps"]

T = TypeVar("T")
Position = Callable[[Any], tuple[int, int]]
Text = Callable[[Any], str]


def show(states: "Iterable[Progress]", title: str) -> "Iterator[Progress]":
    """Draw training progress while passing it on, as `sentence` says it.

    Checked by: tests/training/test_progress.py::test_lines_say_where_training_stands,
        tests/training/test_progress.py::test_a_terminal_gets_a_bar
    """
    yield from _drawn(states, title, lambda state: (state.step, state.steps), sentence)


def steps(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Draw a bar over `items`, of which there are `total`."""
    start = time.monotonic()

    def left(pair: tuple[int, T]) -> str:
        return f"{duration((time.monotonic() - start) / pair[0] * max(0, total - pair[0]))} left"

    for _, item in _drawn(enumerate(items, 1), title, lambda pair: (pair[0], total), left):
        yield item


def sentence(state: "Progress") -> str:
    """Where training stands: 'loss 0.123, 34 % below the Gaussian, 12 steps/s, 3 min left', and a note if there is one.

    Checked by: tests/training/test_progress.py::test_the_sentence_is_exact
    """
    parts = [f"loss {state.loss:.4g}"]
    if state.levels is not None and math.isfinite(state.levels.below):
        below = round(100 * state.levels.below)
        parts.append(f"{abs(below)} % {'below' if below >= 0 else 'above'} the Gaussian")
    parts.append(f"{state.rate:.3g} steps/s" if state.rate >= 1 or state.rate <= 0 else f"{1 / state.rate:.3g} s a step")
    parts.append(f"{duration(state.seconds_left)} left")
    return ", ".join(parts + ([state.note] if state.note else []))


def duration(seconds: float) -> str:
    """Seconds in words: '40 s', '3 min', '2 h 05 min'.

    Checked by: tests/training/test_progress.py::test_durations_in_words
    """
    if not math.isfinite(seconds):
        return "an unknown time"
    if seconds < 59.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _drawn(items: Iterable[T], title: str, position: Position, text: Text) -> Iterator[T]:
    if not is_main():
        return iter(items)
    from rich.console import Console

    console = Console(stderr=True)
    return _bar(items, title, position, text, console) if console.is_terminal else _lines(items, title, position, text)


def _bar(items: Iterable[T], title: str, position: Position, text: Text, console: Any) -> Iterator[T]:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TextColumn("{task.fields[text]}", markup=False))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, text="")
        for item in items:
            done, total = position(item)
            bar.update(task, completed=done, total=total, text=text(item))
            yield item


def _lines(items: Iterable[T], title: str, position: Position, text: Text, every: float = 10.0) -> Iterator[T]:
    last = -math.inf
    for item in items:
        now = time.monotonic()
        done, total = position(item)
        if now - last >= every or done == total:
            print(f"{title}: {done}/{total}  {text(item)}", file=sys.stderr, flush=True)
            last = now
        yield item
