"""Text of any origin as a terminal or a page may show it."""

from __future__ import annotations

import re

# What moves a cursor, colours, rings, or turns the direction of what stands beside it: controls but for tabs and line ends, marks
# and overrides of direction, separators of lines and paragraphs, halves of surrogate pairs.
_ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with every sign that would act rather than be seen written as its code: ESC is \\x1b."""
    return _ACTS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
