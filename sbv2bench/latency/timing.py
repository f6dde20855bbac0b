"""Reading a clock: calls interleaved repeat by repeat, stages that add up to the whole, and what is said of many readings."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from sbv2bench.errors import IntegrityError
from sbv2bench.metrics.uncertainty import t_interval
from sbv2bench.results.records import LatencyProtocol, Timing
from sbv2bench.samplers.base import Stage, Stopwatch, wait_for

Clock = Callable[[], float]
# Stages may exceed the whole by a clock's resolution. Below half of it, most of a call belongs to no stage.
_MOST_STAGES, _LEAST_STAGES, _NEGLIGIBLE = 1.05, 0.5, 2e-3


@dataclass(frozen=True)
class Sample:
    """Seconds of one call, and of each stage within it."""

    total: float
    stages: dict[str, float]


Call = Callable[[int], Sample]
Repeats = list[list[Sample]]  # for each repeat, its timed calls


class EventStopwatch(Stopwatch):
    """Stages by events in the device's own stream: the processor does not wait between stages, as it does not in use."""

    def __init__(self, device: str, event: Callable[[], torch.Event] = lambda: torch.cuda.Event(enable_timing=True)) -> None:
        super().__init__(device)
        self._event = event
        self._marks: list[tuple[Stage, torch.Event, torch.Event]] = []

    @contextmanager
    def stage(self, name: Stage) -> Iterator[None]:
        """Marks the ends of its block in the stream."""
        start, end = self._event(), self._event()
        start.record()
        yield
        end.record()
        self._marks.append((name, start, end))

    def settle(self) -> None:
        """Adds what lies between the marks to `seconds`. The device must be idle."""
        for name, start, end in self._marks:
            self.seconds[name] += start.elapsed_time(end) / 1000
        self._marks.clear()


def timed(work: Callable[[Stopwatch], object], device: str, clock: Clock) -> Sample:
    """One call, from an idle device to an idle device."""
    on_gpu = torch.device(device).type == "cuda"
    stopwatch = EventStopwatch(device) if on_gpu else Stopwatch(device, clock)
    wait_for(torch.device(device))
    began = clock()
    work(stopwatch)
    wait_for(torch.device(device))
    total = clock() - began
    if isinstance(stopwatch, EventStopwatch):
        stopwatch.settle()
    return Sample(total, {str(stage): seconds for stage, seconds in stopwatch.seconds.items()})


def interleaved(
    calls: Sequence[Call],
    protocol: LatencyProtocol,
    clock: Clock,
    before_each: Callable[[], None] = lambda: None,
    told: Callable[[int, int], None] = lambda done, total: None,
) -> list[Repeats]:
    """Every call by the protocol, one repeat of each in turn, in alternating order, so that drift hits all alike.

    A call is asked for its 0th, 1st, ... run in each repeat. before_each: done before each round of repeats. told: repeats
    that are finished, of how many. With a limit of seconds at least one run is a warm-up and at least one is timed.
    """
    found: list[Repeats] = [[] for _ in calls]
    for repeat in range(protocol.repeats):
        before_each()
        there = range(len(calls))
        for place, number in enumerate(there if repeat % 2 == 0 else reversed(there)):
            _several(calls[number], protocol.warm_up, None if protocol.seconds is None else protocol.seconds / 2, clock)
            found[number].append(_several(calls[number], protocol.runs, protocol.seconds, clock))
            told(repeat * len(calls) + place + 1, protocol.repeats * len(calls))
    return found


def _several(call: Call, runs: int, seconds: float | None, clock: Clock) -> list[Sample]:
    began, done = clock(), [call(0)]
    while len(done) < runs and (seconds is None or clock() - began < seconds):
        done.append(call(len(done)))
    return done


def timing(repeats: Sequence[Sequence[float]], statistic: Literal["mean", "median"]) -> Timing:
    """Seconds of each repeat's runs to milliseconds with Student's interval over the repeats (None for one repeat)."""
    each = [1000 * float(np.mean(runs) if statistic == "mean" else np.median(runs)) for runs in repeats]
    low, median, high = 1000 * np.percentile(np.concatenate([np.asarray(runs) for runs in repeats]), [5, 50, 95])
    return Timing(
        value=float(np.mean(each)),
        ci95=t_interval(each),
        repeats=tuple(each),
        median=float(median),
        p5=float(low),
        p95=float(high),
    )


def stage_timings(repeats: Repeats, statistic: Literal["mean", "median"]) -> dict[str, Timing]:
    """`timing` of every stage that took any time."""
    names = [name for name in repeats[0][0].stages if any(run.stages[name] > 0 for runs in repeats for run in runs)]
    return {name: timing([[run.stages[name] for run in runs] for runs in repeats], statistic) for name in names}


def gap_seconds(name: str, repeats: Repeats) -> float:
    """Median over runs of the whole less the sum of its stages. name: whose, for the error.

    Raises IntegrityError where stages are more than the whole, or less than half of it: then a stage is not timed as it is run.
    Nothing is expected of a sampler that marks no stage at all.
    """
    runs = [run for runs in repeats for run in runs]
    total, inside = (float(np.median(v)) for v in zip(*((run.total, sum(run.stages.values())) for run in runs), strict=True))
    off = inside > _MOST_STAGES * total or 0 < inside < _LEAST_STAGES * total
    if off and abs(total - inside) > _NEGLIGIBLE:
        raise IntegrityError(
            f"{name}: its stages take {1000 * inside:.1f} ms of a call of {1000 * total:.1f} ms, expected nearly all and no more",
            "its sampler must do all of its work inside stopwatch.stage(...)",
        )
    return float(np.median([run.total - sum(run.stages.values()) for run in runs]))
