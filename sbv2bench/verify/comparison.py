"""The numbers of a verification beside those that were sent in before, and what the paper prints of the same model."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sbv2bench.report.columns import Column
from sbv2bench.results import published
from sbv2bench.results.verifications import Pixels, Score, Sent, Verification
from sbv2bench.specs import ModelSpec

_ERRORS = 3.0  # standard errors beyond which a number is not what others found


@dataclass(frozen=True)
class Line:
    """One score. before: the same score of others, by the same protocol. printed: what the paper prints, with its suite."""

    key: str
    score: Score
    before: tuple[float, ...]
    printed: tuple[str, ...]

    @property
    def verdict(self) -> str:
        """Whether it is what others found: within their range, or near it; "" where nobody sent one in."""
        if not self.before:
            return ""
        off = max(min(self.before) - self.score.value, self.score.value - max(self.before), 0.0)
        error = self.score.std_err or 0.0
        near = off <= _ERRORS * error or math.isclose(off, 0.0, abs_tol=1e-12)
        return "as others found" if near else f"{off:.3g} beyond what others found"


def lines(record: Verification, model: ModelSpec, sent: Sequence[Sent]) -> list[Line]:
    """Every score of a verification. sent: those of the same model that were sent in before."""
    return [
        Line(key, score, tuple(_values(key, score, record, sent)), _printed(key, model)) for key, score in record.scores.items()
    ]


def _values(key: str, score: Score, record: Verification, sent: Sequence[Sent]) -> list[float]:
    others = [one.scores[key] for one in sent if key in one.scores and one.made != record.made]
    return [other.value for other in others if other.fingerprint == score.fingerprint]


def _range(values: Sequence[float]) -> str:
    if not values:
        return "nothing yet"
    low, high = f"{min(values):.5g}", f"{max(values):.5g}"
    return f"{low} (once)" if len(values) == 1 else f"{low} to {high} ({len(values)} times)"


def _printed(key: str, model: ModelSpec) -> tuple[str, ...]:
    """What the paper's tables print of a model for a score of that key, each number once, with the suite that it is of."""
    found = []
    for row in published.printed_rows():
        if row.name not in model.published_as or row.suspect:
            continue
        for name, metric in published.declared().metrics.items():
            if metric.key == key and not metric.style and name in row.numbers:
                found.append(f"{row.text(name)} on {metric.suite}")
    return tuple(dict.fromkeys(found))


def pixel_words(place: int, image: Pixels, sent: Sequence[Sent]) -> str:
    """How an image compares with the same caption's of others: equal bit for bit, or how far the nearest is off at most."""
    others = [one.pixels[place] for one in sent if one.pixels[place].caption == image.caption]
    same = sum(other.sha256 == image.sha256 for other in others)
    words = f"caption {place}: {image.height} x {image.width} px, sha256 {image.sha256[:16]}"
    if not others:
        return f"{words}, nobody has sent one in"
    if same:
        return f"{words}, the same pixels as {same} of {len(others)} sent in before"
    levels = min(int(np.abs(_levels(other) - _levels(image)).max()) for other in others)
    return f"{words}, reduced to 8 x 8 at most {levels} grey levels from the nearest of {len(others)} sent in before"


def _levels(image: Pixels) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.frombuffer(bytes.fromhex(image.reduced), np.uint8).astype(np.int64)


COLUMNS: tuple[Column[Line], ...] = (
    Column("", "score", lambda line: line.score.label, left=True, names=True),
    Column("", "this machine", lambda line: f"{line.score.value:.5g}"),
    Column("", "±", lambda line: "" if line.score.std_err is None else f"{line.score.std_err:.2g}"),
    Column("", "sent in before", lambda line: _range(line.before), left=True, prose=True),
    Column("", "verdict", lambda line: line.verdict, left=True, prose=True),
    Column("", "the paper prints, on other captions", lambda line: ", ".join(line.printed), left=True, prose=True),
)
