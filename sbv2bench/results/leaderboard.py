"""Leaderboards: built from committed result files and from nothing else, without a clock, so that they can be checked.

One board is one protocol: results whose suites have different fingerprints never share a table. Of each model as it
was sampled (its fingerprint) the newest result is shown, but for results of fewer metrics or seeds, which never hide
those of more. All files stay in the folder.
"""

from __future__ import annotations

import csv
import io
import math
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.results import claims, latency_board, prompt_values, store
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import fingerprint

MARK = "<!-- Built by `sbv2bench leaderboard` from the files in results/. Do not edit: change the results and build again. -->"
ORDER = (
    "fid", "precision", "recall", "density", "coverage", "precision_paper", "recall_paper", "kid", "clip_score", "hps",
    "hps_v21", "attribute_accuracy", "latency_ms", "latency_paper_ms",
)  # fmt: skip
ARROWS = {"lower": "↓", "higher": "↑"}


@dataclass(frozen=True)
class Board:
    """All results of one protocol, best first. name: the files' stem. rows: (path below the folder, result)."""

    name: str
    suite: str  # "mini-5k@v1"
    fingerprint: str
    rows: tuple[tuple[str, EvalResult], ...]

    @property
    def keys(self) -> list[str]:
        """Metric keys of any row, in the usual order."""
        found = {key for _, result in self.rows for key in result.metrics}
        return [key for key in ORDER if key in found] + sorted(found - set(ORDER))

    def metric(self, key: str) -> MetricValue:
        """Any row's value of a metric, for its label and direction."""
        return next(result.metrics[key] for _, result in self.rows if key in result.metrics)

    def clip_margin(self, result: EvalResult) -> float | None:
        """Mean cosine with the caption less that with its hard negative, where it was measured."""
        clip = result.metrics.get("clip_score")
        return None if clip is None or not clip.details else clip.details["margin"]["value"]

    def clip_gain(self, result: EvalResult) -> float | None:
        """The margin as a share of real pictures', where the board has a row of real pictures."""
        real = next((row for _, row in self.rows if row.model.sampler == "renderings"), None)
        own, theirs = self.clip_margin(result), None if real is None else self.clip_margin(real)
        return None if own is None or not theirs else own / theirs


def admit(path: Path) -> EvalResult:
    """A result that may be on a leaderboard.

    Raises InputError (partial, or on captions for choosing) or IntegrityError (its protocol is not what its fingerprint says).
    """
    result = store.load(path)
    again = f"sbv2bench eval --model {result.model.id} --suite {result.suite.id}, without --limit"
    if result.status != "complete":
        raise InputError(
            f"{path}: this result is partial ({result.suite.num_generated} images), a leaderboard takes complete ones only", again
        )
    if fingerprint(result.suite.protocol) != result.suite.fingerprint:
        raise IntegrityError(f"{path}: suite.fingerprint is not that of suite.protocol, so the file was edited", again)
    if _split(result.suite.protocol) == "choosing":
        raise InputError(
            f"{path}: suite {result.suite.id} has captions for choosing settings, a leaderboard takes reporting captions only",
            f"sbv2bench eval --model {result.model.id} --suite mini-5k",
        )
    return result


def _split(protocol: Any) -> str | None:
    """The caption split that a protocol names, wherever in it."""
    if not isinstance(protocol, dict):
        return None
    own = protocol.get("split")
    return own if isinstance(own, str) else next(filter(None, map(_split, protocol.values())), None)


def add(files: list[Path], folder: Path) -> list[Path]:
    """Copy result files, and the captions' values beside them, into `<folder>/results/...`; returns the copies' paths.

    All are admitted before the first is copied.
    """
    timed = [path for path in files if store.is_latency(path)]
    places = {path: store.path_of(latency_board.admit(path) if path in timed else admit(path)) for path in files}
    admitted = [(places[path], path.read_text("utf-8"), None if path in timed else _values(path)) for path in files]
    added = []
    for place, text, values in admitted:
        target = folder / "results" / place
        stem, count = target.stem, 1
        while target.exists() and target.read_text("utf-8") != text:
            count += 1
            target = target.with_name(f"{stem}-{count}.json")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            if values is not None:
                write_whole(prompt_values.path_beside(target), values)
            write_whole(target, text)
        except OSError as error:
            raise store.unwritable(folder, error) from error
        added.append(target)
    return added


def _values(path: Path) -> bytes | None:
    """The captions' values beside a result file. Raises IntegrityError where they are not those that it names."""
    beside = prompt_values.path_beside(path)
    return beside.read_bytes() if prompt_values.read(store.load(path), path) else None


def boards(folder: Path) -> list[Board]:
    """The boards of `<folder>/results`. Raises PrerequisiteError if there are no results, and as `admit` for each file."""
    paths = store.find(folder / "results")
    if not paths and not store.find_latency(folder / "results"):
        raise PrerequisiteError(f"{folder / 'results'}: found no result files", "sbv2bench leaderboard --add RESULT.json")
    groups: dict[tuple[str, int, str], list[tuple[str, EvalResult]]] = {}
    for path in paths:
        result = admit(path)
        key = (result.suite.id, result.suite.version, result.suite.fingerprint)
        groups.setdefault(key, []).append((path.relative_to(folder).as_posix(), result))
    newest: dict[str, tuple[str, int, str]] = {}  # the group whose files have the suite's plain name
    for key in sorted(groups, key=lambda key: (key[1], max(_date(result) for _, result in groups[key]), key[2])):
        newest[key[0]] = key
    found = [
        Board(
            name if newest[name] == (name, version, digest) else f"{name}@v{version}-{digest[:8]}",
            f"{name}@v{version}",
            digest,
            _ranked(rows),
        )
        for (name, version, digest), rows in sorted(groups.items())
    ]
    return found + joined(found, latency_board.paper_latency(folder))


def joined(found: list[Board], timed: dict[str, dict[str, MetricValue]]) -> list[Board]:
    """A board for each built-in group of suites: one row a model that has a result in every one, joined on its fingerprint.

    timed: latency by model fingerprint, which a row takes where its group asks for it. Only the newest protocol of each suite
    is joined. A row's n, seeds and file are those of its first suite.
    """
    by_name = {board.name: board for board in found}
    wholes = []
    for group in Registry.built_in().groups.values():
        parts = [by_name[suite] for suite in group.suites if suite in by_name]
        if len(parts) < len(group.suites):
            continue
        others = [{result.model.fingerprint(): result for _, result in part.rows} for part in parts[1:]]
        rows = []
        for path, result in parts[0].rows:
            same = [other.get(result.model.fingerprint()) for other in others]
            if all(same):
                more = {key: value for part in same if part is not None for key, value in part.metrics.items()}
                more |= timed.get(result.model.fingerprint(), {}) if group.latency == "paper" else {}
                rows.append((path, result.model_copy(update={"metrics": result.metrics | more})))
        if rows:
            digest = fingerprint([part.fingerprint for part in parts])
            wholes.append(Board(group.id, f"{group.id}@v{group.version}", digest, tuple(rows)))
    return wholes


def _date(result: EvalResult) -> str:
    return str(result.provenance.get("date_utc") or "")


def _ranked(rows: list[tuple[str, EvalResult]]) -> tuple[tuple[str, EvalResult], ...]:
    """One row of each model fingerprint, the newest of those with most metrics and seeds; lowest FID first, none last."""

    def weight(row: tuple[str, EvalResult]) -> tuple[int, int, str, str]:
        return (len(row[1].metrics), len(row[1].suite.seeds), _date(row[1]), row[0])

    shown = {row[1].model.fingerprint(): row for row in sorted(rows, key=weight)}

    def rank(row: tuple[str, EvalResult]) -> tuple[float, str, str]:
        fid = row[1].metrics.get("fid")
        return (math.inf if fid is None else fid.value, row[1].model.id, row[0])

    return tuple(sorted(shown.values(), key=rank))


def rendered(folder: Path) -> dict[str, str]:
    """The text of every leaderboard file by its name: what `build` writes and `check` expects."""
    texts: dict[str, str] = {}
    for board in boards(folder):
        texts[f"{board.name}.csv"] = to_csv(board)
        texts[f"{board.name}.md"] = to_markdown(board)
        results = [result for _, result in board.rows]
        if board.name == claims.declared().suite and claims.any_measured(results):
            texts[f"{board.name}-claims.csv"] = claims.to_csv(results)
            texts[f"{board.name}-claims.md"] = claims.to_markdown(MARK, board.suite, results)
    return texts | latency_board.rendered(folder, MARK)


def build(folder: Path) -> list[Path]:
    """Write a CSV and a Markdown file for each board into the folder, and remove boards that have no results any more."""
    texts = rendered(folder)
    try:
        for name in _built(folder) - set(texts):
            (folder / name).unlink()
        for name, text in texts.items():
            write_whole(folder / name, text)
    except OSError as error:
        raise store.unwritable(folder, error) from error
    return [folder / name for name in texts]


def check(folder: Path) -> list[Path]:
    """Build in memory and compare. Returns the files that are right; raises IntegrityError naming those that are not."""
    texts = rendered(folder)
    wrong = [name for name, text in texts.items() if not (folder / name).is_file() or _text(folder / name) != text]
    wrong += sorted(_built(folder) - set(texts))
    if wrong:
        command = "sbv2bench leaderboard" + ("" if folder == Path("leaderboards") else f" --dir {shlex.quote(str(folder))}")
        raise IntegrityError(f"{folder}: {', '.join(wrong)} is not what the files in results/ give", command)
    return [folder / name for name in texts]


def _text(path: Path) -> str:
    """A file's text with its line ends as they are."""
    return path.read_bytes().decode("utf-8", errors="replace")


def _built(folder: Path) -> set[str]:
    """Files in the folder that an earlier build made: Markdown with its mark, and the CSV beside it."""
    pages = {path for path in folder.glob("*.md") if _text(path).startswith(MARK)}
    return {path.name for path in pages} | {path.with_suffix(".csv").name for path in pages if path.with_suffix(".csv").is_file()}


def to_csv(board: Board) -> str:
    """Every number in full, one row a model."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    parts = ("", "_std_err", "_ci95_low", "_ci95_high")
    numbers = [f"{key}{part}" for key in board.keys for part in parts]
    writer.writerow(
        ["rank", "model", "nfe", "guidance_scale", "sampler", "scheduler", *numbers, "clip_margin", "clip_gain", *_TAIL]
    )
    for rank, (path, result) in enumerate(board.rows, 1):
        cells: list[object] = []
        for key in board.keys:
            value = result.metrics.get(key)
            low, high = (value.ci95 if value is not None else None) or (None, None)
            cells += [None, None, None, None] if value is None else [value.value, value.std_err, low, high]
        cells += [board.clip_margin(result), board.clip_gain(result)]
        numbers_text = ["" if cell is None else repr(cell) for cell in cells]
        model = result.model
        head = [
            rank if "fid" in result.metrics else "",
            model.id,
            model.nfe,
            model.guidance_scale,
            model.sampler,
            model.scheduler,
        ]
        writer.writerow([*head, *numbers_text, *_tail(path, result).values()])
    return out.getvalue()


_TAIL = ("n", "seeds", "protocol", "commit", "date", "hardware", "licence", "file")


def _tail(path: str, result: EvalResult) -> dict[str, str]:
    """What stands behind a row's numbers."""
    suite, made = result.suite, result.provenance
    commit = str(made.get("git_commit") or "")[:8] + ("+" if made.get("git_dirty") else "")
    on_cpu = str(made.get("device") or "cpu") == "cpu"
    hardware = str(made.get("device_name") or made.get("cpu") or "") + (f", {made.get('cores')} cores" if on_cpu else "")
    n = f"{suite.num_generated}" + (f" / {suite.num_reference}" if suite.num_reference else "")
    cells = (
        n,
        " ".join(map(str, suite.seeds)),
        suite.fingerprint[:8],
        commit,
        _date(result)[:10],
        hardware,
        result.model.licence,
        path,
    )
    return dict(zip(_TAIL, cells, strict=True))


def columns(board: Board) -> list[str]:
    """Headings of the table that people read."""
    metrics = [f"{board.metric(key).label} {ARROWS[board.metric(key).direction]}" for key in board.keys]
    return ["rank", "model", "NFE", "guidance", "scheduler", *metrics, "CLIP gain ↑", *_TAIL]


def table(board: Board) -> list[list[str]]:
    """The rows that people read, rounded, in the order of `columns`."""
    rows = []
    for rank, (path, result) in enumerate(board.rows, 1):
        model = result.model
        head = [
            str(rank) if "fid" in result.metrics else "",
            model.id,
            str(model.nfe),
            f"{model.guidance_scale:g}",
            model.scheduler,
        ]
        numbers = [rounded(result.metrics[key]) if key in result.metrics else "" for key in board.keys]
        gain = board.clip_gain(result)
        rows.append([*head, *numbers, "" if gain is None else f"{gain:.3f}", *_tail(path, result).values()])
    return rows


def rounded(metric: MetricValue) -> str:
    """A value to the second digit of its standard error, with it; else four significant digits, with the interval if any."""
    if metric.std_err:
        digits = min(6, max(0, 1 - math.floor(math.log10(metric.std_err))))
        return f"{metric.value:.{digits}f} ± {metric.std_err:.{digits}f}"
    digits = 4 if metric.value == 0 else min(6, max(0, 3 - math.floor(math.log10(abs(metric.value)))))
    interval = "" if metric.ci95 is None else f" [{metric.ci95[0]:.{digits}f}, {metric.ci95[1]:.{digits}f}]"
    return f"{metric.value:.{digits}f}{interval}"


def to_markdown(board: Board) -> str:
    """The board as a page: what the numbers are, then the table."""
    names = columns(board)
    lines = [MARK, f"# {board.suite}", "", f"Protocol `{board.fingerprint}`. Ranked by FID; ± is one standard error:", ""]
    for key in board.keys:
        methods = sorted({result.metrics[key].uncertainty for _, result in board.rows if key in result.metrics})
        extractors = sorted({str(result.metrics[key].extractor) for _, result in board.rows if key in result.metrics} - {"None"})
        measured = f"; features of {', '.join(extractors)}" if extractors else ""
        lines.append(f"- {board.metric(key).label}: {' / '.join(methods)}{measured}")
    lines.append("- CLIP gain: mean cosine with the caption less that with a false one, as a share of real pictures'")
    lines += ["", f"| {' | '.join(names)} |", f"|{' --- |' * len(names)}"]
    for row in table(board):
        cells = [cell.replace("|", "\\|").replace("\n", " ") for cell in row]
        cells[-1] = f"[json]({row[-1]})"
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
