"""Plots: every value at its place, every text in a free one, and nothing in a drawing but shapes and text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest

from sbv2bench.report import labels, plots
from sbv2bench.report.plots import BOTTOM, LEFT, RIGHT, TOP, Axis, Mark, plot, scale_of

SIZE = (400, 300)
INSIDE = (SIZE[0] - LEFT - RIGHT, SIZE[1] - TOP - BOTTOM)


def numbers(text: str) -> list[float]:
    return [float(found) for found in re.findall(r"-?\d+(?:\.\d+)?", text)]


def test_points_and_intervals_are_where_their_values_are() -> None:
    marks = [Mark(1.0, 10.0, "one step", "a", y_interval=(5.0, 20.0)), Mark(3.0, 40.0, "real", "b", x_interval=(2.0, 3.5))]
    across, up = scale_of(Axis("x"), (1.0, 3.0, 2.0, 3.5)), scale_of(Axis("y", log=True), (10.0, 40.0, 5.0, 20.0))
    root = ElementTree.fromstring(plot(marks, Axis("x"), Axis("y", log=True), "t", size=SIZE))
    points = [numbers(element.attrib["transform"]) for element in root.iter() if element.get("class") == "mark"]
    for point, mark in zip(points, marks, strict=True):
        assert point == pytest.approx([across.share(mark.x) * INSIDE[0], (1 - up.share(mark.y)) * INSIDE[1]], abs=0.01)
    bars = [line for line in root.iter("line") if line.get("stroke") == "var(--muted)"]
    level, upright = bars
    assert float(level.attrib["x2"]) == pytest.approx((across.share(3.5) - across.share(2.0)) * INSIDE[0], abs=0.02)
    assert abs(float(upright.attrib["y2"])) == pytest.approx((up.share(20.0) - up.share(5.0)) * INSIDE[1], abs=0.02)


def test_ticks_are_round_and_inside() -> None:
    linear = scale_of(Axis("x"), (0.70, 0.94))
    assert linear.ticks == (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
    log = scale_of(Axis("x", log=True), (0.1, 18.0))
    assert log.ticks == (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
    for scale in (
        linear,
        log,
        scale_of(Axis("x"), (3.0, 3.0)),
        scale_of(Axis("x"), (0.0, 0.0)),
        scale_of(Axis("x", log=True), (5.0,)),
    ):
        assert len(scale.ticks) >= 2
        assert all(0 <= scale.share(tick) <= 1 for tick in scale.ticks)
        assert scale.value(scale.share(scale.low)) == pytest.approx(scale.low)


def test_an_interval_that_goes_below_zero_ends_at_a_logarithmic_axis() -> None:
    marks = [Mark(1.0, 1.0, "one step", "a", y_interval=(-0.5, 2.5)), Mark(2.0, 3.0, "one step", "b")]
    root = ElementTree.fromstring(plot(marks, Axis("x"), Axis("y", log=True), "t", size=SIZE))
    (bar,) = [line for line in root.iter("line") if line.get("stroke") == "var(--muted)"]
    assert "nan" not in ElementTree.tostring(root, encoding="unicode").lower()
    assert numbers(bar.attrib["transform"])[1] == pytest.approx(INSIDE[1], abs=0.01)


def test_a_drawing_is_shapes_and_text_with_its_points_labelled() -> None:
    harm = '<script>window.harm=1</script><a href="javascript:1">'
    marks = [Mark(1.0, 1.0, "one step", harm, name=harm, row="r0"), Mark(2.0, 2.0, "several steps", "b")]
    root = ElementTree.fromstring(plot(marks, Axis(harm), Axis("y"), harm, size=(1200, 300), lines=[marks]))
    assert {element.tag for element in root.iter()} <= {"svg", "g", "path", "line", "text", "rect"}
    assert {name for element in root.iter() for name in element.attrib} <= plots.KEPT | {
        "class", "role", "aria-label", "tabindex", "data-row",
    }  # fmt: skip
    first = next(element for element in root.iter() if element.get("class") == "mark")
    assert (first.get("aria-label"), first.get("data-row")) == (harm, "r0")
    assert [element.text for element in root.iter("text")].count(harm) == 2  # the axis and the name
    assert root.get("aria-label") == harm


def test_a_drawing_has_no_more_digits_than_two_machines_agree_on() -> None:
    assert plots.rounded("translate(140.123456,-0.001) M-3.5,2 1.5e-7") == "translate(140.12,0) M-3.5,2 0"
    drawing = plot([Mark(1 / 3, 1 / 7, "curve", "a"), Mark(2 / 3, 1.0, "curve", "b")], Axis("x"), Axis("y"), "t", size=SIZE)
    assert not re.findall(r"\d\.\d{3,}", drawing)


def test_names_lie_over_nothing() -> None:
    points = [(100.0 + 9 * (place % 5), 100.0 + 9 * (place // 5)) for place in range(20)]
    texts = [f"model {place}" for place in range(20)]
    spots = labels.place(points, texts, 400, 300)
    boxes = [
        labels.box_of(spot.x, spot.y, spot.align, labels.CHARACTER * len(text))
        for spot, text in zip(spots, texts, strict=True)
        if spot
    ]
    assert 3 < len(boxes) < 20  # some find a place, and in such a crowd not all
    assert not [1 for place, box in enumerate(boxes) for other in boxes[:place] if box.meets(other)]
    dots = [labels.Box(x - 4, y - 4, x + 4, y + 4) for x, y in points]
    assert not [1 for box in boxes for dot in dots if box.meets(dot)]
    assert all(box.left >= 0 and box.right <= 400 and box.top >= 0 and box.bottom <= 300 for box in boxes)


def test_a_name_at_the_edge_goes_to_the_other_side_and_an_empty_one_nowhere() -> None:
    right, none, low = labels.place([(395, 150), (200, 150), (5, 297)], ["long name", "", "long name"], 400, 300)
    assert right is not None and right.align == "right"
    assert none is None
    assert low is not None and low.align == "left" and low.y < 297
    assert labels.place([(5, 5)], ["a name that is wider than the plot"], 100, 300) == [None]
