"""Results that may stand beside the paper's: found, proved unedited, grouped by protocol, and held against the declared one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from sbv2bench.boards import boards
from sbv2bench.boards.boards import Board
from sbv2bench.compare.differences import differing as compared
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry
from sbv2bench.results import store
from sbv2bench.results.commands import eval_command
from sbv2bench.results.conditions import date_of, dtype_of
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec, SuiteSpec


@dataclass(frozen=True)
class Found:
    """The results of one suite that are used. differing: fields of their protocol that are not as the suite declares them."""

    board: Board
    differing: tuple[str, ...]


@dataclass(frozen=True)
class Search:
    """What was found, by suite id; and how many results on these suites are partial, which nothing is compared with."""

    found: dict[str, Found]
    partial: int


def search(folders: Iterable[Path], suites: Sequence[SuiteSpec], registry: Registry) -> Search:
    """The complete results on some suites in some folders, of one protocol a suite: the declared one, else the newest.

    The same file in two folders counts once. Raises what `store.load`, `boards.check_unedited` and `boards.check_no_twins`
    raise, and InputError where a suite's only results have another number of images than it declares.
    """
    wanted, partial = {suite.id for suite in suites}, 0
    results: dict[str, EvalResult] = {}
    for folder in folders:
        own: dict[str, EvalResult] = {}
        for path in store.find(folder):
            if store.is_latency(path):
                continue
            result = store.load(path)
            if result.suite.id not in wanted or boards.is_for_choosing(result):
                continue
            if result.status != "complete":
                partial += 1
                continue
            boards.check_unedited(path, result)
            own[str(path)] = result
        boards.check_no_twins(own)
        results |= {path: result for path, result in own.items() if result not in results.values()}
    found = {suite.id: _chosen(results, suite, registry) for suite in suites}
    return Search({name: one for name, one in found.items() if one is not None}, partial)


def _chosen(results: dict[str, EvalResult], suite: SuiteSpec, registry: Registry) -> Found | None:
    own = [(path, result) for path, result in results.items() if result.suite.id == suite.id]
    fields = {path: tuple(differing(result, suite, registry)) for path, result in own}
    equal = [row for row in own if not fields[row[0]]]
    if equal:
        return Found(boards.grouped(equal)[0], ())
    if not own:
        return None
    newest = max(own, key=lambda row: (row[1].suite.version, date_of(row[1]), row[0]))
    path, result = newest
    if result.suite.num_generated != suite.num_generated:
        raise InputError(
            f"result file {path}: found {result.suite.num_generated} images, expected {suite.num_generated} of suite {suite.id}",
            eval_command(result),
        )
    alike = [row for row in own if row[1].suite.version == result.suite.version and fields[row[0]] == fields[path]]
    return Found(boards.grouped(alike)[0], fields[path])


def differing(result: EvalResult, suite: SuiteSpec, registry: Registry) -> list[str]:
    """Fields of a result's protocols that are not what the declarations fix, as dotted paths; none if the protocols are equal.

    What they leave open (the reference's bytes, weights that nobody has published a SHA-256 of) is taken as it was found.
    """
    built_in = _built_in()
    if suite.id in built_in.suites:  # whatever a catalog declares anew under the same name is something else
        suite, registry = built_in.suite(suite.id), built_in
    wrong = ["suite.version"] if result.suite.version != suite.version else []
    for key in result.metrics:
        metric = next((suite.changed(one) for one in registry.metrics.values() if key in one.keys), None)
        if metric is None:
            continue
        own = result.protocol(key)
        extractor = None if metric.extractor is None else registry.extractor(metric.extractor)
        photographs = None if suite.reference is None else suite.reference.content_sha256
        found = (own.get("reference") or {}).get("content_sha256")
        captions = suite.prompts.captions_sha256 or str(own.get("prompts_sha256"))
        declared = suite.metric_protocol(metric, extractor, captions, photographs or found)
        unequal = [path for path, _, _ in compared(declared, own) if "weights" not in path.split(".")]  # declared without hashes
        wrong += [f"{metric.id}.{path}" if path.startswith(("metric", "extractor")) else path for path in unequal]
        asset = None if extractor is None else registry.assets.get(extractor.location.removeprefix("asset:"))
        if asset is not None and asset.sha256 is not None:
            files = (own.get("extractor") or {}).get("weights") or []
            if asset.sha256 not in [file["sha256"] for file in files]:
                wrong.append(f"{metric.id}.extractor.weights")
    return [*dict.fromkeys(wrong), *(f"{name} (declared anew)" for name in result.provenance.get("declared_anew") or ())]


@cache
def _built_in() -> Registry:
    """What the package declares, read once for however many results."""
    return Registry.built_in()


def result_of(model: ModelSpec | None, board: Board, dtypes: Sequence[str] = ("float32",)) -> tuple[str, EvalResult] | None:
    """The row of a board that is a model sampled as declared, whatever its id; of several dtypes the first that is there.

    model: None takes any row.
    """
    rows = [row for row in board.rows if model is None or as_sampled(row[1].model) == as_sampled(model)]
    return min(rows, key=lambda row: [*dtypes, dtype_of(row[1])].index(dtype_of(row[1])), default=None)


def twins(model: ModelSpec, found: Iterable[Board]) -> list[ModelSpec]:
    """The model as it is declared, then as some boards have it with other values of its `inferred`, which nobody has stated."""
    declared, twins = as_sampled(model), [model]
    for result in (result for board in found for result in board.results):
        own = as_sampled(result.model)
        differs = {name for name in own if own[name] != declared[name]}
        if differs and differs <= {*model.inferred} and own not in map(as_sampled, twins):
            twins.append(result.model)
    return twins


def as_sampled(model: ModelSpec) -> dict[str, object]:
    """Where a model's weights are from and how it is asked, JSON-ready."""
    names = set(ModelSpec.model_fields) - (ModelSpec.remarks | {"weights"}) | {"location", "base"}
    return model.model_dump(mode="json", include=names)
