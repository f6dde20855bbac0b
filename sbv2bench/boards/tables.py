"""A board as text: CSV with every number in full, Markdown for people. Measured rows first, the paper's apart from them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from sbv2bench.boards.boards import Board, date_of, hardware_of
from sbv2bench.report.values import ARROWS, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked, value_cell
from sbv2bench.results import published
from sbv2bench.results.conditions import differing_versions, dtype_of, notes, versions_cell
from sbv2bench.results.published import PrintedRow
from sbv2bench.results.records import EvalResult

MARK = "<!-- Built by `sbv2bench leaderboard` from the files in results/. Do not edit: change the results and build again. -->"
_HEAD = ("rank", "origin", "model", "nfe", "guidance_scale", "sampler", "scheduler")
_PARTS = ("", "_std_err", "_ci95_low", "_ci95_high", "_repeats")
_TAIL = ("n", "seeds", "protocol", "commit", "date", "hardware", "licence", "file")
_PRINTED = ("source", "method", "note")  # of published rows only


def to_csv(board: Board) -> str:
    """Every number in full, one row a model; `origin` says whether a row was measured or published."""
    styles = _styles(board)
    own = [f"{key}{part}" for key in board.keys for part in _PARTS] + [f"{key}_{style}" for key, style in styles]
    more = ["clip_margin", "clip_gain", "pareto", *_TAIL, *_PRINTED, *(["hps_held_out"] if marked(board.results) else [])]
    names = list(dict.fromkeys([*_HEAD, *conditions_shown(board), *own, *map(_printed_column, board.printed), *more]))
    out = io.StringIO()
    writer = csv.DictWriter(out, names, lineterminator="\n")
    writer.writeheader()
    for rank, (path, result) in enumerate(board.rows, 1):
        writer.writerow(_measured(board, rank, path, result, styles))
    for row in board.published:
        writer.writerow(_published(row))
    return out.getvalue()


def _styles(board: Board) -> list[tuple[str, str]]:
    """(metric key, style) of every style that a measured row has."""
    found = {(key, style) for result in board.results for key, value in result.metrics.items() for style in value.styles or {}}
    return sorted(found, key=lambda pair: (board.keys.index(pair[0]), pair[1]))


def _printed_column(metric: str) -> str:
    """The column of a printed metric: that of measured numbers where both are the same thing in the same unit."""
    declared = published.declared().metrics[metric]
    if not declared.key or declared.scale != 1:
        return metric
    return f"{declared.key}_{declared.style}" if declared.style else declared.key


def _measured(board: Board, rank: int, path: str, result: EvalResult, styles: Sequence[tuple[str, str]]) -> dict[str, object]:
    model = result.model
    place = rank if "fid" in result.metrics else ""
    head = (place, "measured", model.id, model.nfe, model.guidance_scale, model.sampler, model.scheduler)
    cells: dict[str, object] = {**dict(zip(_HEAD, head, strict=True)), **_conditions(board, result)}
    for key, value in result.metrics.items():
        low, high = value.ci95 or (None, None)
        numbers = (*map(_full, (value.value, value.std_err, low, high)), " ".join(map(repr, value.repeats)))
        cells |= {f"{key}{part}": number for part, number in zip(_PARTS, numbers, strict=True)}
    for key, style in styles:
        found = result.metrics[key].styles if key in result.metrics else None
        cells[f"{key}_{style}"] = _full((found or {}).get(style, {}).get("value"))
    cells |= {"clip_margin": _full(board.clip_margin(result)), "clip_gain": _full(board.clip_gain(result))}
    cells["pareto"] = {True: "yes", False: "no", None: ""}[board.is_pareto(result)]
    cells |= {"hps_held_out": "no"} if marked([result]) else {}
    return cells | _tail(path, result) | {"protocol": result.suite.fingerprint}


def _published(row: PrintedRow) -> dict[str, object]:
    model = published.published_models()[row.name]
    cells: dict[str, object] = {"origin": "published", "model": model.id, "nfe": row.nfe, "licence": model.licence}
    cells |= {_printed_column(metric): repr(number) for metric, number in row.numbers.items()}
    return cells | {"source": f"{published.PAPER}, Table {row.table}", "method": row.method, "note": _note(row)}


def _note(row: PrintedRow) -> str:
    return f"suspect: {row.suspect}" if row.suspect else ""


def _full(number: float | None) -> str:
    return "" if number is None else repr(number)


def _tail(path: str, result: EvalResult) -> dict[str, str]:
    """What stands behind a row's numbers."""
    suite, made = result.suite, result.provenance
    commit = str(made.get("git_commit") or "")[:8] + ("+" if made.get("git_dirty") else "")
    n = f"{suite.num_generated}" + (f" / {suite.num_reference}" if suite.num_reference else "")
    seeds = " ".join(map(str, suite.seeds))
    cells = (n, seeds, suite.fingerprint[:8], commit, date_of(result)[:10], hardware_of(result), result.model.licence, path)
    return dict(zip(_TAIL, cells, strict=True))


def columns(board: Board) -> list[str]:
    """Headings of the table of measured rows that people read."""
    metrics = [f"{board.metric(key).label} {ARROWS[board.metric(key).direction]}" for key in board.keys]
    pareto = ["Pareto"] if _timed(board) else []
    return ["rank", "model", "NFE", "guidance", "scheduler", *conditions_shown(board), *metrics, "CLIP gain ↑", *pareto, *_TAIL]


def conditions_shown(board: Board) -> list[str]:
    """Columns of what the measured rows were made under, where it is not the same: dtype, libraries."""
    several = len({dtype_of(result) for result in board.results if result.model.has_network()}) > 1
    return [*(["dtype"] if several else []), *(["libraries"] if differing_versions(board.results) else [])]


def _conditions(board: Board, result: EvalResult) -> dict[str, str]:
    own = {"dtype": dtype_of(result), "libraries": versions_cell(result, differing_versions(board.results))}
    return {name: own[name] for name in conditions_shown(board)}


def _timed(board: Board) -> bool:
    """Whether any row has FID and latency."""
    return any(board.is_pareto(result) is not None for result in board.results)


def table(board: Board) -> list[list[str]]:
    """The measured rows that people read, rounded, in the order of `columns`."""
    rows = []
    for rank, (path, result) in enumerate(board.rows, 1):
        model = result.model
        place = str(rank) if "fid" in result.metrics else ""
        head = [place, model.id, str(model.nfe), f"{model.guidance_scale:g}", model.scheduler]
        head += _conditions(board, result).values()
        numbers = [value_cell(result, key) if key in result.metrics else "" for key in board.keys]
        gain = board.clip_gain(result)
        more = ["" if gain is None else f"{gain:.3f}"]
        more += ["yes" if board.is_pareto(result) else ""] if _timed(board) else []
        rows.append([*head, *numbers, *more, *_tail(path, result).values()])
    return rows


def to_markdown(board: Board) -> str:
    """The board as a page: what the numbers are, the table of what was measured, that of what the paper prints."""
    lines = [MARK, f"# {board.suite}", "", *_measured_page(board)]
    if board.published:
        lines += ["", "## Published", ""]
        lines += [f"What {published.PAPER} prints, in every table that has the number. Not measured here, and not ranked."]
        lines += ["", *_published_page(board)]
    return "\n".join(lines) + "\n"


def _measured_page(board: Board) -> list[str]:
    if not board.rows:
        return ["Nothing has been measured on this suite yet: that takes weights, data and a GPU that were not available."]
    lines = [f"Protocol `{board.fingerprint}`. Ranked by FID; ± is one standard error:", ""]
    for key in board.keys:
        measured = [result.metrics[key] for result in board.results if key in result.metrics]
        methods = sorted({value.uncertainty for value in measured})
        extractors = sorted({str(value.extractor) for value in measured} - {"None"})
        seen = f"; features of {', '.join(extractors)}" if extractors else ""
        lines.append(f"- {board.metric(key).label}: {' / '.join(methods)}{seen}")
    lines.append(
        "- CLIP gain: mean cosine with the caption minus that with a false one, as a share of the same for real pictures"
    )
    if _timed(board):
        lines.append("- Pareto: no row on the same hardware is as good in both FID and latency, and better in one")
    lines += [f"- {note}" for note in notes(board.results)]
    rows = [[*row[:-1], f"[json]({row[-1]})"] for row in table(board)]
    footnote = ["", f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}"] if marked(board.results) else []
    return [*lines, "", *markdown_table(columns(board), rows), *footnote]


def _published_page(board: Board) -> list[str]:
    metrics = published.declared().metrics
    heads = ["table", "method", "model", "NFE"]
    heads += [f"{metrics[metric].title} {ARROWS[metrics[metric].direction]}" for metric in board.printed]
    noted = any(row.suspect for row in board.published)
    rows = []
    for row in board.published:
        numbers = [row.text(metric) if metric in row.numbers else "" for metric in board.printed]
        model = published.published_models()[row.name].id
        rows.append([row.table, row.method, model, str(row.nfe), *numbers, *([_note(row)] if noted else [])])
    return markdown_table(heads + (["note"] if noted else []), rows)


def markdown_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table; what would end a cell is escaped."""
    body = ([cell.replace("|", "\\|").replace("\n", " ") for cell in row] for row in rows)
    return [f"| {' | '.join(row)} |" for row in (list(heads), ["---"] * len(heads), *body)]
