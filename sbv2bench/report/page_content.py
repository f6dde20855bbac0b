"""What a page shows, as plain values: it knows of no result file, so a leaderboard and a comparison are shown the same way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Direction = Literal["lower", "higher"]
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


@dataclass(frozen=True)
class Column:
    """A metric. label: as people know it, `-mini` where mini networks measured."""

    key: str
    label: str
    direction: Direction
    unit: str = ""


@dataclass(frozen=True)
class Row:
    """A model as it was sampled. numbers: by a column's key. facts: what stands behind them, in words.

    short: its name in a plot. nfe: evaluations of its network for an image. weights: (file, SHA-256).
    link: of its result file, relative to the page.
    """

    name: str
    settings: str
    short: str
    numbers: Mapping[str, Number]
    kind: Kind = "measured"
    nfe: int | None = None
    guidance: float | None = None
    facts: tuple[tuple[str, str], ...] = ()
    weights: tuple[tuple[str, str], ...] = ()
    link: str = ""


@dataclass(frozen=True)
class Board:
    """Rows of one protocol, in their order of rank. about: paragraphs that say what is compared."""

    name: str
    about: tuple[str, ...]
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True)
class Comparison:
    """model less against in one metric, with its 95 % interval, its corrected p-value and a verdict on model; all as text."""

    metric: str
    model: str
    against: str
    difference: str
    interval: str
    p_value: str
    verdict: str
    method: str


@dataclass(frozen=True)
class Claim:
    """An order of two models that the paper claims, and what was found. Both sides with their values, as text."""

    says: str
    metric: str
    published: str
    first: str
    second: str
    difference: str
    over: str
    verdict: str


@dataclass(frozen=True)
class Curve:
    """A metric along a sweep. points: (x, y, 95 % interval of y or None), x rising."""

    label: str
    direction: Direction
    points: tuple[tuple[float, float, tuple[float, float] | None], ...]


@dataclass(frozen=True)
class Sweep:
    """Curves over one axis."""

    name: str
    about: str
    axis: str
    curves: tuple[Curve, ...]


@dataclass(frozen=True)
class Picture:
    """An image grid. alt: what it shows, in words. png: the file's bytes. scores: a heading, then a row for each model."""

    name: str
    about: str
    alt: str
    png: bytes
    width: int  # pixels
    height: int
    scores: tuple[tuple[str, ...], ...] = ()


@dataclass(frozen=True)
class Content:
    """A whole page. meanings: (what, what it means)."""

    title: str
    about: tuple[str, ...]
    boards: tuple[Board, ...]
    comparisons: tuple[Comparison, ...] = ()
    comparisons_about: tuple[str, ...] = ()
    sweeps: tuple[Sweep, ...] = ()
    pictures: tuple[Picture, ...] = ()
    claims: tuple[Claim, ...] = ()
    claims_about: str = ""
    meanings: tuple[tuple[str, str], ...] = ()
    mark: str = field(default="", kw_only=True)  # a comment at the top that says who built the file
