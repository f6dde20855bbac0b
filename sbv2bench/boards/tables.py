"""A board as text: CSV with every number in full, Markdown for people. Measured rows first, the paper's apart from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from sbv2bench.boards.boards import Board, hardware_of
from sbv2bench.report.columns import Column, csv_text, markdown_lines
from sbv2bench.report.values import ARROWS, LEADERS_MEAN, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, mark, marked, value_cell
from sbv2bench.results import published
from sbv2bench.results.conditions import commit_of, date_of, differing_versions, dtype_of, notes, versions_cell
from sbv2bench.results.published import PrintedRow
from sbv2bench.results.records import EvalResult, MetricValue

MARK = "<!-- Built by `sbv2bench leaderboard` from the files in results/. Do not edit: change the results and build again. -->"


@dataclass(frozen=True)
class Measured:
    """A measured row: its rank, its file below the folder, and what is in it."""

    rank: int
    path: str
    result: EvalResult


def measured(board: Board) -> list[Measured]:
    """The board's measured rows, the best first."""
    return [Measured(rank, path, result) for rank, (path, result) in enumerate(board.rows, 1)]


def to_csv(board: Board) -> str:
    """Every number in full, one row a model; `origin` says whether a row was measured or published."""
    return csv_text((columns(board), measured(board)), (published_columns(board), board.published))


def columns(board: Board) -> list[Column[Measured]]:
    """The columns of the measured rows, for files and for people."""
    gain: Column[Measured] = Column(
        "clip_gain", "CLIP gain ↑", lambda row: board.clip_gain(row.result), lambda row: _rounded(board.clip_gain(row.result), 3)
    )
    pareto: Column[Measured] = Column(
        "pareto", "Pareto" if _timed(board) else "",
        lambda row: {True: "yes", False: "no", None: ""}[board.is_pareto(row.result)],
        lambda row: "yes" if board.is_pareto(row.result) else "",
    )  # fmt: skip
    return [
        Column("rank", "rank", lambda row: row.rank if "fid" in row.result.metrics else None),
        Column("origin", "", lambda row: "measured"),
        Column("model", "model", lambda row: row.result.model.id, left=True, names=True),
        Column("nfe", "NFE", lambda row: row.result.model.nfe),
        *_passes_columns(board),
        Column(
            "guidance_scale", "guidance", lambda row: row.result.model.guidance_scale,
            lambda row: f"{row.result.model.guidance_scale:g}",
        ),
        Column("sampler", "", lambda row: row.result.model.sampler),
        Column("scheduler", "scheduler", lambda row: row.result.model.scheduler, left=True),
        *_condition_columns(board),
        *(column for key in board.keys for column in _metric_columns(board, key)),
        *(_style_column(key, style) for key, style in _styles(board)),
        *(Column(_printed_column(metric), "", lambda row: None) for metric in board.printed if not _is_measured(board, metric)),
        Column("clip_margin", "", lambda row: board.clip_margin(row.result)),
        gain,
        pareto,
        *_ORIGIN,
        *((Column(name, "", lambda row: None)) for name in ("source", "method", "note")),
        *([Column("hps_held_out", "", lambda row: "no" if marked([row.result]) else None)] if marked(board.results) else []),
    ]  # fmt: skip


def _metric_columns(board: Board, key: str) -> list[Column[Measured]]:
    """A metric's value with its error for people; in files each number by itself."""

    def part(name: str, number: Callable[[MetricValue], object]) -> Column[Measured]:
        return Column(f"{key}_{name}", "", lambda row: number(row.result.metrics[key]) if key in row.result.metrics else None)

    metric, lead = board.metric(key), board.leading(key)
    return [
        Column(
            key, f"{metric.label} {ARROWS[metric.direction]}",
            lambda row: row.result.metrics[key].value if key in row.result.metrics else None,
            lambda row: value_cell(row.result, key) if key in row.result.metrics else "",
            strong=lambda row: row.rank - 1 in lead,
        ),
        part("std_err", lambda value: value.std_err),
        part("ci95_low", lambda value: None if value.ci95 is None else value.ci95[0]),
        part("ci95_high", lambda value: None if value.ci95 is None else value.ci95[1]),
        part("repeats", lambda value: " ".join(map(repr, value.repeats))),
        part("protocol", lambda value: value.fingerprint[:16]),
    ]  # fmt: skip


def _style_column(key: str, style: str) -> Column[Measured]:
    def value(row: Measured) -> float | None:
        found = row.result.metrics[key].styles if key in row.result.metrics else None
        return (found or {}).get(style, {}).get("value")

    return Column(f"{key}_{style}", "", value)


def _styles(board: Board) -> list[tuple[str, str]]:
    """(metric key, style) of every style that a measured row has."""
    found = {(key, style) for result in board.results for key, value in result.metrics.items() for style in value.styles or {}}
    return sorted(found, key=lambda pair: (board.keys.index(pair[0]), pair[1]))


def conditions_shown(board: Board) -> list[str]:
    """Columns of what the measured rows were made under, where it is not the same: dtype, libraries."""
    several = len({dtype_of(result) for result in board.results if result.model.has_network()}) > 1
    return [*(["dtype"] if several else []), *(["libraries"] if differing_versions(board.results) else [])]


def _passes_columns(board: Board) -> list[Column[Measured]]:
    """Forward passes of an image as they were counted, where a row has them."""
    if not any(result.forward_passes for result in board.results):
        return []
    return [Column("passes", "passes", _passes, lambda row: "" if (passes := _passes(row)) is None else f"{passes:g}")]


def _passes(row: Measured) -> float | None:
    counted = row.result.forward_passes
    return None if counted is None else counted.rows_an_image


def _condition_columns(board: Board) -> list[Column[Measured]]:
    differing = differing_versions(board.results)
    own: dict[str, Callable[[Measured], str]] = {
        "dtype": lambda row: dtype_of(row.result),
        "libraries": lambda row: versions_cell(row.result, differing),
    }
    return [Column(name, name, own[name], left=True) for name in conditions_shown(board)]


def _n(row: Measured) -> str:
    suite = row.result.suite
    return f"{suite.num_generated}" + (f" / {suite.num_reference}" if suite.num_reference else "")


_ORIGIN: tuple[Column[Measured], ...] = (  # what stands behind a row's numbers
    Column("n", "n", _n),
    Column("seeds", "seeds", lambda row: " ".join(map(str, row.result.suite.seeds))),
    Column("commit", "commit", lambda row: commit_of(row.result)),
    Column("date", "date", lambda row: date_of(row.result)[:10]),
    Column("hardware", "hardware", lambda row: hardware_of(row.result)),
    Column("licence", "licence", lambda row: row.result.model.licence),
    Column("file", "file", lambda row: row.path, lambda row: f"[json]({row.path})"),
)


def _timed(board: Board) -> bool:
    """Whether any row has FID and latency."""
    return any(board.is_pareto(result) is not None for result in board.results)


def published_columns(board: Board) -> list[Column[PrintedRow]]:
    """The columns of what the paper prints, for files and for people; in files a number that we measure too is in its column."""
    models = published.published_models()
    noted = any(row.suspect for row in board.published)
    return [
        Column("origin", "", lambda row: "published"),
        Column("", "table", lambda row: row.table),
        Column("", "method", lambda row: row.method, left=True),
        Column("model", "model", lambda row: models[row.name].id, left=True),
        Column("nfe", "NFE", lambda row: row.nfe),
        Column("licence", "", lambda row: models[row.name].licence),
        *map(_printed, board.printed),
        Column("source", "", lambda row: f"{published.PAPER}, Table {row.table}"),
        Column("method", "", lambda row: row.method),
        Column("note", "note" if noted else "", lambda row: f"suspect: {row.suspect}" if row.suspect else "", left=True),
    ]


def _printed(metric: str) -> Column[PrintedRow]:
    declared, models = published.declared().metrics[metric], published.published_models()
    return Column(
        _printed_column(metric), f"{declared.title} {ARROWS[declared.direction]}", lambda row: row.numbers.get(metric),
        lambda row: row.text(metric) + mark(models[row.name], declared.key) if metric in row.numbers else "",
    )  # fmt: skip


def _printed_column(metric: str) -> str:
    """The column of a printed metric: that of measured numbers where both are the same thing in the same unit."""
    declared = published.declared().metrics[metric]
    if not declared.key or declared.scale != 1:
        return metric
    return f"{declared.key}_{declared.style}" if declared.style else declared.key


def _is_measured(board: Board, metric: str) -> bool:
    return _printed_column(metric) in {*board.keys, *(f"{key}_{style}" for key, style in _styles(board))}


def _rounded(number: float | None, digits: int) -> str:
    return "" if number is None else f"{number:.{digits}f}"


def to_markdown(board: Board) -> str:
    """The board as a page: what the numbers are, the table of what was measured, that of what the paper prints."""
    lines = [MARK, f"# {board.suite}", "", *_measured_page(board)]
    if board.published:
        lines += ["", "## Published", ""]
        lines += [f"What {published.PAPER} prints, in every table that has the number. Not measured here, and not ranked."]
        printed = markdown_lines(published_columns(board), board.published)
        lines += ["", *printed]
        lines += ["", f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}"] if any(NOT_HELD_OUT in line for line in printed) else []
    return "\n".join(lines) + "\n"


def _measured_page(board: Board) -> list[str]:
    if not board.rows:
        return ["Nothing has been measured on this suite yet: that takes weights, data and a GPU that were not available."]
    lines = ["Ranked by FID; ± is one standard error. Each column is of one protocol, of which the first digits are given:", ""]
    for key in board.keys:
        values = [result.metrics[key] for result in board.results if key in result.metrics]
        methods = sorted({value.uncertainty for value in values})
        extractors = sorted({str(value.extractor) for value in values} - {"None"})
        seen = f"; features of {', '.join(extractors)}" if extractors else ""
        lines.append(f"- {board.metric(key).label}: {' / '.join(methods)}{seen}; protocol `{board.metric(key).fingerprint[:8]}`")
    lines.append(
        "- CLIP gain: mean cosine with the caption minus that with a false one, as a share of the same for real pictures"
    )
    if _timed(board):
        lines.append("- Pareto: no row on the same hardware is as good in both FID and latency, and better in one")
    lines += [f"- {note}" for note in notes(board.results)]
    leads = any(board.leading(key) for key in board.keys)
    footnote = ["", f"In bold: {LEADERS_MEAN}, real pictures left out."] if leads else []
    footnote += ["", f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}"] if marked(board.results) else []
    return [*lines, "", *markdown_lines(columns(board), measured(board)), *footnote]
