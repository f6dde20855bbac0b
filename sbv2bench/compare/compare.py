"""Names to results to a comparison: each model's best result of a suite is looked up, or made on request."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sbv2bench.compare.differences import Comparison, Contestant, compare_results, with_training
from sbv2bench.compare.frontier import Frontier, frontier
from sbv2bench.data.assets import resolve_location
from sbv2bench.data.chain import model_files
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.data.images import SUFFIXES, ImageFolder
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.evaluation.sampled_model import image_files
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.results import prompt_values, store
from sbv2bench.results.commands import eval_command
from sbv2bench.results.conditions import date_of, dtype_of, dtypes, identity
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec, SuiteSpec

COMMITTED = Path("leaderboards/results")  # looked at after --results, where it exists

Evaluate = Callable[[str], tuple[EvalResult, Path]]  # a model to its result and the result's file
Found = tuple[Path, EvalResult]

_SETTINGS = ("sampler", "scheduler", "steps", "guidance_scale", "timestep")


def compare(
    models: Sequence[str | Path],
    suite: str = "mini",
    *,
    results: Path | str = Path("results"),
    all_pairs: bool = False,
    evaluate: Evaluate | None = None,
    registry: Registry | None = None,
) -> Comparison:
    """Compare models by their stored results of a suite.

    models: ids, folders of models or images, result files, or folders of result files, of which every model takes part. suite:
    an id, also one that only results have, as `own`. results: the folder in which ids are looked up, then
    `leaderboards/results`. evaluate: called for a model that has no result there.
    Raises InputError as `compare_results`, and for unreadable files; PrerequisiteError for a model without a result, where
    `evaluate` is None; IntegrityError for files that were changed.
    """
    registry = Registry.load() if registry is None else registry
    folders = [Path(results), *([COMMITTED] if COMMITTED.is_dir() and Path(results) != COMMITTED else [])]
    of_results = suite not in registry.suites and any(suite in _suites_in(place) for place in [*folders, *map(Path, models)])
    declared = None if of_results else registry.suite(suite)
    found: list[Found] = []
    for model in models:
        found += _results_of(str(model), (suite, declared), folders, registry, evaluate)
    return compare_results(_named(found, registry), all_pairs=all_pairs)


def compare_frontier(
    student: str | Path,
    other: str | Path,
    held: str,
    suite: str = "mini",
    *,
    results: Path | str = Path("results"),
    registry: Registry | None = None,
    chosen_on: str | None = None,
) -> Frontier:
    """A student's stored result of a suite against every stored setting of another model that is comparable with it.

    held: "recall" or "clip_score", of which the other must have as much. chosen_on: a suite of other captions, on which both
    models were measured and the other's setting is chosen; by default it is chosen on the suite itself. The rest as in
    `compare`. Raises what `compare` and `frontier` raise, PrerequisiteError where the other has no comparable result, or none at
    the chosen setting, InputError where the choosing captions are the reported ones.
    """
    registry = Registry.load() if registry is None else registry
    folders = [Path(results), *([COMMITTED] if COMMITTED.is_dir() and Path(results) != COMMITTED else [])]
    models = str(student), str(other)
    own, others = _settings(models, held, suite, folders, registry)
    if chosen_on is None:
        return frontier(own, others, held)
    choosing = _settings(models, held, chosen_on, folders, registry)
    used = choosing[0].result.suite
    if used.prompts_sha256 == own.result.suite.prompts_sha256:
        found = f"--chosen-on {chosen_on}: its captions are those of suite {suite}"
        raise InputError(f"{found}, expected others, such as mini-choosing", "--chosen-on mini-choosing")
    name, best = f"{used.id}@v{used.version}", frontier(*choosing, held).best
    if best is None:
        return frontier(own, others, held, None, name)
    wanted = best.contestant.result
    key = (wanted.model.fingerprint(), dtype_of(wanted))
    chosen = next((one for one in others if (one.result.model.fingerprint(), dtype_of(one.result)) == key), None)
    if chosen is None:
        spec, found = wanted.model, f"compare --chosen-on {chosen_on}: {best.contestant.name} has no result on suite {suite}"
        fix = f"sbv2bench eval --model {spec.id} --suite {suite} --steps {spec.steps} --guidance-scale {spec.guidance_scale:g}"
        raise PrerequisiteError(found, fix)
    return frontier(own, others, held, chosen, name)


def _settings(
    models: tuple[str, str], held: str, suite: str, folders: Sequence[Path], registry: Registry
) -> tuple[Contestant, list[Contestant]]:
    """A student's result of a suite, and the other's of every setting that is comparable with it."""
    (student, other), declared = models, registry.suite(suite)
    file, own = _results_of(student, (suite, declared), folders, registry, None)[0]
    spec = registry.model(other, declared)
    now = _weights_of_now(spec, registry)
    by_setting: dict[tuple[str, str], list[Found]] = {}
    for folder in folders:
        for row in _of_suite(store.find(folder) if folder.is_dir() else [], suite):
            if row[1].model.id == spec.id and _same_weights(row[1], now) and _is_comparable(row[1], own, held):
                by_setting.setdefault((row[1].model.fingerprint(), str(dtype_of(row[1]))), []).append(row)
    if not by_setting:
        raise PrerequisiteError(
            f"compare --at-least: no result of {spec.id} on suite {suite} that is comparable with {own.model.id}'s",
            f"sbv2bench sweep {spec.id} --suite {suite} --guidance-scale 1,1.5,2,3,4.5",
        )
    others = [max(rows, key=lambda row: (len(row[1].suite.seeds), len(row[1].metrics))) for rows in by_setting.values()]
    named = _named([(file, own), *others], registry)
    return named[0], named[1:]


def _is_comparable(result: EvalResult, own: EvalResult, held: str) -> bool:
    """Whether two results have FID and what is held by one protocol, of as many images."""
    keys = [key for key in ("fid", held) if key in own.metrics]
    same = all(key in result.metrics and result.metrics[key].fingerprint == own.metrics[key].fingerprint for key in keys)
    return same and result.suite.num_generated == own.suite.num_generated


def _suites_in(folder: Path, model: str = "") -> list[str]:
    """The suites that results in a folder are of, all or a model's, by the names of their folders."""
    places = {file.parent for file in store.find(folder) if "@" in file.parent.name}
    own = [place for place in places if model in ("", f"{place.parent.parent.name}/{place.parent.name}")]
    return sorted({place.name.partition("@")[0] for place in own})


def _results_of(
    name: str,
    wanted: tuple[str, SuiteSpec | None],
    folders: Sequence[Path],
    registry: Registry,
    evaluate: Evaluate | None,
) -> list[Found]:
    """wanted: a suite's id, and its declaration where it has one."""
    path, (suite, declared) = Path(name), wanted
    if path.suffix == ".json":
        return [(path, store.load(path))]
    if path.is_dir() and not _is_model(path):
        newest = {(result.model.id, identity(result)): (file, result) for file, result in _of_suite(store.find(path), suite)}
        if not newest:
            others = [other for other in _suites_in(path) if other != suite]
            raise InputError(
                f"compare: folder {path} has no result of suite {suite}" + (f", but of {', '.join(others)}" if others else ""),
                f"--suite {others[0]}"
                if others
                else f"sbv2bench eval --model sd21 --suite {suite} --results {shlex.quote(str(path))}",
            )
        return list(newest.values())
    spec = registry.model(name, declared)
    now = _weights_of_now(spec, registry)
    for folder in folders:
        rows = _of_suite(store.find(folder), suite)
        if own := [row for row in rows if row[1].model.id == spec.id and _same_weights(row[1], now)]:
            return [_best(own, spec)]
    if evaluate is None or declared is None:
        where = " or ".join(map(str, folders))
        others = sorted({other for folder in folders for other in _suites_in(folder, spec.id)} - {suite})
        raise PrerequisiteError(
            f"compare: no result of {spec.id} on suite {suite} in {where}" + (f", but of {', '.join(others)}" if others else ""),
            f"--suite {OWN_SUITE}" if OWN_SUITE in others else _made_by(name, (suite, declared), spec, folders),
        )
    result, file = evaluate(name)
    return [(file, result)]


def _made_by(name: str, wanted: tuple[str, SuiteSpec | None], spec: ModelSpec, folders: Sequence[Path]) -> str | None:
    """The command that makes a result that is not there; on data of somebody's own, as another result there was made."""
    suite, declared = wanted
    if declared is not None:
        return f"sbv2bench eval --model {shlex.quote(name)} --suite {suite} --results {shlex.quote(str(folders[0]))}"
    others = [row for folder in folders for row in _of_suite(store.find(folder), suite)]
    return f"{eval_command(others[-1][1], spec)} --results {shlex.quote(str(folders[0]))}" if others else None


def _weights_of_now(spec: ModelSpec, registry: Registry) -> dict[str, str]:
    """Path -> SHA-256 of a model's files; empty where they are not at hand."""
    try:
        if spec.images == "files":
            return {file.path: file.sha256 for file in image_files(ImageFolder(resolve_location(spec.location)))}
        with nothing_fetched():
            return {file.path: file.sha256 for file in model_files(spec, registry.model)}
    except SBV2BenchError:
        return {}


def _same_weights(result: EvalResult, now: dict[str, str]) -> bool:
    """Whether a result is of the weights that its name means today; where they are not at hand, it is taken to be."""
    return all(now.get(file.path, file.sha256) == file.sha256 for file in result.model.weights)


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model, or images, and not results."""
    if any((folder / name).exists() for name in ("sbv2bench.json", "model_index.json", "unet", "config.json")):
        return True
    return any(file.suffix.lower() in SUFFIXES for file in folder.iterdir())


def _of_suite(files: Sequence[Path], suite: str) -> list[Found]:
    """The results of a suite, oldest first; files of a folder named for another suite are not opened."""
    own = [file for file in files if "@" not in file.parent.name or file.parent.name.partition("@")[0] == suite]
    rows = [(file, store.load(file)) for file in own]
    rows = [row for row in rows if row[1].suite.id == suite]
    return sorted(rows, key=lambda row: (date_of(row[1]), str(row[0])))


def _best(rows: Sequence[Found], spec: ModelSpec) -> Found:
    """Sampled as the catalog says before other settings; then complete, with most metrics and seeds, in float32, and newest."""

    def weight(row: Found) -> tuple[bool, bool, int, int, bool]:
        result = row[1]
        as_declared = all(name in spec.unstated or getattr(result.model, name) == getattr(spec, name) for name in _SETTINGS)
        return (
            as_declared,
            result.status == "complete",
            len(result.metrics),
            len(result.suite.seeds),
            dtype_of(result) == "float32",
        )

    best = max(map(weight, rows))
    return [row for row in rows if weight(row) == best][-1]


def _named(found: Sequence[Found], registry: Registry) -> list[Contestant]:
    """Contestants with names that tell them apart: the id, with the settings where an id comes twice, then with a number."""
    ids = [result.model.id for _, result in found]
    several = len(dtypes(result for _, result in found)) > 1
    names: list[str] = []
    for _, result in found:
        model = result.model
        name = model.id
        if ids.count(name) > 1:
            dtype = f", {dtype_of(result)}" if several and dtype_of(result) else ""
            name = f"{name} (NFE {model.nfe}, guidance {model.guidance_scale:g}{dtype})"
        if name in names:
            name = f"{name} #{1 + sum(other.startswith(name) for other in names)}"
        names.append(name)
    return [
        Contestant(name, with_training(result, registry), prompt_values.read(result, file))
        for name, (file, result) in zip(names, found, strict=True)
    ]
