"""A model's id as people would say it: `mini/sbv2-merged-reg` is "SwiftBrush v2 merged, regularised". The id stays beside it."""

from __future__ import annotations

import re

_WORDS = {
    "sd21": "SD 2.1", "sd": "SD", "turbo": "Turbo", "sdxl": "SDXL", "swiftbrush": "SwiftBrush", "sbv2": "SwiftBrush v2",
    "sb": "SwiftBrush", "a": "A", "b": "B", "hps": "with HPS", "clip": "CLIP", "taesd": "with TAESD", "reg": "regularised",
    "unequal": "unequal ends", "real": "Real pictures", "lcm": "LCM", "dmd2": "DMD2", "instaflow": "InstaFlow",
}  # fmt: skip
_AFTER_A_COMMA = {"reg", "unequal"}
_TRAINING = re.compile(r"(.+)-seed[1-9]\d*")


def readable(model: str) -> str:
    """The last part of an id in words; a word that is not known stays as it is."""
    tail = model.rpartition("/")[2]
    said = ""
    for word in re.split(r"[-_]", tail):
        said += (", " if word in _AFTER_A_COMMA else " ") * bool(said) + _WORDS.get(word, word)
    return said[:1].upper() + said[1:] or model


def shipped_of(model: str) -> str | None:
    """The id of the shipped training of which `<id>-seed1`, `<id>-seed2` are further ones; None for any other id."""
    found = _TRAINING.fullmatch(model)
    return found[1] if found else None
