"""Names to results to a comparison: each model's best result of a suite is looked up, or made on request."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from pathlib import Path

from sbv2bench.data.chain import model_files
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.registry import IMAGE_SUFFIXES, Registry
from sbv2bench.results import prompt_values, store
from sbv2bench.results.differences import Comparison, Contestant, compare_results
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec

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

    models: ids, model folders, result files, or folders of result files, of which every model takes part. results: the
    folder in which ids are looked up, then `leaderboards/results`. evaluate: called for a model that has no result there.
    Raises InputError as `compare_results`, and for unreadable files; PrerequisiteError for a model without a result, where
    `evaluate` is None; IntegrityError for files that were changed.
    """
    registry = Registry.load() if registry is None else registry
    suite_id = suite if _measured_on(suite, models) else registry.suite(suite).id
    folders = [Path(results), *([COMMITTED] if COMMITTED.is_dir() and Path(results) != COMMITTED else [])]
    found: list[Found] = []
    for model in models:
        found += _results_of(str(model), suite_id, folders, registry, evaluate)
    return compare_results(_named(found), all_pairs=all_pairs)


def _results_of(name: str, suite: str, folders: Sequence[Path], registry: Registry, evaluate: Evaluate | None) -> list[Found]:
    path = Path(name)
    if path.suffix == ".json":
        return [(path, store.load(path))]
    if path.is_dir() and not _is_model(path):
        newest = {
            (result.model.id, result.model.fingerprint()): (file, result) for file, result in _of_suite(store.find(path), suite)
        }
        if not newest:
            others = sorted({store.load(file).suite.id for file in store.find(path) if not store.is_latency(file)})
            has = f", it has those of {', '.join(others)}" if others else ""
            fix = f"--suite {others[0]}" if others else f"sbv2bench eval --model sd21 --suite {suite} --results {path}"
            raise InputError(f"compare: folder {path} has no result of suite {suite}{has}", fix)
        return list(newest.values())
    spec = registry.model(name, registry.suite(suite))
    now = _weights_of_now(spec, registry)
    for folder in folders:
        rows = _of_suite(store.find(folder) if folder.is_dir() else [], suite)
        if own := [row for row in rows if row[1].model.id == spec.id and _same_weights(row[1], now)]:
            return [_best(own, spec)]
    if evaluate is None:
        where = " or ".join(map(str, folders))
        raise PrerequisiteError(
            f"compare: no result of {spec.id} on suite {suite} in {where}",
            f"sbv2bench eval --model {shlex.quote(name)} --suite {suite} --results {shlex.quote(str(folders[0]))}",
        )
    result, file = evaluate(name)
    return [(file, result)]


def _weights_of_now(spec: ModelSpec, registry: Registry) -> dict[str, str]:
    """Path -> SHA-256 of a model's files; empty where they are not at hand."""
    try:
        with nothing_fetched():
            return {file.path: file.sha256 for file in model_files(spec, registry.model)}
    except SBV2BenchError:
        return {}


def _same_weights(result: EvalResult, now: dict[str, str]) -> bool:
    """Whether a result is of the weights that its name means today; where they are not at hand, it is taken to be."""
    return all(now.get(file.path, file.sha256) == file.sha256 for file in result.model.weights)


def _measured_on(suite: str, models: Sequence[str | Path]) -> bool:
    """Whether every file or folder named has results of a suite: one of somebody's own captions is known by them alone."""
    for path in map(Path, models):
        files = [path] if path.suffix == ".json" and path.is_file() else store.find(path) if path.is_dir() else []
        if not _of_suite([file for file in files if not store.is_latency(file)], suite):
            return False
    return True


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model, or images, and not results."""
    images = any(file.suffix.lower() in IMAGE_SUFFIXES for file in folder.iterdir())
    return images or any((folder / name).exists() for name in ("sbv2bench.json", "model_index.json", "unet", "config.json"))


def _of_suite(files: Sequence[Path], suite: str) -> list[Found]:
    """The results of a suite, oldest first; files of a folder named for another suite are not opened."""
    own = [file for file in files if "@" not in file.parent.name or file.parent.name.partition("@")[0] == suite]
    rows = [(file, store.load(file)) for file in own]
    rows = [row for row in rows if row[1].suite.id == suite]
    return sorted(rows, key=lambda row: (str(row[1].provenance.get("date_utc") or ""), str(row[0])))


def _best(rows: Sequence[Found], spec: ModelSpec) -> Found:
    """Sampled as the catalog says before other settings; then complete, with most metrics and seeds, and newest."""

    def weight(row: Found) -> tuple[bool, bool, int, int]:
        result = row[1]
        as_declared = all(name in spec.unstated or getattr(result.model, name) == getattr(spec, name) for name in _SETTINGS)
        return as_declared, result.status == "complete", len(result.metrics), len(result.suite.seeds)

    best = max(map(weight, rows))
    return [row for row in rows if weight(row) == best][-1]


def _named(found: Sequence[Found]) -> list[Contestant]:
    """Contestants with names that tell them apart: the id, with the settings where an id comes twice, then with a number."""
    ids = [result.model.id for _, result in found]
    names: list[str] = []
    for _, result in found:
        model = result.model
        name = model.id
        if ids.count(name) > 1:
            name = f"{name} (NFE {model.nfe}, guidance {model.guidance_scale:g})"
        if name in names:
            name = f"{name} #{1 + sum(other.startswith(name) for other in names)}"
        names.append(name)
    return [Contestant(name, result, prompt_values.read(result, file)) for name, (file, result) in zip(names, found, strict=True)]
