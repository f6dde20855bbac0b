"""What a page shows, as plain values: it knows of no result file, so a leaderboard and a comparison are shown the same way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from sbv2bench.report import columns

Direction = Literal["lower", "higher"]
Table = tuple[Sequence[columns.Column[Any]], Sequence[Any]]  # as the writers of report/columns.py take it
Kind = Literal["measured", "published", "real"]  # real: not a model, what a perfect one would get


@dataclass(frozen=True)
class Number:
    """A number as people read it (`text`, and `spread` beside it), in full, and how its uncertainty was obtained."""

    value: float
    text: str
    spread: str = ""  # "± 0.015"; "" where there is none
    interval: tuple[float, float] | None = None  # 95 %
    method: str = ""  # of the uncertainty
    repeats: tuple[float, ...] = ()
    counts: str = ""  # generated / reference images
    extractor: str = ""
    trainings: tuple[float, ...] = ()  # of further trainings of the same model, by other seeds


@dataclass(frozen=True)
class Column:
    """A metric. label: as people know it, `-mini` where mini networks measured. shown: before anybody picks columns."""

    key: str
    label: str
    direction: Direction
    unit: str = ""
    shown: bool = True


@dataclass(frozen=True)
class Row:
    """A model as it was sampled. numbers: by a column's key. facts: what stands behind them, in words.

    id: its name in the page's address. title: as people say it. short: its name in a plot. nfe: evaluations of its network for
    an image; passes: rows that the network sees for one. parameters: of all its networks. weights: (file, SHA-256).
    command: that makes its result again. link: of its result file, relative to the page.
    """

    id: str
    name: str
    settings: str
    short: str
    numbers: Mapping[str, Number]
    kind: Kind = "measured"
    title: str = ""
    family: str = ""
    nfe: int | None = None
    guidance: float | None = None
    passes: float | None = None
    licence: str = ""
    parameters: int | None = None
    facts: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, str], ...] = ()
    command: str = ""
    date: str = ""
    link: str = ""


@dataclass(frozen=True)
class Tile:
    """A headline: what it is the best of, a row, its number, and the rows that cannot be told from it."""

    heading: str
    row: str  # id
    number: str
    tied: tuple[str, ...] = ()  # titles


@dataclass(frozen=True)
class Board:
    """Rows of one protocol, in their order of rank. about: paragraphs that say how it was measured. id: in the page's address.

    ranked: places of the rows that are ranked. verdicts: of a column's key, as `compare.ranks.verdicts` of those rows.
    found: what was found, a sentence. order: key of the column by which the rows come, the best first; "" where by none.
    """

    id: str
    name: str
    about: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    ranked: tuple[int, ...] = ()
    verdicts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    found: str = ""
    tiles: tuple[Tile, ...] = ()
    order: str = ""


@dataclass(frozen=True)
class Curve:
    """A metric along a sweep. points: (x, y, 95 % interval of y or None), x rising."""

    label: str
    direction: Direction
    points: tuple[tuple[float, float, tuple[float, float] | None], ...]


@dataclass(frozen=True)
class Sweep:
    """Curves over one axis. across: what stands along it in the plots."""

    name: str
    about: str
    axis: str
    curves: tuple[Curve, ...]
    across: str = "weight"


@dataclass(frozen=True)
class Shown:
    """A model in a gallery. scores: of a metric's key, one a caption. row: of the board, where it has one."""

    title: str
    name: str
    row: str
    scores: Mapping[str, Sequence[float]] = field(default_factory=dict)
    kind: Kind = "measured"


@dataclass(frozen=True)
class Gallery:
    """Images of the same captions and noise: a row of `png` each model, a column each caption, `side` pixels each.

    captions: (number, text). metrics: the scores that there are. picked: captions were chosen by their scores, so that nothing
    may be voted on or counted. board: id of the board that the models' rows are on.
    """

    about: str
    png: bytes
    side: int
    captions: tuple[tuple[int, str], ...]
    models: tuple[Shown, ...]
    metrics: tuple[Column, ...]
    board: str = ""
    picked: bool = False


@dataclass(frozen=True)
class Content:
    """A whole page. meanings: (what, what it means)."""

    title: str
    about: tuple[str, ...]
    boards: tuple[Board, ...]
    comparisons: Table | None = None
    comparisons_title: str = "Differences"
    comparisons_about: tuple[str, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    gallery: Gallery | None = None
    claims: Table | None = None
    claims_about: str = ""
    meanings: tuple[tuple[str, str], ...] = ()
    mark: str = field(default="", kw_only=True)  # a comment at the top that says who built the file
