"""One HTML page that needs nothing else: opened from disk, no network, its one script and one style known by their hashes.

The page is a function of its content alone: no clock, nothing of the machine. Text of any origin is escaped, and where
escaping failed the content security policy would still run nothing. Without scripts the tables stand as they are; with them
templates/*.js sort, filter, plot and show pictures from the same content, which is in the page once more as JSON.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any

from sbv2bench.errors import PrerequisiteError
from sbv2bench.printable import printable
from sbv2bench.report import bars, columns
from sbv2bench.report.page_content import Board, Content, Direction, Row, Sweep
from sbv2bench.report.values import ARROWS

PACKAGES = {"jinja2": "jinja2"}
STYLES = ("page.css", "board.css", "gallery.css")
SCRIPTS = ("dom.js", "state.js", "rows.js", "writers.js", "plot.js", "panel.js", "table.js", "gallery.js", "votes.js", "page.js")


@dataclass(frozen=True)
class Field:
    """What a table says of a row beside its metrics. direction: of what is better, for numbers."""

    key: str
    label: str
    text: Callable[[Row], str]
    direction: Direction | None = None
    shown: bool = True


FIELDS = (
    Field("nfe", "Steps", lambda row: str(row.nfe) if row.nfe else "", "lower"),
    Field("guidance", "Guidance", lambda row: "" if row.guidance is None else f"{row.guidance:g}", "lower", shown=False),
    Field("passes", "Passes", lambda row: "" if row.passes is None else f"{row.passes:g}", "lower", shown=False),
    Field("parameters", "Parameters", lambda row: "" if row.parameters is None else _count(row.parameters), "lower"),
    Field("licence", "Licence", lambda row: row.licence),
    Field("family", "Family", lambda row: row.family, shown=False),
    Field("date", "Date", lambda row: row.date, shown=False),
)


def check_packages() -> None:
    """Raises PrerequisiteError if a package that only pages need is not installed; none is imported."""
    missing = [package for module, package in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise PrerequisiteError(f"an HTML page needs {', '.join(missing)}: not installed", 'pip install "sbv2bench[report]"')


def page(content: Content) -> str:
    """The whole page as HTML text. Raises PrerequisiteError where the [report] extra is not installed."""
    check_packages()
    from jinja2 import Environment, PackageLoader, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=PackageLoader("sbv2bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, finalize=_shown,
    )  # fmt: skip
    style, script = ("\n".join(map(_template, names)) for names in (STYLES, SCRIPTS))
    environment.filters |= {"base64": lambda data: base64.b64encode(data).decode()}
    environment.globals |= {
        "arrows": ARROWS, "best": best, "ranked": ranked, "intervals": bars.intervals, "padding": padding,
        "weights": weights, "are_numbers": are_numbers, "fields": FIELDS, "fields_of": fields_of,
    }  # fmt: skip
    return environment.get_template("page.html").render(
        content=content, style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script),
        document=Markup(document(content)),
    )  # fmt: skip


def _shown(value: object) -> object:
    """What an expression of a template gives, as it may be seen; markup of our own is left."""
    return printable(value) if type(value) is str else value


def _template(name: str) -> str:
    return (files("sbv2bench.report") / "templates" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """A source expression of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def document(content: Content) -> str:
    """Boards and gallery as JSON that ends no script element, for the page's script; pictures are in the page themselves."""
    fields = [{"key": one.key, "label": one.label, "shown": one.shown, "direction": one.direction} for one in FIELDS]
    gallery = None if content.gallery is None else {k: v for k, v in asdict(content.gallery).items() if k != "png"}
    whole = {"title": content.title, "fields": fields, "boards": [asdict(board) for board in content.boards], "gallery": gallery}
    whole["sweeps"] = [asdict(sweep) for sweep in content.sweeps]
    return json.dumps(_seen(whole), ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")


def _seen(value: object) -> object:
    """With every text printable, and nothing that is empty."""
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {str(key): _seen(part) for key, part in value.items() if part not in (None, "", (), [], {})}
    return [_seen(part) for part in value] if isinstance(value, list | tuple) else value


def fields_of(board: Board) -> set[str]:
    """The keys of the fields that any row of a board has."""
    return {field.key for field in FIELDS if any(field.text(row) for row in board.rows)}


def best(board: Board) -> set[tuple[int, str]]:
    """(place of a row, key) of every best value of a column and of all that cannot be told from it; real pictures are none."""
    found: set[tuple[int, str]] = set()
    for column in board.columns:
        lines = board.verdicts.get(column.key)
        if lines:
            own = [
                (place, line) for place, line in zip(board.ranked, lines, strict=True) if column.key in board.rows[place].numbers
            ]
            places = [place for place, line in own if "-" not in line]
        else:
            values = {place: row.numbers[column.key].value for place, row in enumerate(board.rows)
                      if row.kind != "real" and column.key in row.numbers}  # fmt: skip
            top = (min if column.direction == "lower" else max)(values.values(), default=None)
            places = [place for place, value in values.items() if value == top]
        count = sum(row.kind != "real" and column.key in row.numbers for row in board.rows)
        found |= {(place, column.key) for place in places} if len(places) < count else set()  # all alike: none is best
    return found


def ranked(board: Board) -> dict[int, str]:
    """The ranks by the first column that has any, of the places of the rows: "2" or, where rows are tied, "2-4"."""
    column = next((column for column in board.columns if column.key in board.verdicts), None)
    if column is None:
        return {}
    having = [(place, line) for place, line in zip(board.ranked, board.verdicts[column.key], strict=True)
              if column.key in board.rows[place].numbers]  # fmt: skip
    ranks = {place: rank(line, len(having) - 1) for place, line in having}
    return {place: f"{first}" if first == last else f"{first}-{last}" for place, (first, last) in ranks.items()}


def rank(line: str, others: int) -> tuple[int, int]:
    """The first and the last place that a row's line of verdicts (`Board.verdicts`) leaves it among itself and so many others."""
    return 1 + line.count("-"), 1 + others - line.count("+")


def padding(board: Board, key: str) -> dict[int, str]:
    """What is missing behind each number of a column for their decimal points to stand in line."""
    tails = {place: row.numbers[key].text.partition(".") for place, row in enumerate(board.rows) if key in row.numbers}
    longest = max((len(point + decimals) for _, point, decimals in tails.values()), default=0)
    return {
        place: ("" if point else ".")[: longest - len(point + decimals)] + "0" * (longest - max(1, len(point + decimals)))
        for place, (_, point, decimals) in tails.items()
    }


def _count(number: int) -> str:
    """3,236,443 as "3.24 M"."""
    size, unit = next(((size, unit) for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")) if number >= size), (1, ""))
    return f"{number / size:.3g} {unit}".rstrip()


def are_numbers(column: columns.Column[Any], rows: Sequence[Any]) -> bool:
    """Whether all cells of a column of a table begin as numbers do."""
    cells = [cell for cell in (column.read(row) for row in rows) if cell]
    return bool(cells) and all(cell.lstrip("+-<* ")[:1].isdigit() for cell in cells)


def weights(sweep: Sweep) -> list[float]:
    """Where along its axis a sweep has any point, rising."""
    return sorted({x for curve in sweep.curves for x, _, _ in curve.points})
