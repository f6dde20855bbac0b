"""Names beside the points of a plot: placed where nothing is yet, or left out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CHARACTER, LINE = 6.1, 12.0  # pixels of a character and of a line, at the plots' font size
CLEAR = 5.0  # half the side of a point
Align = Literal["left", "center", "right"]
# Offsets from the point to the text's anchor, the best place first; then further away.
PLACES: tuple[tuple[float, float, Align], ...] = (
    (9, 0, "left"), (-9, 0, "right"), (7, -10, "left"), (7, 10, "left"), (-7, -10, "right"), (-7, 10, "right"),
    (0, -13, "center"), (0, 13, "center"), (10, -19, "left"), (10, 19, "left"), (-10, -19, "right"), (-10, 19, "right"),
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A rectangle in pixels, y downwards."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether both have a point in common."""
        return self.left < other.right and other.left < self.right and self.top < other.bottom and other.top < self.bottom


@dataclass(frozen=True)
class Label:
    """Where a text's anchor is, in pixels, y downwards; the text is centred in height there."""

    x: float
    y: float
    align: Align


def place(points: Sequence[tuple[float, float]], texts: Sequence[str], width: float, height: float) -> list[Label | None]:
    """A place for each text within width x height, over no point and no earlier text; None where there is none.

    points: pixels, y downwards. An empty text has no label. Texts that come first choose first.
    """
    taken = [Box(x - CLEAR, y - CLEAR, x + CLEAR, y + CLEAR) for x, y in points]
    found: list[Label | None] = []
    for (x, y), text in zip(points, texts, strict=True):
        label = None
        for right, down, align in PLACES if text else ():
            box = box_of(x + right, y + down, align, CHARACTER * len(text))
            inside = box.left >= 0 and box.right <= width and box.top >= 0 and box.bottom <= height
            if inside and not any(box.meets(other) for other in taken):
                taken.append(box)
                label = Label(x + right, y + down, align)
                break
        found.append(label)
    return found


def box_of(x: float, y: float, align: Align, width: float) -> Box:
    """What a name of that width covers, in pixels, whose end or middle is at x."""
    left = x - {"left": 0.0, "center": width / 2, "right": width}[align]
    return Box(left, y - LINE / 2, left + width, y + LINE / 2)
