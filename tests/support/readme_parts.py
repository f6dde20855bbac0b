"""Parts of READMEs that a test or its record makes, between `<!-- built by NAME -->` and `<!-- end -->`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from sbv2bench.atomic import write_whole


def _split(text: str, name: str) -> tuple[str, str, str]:
    found = re.search(rf"(?<=<!-- built by {re.escape(name)} -->\n).*?(?=<!-- end -->)", text, re.DOTALL)
    assert found is not None, f"no part {name}"
    return text[: found.start()], found[0], text[found.end() :]


def part(readme: Path, name: str) -> list[str]:
    """The lines of a part as they stand."""
    return _split(readme.read_text("utf-8"), name)[1].splitlines()


def rewrite(readme: Path, name: str, lines: Sequence[str]) -> None:
    """Put lines in the place of a part."""
    before, _, after = _split(readme.read_text("utf-8"), name)
    write_whole(readme, before + "".join(f"{line}\n" for line in lines) + after)
