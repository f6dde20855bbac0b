"""A rehearsal from a recipe's name to its report, and that of all recipes, two at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path

from reference_trainer.recipe_files import recipe_names
from reference_trainer.rehearse import first_run, legs, watch
from reference_trainer.rehearse.redirect import Rehearsed, redirect
from sbv2bench.errors import InputError, InterruptedRun, SBV2BenchError
from sbv2bench.machine.processes import threads
from sbv2bench.registry import Registry

# One recipe of each kind goes all the way in `all`; the others' runs are stopped and resumed.
KINDS = {"full": "paper/sbv2-a", "LoRA + CLIP": "paper/sbv2-b", "HPS": "paper/sbv2-b-hps", "regularised": "paper/sbv2-a-reg"}
AT_ONCE = 2
_LOST = ("SBV2BENCH_SUITE", "RANK", "WORLD_SIZE", "LOCAL_RANK")  # of the user's environment: not the rehearsal's


@dataclass(frozen=True)
class Leg:
    """One line of the report."""

    name: str
    seconds: float
    ok: bool
    why: str = ""


@dataclass(frozen=True)
class Report:
    """What came of a recipe. The legs end with the first that failed."""

    recipe: str
    changes: tuple[str, ...]
    factor: int
    legs: tuple[Leg, ...]

    @property
    def failed(self) -> Leg | None:
        """The leg that failed, if one did."""
        return next((leg for leg in self.legs if not leg.ok), None)


Tell = Callable[[str], None]
ALL = "all"


def carry_out(reference: str, overrides: Sequence[str], tell: Tell) -> tuple[Mapping[str, object], str]:
    """Rehearse a recipe, or all of the package. Returns the JSON document, and what failed in words ("" where nothing did).

    The folder of it all is temporary, and kept where something failed. Raises as `rehearse`, and InputError for overrides of all.
    """
    if reference == ALL and overrides:
        raise InputError(f"rehearse all: found {overrides[0]!r}, expected no overrides: they are of one recipe")
    folder, failed = Path(tempfile.mkdtemp(prefix="rehearsal-")), True
    try:
        reports = rehearse_all(folder, tell) if reference == ALL else [rehearse(reference, overrides, folder, tell)]
        culprits = [(report.recipe, report.failed) for report in reports if report.failed]
        failed = bool(culprits)
    except SBV2BenchError:
        failed = False  # bad input, or the user's own Ctrl-C: there is nothing to look into
        raise
    finally:
        if not failed:
            shutil.rmtree(folder, ignore_errors=True)
    document = {"recipes": [asdict(report) for report in reports]} if reference == ALL else asdict(reports[0])
    if not culprits:
        return document, ""
    words = [f"{recipe}: leg {leg.name!r} failed: {leg.why}" for recipe, leg in culprits]
    more = f" (and {len(words) - 1} more recipes failed)" if len(words) > 1 else ""
    return document, f"rehearse {words[0]}{more}\nwhat it left is in {folder}"


def rehearse(reference: str, overrides: Sequence[str], folder: Path, tell: Tell, *, whole: bool = True) -> Report:
    """Rehearse one recipe below a folder; every leg is told as soon as it is over.

    whole: with a kill, two processes, merge and evaluation; else the run is stopped and resumed. Raises InputError (no such
    recipe, a wrong key), PrerequisiteError (its base is not here), IntegrityError (its base's configs are broken); whatever
    goes wrong later is a failed leg.
    """
    place = folder / reference.replace("/", "-").removesuffix(".yaml").strip("-.")[-100:]
    place.mkdir(parents=True)
    began = time.monotonic()
    with _quietly(place / "base.log"):
        rehearsed = redirect(reference, overrides, place, folder / "bases", Registry.load())
    tell(f"{rehearsed.recipe.name}: changed for the rehearsal: {'; '.join(rehearsed.changes)}")
    found = [Leg("small copies", time.monotonic() - began, True)]
    tell(_line(found[0]))
    for leg in _legs(legs.Stage(rehearsed, place), whole):
        found.append(leg)
        tell(_line(leg))
        if not leg.ok:
            break
    return Report(rehearsed.recipe.name, rehearsed.changes, rehearsed.factor, tuple(found))


def rehearse_all(folder: Path, tell: Tell) -> list[Report]:
    """Rehearse every recipe of the package, two at a time; each is told when it is over."""
    names = sorted(recipe_names(), key=lambda name: (name not in KINDS.values(), name))
    for name in names:  # small copies first: the workers share them
        place = folder / "prepared" / name
        place.mkdir(parents=True)
        with _quietly(place / "base.log"):
            redirect(name, (), place, folder / "bases", Registry.load())
    reports = []
    with ProcessPoolExecutor(AT_ONCE, mp_context=get_context("spawn")) as pool:
        waiting = [pool.submit(_in_a_worker, name, folder) for name in names]
        try:
            for future in waiting:
                report, lines = future.result()
                tell("\n".join(lines))
                reports.append(report)
        except BaseException:
            pool.shutdown(cancel_futures=True)  # Ctrl-C: what has not begun does not begin
            raise
    return reports


def _in_a_worker(name: str, folder: Path) -> tuple[Report, list[str]]:
    lines: list[str] = []
    return rehearse(name, (), folder, lines.append, whole=name in KINDS.values()), lines


def _legs(stage: legs.Stage, whole: bool) -> Iterator[Leg]:
    """Every leg as it is over; the caller stops at the first that failed."""
    with environment(stage.rehearsed), _quietly(stage.folder / "run.log"):
        seconds, error = first_run.run(stage)
    if isinstance(error, InterruptedRun):
        raise error
    culprit = None if error is None else watch.leg_of(error)
    for name, proof in first_run.legs(stage).items():
        if error is not None and name == culprit:
            yield Leg(name, seconds.get(name, 0.0), False, _why(error, stage))
            return
        leg = _proved(name, proof, stage, seconds.get(name, 0.0))
        if leg.ok or error is None:  # what a run that broke off had no time for is not what broke
            yield leg
    if whole:
        after = {"kill -9": legs.kill, "resume to the same bits": legs.resume, "two processes": legs.two_processes}
    else:
        after = {"stop": legs.stop, "resume to the same bits": legs.resume}
    after |= {"stock diffusers": legs.stock_diffusers}
    if whole:
        after |= {"merge": legs.merge_exports, "sbv2bench eval": legs.evaluate_merged}
    for name, function in after.items():
        yield _proved(name, function, stage)


def _proved(name: str, leg: Callable[[legs.Stage], None], stage: legs.Stage, before: float = 0.0) -> Leg:
    """A leg carried out. before: seconds that were spent on it already."""
    began = time.monotonic()
    try:
        with environment(stage.rehearsed), _quietly(stage.folder / f"{name.replace(' ', '-')}.log"):
            leg(stage)
    except InterruptedRun:
        raise
    except Exception as error:
        return Leg(name, before + time.monotonic() - began, False, _why(error, stage))
    return Leg(name, before + time.monotonic() - began, True)


def _why(error: BaseException, stage: legs.Stage) -> str:
    """One line; what is a bug has its traceback in a file."""
    if isinstance(error, legs.LegFailed):
        return str(error)
    if isinstance(error, SBV2BenchError):
        return " ".join(str(error).split())
    path = stage.folder / "traceback.txt"
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({path})"


@contextmanager
def environment(rehearsed: Rehearsed) -> Iterator[None]:
    """The rehearsal's catalog and cache in place of the user's, and one thread: networks so small are no faster on more."""
    before = dict(os.environ)
    os.environ.update(rehearsed.environment)
    for name in _LOST:
        os.environ.pop(name, None)
    try:
        with threads(1):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def _quietly(log: Path) -> Iterator[None]:
    """What the trainer says goes into a file."""
    with log.open("a", encoding="utf-8") as file, redirect_stdout(file), redirect_stderr(file):
        yield


def _line(leg: Leg) -> str:
    return f"  {'ok    ' if leg.ok else 'FAILED'} {leg.name:<26} {leg.seconds:6.1f} s" + (f"  {leg.why}" if leg.why else "")
