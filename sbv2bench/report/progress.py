"""What a command shows while it works: that it loads, then a bar a stage with the rate and the time left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn

from sbv2bench.report.terminal import say


class Pace:
    """The rate of a stage, from the work that was done since it began; what was there before tells nothing of it."""

    def __init__(self, done: int) -> None:
        """done: what was there when the stage began, which is now."""
        self._began, self._first, self.last = time.monotonic(), done, done

    def words(self, done: int, total: int) -> str:
        """ "3.1/s, 0:05:20 left"; "" until something was done."""
        self.last = done
        made, seconds = done - self._first, time.monotonic() - self._began
        if made <= 0 or seconds <= 0:
            return ""
        took = f"took {timedelta(seconds=round(seconds))}"
        if total == 1:  # a thing that is loaded has no rate
            return took
        left = timedelta(seconds=round((total - done) * seconds / made))
        return f"{made / seconds:.3g}/s, {took if done >= total else f'{left} left'}"


@contextmanager
def loading(console: Console, what: str) -> Iterator[None]:
    """Say what is loaded while it is: a line that goes again on a terminal, one that stays in a log."""
    if console.is_terminal:
        with console.status(f"loading {what}"):
            yield
    else:
        say(console, f"loading {what}")
        yield


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """progress(stage, done, total): one bar a stage, which begins with its first call."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[pace]}"))
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, TaskID] = {}
        paces: dict[str, Pace] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, pace="")
            if stage not in paces or done < paces[stage].last:
                paces[stage] = Pace(done)  # it begins, or begins anew with another model
            bars.update(tasks[stage], completed=done, total=total, pace=paces[stage].words(done, total))

        yield progress
