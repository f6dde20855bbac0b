"""Reading a clock, with clocks that are known: order, limits, statistics, stages that must add up."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from fake_time import FakeClock

from sbv2bench.errors import IntegrityError
from sbv2bench.latency.timing import EventStopwatch, Sample, gap_seconds, interleaved, stage_timings, timed, timing
from sbv2bench.results.records import LatencyProtocol
from sbv2bench.samplers.base import Stopwatch


def protocol(**changes: object) -> LatencyProtocol:
    fields = {"id": "full", "warm_up": 1, "runs": 2, "repeats": 3, "statistic": "median"} | changes
    return LatencyProtocol.model_validate(fields)


def calls(log: list[tuple[str, int]], clock: FakeClock, seconds: Callable[[str], float]) -> list[Callable[[int], Sample]]:
    def of(name: str) -> Callable[[int], Sample]:
        def call(number: int) -> Sample:
            log.append((name, number))
            clock.pass_by(taken := seconds(name))
            return Sample(taken, {})

        return call

    return [of("a"), of("b")]


def test_repeats_are_interleaved_to_and_fro() -> None:
    log: list[tuple[str, int]] = []
    rounds, finished = [], []
    clock = FakeClock()
    found = interleaved(
        calls(log, clock, lambda name: 1.0),
        protocol(),
        clock,
        lambda: rounds.append(len(log)),
        lambda *done: finished.append(done),
    )
    once = [0, 0, 1]  # a warm-up, then two runs of which each has captions of its own
    expected = [(name, number) for name in "abbaab" for number in once]
    assert log == expected
    assert rounds == [0, 6, 12]
    assert finished == [(count, 6) for count in range(1, 7)]
    assert [[len(runs) for runs in repeats] for repeats in found] == [[2, 2, 2], [2, 2, 2]]


def test_steady_drift_hits_all_alike() -> None:
    clock = FakeClock()
    start = clock.now
    found = interleaved(
        calls([], clock, lambda name: (2.0 if name == "b" else 1.0) * (1 + 1e-6 * (clock.now - start))),
        protocol(runs=5, repeats=10, statistic="mean"), clock,
    )  # fmt: skip
    a, b = (timing([[run.total for run in runs] for runs in repeats], "mean") for repeats in found)
    assert b.value / a.value == pytest.approx(2.0, rel=1e-6)  # always in one order it would be 2.00001
    assert a.repeats[-1] > a.repeats[0] * 1.00009


@pytest.mark.parametrize(("seconds", "limit", "runs"), [(1.0, 5.0, 5), (3.0, 5.0, 2), (60.0, 5.0, 1), (0.01, 5.0, 50)])
def test_a_slow_model_has_fewer_runs_and_at_least_one(seconds: float, limit: float, runs: int) -> None:
    log: list[tuple[str, int]] = []
    clock = FakeClock()
    found = interleaved(
        calls(log, clock, lambda name: seconds)[:1], protocol(warm_up=50, runs=50, repeats=2, seconds=limit), clock
    )
    assert [len(repeat) for repeat in found[0]] == [runs, runs]
    warm = len(log) // 2 - runs
    assert warm == max(1, min(50, -int(-limit / 2 // seconds)))


def test_the_statistics_are_the_textbooks() -> None:
    runs = [[0.001, 0.002, 0.009], [0.003, 0.004, 0.011], [0.005, 0.006, 0.013]]
    mean, median = timing(runs, "mean"), timing(runs, "median")
    assert mean.repeats == pytest.approx((4.0, 6.0, 8.0))
    assert median.repeats == pytest.approx((2.0, 4.0, 6.0))
    assert (mean.value, median.value) == pytest.approx((6.0, 4.0))
    reach = 4.302652729911275 * 2.0 / np.sqrt(3)  # Student's t of two degrees of freedom at 0.975
    assert mean.ci95 == pytest.approx((6.0 - reach, 6.0 + reach))
    assert (mean.median, mean.p5, mean.p95) == pytest.approx((5.0, 1.4, 12.2))  # of all nine: 1 2 3 4 5 6 9 11 13
    assert timing(runs[:1], "mean").ci95 is None


def samples(total: float, **stages: float) -> list[list[Sample]]:
    return [[Sample(total, {"text": 0.0, "denoise": 0.0, "decode": 0.0} | stages)] * 3]


def test_stages_and_what_lies_between_them() -> None:
    run = samples(0.010, text=0.001, denoise=0.006, decode=0.002)
    assert {name: found.value for name, found in stage_timings(run, "mean").items()} == pytest.approx(
        {"text": 1.0, "denoise": 6.0, "decode": 2.0}
    )
    assert gap_seconds("x", run) == pytest.approx(0.001)
    assert list(stage_timings(samples(0.01, denoise=0.009), "median")) == ["denoise"]


@pytest.mark.parametrize(
    "stages", [{"denoise": 0.02, "decode": 0.09}, {"denoise": 0.04}], ids=["more than the whole", "less than half of it"]
)
def test_stages_that_do_not_add_up_are_an_error(stages: dict[str, float]) -> None:
    with pytest.raises(IntegrityError, match=r"local/x: its stages take .* of a call of 100.0 ms"):
        gap_seconds("local/x", samples(0.1, **stages))
    assert gap_seconds("local/x", samples(0.1, denoise=0.02, decode=0.07)) == pytest.approx(0.01)
    assert gap_seconds("local/x", samples(0.1)) == pytest.approx(0.1)  # a sampler that marks no stage
    assert gap_seconds("local/x", samples(0.001, denoise=0.0001)) == pytest.approx(0.0009)  # a thousandth of a second


def test_a_call_by_the_clock() -> None:
    clock = FakeClock()

    def work(stopwatch: Stopwatch) -> None:
        clock.pass_by(0.25)
        with stopwatch.stage("text"):
            clock.pass_by(1.0)
        for _ in range(2):
            with stopwatch.stage("denoise"):
                clock.pass_by(2.0)

    assert timed(work, "cpu", clock) == Sample(5.25, {"text": 1.0, "denoise": 4.0, "decode": 0.0})


class FakeEvent:
    """An event in a stream whose time is a clock's."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock, self.at = clock, 0.0

    def record(self) -> None:
        self.at = self.clock.now

    def elapsed_time(self, end: FakeEvent) -> float:
        return 1000 * (end.at - self.at)


def test_stages_by_device_events() -> None:
    clock = FakeClock()
    stopwatch = EventStopwatch("cpu", lambda: FakeEvent(clock))
    for seconds in (0.5, 1.5):
        with stopwatch.stage("denoise"):
            clock.pass_by(seconds)
    with stopwatch.stage("decode"):
        clock.pass_by(0.25)
    assert set(stopwatch.seconds.values()) == {0.0}  # nothing is read while the device may be at work
    stopwatch.settle()
    stopwatch.settle()
    assert stopwatch.seconds == pytest.approx({"text": 0.0, "denoise": 2.0, "decode": 0.25})
