"""Progress as a bar for people at a terminal, as lines for logs."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from undrift.training.loop import Progress

__all__ = ["show", "steps"]

T = TypeVar("T")


def show(states: Iterable[Progress], title: str) -> Iterator[Progress]:
    """Draw training progress while passing it on: loss, steps per second, time left."""
    yield from _drawn(states, title, lambda s: (s.step, s.steps), lambda s: f"loss {s.loss:.4f}  {s.rate:.0f} steps/s")


def steps(items: Iterable[T], title: str, total: int) -> Iterator[T]:
    """Draw a bar over `items`, of which there are `total`."""
    counted = enumerate(items, 1)
    for _, item in _drawn(counted, title, lambda pair: (pair[0], total), lambda pair: ""):
        yield item


def _drawn(items: Iterable[T], title: str, position, text) -> Iterator[T]:
    from rich.console import Console

    console = Console(stderr=True)
    return _bar(items, title, position, text, console) if console.is_terminal else _lines(items, title, position, text)


def _bar(items: Iterable[T], title: str, position, text, console) -> Iterator[T]:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[text]}"), TimeRemainingColumn())
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(title, total=None, text="")
        for item in items:
            done, total = position(item)
            bar.update(task, completed=done, total=total, text=text(item))
            yield item


def _lines(items: Iterable[T], title: str, position, text, every: float = 10.0) -> Iterator[T]:
    start = last = time.monotonic()
    for item in items:
        now = time.monotonic()
        done, total = position(item)
        if now - last >= every or done == total:
            left = (now - start) / max(done, 1) * (total - done)
            print(f"{title}: {done}/{total}  {text(item)}  {left:.0f} s left", file=sys.stderr, flush=True)
            last = now
        yield item
