"""One HTML page that needs nothing else: opened from disk, no network, its one script and one style known by their hashes.

The page is a function of its content alone: no clock, nothing of the machine. Text of any origin is escaped, and where
escaping failed the content security policy would still run nothing.
"""

from __future__ import annotations

import base64
import hashlib
import importlib.util
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from sbv2bench.errors import PrerequisiteError
from sbv2bench.report import plots
from sbv2bench.report.page_content import Board, Column, Content, Number, Row, Sweep

PACKAGES = {"jinja2": "jinja2", "altair": "altair", "vl_convert": "vl-convert-python"}
ARROWS = {"lower": "↓", "higher": "↑"}
WIDE, NARROW, PANEL = (620, 420), (356, 340), (356, 240)  # pixels: of a plot beside another, on a telephone, of a sweep's metric
LATENCIES = ("latency_paper_ms", "latency_ms")  # the first that rows have is drawn
_SEVERAL = 3  # points that make a line
_TICKS = 8  # NFE's that are all marked


@dataclass(frozen=True)
class _Figure:
    """A plot in two sizes, and what it shows in words."""

    title: str
    about: str
    wide: str
    narrow: str


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
        lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    style, script = (_template(name) for name in ("page.css", "page.js"))
    environment.filters |= {"base64": lambda data: base64.b64encode(data).decode(), "full": repr}
    environment.globals |= {"arrows": ARROWS, "marks": marks, "padding": padding, "figures": figures, "panels": panels}
    return environment.get_template("page.html").render(
        content=content, style=Markup(style), script=Markup(script), style_hash=_hash(style), script_hash=_hash(script)
    )


def _template(name: str) -> str:
    return (files("sbv2bench.report") / "templates" / name).read_text("utf-8")


def _hash(text: str) -> str:
    """A source expression of a content security policy."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def marks(board: Board) -> dict[tuple[int, str], str]:
    """(place of a row, key) -> "best" or "second", by value alone; equal values share it, and what is no model has none."""
    found: dict[tuple[int, str], str] = {}
    for column in board.columns:
        values = {
            place: row.numbers[column.key].value
            for place, row in enumerate(board.rows)
            if row.kind != "real" and column.key in row.numbers
        }
        ranked = sorted(set(values.values()), reverse=column.direction == "higher")
        for word, value in zip(("best", "second"), ranked[: len(ranked) - 1], strict=False):  # the last of all is neither
            found |= {(place, column.key): word for place in values if values[place] == value}
    return found


def padding(board: Board, key: str) -> dict[int, str]:
    """What is missing behind each number of a column for their decimal points to stand in line."""
    tails = {place: row.numbers[key].text.partition(".") for place, row in enumerate(board.rows) if key in row.numbers}
    longest = max((len(point + decimals) for _, point, decimals in tails.values()), default=0)
    return {
        place: ("" if point else ".")[: longest - len(point + decimals)] + "0" * (longest - max(1, len(point + decimals)))
        for place, (_, point, decimals) in tails.items()
    }


def figures(board: Board, ids: Sequence[str]) -> list[_Figure]:
    """FID against latency (against NFE where fewer than two rows have one of one machine) and precision against recall.

    ids: of the rows, for the page's script.
    """
    columns = {column.key: column for column in board.columns}
    found = []
    speed, machine = _speed(board.rows)
    for x, y in ((speed, "fid"), ("recall", "precision")):
        pairs = [(row, name) for row, name in zip(board.rows, ids, strict=True) if _drawable(row, x, y)]
        shown = [(row, name) for row, name in pairs if x not in LATENCIES or row.numbers[x].method == machine]
        if len(shown) < 2:
            continue
        left_out = sum(y in row.numbers for row in board.rows) - len(shown) if x in LATENCIES else 0
        found.append(_scatter(shown, x, columns.get(x), columns[y], left_out))
    return found


def _speed(rows: Sequence[Row]) -> tuple[str, str]:
    """The metric that speed is drawn by, and its method, which names the machine; NFE where no two rows have one alike."""
    for key in LATENCIES:
        methods = Counter(row.numbers[key].method for row in rows if key in row.numbers)
        if methods and (most := methods.most_common(1)[0])[1] > 1:
            return key, most[0]
    return "nfe", ""


def _drawable(row: Row, x: str, y: str) -> bool:
    """Whether a row has both values, and on logarithmic axes has them above 0."""
    across, up = _x(row, x), row.numbers.get(y)
    return across is not None and up is not None and (y != "fid" or min(across, up.value) > 0)


def _x(row: Row, key: str) -> float | None:
    """A row's place on a plot's first axis; real pictures have no network to evaluate, so none on that of NFE."""
    if key == "nfe":
        return row.nfe or None
    return row.numbers[key].value if key in row.numbers else None


def _scatter(shown: Sequence[tuple[Row, str]], x: str, across: Column | None, up: Column, left_out: int) -> _Figure:
    speed = x == "nfe" or x in LATENCIES
    shown = sorted(shown, key=lambda pair: (pair[0].nfe or 0) > 1)  # one-step models are named first
    points = {name: _mark(row, name, x, across, up) for row, name in shown}
    notes = ["No two rows have a latency of one machine, so NFE stands for it."] if x == "nfe" else []
    notes += [f"{left_out} rows without a latency of this machine are left out."] if left_out else []
    if not speed:
        apart = _apart(list(points.values()))
        points = {name: mark for name, mark in points.items() if mark not in apart}
        notes += [f"Outside the plot: {mark.tip}." for mark in apart]
    ways: dict[tuple[object, ...], list[tuple[float, str]]] = {}  # one model, of which only steps or only guidance differ
    for row, name in shown:
        way, along = ((row.name, row.guidance), row.nfe) if speed else ((row.name, row.nfe), row.guidance)
        if name in points:
            ways.setdefault((row.kind, *way), []).append((along or 0.0, name))
    lines = [[points[name] for _, name in sorted(way)] for way in ways.values() if len(way) >= _SEVERAL]
    if lines:
        notes.append("Lines join one model at equal guidance." if speed else "Lines join one model at equal steps, by guidance.")
    counts = tuple(float(count) for count in sorted({row.nfe or 0 for row, _ in shown}))
    ticks = counts if across is None and len(counts) <= _TICKS else ()
    axis_x = plots.Axis("NFE, network evaluations an image" if across is None else _title(across), speed, ticks)
    axis_y = plots.Axis(_title(up), log=up.key == "fid")
    title = f"{up.label} against {'NFE' if across is None else across.label}"
    wide, narrow = (plots.plot(list(points.values()), axis_x, axis_y, title, size=size, lines=lines) for size in (WIDE, NARROW))
    return _Figure(title, " ".join(notes), wide, narrow)


def _mark(row: Row, name: str, x: str, across: Column | None, up: Column) -> plots.Mark:
    return plots.Mark(
        x=_x(row, x) or 0.0, y=row.numbers[up.key].value, look=_look(row), name=row.short, row=name,
        tip=_tip(row, [column for column in (up, across) if column]),
        x_interval=row.numbers[x].interval if x in row.numbers else None, y_interval=row.numbers[up.key].interval,
    )  # fmt: skip


def _apart(points: Sequence[plots.Mark]) -> list[plots.Mark]:
    """At most a tenth of the points, each so far away that without it the others have twice the room along an axis."""
    left: list[plots.Mark] = list(points)
    apart: list[plots.Mark] = []
    while len(apart) < len(points) // 10:
        far = min(left, key=lambda mark: _shrunk(left, mark))
        if _shrunk(left, far) > 0.5:
            break
        left.remove(far)
        apart.append(far)
    return apart


def _shrunk(points: Sequence[plots.Mark], without: plots.Mark) -> float:
    """The span of the points without one as a share of all points' span, on the axis where it is smaller."""
    shares = []
    for axis in ("x", "y"):
        values = [float(getattr(mark, axis)) for mark in points]
        others = [float(getattr(mark, axis)) for mark in points if mark is not without]
        span = max(values) - min(values)
        shares.append((max(others) - min(others)) / span if span else 1.0)
    return min(shares)


def _title(column: Column) -> str:
    unit = f", {column.unit}" if column.unit else ""
    return f"{column.label}{unit} {ARROWS[column.direction]}"


def _look(row: Row) -> plots.Look:
    if row.kind != "measured":
        return row.kind
    return "one step" if row.nfe == 1 else "several steps"


def _tip(row: Row, columns: Sequence[Column]) -> str:
    numbers = [f"{column.label} {_with_interval(row.numbers[column.key])}" for column in columns if column.key in row.numbers]
    return ". ".join([", ".join(filter(None, (row.name, row.settings))), *numbers])


def _with_interval(number: Number) -> str:
    text = f"{number.text} {number.spread}".strip()
    return text + (f", 95 % [{number.interval[0]:.4g}, {number.interval[1]:.4g}]" if number.interval else "")


def panels(sweep: Sweep) -> list[str]:
    """A plot for each curve of a sweep; its best point stands out."""
    drawn = []
    for curve in sweep.curves:
        best = (min if curve.direction == "lower" else max)(curve.points, key=lambda point: point[1])
        points = [
            plots.Mark(
                x, y, "one step" if (x, y, interval) == best else "curve", y_interval=interval,
                tip=f"{sweep.axis}: {x:g}. {curve.label} {y:.5g}"
                + (f", 95 % [{interval[0]:.5g}, {interval[1]:.5g}]" if interval else ""),
            )
            for x, y, interval in curve.points
        ]  # fmt: skip
        up = plots.Axis(f"{curve.label} {ARROWS[curve.direction]}")
        drawn.append(plots.plot(points, plots.Axis("weight"), up, f"{curve.label}: {sweep.name}", size=PANEL, lines=[points]))
    return drawn
