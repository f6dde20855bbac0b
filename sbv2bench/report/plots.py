"""Plots with intervals: specified by altair, drawn as SVG when the page is built, so that a page needs no script to show them.

Nothing in the SVG depends on the fonts of the machine that draws: sizes, domains and ticks are set here. Colours are the
page's own variables, so a plot is light or dark as the page is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from xml.etree import ElementTree

from sbv2bench.report.labels import place

if TYPE_CHECKING:
    import altair

VEGA_LITE = "5.20"  # of those that vl-convert brings: the drawing does not change when altair does
LEFT, RIGHT, TOP, BOTTOM = 48, 16, 30, 44  # pixels around a plot's inside
_LOOKS = {  # shape, fill, stroke
    "one step": ("circle", "var(--accent)", "var(--surface)"),
    "several steps": ("circle", "var(--muted)", "var(--surface)"),
    "published": ("square", "var(--surface)", "var(--ink)"),
    "real": ("diamond", "var(--ink)", "var(--surface)"),
    "curve": ("circle", "var(--muted)", "var(--surface)"),
}
Look = Literal["one step", "several steps", "published", "real", "curve"]
_TAGS = {"svg", "g", "path", "line", "text", "rect"}
KEPT = {
    "viewBox", "transform", "d", "x", "y", "x1", "y1", "x2", "y2", "width", "height", "fill", "stroke", "stroke-width",
    "stroke-dasharray", "opacity", "fill-opacity", "text-anchor", "font-size", "font-weight",
}  # fmt: skip


@dataclass(frozen=True)
class Mark:
    """A point. row: the id of its row in the page. tip: all that is to be known of it, as text. name: written beside it."""

    x: float
    y: float
    look: Look
    tip: str
    name: str = ""
    row: str = ""
    x_interval: tuple[float, float] | None = None
    y_interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Axis:
    """ticks: values to be marked; by themselves at round numbers."""

    title: str
    log: bool = False
    ticks: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scale:
    """An axis with its two ends."""

    low: float
    high: float
    log: bool
    ticks: tuple[float, ...]

    def share(self, value: float) -> float:
        """Where a value is, 0 at the low end and 1 at the high one."""
        low, high, at = (math.log(v) if self.log else v for v in (self.low, self.high, value))
        return (at - low) / (high - low)

    def value(self, share: float) -> float:
        """The value at a share of the axis."""
        if self.log:
            return math.exp(math.log(self.low) + share * math.log(self.high / self.low))
        return self.low + share * (self.high - self.low)

    def clipped(self, value: float) -> float:
        """The nearest value on the axis."""
        return min(max(value, self.low), self.high)


def scale_of(axis: Axis, values: Iterable[float]) -> Scale:
    """Ends that leave room around the values, and round ticks. Values that a logarithmic axis has not are left out."""
    known = [value for value in values if not axis.log or value > 0]
    least, most = min(known), max(known)
    if axis.log:
        low, high = least / 1.25, most * 1.25
        rounds = (1, 2, 5) if high / low > 6 else (1, 1.5, 2, 3, 4, 5, 6, 8)
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        ticks = [float(f"{one}e{power}") for power in powers for one in rounds]
    else:
        room = 0.07 * (most - least) or 0.1 * abs(most) or 1.0
        low, high = least - room, most + room
        step = _round_step((high - low) / 4)
        ticks = [float(f"{count * step:.12g}") for count in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return Scale(low, high, axis.log, axis.ticks or tuple(tick for tick in ticks if low <= tick <= high))


def _round_step(about: float) -> float:
    """The largest of 1, 2 and 5 times a power of ten that is not above."""
    power = math.floor(math.log10(about))
    return max(float(f"{one}e{power}") for one in (1, 2, 5) if float(f"{one}e{power}") <= about * (1 + 1e-9))


def plot(
    marks: Sequence[Mark], x: Axis, y: Axis, title: str, *, size: tuple[int, int], lines: Sequence[Sequence[Mark]] = ()
) -> str:
    """The SVG of a scatter plot. size: all of it, in pixels. lines: marks to be joined, in order. title: for who cannot see it.

    Marks that come first are named first. Every mark is a `.mark` with its row as data-row and its tip as its label.
    """
    import altair
    import vl_convert

    width, height = size[0] - LEFT - RIGHT, size[1] - TOP - BOTTOM
    across = scale_of(x, [value for mark in marks for value in (mark.x, *(mark.x_interval or ()))])
    up = scale_of(y, [value for mark in marks for value in (mark.y, *(mark.y_interval or ()))])
    layers = [
        *_joined(lines, x, y, across, up),
        *_intervals(marks, across, up),
        _points(marks),
        *_names(marks, across, up, width, height),
    ]
    chart = (
        altair.layer(*layers)
        .properties(width=width, height=height, padding={"left": LEFT, "right": RIGHT, "top": TOP, "bottom": BOTTOM})
        .configure(autosize=altair.AutoSizeParams(type="none"), background="transparent")
        .configure_view(stroke=None)
        .configure_axis(
            grid=True, gridColor="var(--line)", domain=False, ticks=False, labelColor="var(--muted)", titleColor="var(--ink)",
            labelFontSize=11, titleFontSize=12, titleFontWeight="normal", labelPadding=6, labelLimit=0, titleLimit=0,
            labelOverlap=False, labelBound=False, labelFlush=False, format="~g",
        )
    )  # fmt: skip
    spec = chart.to_dict()
    spec.pop("$schema", None)  # altair's; which Vega-Lite draws is said here
    return _own(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE), marks, title)


def _placed(x: Axis, y: Axis, across: Scale, up: Scale) -> dict[str, object]:
    """The two axes, as the first layer declares them for all."""
    import altair

    def scale(of: Scale) -> altair.Scale:
        return altair.Scale(type="log" if of.log else "linear", domain=[of.low, of.high], nice=False, zero=False)

    below = altair.Axis(title=x.title, values=list(across.ticks), titleY=36, minExtent=24, maxExtent=24)
    beside = altair.Axis(
        title=y.title, values=list(up.ticks), minExtent=LEFT, maxExtent=LEFT,
        titleAngle=0, titleAlign="left", titleAnchor="end", titleBaseline="bottom", titleX=8 - LEFT, titleY=-12,
    )  # fmt: skip
    return {
        "x": altair.X("x:Q", scale=scale(across), axis=below),
        "y": altair.Y("y:Q", scale=scale(up), axis=beside),
    }


def _joined(lines: Sequence[Sequence[Mark]], x: Axis, y: Axis, across: Scale, up: Scale) -> list[altair.Chart]:
    import altair

    joined = [
        {"x": mark.x, "y": mark.y, "line": number, "place": place}
        for number, line in enumerate(lines)
        for place, mark in enumerate(line)
    ]
    chart = altair.Chart(altair.Data(values=joined)).mark_line(strokeWidth=1, color="var(--faint)")
    return [chart.encode(**_placed(x, y, across, up), detail="line:N", order="place:O")]


def _intervals(marks: Sequence[Mark], across: Scale, up: Scale) -> list[altair.Chart]:
    import altair

    level = [
        {"x": across.clipped(mark.x_interval[0]), "x2": across.clipped(mark.x_interval[1]), "y": mark.y}
        for mark in marks
        if mark.x_interval
    ]
    upright = [
        {"y": up.clipped(mark.y_interval[0]), "y2": up.clipped(mark.y_interval[1]), "x": mark.x}
        for mark in marks
        if mark.y_interval
    ]
    ends: list[tuple[list[dict[str, float]], dict[str, str]]] = [(level, {"x2": "x2:Q"}), (upright, {"y2": "y2:Q"})]
    return [
        altair.Chart(altair.Data(values=rows)).mark_rule(color="var(--muted)", strokeWidth=1).encode(x="x:Q", y="y:Q", **end)
        for rows, end in ends
        if rows
    ]


def _points(marks: Sequence[Mark]) -> altair.Chart:
    import altair

    looks = [dict(zip(("shape", "fill", "stroke"), _LOOKS[mark.look], strict=True)) for mark in marks]
    points = [{"x": mark.x, "y": mark.y, **look} for mark, look in zip(marks, looks, strict=True)]
    chart = altair.Chart(altair.Data(values=points), name="points").mark_point(size=64, strokeWidth=1.25, opacity=1)
    encoded: altair.Chart = chart.encode(
        x="x:Q", y="y:Q",
        shape=altair.Shape("shape:N", scale=None), fill=altair.Fill("fill:N", scale=None),
        stroke=altair.Stroke("stroke:N", scale=None),
    )  # fmt: skip
    return encoded


def _names(marks: Sequence[Mark], across: Scale, up: Scale, width: float, height: float) -> list[altair.Chart]:
    import altair

    spots = [(across.share(mark.x) * width, (1 - up.share(mark.y)) * height) for mark in marks]
    places = place(spots, [mark.name for mark in marks], width, height)
    named = [
        {"x": across.value(spot.x / width), "y": up.value(1 - spot.y / height), "name": mark.name, "align": spot.align}
        for mark, spot in zip(marks, places, strict=True)
        if spot
    ]
    return [
        altair.Chart(altair.Data(values=rows))
        .mark_text(align=align, baseline="middle", fontSize=11, color="var(--ink)")
        .encode(x="x:Q", y="y:Q", text="name:N")
        for align in ("left", "center", "right")
        if (rows := [row for row in named if row["align"] == align])
    ]


def _own(svg: str, marks: Sequence[Mark], title: str) -> str:
    """The drawing in the page's own terms: nothing in it but shapes and text, rounded, its points labelled."""
    root = ElementTree.fromstring(svg)
    group = next(element for element in root.iter() if "points_marks" in element.get("class", ""))
    points = dict(zip(list(group), marks, strict=True))
    _clean(root, points)
    root.attrib |= {"class": "plot", "role": "group", "aria-label": title}
    return ElementTree.tostring(root, encoding="unicode")


def _clean(element: ElementTree.Element, points: dict[ElementTree.Element, Mark]) -> None:
    for child in list(element):
        _clean(child, points)
        if not (len(child) or child.text or {"fill", "stroke"} & set(child.attrib)) or child.get("display") == "none":
            element.remove(child)
    element.tag = element.tag.rpartition("}")[2]
    if element.tag not in _TAGS:
        raise ValueError(f"plot: found <{element.tag}> in a drawing, expected {sorted(_TAGS)}")
    kept = {name: rounded(value) for name, value in element.attrib.items() if name in KEPT}
    element.attrib.clear()
    element.attrib |= kept
    if element in points:
        mark = points[element]
        element.attrib |= {"class": "mark", "role": "img", "tabindex": "-1", "aria-label": mark.tip, "data-row": mark.row}


def rounded(text: str) -> str:
    """Coordinates to a hundredth of a pixel: what two machines' arithmetic agrees on."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda found: f"{round(float(found[0]), 2) + 0.0:g}", text)
