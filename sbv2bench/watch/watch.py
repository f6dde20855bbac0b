"""Wait for exports, score each once by the spine of `sbv2bench eval`, and keep the curve; every stop is a place to go on from."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.atomic import held
from sbv2bench.errors import InputError, InterruptedRun
from sbv2bench.evaluation.evaluate import evaluate_and_store, stored_result
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.evaluation.plan import plan
from sbv2bench.machine.choices import Progress
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult
from sbv2bench.watch.exports import FOLDER, check_run, exports, is_over, steps_of

INTERVAL = 5.0  # seconds between two looks
AGAIN = "run the same command again to go on from there"
_STEP = re.compile(r"exports/(\d{8})/?$")


@dataclass(frozen=True)
class Point:
    """A scored export: the steps that its student had taken, its result and the result's file."""

    step: int
    result: EvalResult
    path: Path


def curve(run: Path, suite: str, metrics: frozenset[str] | None = None) -> list[Point]:
    """Every scored export of a suite, in the order of steps; of a step that was trained and scored anew, the newest result.

    metrics: fingerprints of the protocols that a result must have. Raises what reading a result raises.
    """
    found: dict[int, Point] = {}
    for path in store.find(run / FOLDER) if (run / FOLDER).is_dir() else []:
        result = store.load(path)
        step = _step(run, result)
        own = {metric.fingerprint for metric in result.metrics.values()}
        if step is None or result.suite.id != suite or (metrics is not None and own != metrics):
            continue
        if step not in found or str(path.name) > found[step].path.name:  # names begin with the time
            found[step] = Point(step, result, path)
    return [found[step] for step in sorted(found)]


def _step(run: Path, result: EvalResult) -> int | None:
    """The steps of what a result is of, by where it lay; None where it is no export of a run."""
    place = result.model.location.replace("\\", "/")
    if named := _STEP.search(place):
        return int(named[1])
    last = run / "export"
    return steps_of(last) if place.rstrip("/").endswith("/export") and (last / "training.json").is_file() else None


def watch(
    run: Path, suite: str, options: EvalOptions, registry: Registry, *,
    every: int = 1, once: bool = False, progress: Progress | None = None, told: Callable[[Point, bool], None] = lambda *_: None,
    wait: Callable[[float], None] = time.sleep,
) -> list[Point]:  # fmt: skip
    """Score a run's exports until the training is over, or with once those that are there; returns the curve.

    options: their results folder is replaced by the run's own. every: exports whose step is a multiple of it, and the last of
    all. told: called with each point and whether it was scored now. Of an export that was scored before, by its weights, nothing
    is done again; an evaluation that was cut short goes on from the cache. wait: called with seconds between two looks.
    Raises InputError for a folder that is no run's or that another watch has, InterruptedRun on Ctrl-C, and as `evaluate`.
    """
    check_run(run)
    seen: dict[Path, int] = {}
    protocols: frozenset[str] | None = None
    with _alone(run), _stoppable(run):
        while True:
            over = is_over(run)  # before the folder is looked at, so that the last export is not missed
            found = exports(run)
            chosen = {step: path for step, path in found.items() if step % every == 0 or path.name == "export"}
            for step, path in chosen.items():
                written = (path / "sbv2bench.json").stat().st_mtime_ns
                if seen.get(path) == written:
                    continue
                planned = plan(str(path), suite, options, registry)
                protocols = frozenset(planned.fingerprint_of(metric) for metric in planned.metrics)
                before = stored_result(planned)
                result, file = before or evaluate_and_store(planned, registry, progress)
                assert file is not None  # one process
                seen[path] = written
                told(Point(step, result, file), before is None)
            if once or over:
                return curve(run, suite, protocols)
            wait(INTERVAL)


@contextmanager
def _alone(run: Path) -> Iterator[None]:
    """The run's watch folder for one process, which a kill lets go."""
    (run / FOLDER).mkdir(exist_ok=True)
    with held(run / FOLDER / ".lock", InputError(f"watch: another process is watching {run}", "stop it, or let it go on")):
        yield


@contextmanager
def _stoppable(run: Path) -> Iterator[None]:
    """Ctrl-C between two exports, in words."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise InterruptedRun(f"watch: stopped; what was scored of {run} is kept", AGAIN) from stop
