"""The trainer's README: which settings fit which card, as `show` counts it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from reference_trainer.recipe_files import read_recipe
from reference_trainer.show import describe

README = Path(__file__).parents[2] / "reference_trainer" / "README.md"
ROWS = re.findall(r"^\| (\d+) GB \| `(\S+) ([^`]+)` \| ([\d.]+) \|$", README.read_text("utf-8"), re.MULTILINE)


def test_settings_are_told_for_four_cards() -> None:
    assert [card for card, *_ in ROWS] == ["24", "24", "40", "40", "80", "80", "141", "141"]
    assert all(float(gigabytes) < 0.9 * int(card) for card, _, _, gigabytes in ROWS)


@pytest.mark.parametrize(
    ("recipe", "overrides", "gigabytes"),
    [pytest.param(*row[1:], marks=pytest.mark.ci if row is ROWS[1] else pytest.mark.slow) for row in ROWS],
)
def test_memory_is_what_show_counts(recipe: str, overrides: str, gigabytes: str) -> None:
    peak = describe(read_recipe(recipe, overrides.split()))["memory"]["peak"]
    assert peak / 1e9 == pytest.approx(float(gigabytes), rel=0.01)
