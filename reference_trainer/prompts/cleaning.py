"""What a caption of a public list is made of, when it is none, and when two are the same.

Only what no reader of a caption sees is changed: entities, control characters, spaces. Words are left as they were written.
"""

from __future__ import annotations

import functools
import hashlib
import html
import re
import sys
import unicodedata

RULES = 1  # raise it when the same list would be cleaned to other captions
LONGEST = 2_000  # characters; the text encoder reads 77 tokens, so a longer text is a page rather than a caption
SHORTEST = 3  # letters or digits: less says nothing that a picture could show
_ENTITY = re.compile(r"&(?:#\d+|#[xX][0-9a-fA-F]+|\w+);")  # with their semicolon: "black&gold" names no &gt
_ADDRESSES = re.compile(r"(?:(?:https?://|www\.)\S+\s*)+", re.IGNORECASE)
_BETWEEN_WORDS = re.compile(r"[\W_]+")
_JOINERS = {0x200C, 0x200D}  # invisible, but emoji and several scripts are spelled with them


def cleaned(text: str) -> str:
    """A caption on one line: HTML's entities decoded once, control characters and runs of spaces one space, invisible
    format characters (zero-width spaces, byte order marks, marks of direction, soft hyphens) taken out.
    """
    decoded = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return " ".join(decoded.translate(_characters()).split())


def why_left_out(caption: str) -> str | None:
    """Why a cleaned text is no caption to train on; None if it is one."""
    if len(caption) > LONGEST:
        return "too long"
    if _ADDRESSES.fullmatch(caption):
        return "web address"
    if sum(map(str.isalnum, caption)) < SHORTEST:
        return "too short"
    return None


def normalised(caption: str) -> str:
    """What two captions share that are the same but for case, spaces, punctuation and forms of a letter (NFKC)."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", caption).casefold())
    return _BETWEEN_WORDS.sub(" ", folded).strip()


def key(caption: str) -> int:
    """64 bits of a caption's normalised text: among 3.3 million captions two that differ share them with odds of 3 in 10^7."""
    return int.from_bytes(hashlib.blake2b(normalised(caption).encode(), digest_size=8).digest(), "little")


@functools.cache
def _characters() -> dict[int, str | None]:
    """Control characters as spaces, format characters as nothing."""
    changes: dict[int, str | None] = {}
    for code in range(sys.maxunicode + 1):
        category = unicodedata.category(chr(code))
        if category == "Cc":
            changes[code] = " "
        elif (category == "Cf" and code not in _JOINERS) or category == "Cs":
            changes[code] = None
    return changes
