"""No god files: every module of the packages fits in a few screens."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parent.parent
LIMIT = 350
MODULES = sorted(path for package in ("sbv2bench", "reference_trainer") for path in (ROOT / package).rglob("*.py"))


def test_a_module_is_at_most_350_lines() -> None:
    lines = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in MODULES}
    assert len(lines) > 30
    assert not {name: count for name, count in lines.items() if count > LIMIT}
