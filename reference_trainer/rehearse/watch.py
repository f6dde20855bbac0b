"""What the trainer is at, read from its stack: seconds of each leg while it runs, and the leg that an error came from.

So a leg has its time and its blame without a line in the trainer for it.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from traceback import walk_stack, walk_tb
from types import FrameType

LOADING, WARM_UP, GRIDS, PANELS = "loading", "LoRA-teacher warm-up", "step-0 and later grids", "panels"
STEPS, MEASUREMENT, CHECKPOINT, EXPORT = "three steps", "in-loop measurement", "checkpoint", "export"
# Module and function of reference_trainer -> the leg that it belongs to; the outermost of a stack counts.
LEGS = {
    ("step", "warm_up_lora_teacher"): WARM_UP,
    ("pictures", "write_samples"): GRIDS,
    ("pictures", "write_panels"): PANELS,
    ("step", "take_step"): STEPS,
    ("health", "held_out"): STEPS,
    ("loop", "measure"): MEASUREMENT,
    ("training.checkpoint", "save"): CHECKPOINT,
    ("training.checkpoint", "wait"): CHECKPOINT,
    ("training.checkpoint", "close"): CHECKPOINT,
    ("export", "export_student"): EXPORT,
}
_TRAINER = Path(__file__).parent.parent
_EVERY = 0.01  # seconds between two looks


class Watch:
    """`with Watch() as watch:` around a run on this thread; then `watch.seconds` has the time spent in each leg."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._thread = threading.get_ident()
        self._over = threading.Event()
        self._looker = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Watch:
        self._looker.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._looker.join()

    def _look(self) -> None:
        before = time.monotonic()
        while not self._over.wait(_EVERY):
            frame = sys._current_frames().get(self._thread)
            leg = _outermost(reversed([found for found, _ in walk_stack(frame)])) or LOADING
            now = time.monotonic()
            self.seconds[leg] = self.seconds.get(leg, 0.0) + now - before
            before = now


def leg_of(error: BaseException) -> str:
    """The leg that an error came from."""
    return _outermost(frame for frame, _ in walk_tb(error.__traceback__)) or LOADING


def _outermost(frames: Iterator[FrameType]) -> str | None:
    for frame in frames:
        path = Path(frame.f_code.co_filename)
        if not path.is_relative_to(_TRAINER):
            continue
        module = ".".join(path.relative_to(_TRAINER).with_suffix("").parts)
        leg = LEGS.get((module, frame.f_code.co_name))
        if leg is not None:
            return leg
    return None
