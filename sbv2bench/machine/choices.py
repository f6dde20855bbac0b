"""Options that every run takes, checked as typed, before anything is read or imported."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable

from sbv2bench.errors import InputError
from sbv2bench.machine.devices import WORDS

# progress(stage, done, total): called as images are finished, from one thread. stage is what people read ("generate").
Progress = Callable[[str, int, int], None]

DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda", "mps")
MAX_BATCH = 10_000


def refused(option: str, found: object, expected: str, suggestion: str | None = None) -> InputError:
    """The error for an option that cannot be meant; suggestion: a value that can."""
    return InputError(f"{option}: found {found!r}, expected {expected}", f"{option} {suggestion}" if suggestion else None)


def _closest(word: str, choices: tuple[str, ...]) -> str | None:
    aliases = {"gpu": "cuda", "nvidia": "cuda", "fp32": "float32", "fp16": "float16", "half": "float16", "bf16": "bfloat16"}
    if word.lower() in aliases:
        return aliases[word.lower()]
    found = difflib.get_close_matches(word.lower(), choices, n=1, cutoff=0.5)
    return found[0] if found else None


def check_choice(option: str, found: str, choices: tuple[str, ...]) -> None:
    """Raises InputError for a word that is none of the choices, with the nearest one."""
    if found not in choices:
        raise refused(option, found, f"one of {', '.join(choices)}", _closest(found, choices))


def check_whole(option: str, found: int | None, low: int, high: int | None, expected: str) -> None:
    """Raises InputError for a number below low or above high; None is not asked for."""
    if found is not None and (found < low or (high is not None and found > high)):
        raise refused(option, found, expected)


def check_device(found: str) -> None:
    """Raises InputError for a word that names no device; whether this machine has it is another question."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?|mps", found):
        raise refused("--device", found, WORDS, _closest(found, DEVICES))
