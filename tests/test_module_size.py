"""No god files: every module of the packages fits in a few screens."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LIMIT = 350
MODULES = sorted(path for package in ("sbv2bench", "reference_trainer") for path in (ROOT / package).rglob("*.py"))


def test_there_are_modules_to_look_at() -> None:
    assert len(MODULES) > 30


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_a_module_is_at_most_350_lines(path: Path) -> None:
    assert len(path.read_text("utf-8").splitlines()) <= LIMIT
