"""Ctrl-C and SIGTERM: at once while there is nothing to keep, else at the end of the step, with a checkpoint."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

from sbv2bench.errors import InterruptedRun, TerminatedRun

_CATCHES = (signal.SIGINT, signal.SIGTERM)
_REPEAT_SECONDS = 1.0  # a terminal and a launcher both pass one Ctrl-C on: the second within this time is the same


@dataclass
class Stop:
    """signal: what arrived, 0 for nothing. patient: whether it waits for the end of the step.

    A signal that does not wait, and a second one of somebody who is tired of waiting, raise KeyboardInterrupt in the main thread.
    """

    signal: int = 0
    patient: bool = False
    arrived: float = 0.0

    def error(self, what: str, fix: str) -> InterruptedRun:
        """What ends the run: exit code 143 after SIGTERM, 130 after Ctrl-C."""
        return (TerminatedRun if self.signal == signal.SIGTERM else InterruptedRun)(what, fix)

    def receive(self, number: int, _: FrameType | None) -> None:
        """The handler of both signals."""
        repeated = bool(self.signal) and time.monotonic() - self.arrived > _REPEAT_SECONDS
        first, self.signal = not self.signal, self.signal or number
        if first:
            self.arrived = time.monotonic()
        alone = os.environ.get("WORLD_SIZE", "1") == "1"  # launchers repeat what they pass on
        if not self.patient or (repeated and alone):
            raise KeyboardInterrupt


@contextmanager
def signals_noted() -> Iterator[Stop]:
    """A Stop that notes both signals while the block runs, in the main thread; their handlers are put back."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, stop.receive) for number in _CATCHES}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def ended_by_signals(what: str) -> Iterator[None]:
    """What cleans up behind itself, ended at once by either signal. what: to be said. Raises InterruptedRun or TerminatedRun."""
    with signals_noted() as stop:
        try:
            yield
        except KeyboardInterrupt as interrupt:
            raise stop.error(what, "run the same command again") from interrupt
