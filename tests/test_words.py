"""What a reader meets: READMEs of a bounded length whose links lead somewhere, and no document cited that is not here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
READMES = ("README.md", "sbv2bench/README.md", "reference_trainer/README.md", "leaderboards/README.md")
PACKAGES = ("sbv2bench", "reference_trainer")
WRITTEN = {"sweep.md", "README.md"}  # names of files that commands write
ABSENT = re.compile(r"\bdesign(\.md)? \d|trainer's section|trainer constants")


def sources() -> Iterator[Path]:
    yield from (ROOT / name for name in READMES)
    for package in PACKAGES:
        for pattern in ("*.py", "*.yaml", "*.html"):
            yield from sorted((ROOT / package).rglob(pattern))


def test_no_document_is_cited_that_is_not_here() -> None:
    here = {path.name for folder in (*PACKAGES, "leaderboards", "tests") for path in (ROOT / folder).rglob("*.md")} | WRITTEN
    wrong = []
    for path in sources():
        text = path.read_text("utf-8")
        cited = set(re.findall(r"(?<![\w{}.*/-])(?:[\w-]+/)*([\w-]+\.md)\b", text)) - here
        wrong += [f"{path.relative_to(ROOT)}: {name}" for name in cited]
        wrong += [f"{path.relative_to(ROOT)}: {found[0]}" for found in ABSENT.finditer(text)]
    assert not wrong


def anchor(heading: str) -> str:
    """A heading's anchor as GitHub makes it."""
    plain = re.sub(r"[`*]|\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


@pytest.mark.parametrize("name", READMES)
def test_links_lead_somewhere(name: str) -> None:
    readme = ROOT / name
    wrong = []
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", readme.read_text("utf-8")):
        path, _, place = link.partition("#")
        target = readme if not path else readme.parent / path
        heads = re.findall(r"^#+ (.+)$", target.read_text("utf-8"), re.MULTILINE) if place and target.is_file() else []
        if not target.exists() or (place and place not in map(anchor, heads)):
            wrong.append(link)
    assert not wrong


def test_the_front_page_is_short_and_begins_with_the_two_commands() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 120
    commands = ("pip install . && sbv2bench eval --model sd21", 'pip install ".[dev]" && pytest')
    assert [line for line in lines if line in commands] == [*commands]
