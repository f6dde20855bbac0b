"""What a run tells while it trains: log.jsonl, trackers, a progress bar with the rate and the time left, warnings."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from accelerate.tracking import GeneralTracker
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from reference_trainer import health
from sbv2bench.atomic import write_whole

_SHOWN = (
    *("loss", "lora_teacher_loss", "fake_score_ratio", "x0_deviation"),
    *("clip_cosine", "clip_to_vsd", "hps_cosine", "hps_to_vsd", "regularisation_to_vsd"),
)
_SILENCE = 30.0  # seconds without a line where there is no bar
_SAID_AGAIN = 20  # log entries after which a warning that still holds is repeated


class Told(Protocol):
    """What a monitor must know of a recipe, of a student or of a base model."""

    steps: int
    batch_size: int
    log_every: int

    @property
    def name(self) -> str: ...


class Monitor:
    """Rank 0's voice. Figures are averaged between two log entries, over those that are numbers."""

    def __init__(
        self, recipe: Told, run: Path, step: int, warmed: int = 0, *,
        trackers: Sequence[GeneralTracker] = (), console: Console | None = None,
    ) -> None:  # fmt: skip
        """step, warmed: how far the run is; what an earlier sitting logged beyond it will be logged again.

        trackers: that have begun, told what log.jsonl is. console: stderr; on a terminal a bar stands below its lines.
        """
        self.recipe, self.run, self.console = recipe, run, console or Console(stderr=True)
        self._sums: dict[str, list[float]] = {}
        self._mark = (time.monotonic(), step)
        self._silent: dict[str, int] = {}  # complaints, and for how many entries more they are not repeated
        self._trackers = trackers
        self._began, self._told = self._mark, 0.0
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
        self.bar = Progress(*columns, console=self.console, transient=True) if self.console.is_terminal else None
        _drop_entries_beyond(run / "log.jsonl", step, warmed)

    def say(self, line: str) -> None:
        """One line on stderr, as it is."""
        self.console.print(line, markup=False, highlight=False, soft_wrap=True)

    def due(self, step: int) -> bool:
        """Whether a log entry is made at a step."""
        return step % self.recipe.log_every == 0 or step == self.recipe.steps

    def add(self, step: int, figures: dict[str, float]) -> None:
        """Figures of one step; where an entry is due, one of their means, with the health signals."""
        for name, value in figures.items():
            self._sums.setdefault(name, []).append(value)
        if figures.get("skipped"):
            self.say(f"warning: step {step - 1} was skipped, its gradient is not a number (loss scale, rate or precision)")
        now = time.monotonic()
        self._progress(step, now)
        if not self.due(step):
            return
        rate = (step - self._mark[1]) / max(1e-9, now - self._mark[0])
        self._mark = (now, step)
        means = {name: mean for name, values in self._sums.items() if (mean := _mean(values)) is not None}
        means |= health.ratios(means)
        self._sums.clear()
        images = rate * self.recipe.batch_size
        self.write({"step": step, "images": step * self.recipe.batch_size, **means, "images_per_second": round(images, 2)})
        words = "  ".join(f"{name} {means[name]:.4g}" for name in _SHOWN if name in means)
        left = (self.recipe.steps - step) / rate / 60
        self.say(f"{self.recipe.name} {step}/{self.recipe.steps}  {words}  {images:.3g} images/s  {left:.1f} min left")
        self._told = now
        self._warn(means)

    def _progress(self, step: int, now: float) -> None:
        """The bar; where stderr is no terminal a line at the first step, and after half a minute without one."""
        rate = (step - self._began[1]) / max(1e-9, now - self._began[0])
        left = (self.recipe.steps - step) / rate
        words = f"{rate * self.recipe.batch_size:.3g} images/s  {timedelta(seconds=round(left))} left"
        if self.bar is not None:
            if not self.bar.tasks:
                self.bar.add_task(self.recipe.name, total=self.recipe.steps, rate="")
                self.bar.start()
            self.bar.update(self.bar.tasks[0].id, completed=step, rate=words)
        elif not self.due(step) and (not self._told or now - self._told > _SILENCE):
            self.say(f"{self.recipe.name} {step}/{self.recipe.steps}  {words}")
        else:
            return
        self._told = now

    def warm_up(self, done: int, wanted: int, figures: dict[str, float]) -> None:
        """Figures of one update of the LoRA teacher before the first step."""
        if done % self.recipe.log_every and done != wanted:
            return
        numbers = {name: value for name, value in figures.items() if math.isfinite(value)}
        self.write({"step": 0, "warm_up_step": done, **numbers})
        self.say(f"{self.recipe.name} LoRA teacher's warm-up {done}/{wanted}  loss {figures['lora_teacher_loss']:.4g}")

    def write(self, entry: dict[str, object]) -> None:
        """One line of log.jsonl, and its numbers to the trackers."""
        with (self.run / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in entry.items()}) + "\n")
        numbers = {name: value for name, value in entry.items() if isinstance(value, int | float) and name != "step"}
        for tracker in self._trackers:
            tracker.log(numbers, step=entry["step"])

    def close(self) -> None:
        """End the bar and the trackers."""
        if self.bar is not None:
            self.bar.stop()
        for tracker in self._trackers:
            tracker.finish()

    def _warn(self, means: dict[str, float]) -> None:
        found = health.complaints(means)
        self._silent = {name: left - 1 for name, left in self._silent.items() if name in found and left > 1}
        for name, line in found.items():
            if name not in self._silent:
                self._silent[name] = _SAID_AGAIN
                self.say(f"warning: {line}")


def _mean(values: list[float]) -> float | None:
    numbers = [value for value in values if math.isfinite(value)]
    return sum(numbers) / len(numbers) if numbers else None


def _drop_entries_beyond(log: Path, step: int, warmed: int) -> None:
    """Leave of a log the entries up to a moment of the run, and no half of one that a kill cut."""
    if not log.is_file():
        return
    kept = []
    for line in log.read_text("utf-8", errors="replace").splitlines():
        try:
            entry = json.loads(line)
            done = (entry["step"], entry.get("warm_up_step", 0))
        except (ValueError, TypeError, KeyError, AttributeError):
            continue
        if done[0] <= step and (step > 0 or done[1] <= warmed):
            kept.append(f"{line}\n")
    write_whole(log, "".join(kept))
