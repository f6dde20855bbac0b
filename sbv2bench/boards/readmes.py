"""Tables and printed runs inside READMEs, built from the same files as the boards, so that no number is copied by hand.

A README says where: everything between `<!-- built by sbv2bench leaderboard: NAME -->` and `<!-- end -->` is written by
`sbv2bench leaderboard` and compared by `--check`. NAME is a key of `PARTS`: to add a part, write a function of the folder and
its boards, and name it there. Folders without such READMEs are left alone.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from sbv2bench.boards import claims
from sbv2bench.boards.boards import Board
from sbv2bench.boards.claims import SHOWN, Side
from sbv2bench.errors import IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.report import terminal
from sbv2bench.report.columns import Column, markdown_lines
from sbv2bench.report.result import print_result
from sbv2bench.report.values import ARROWS, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked, value_cell
from sbv2bench.results import store
from sbv2bench.results.records import EvalResult

READMES = ("README.md", "../README.md", "../sbv2bench/README.md")  # seen from the leaderboards' folder
MAIN_RUN = "main-run.json"  # the result of `sbv2bench eval --model sd21` that the README shows
WIDTH = 160  # columns of a printed run
SIX = (
    ("real pictures: the floor", Side(model="mini/real", nfe=0)),
    ("`sd21`, the teacher: 25 steps, guidance 3", Side(model="mini/sd21", nfe=25, guidance_scale=3.0)),
    ("`sd21`, the teacher: 1 step", Side(model="mini/sd21", nfe=1, guidance_scale=3.0)),
    ("`sd-turbo`, where A and B start: 1 step", Side(model="mini/sd-turbo")),
    ("`sbv2-merged`, SwiftBrush v2: 1 step", Side(model="mini/sbv2-merged")),
    ("`clip-naive-reg-unequal`, our own best: 1 step", Side(model="mini/clip-naive-reg-unequal")),
)
VERDICTS = (("agrees", "hold here"), ("disagrees", "do not"), ("not separated", "are not separated"), ("not run", "were not run"))
_RETRAINED = re.compile(r"-seed\d+$")
_PART = re.compile(r"(<!-- built by sbv2bench leaderboard: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def rendered(folder: Path, boards: Sequence[Board]) -> dict[str, str]:
    """The text of every README that asks for a part, by its path seen from the folder.

    Raises IntegrityError for a part that does not exist, or that needs a result which the folder lacks.
    """
    texts = {}
    for name in READMES:
        path = folder / name
        if path.is_file() and _PART.search(text := path.read_text("utf-8")):
            pieces = _PART.split(text)  # text, first mark, part, last mark, text, ...
            for place in range(2, len(pieces), 4):
                pieces[place] = _part(pieces[place], path, folder, boards)
            texts[name] = "".join(pieces)
    return texts


def _part(name: str, readme: Path, folder: Path, boards: Sequence[Board]) -> str:
    if name not in PARTS:
        raise IntegrityError(f"{readme}: found the part {name!r}, expected one of {', '.join(PARTS)}")
    board = next((board for board in boards if board.name == claims.declared().suite and board.rows), None)
    if board is None:
        raise IntegrityError(f"{readme}: part {name} is of the board {claims.declared().suite}, which has no results")
    return "\n".join(PARTS[name](folder, board)) + "\n"


def _main_run(folder: Path, board: Board) -> list[str]:
    """The result of the main command as the terminal shows it, at a width that no reader's terminal decides."""
    path = folder / MAIN_RUN
    if not path.is_file():
        raise IntegrityError(f"{path} is missing", "sbv2bench eval --model sd21, and copy its result file there")
    result = store.load(path)
    out = io.StringIO()
    console = Console(file=out, width=WIDTH, highlight=False)
    registry = Registry.built_in()
    suite = registry.suite(result.suite.id)  # as it was: with the metrics that were computed
    metrics = [one for one in suite.metrics if set(registry.metric(one.id).keys) & set(result.metrics)]
    terminal.say(console, terminal.suite_line(suite.model_copy(update={"metrics": tuple(metrics)})))
    terminal.say(console, terminal.model_line(result.model))
    print_result(console, result, Path("results") / store.path_of(result), console)
    return ["```", *(line.rstrip() for line in out.getvalue().splitlines()), "```"]


def _six_rows(folder: Path, board: Board) -> list[str]:
    """Six models of the board, in an order that tells a story."""
    rows = [(title, _row(side, board)) for title, side in SIX]
    return _table(board, [(title, row) for title, row in rows if row is not None])


def _ladder(folder: Path, board: Board) -> list[str]:
    """Every row of the board, the best first, without what only files need and without repeated trainings."""
    models = Registry.built_in().models
    rows = []
    for result in board.results:
        if _RETRAINED.search(result.model.id):
            continue
        model = models.get(result.model.id, result.model)
        several = f", {result.model.nfe} steps" if result.model.nfe > 1 else ", 1 step" if model.steps > 1 else ""
        guided = f", guidance {result.model.guidance_scale:g}" if result.model.guidance_scale != 1 or several else ""
        rows.append((f"`{result.model.id.partition('/')[2]}`{several}{guided}", result))
    return _table(board, rows)


def _training_seeds(folder: Path, board: Board) -> list[str]:
    """FID of models that were trained several times: each training, and the mean that the claims take."""
    trained = {result.model.id: result.metrics["fid"].value for result in board.results if result.model.nfe == 1}
    rows = [name for name in trained if f"{name}-seed1" in trained]

    def column(heading: str, suffix: str) -> Column[str]:
        return Column("", heading, lambda name: f"{trained[name + suffix]:.3f}" if name + suffix in trained else "")

    columns: list[Column[str]] = [
        Column("", f"{board.metric('fid').label} by training seed", lambda name: f"`{name.partition('/')[2]}`"),
        column("0 (shipped)", ""),
        column("1", "-seed1"),
        column("2", "-seed2"),
        Column("", "mean", lambda name: claims.cell(claims.estimate(Side(model=name), "fid", board.results))),
    ]
    return markdown_lines(columns, rows)


def _verdicts(folder: Path, board: Board) -> list[str]:
    """How many of the claims hold here."""
    found: Counter[str] = Counter(claim.verdict for claim in claims.measured(board.results))
    *first, last = [f"{found[verdict]} {words}" for verdict, words in VERDICTS if found[verdict]]
    counts = f"{', '.join(first)} and {last}" if first else last
    return [f"Of {found.total()} orders of two models that the paper claims or that we hoped for, {counts}."]


PARTS: dict[str, Callable[[Path, Board], list[str]]] = {
    "main-run": _main_run,
    "six-rows": _six_rows,
    "ladder": _ladder,
    "training-seeds": _training_seeds,
    "verdicts": _verdicts,
}


def _row(side: Side, board: Board) -> EvalResult | None:
    """The board's row of a side; None where it has none."""
    own = (result for result in board.results if result.model.id == side.model and result.model.nfe == side.nfe)
    return next((result for result in own if side.guidance_scale in (None, result.model.guidance_scale)), None)


def _table(board: Board, rows: Sequence[tuple[str, EvalResult]]) -> list[str]:
    def column(key: str) -> Column[tuple[str, EvalResult]]:
        metric = board.metric(key)
        heading = f"{metric.label} {ARROWS[metric.direction]}"
        return Column(key, heading, lambda row: value_cell(row[1], key) if key in row[1].metrics else None)

    title: Column[tuple[str, EvalResult]] = Column("", " ", lambda row: row[0])
    lines = markdown_lines([title, *(column(key) for key in SHOWN if key in board.keys)], rows)
    said = ["", f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}"] if marked(result for _, result in rows) else []
    return lines + said
