"""Boards: result files by suite, the best first, and beside them what the paper prints for the same suite.

A column holds one metric fingerprint: values of a metric by another protocol than the newest result's stand in a column of their
own, named "fid@1a2b3c4d". Of each model as it was sampled (its fingerprint and dtype) the newest result is shown, but for results
of fewer metrics or seeds, which never hide those of more. Published numbers are rows of their own kind, never ranked with
measured ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sbv2bench.compare.differences import Contestant, leading, with_training
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.latency import board as latency_board
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.results import published, store
from sbv2bench.results.commands import eval_command
from sbv2bench.results.conditions import Identity, date_of, identity
from sbv2bench.results.published import PrintedRow
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import fingerprint

ORDER = (
    "fid", "precision", "recall", "density", "coverage", "precision_paper", "recall_paper", "kid", "clip_score", "hps",
    "hps_v21", "attribute_accuracy", "latency_ms", "latency_paper_ms",
)  # fmt: skip
Timed = Mapping[Identity, Mapping[str, MetricValue]]  # latency as metrics, by what was timed
_NAMED = re.compile(r"\d{8}T\d{6}Z-([0-9a-f]{8})(-\d+)?")


@dataclass(frozen=True)
class Latency:
    """How long one image takes. protocol: "quick" (an evaluation's, at most 10 s) or "paper" (section 7.5)."""

    milliseconds: float
    protocol: str
    hardware: str


@dataclass(frozen=True)
class Board:
    """All results of one version of a suite, best first. name: the files' stem. rows: (path below the folder, result).

    published: the paper's rows of the same suite, with its metrics only.
    """

    name: str
    suite: str  # "mini-5k@v1"
    rows: tuple[tuple[str, EvalResult], ...]
    published: tuple[PrintedRow, ...] = ()

    @property
    def results(self) -> list[EvalResult]:
        """The measured rows' results."""
        return [result for _, result in self.rows]

    @property
    def keys(self) -> list[str]:
        """Metric keys of any measured row, in the usual order."""
        found = {key for result in self.results for key in result.metrics}

        def place(key: str) -> tuple[int, str]:
            name = key.partition("@")[0]
            return (ORDER.index(name) if name in ORDER else len(ORDER), key)

        return sorted(found, key=place)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of its columns' metric fingerprints; "" where nothing was measured."""
        return fingerprint({key: self.metric(key).fingerprint for key in self.keys}) if self.rows else ""

    @property
    def printed(self) -> list[str]:
        """Metrics of any published row, as published.csv names them, in the order of their declarations."""
        found = {metric for row in self.published for metric in row.numbers}
        return [metric for metric in published.declared().metrics if metric in found]

    def metric(self, key: str) -> MetricValue:
        """Any row's value of a metric, for its label and direction."""
        return next(result.metrics[key] for result in self.results if key in result.metrics)

    def leading(self, key: str) -> frozenset[int]:
        """Places of the rows that lead a metric, as `compare` has it of results without values of single captions."""
        return leading([Contestant(result.model.id, result, {}) for result in self.results], key)

    def clip_margin(self, result: EvalResult) -> float | None:
        """Mean cosine with the caption less that with its hard negative, where it was measured."""
        clip = result.metrics.get("clip_score")
        margin = None if clip is None else (clip.details or {}).get("margin")
        value = margin.get("value") if isinstance(margin, dict) else None
        return value if isinstance(value, int | float) else None

    def clip_gain(self, result: EvalResult) -> float | None:
        """The margin as a share of real pictures', where the board has a row of real pictures."""
        real = next((row for row in self.results if row.model.images == "world"), None)
        own, theirs = self.clip_margin(result), None if real is None else self.clip_margin(real)
        return None if own is None or not theirs else own / theirs

    def is_pareto(self, result: EvalResult) -> bool | None:
        """Whether no row on the same hardware is at least as good in FID and latency and better in one; None without both."""
        own = _cost(result)
        if own is None:
            return None
        others = [_cost(other) for other in self.results]
        same = [cost for cost in others if cost is not None and cost[2:] == own[2:]]
        return not any(cost[0] <= own[0] and cost[1] <= own[1] and cost != own for cost in same)


def latency_of(result: EvalResult) -> Latency | None:
    """The latency that goes with a result: by the paper's protocol where it was measured so, else the evaluation's quick one."""
    found, quick = result.metrics.get("latency_paper_ms"), result.metrics.get("latency_ms")
    if found is not None:
        return Latency(found.value, "paper", str((found.details or {}).get("machine") or ""))
    return None if quick is None else Latency(quick.value, "quick", hardware_of(result))


def _cost(result: EvalResult) -> tuple[float, float, str, str] | None:
    """FID, milliseconds, and what a clock's reading depends on."""
    fid, latency = result.metrics.get("fid"), latency_of(result)
    return None if fid is None or latency is None else (fid.value, latency.milliseconds, latency.protocol, latency.hardware)


def hardware_of(result: EvalResult) -> str:
    """The device that a result was made on, of a CPU with its cores."""
    made = result.provenance
    on_cpu = str(made.get("device") or "cpu") == "cpu"
    return str(made.get("device_name") or made.get("cpu") or "") + (f", {made.get('cores')} cores" if on_cpu else "")


def admit(path: Path) -> EvalResult:
    """A result that may be on a leaderboard.

    Raises InputError (partial, on captions for choosing, or on somebody's own data) or IntegrityError (it was edited:
    `check_unedited`).
    """
    result = store.load(path)
    if result.suite.id == OWN_SUITE:
        raise InputError(
            f"{path}: suite own is of somebody's own captions or photographs, a leaderboard takes suites that everybody has",
            f"sbv2bench compare {path.parent} OTHER --suite own",
        )
    if result.status != "complete":
        raise InputError(
            f"{path}: this result is partial ({result.suite.num_generated} images), a leaderboard takes complete ones only",
            eval_command(result),
        )
    check_unedited(path, result)
    if (result.provenance.get("suite") or {}).get("look"):
        raise InputError(
            f"{path}: suite {result.suite.id} is for a first look, its numbers are on no leaderboard",
            eval_command(result, suite="coco2014-30k"),
        )
    if is_for_choosing(result):
        raise InputError(
            f"{path}: suite {result.suite.id} has captions for choosing settings, a leaderboard takes reporting captions only",
            eval_command(result, suite="mini-5k"),
        )
    return result


def check_unedited(path: Path, result: EvalResult) -> None:
    """Raises IntegrityError where parts of a result contradict each other: a hash and what it is of, a mean and its repeats."""
    again = eval_command(result)
    for key in result.metrics:
        protocol = result.protocol(key)
        if not protocol:
            raise IntegrityError(f"{path}: metrics.{key}.fingerprint is of no protocol, so the file was edited", again)
        if protocol["num_generated"] != result.suite.num_generated:
            raise IntegrityError(
                f"{path}: suite.num_generated is {result.suite.num_generated}, the protocol of {key} says "
                f"{protocol['num_generated']}",
                again,
            )
    if result.model.nfe != result.model.network_evaluations():
        expected = result.model.network_evaluations()
        raise IntegrityError(f"{path}: model.nfe is {result.model.nfe}, its settings make it {expected}", again)
    named = _NAMED.fullmatch(path.stem)
    digest = store.result_fingerprint(result)[:8]
    if named is not None and named[1] != digest:
        raise IntegrityError(f"{path}: model, suite or seeds are of fingerprint {digest}, its name says {named[1]}", again)
    for key, metric in result.metrics.items():
        repeats = metric.repeats
        if repeats and not math.isclose(sum(repeats) / len(repeats), metric.value, rel_tol=1e-9, abs_tol=1e-12):
            raise IntegrityError(f"{path}: metrics.{key}.value is {metric.value!r}, not the mean of its repeats", again)


def is_for_choosing(result: EvalResult) -> bool:
    """Whether a result is on captions for choosing settings, which are no report."""
    return _split(result.provenance.get("suite")) == "choosing"


def _split(declared: object) -> str | None:
    """The caption split that a suite names, wherever in it."""
    if not isinstance(declared, dict):
        return None
    own = declared.get("split")
    return own if isinstance(own, str) else next(filter(None, map(_split, declared.values())), None)


def check_no_twins(results: Mapping[str, EvalResult]) -> None:
    """Raises IntegrityError where two files hold the same result. results: by path."""
    seen: dict[str, str] = {}
    for path, result in results.items():
        text = store.dumps(result)
        if text in seen:
            raise IntegrityError(f"{path}: the same result as {seen[text]}, expected every result once", f"rm {path}")
        seen[text] = path


def boards(folder: Path) -> list[Board]:
    """The boards of `<folder>/results`, and those of suites that the paper has numbers for. Raises as `admit` for each file."""
    rows = {path.relative_to(folder).as_posix(): admit(path) for path in store.find(folder / "results")}
    check_no_twins(rows)
    registry = Registry.built_in()
    rows = {path: with_training(result, registry) for path, result in rows.items()}
    return with_published(grouped(rows.items(), latency_board.paper_latency(folder)))


def grouped(rows: Iterable[tuple[str, EvalResult]], timed: Timed | None = None) -> list[Board]:
    """A board for each version of a suite among (path, result), then those of groups of suites.

    timed: rows take the latency of their model and dtype, beside what they measured themselves. A latency of a busy machine is
    on no board.
    """
    groups: dict[tuple[str, int], list[tuple[str, EvalResult]]] = {}
    for path, result in rows:
        more = (timed or {}).get(identity(result), {})
        own = {key: metric for key, metric in result.metrics.items() if not (metric.details or {}).get("busy")}
        whole = result.model_copy(update={"metrics": {**own, **more}})
        groups.setdefault((result.suite.id, result.suite.version), []).append((path, whole))
    newest = dict(sorted(groups))  # version whose files have the suite's plain name
    found = [
        Board(name if newest[name] == version else f"{name}@v{version}", f"{name}@v{version}", _ranked(_in_columns(rows)))
        for (name, version), rows in sorted(groups.items())
    ]
    return found + joined(found)


def _in_columns(rows: list[tuple[str, EvalResult]]) -> list[tuple[str, EvalResult]]:
    """Rows whose metrics are named by the column that they belong in: one fingerprint each, the newest result's by its key."""
    usual: dict[str, str] = {}
    for _, result in sorted(rows, key=lambda row: (date_of(row[1]), row[0])):
        usual |= {key: metric.fingerprint for key, metric in result.metrics.items()}

    def named(key: str, metric: MetricValue) -> tuple[str, MetricValue]:
        if metric.fingerprint == usual[key]:
            return key, metric
        digest = metric.fingerprint[:8] or "unknown"
        return f"{key}@{digest}", metric.model_copy(update={"label": f"{metric.label} ({digest})"})

    return [
        (path, result.model_copy(update={"metrics": dict(named(*metric) for metric in result.metrics.items())}))
        for path, result in rows
    ]


def with_published(found: list[Board]) -> list[Board]:
    """The boards with the paper's rows of their suites; a suite that has such rows and no result gets a board of them alone."""
    registry = Registry.built_in()
    printed = {metric.suite for metric in published.declared().metrics.values()}
    empty = [Board(name, f"{name}@v{registry.suite(name).version}", ()) for name in printed - {board.name for board in found}]
    parts = {name: group.suites for name, group in registry.groups.items()}
    return sorted(
        (replace(board, published=published.rows_of_suites(parts.get(board.name, (board.name,)))) for board in found + empty),
        key=lambda board: board.name,
    )


def joined(found: list[Board]) -> list[Board]:
    """A board for each built-in group of suites: one row a model and dtype that has a result in every one.

    Only the newest version of each suite is joined. A row's n, seeds and file are those of its first suite.
    """
    by_name = {board.name: board for board in found}
    wholes = []
    for group in Registry.built_in().groups.values():
        parts = [by_name[suite] for suite in group.suites if suite in by_name]
        if len(parts) < len(group.suites):
            continue
        others = [{identity(result): result for result in part.results} for part in parts[1:]]
        rows = []
        for path, result in parts[0].rows:
            same = [other.get(identity(result)) for other in others]
            if all(same):
                more = {key: value for part in same if part is not None for key, value in part.metrics.items()}
                rows.append((path, result.model_copy(update={"metrics": result.metrics | more})))
        if rows:
            wholes.append(Board(group.id, f"{group.id}@v{group.version}", tuple(rows)))
    return wholes


def _ranked(rows: list[tuple[str, EvalResult]]) -> tuple[tuple[str, EvalResult], ...]:
    """One row of each model, dtype and set of columns of their own, the newest of those with most metrics and seeds; lowest FID
    first, none last."""

    def weight(row: tuple[str, EvalResult]) -> tuple[int, int, str, str]:
        return (len(row[1].metrics), len(row[1].suite.seeds), date_of(row[1]), row[0])

    def of_which(result: EvalResult) -> tuple[Identity, tuple[str, ...]]:
        return identity(result), tuple(sorted(key for key in result.metrics if "@" in key))

    shown = {of_which(row[1]): row for row in sorted(rows, key=weight)}

    def rank(row: tuple[str, EvalResult]) -> tuple[float, str, str]:
        fid = row[1].metrics.get("fid")
        return (math.inf if fid is None else fid.value, row[1].model.id, row[0])

    return tuple(sorted(shown.values(), key=rank))
