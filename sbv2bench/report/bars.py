"""The interval of each number as a small bar in its cell, all of a column on one scale."""

from __future__ import annotations

from collections.abc import Sequence

from sbv2bench.report.page_content import Board, Number

WIDTH, HEIGHT = 72, 9  # pixels
_FAR = 3  # spans of the middle half: a value further out than that from it does not stretch the scale


def intervals(board: Board) -> dict[tuple[int, str], str]:
    """The SVG of each number by (place of its row, key); "" in a column with fewer than two values or none of any spread."""
    found: dict[tuple[int, str], str] = {}
    for column in board.columns:
        numbers = {place: row.numbers[column.key] for place, row in enumerate(board.rows) if column.key in row.numbers}
        ranked = [numbers[place] for place in board.ranked if place in numbers]
        low, high = scale(ranked or list(numbers.values()))
        drawn = low < high and any(number.interval for number in numbers.values())
        found |= {(place, column.key): _bar(number, low, high) if drawn else "" for place, number in numbers.items()}
    return found


def scale(numbers: Sequence[Number]) -> tuple[float, float]:
    """Both ends of a column's scale: all values, intervals and trainings but those of rows that are far from all others."""
    values = sorted(number.value for number in numbers)
    if not values:
        return 0.0, 0.0
    quarter, three = values[len(values) // 4], values[(3 * len(values)) // 4 if len(values) > 3 else -1]
    room = _FAR * (three - quarter)
    near = [one for one in numbers if quarter - room <= one.value <= three + room] or list(numbers)
    ends = [end for one in near for end in (one.value, *(one.interval or ()), *one.trainings)]
    return min(ends), max(ends)


def _bar(number: Number, low: float, high: float) -> str:
    def at(value: float) -> float:
        return round(2 + (WIDTH - 4) * min(max((value - low) / (high - low), 0.0), 1.0), 1)

    middle = HEIGHT / 2
    if number.value > high or number.value < low:
        tip, back = (WIDTH - 1, WIDTH - 6) if number.value > high else (1, 6)
        shape = f'<path class="beyond" d="M{back} 1L{tip} {middle:g}L{back} {HEIGHT - 1}Z"/>'
    else:
        left, right = map(at, number.interval or (number.value, number.value))
        shape = f'<path d="M{left:g} {middle:g}H{right:g}"/><path class="at" d="M{at(number.value):g} 1V{HEIGHT - 1}"/>'
        if number.trainings:
            shape += f'<path class="also" d="{"".join(f"M{at(value):g} {HEIGHT - 3}V{HEIGHT}" for value in number.trainings)}"/>'
    return f'<svg class="bar" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" aria-hidden="true">{shape}</svg>'
