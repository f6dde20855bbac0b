"""Sweep files as `python -m reference_trainer sweep A B` writes them, read back with every key checked.

A sweep lies in a folder of its own, `leaderboards/sweeps/<a>+<b>/sweep.json`; its tables and its page lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Literal

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.results.records import MetricValue, Record, stored, validated
from sbv2bench.specs import SuiteSpec

NAME = "sweep.json"
_AGAIN = "python -m reference_trainer sweep A B writes it anew"


class SweepEnd(Record):
    id: str
    location: str
    weights: dict[str, str]  # path -> SHA-256


class SweepSuite(Record):
    id: str
    version: int
    fingerprint: str
    prompts_sha256: str
    reference_fingerprint: str | None
    num_generated: int
    num_reference: int | None
    seeds: tuple[int, ...]


class SweepRow(Record):
    weight: float
    result_fingerprint: str
    metrics: dict[str, MetricValue]


class SweepFile(Record):
    """w a + (1 - w) b for rising weights w of a, each evaluated on one suite."""

    axis: str
    formula: Literal["weight * a + (1 - weight) * b"]
    a: SweepEnd
    b: SweepEnd
    suite: SweepSuite
    rows: tuple[SweepRow, ...]
    provenance: dict[str, object]


def load(path: Path) -> SweepFile:
    """A sweep file. Raises IntegrityError if it is not whole, not of this form, or has a weight twice."""
    found = validated(SweepFile, stored(path, "sweep", _AGAIN, _AGAIN), f"sweep {path}", _AGAIN)
    weights = [row.weight for row in found.rows]
    if not weights or any(second <= first for first, second in pairwise(weights)):
        raise IntegrityError(f"sweep {path}: found weights {weights}, expected each once and rising", _AGAIN)
    return found


def find(folders: Iterable[Path], ends: tuple[str, str], suite: SuiteSpec) -> tuple[Path, SweepFile] | None:
    """The sweep between two models, whichever is its a, on a suite; None where there is none.

    Raises what `load` raises, and InputError for one of another number of images or protocol version, or for two of them.
    """
    found: list[tuple[Path, SweepFile]] = []
    for folder in folders:
        for path in sorted(folder.rglob(NAME)):
            sweep = load(path)
            if {sweep.a.id, sweep.b.id} == set(ends) and sweep.suite.id == suite.id and sweep not in (one for _, one in found):
                found.append((path, sweep))
    for path, sweep in found:
        own, expected = (sweep.suite.version, sweep.suite.num_generated), (suite.version, suite.num_generated)
        if own != expected:
            raise InputError(
                f"sweep {path}: found version {own[0]} with {own[1]} images, expected version {expected[0]} with {expected[1]}",
                f"python -m reference_trainer sweep {ends[0]} {ends[1]} --suite {suite.id}",
            )
    if len(found) > 1:
        raise InputError(
            f"sweeps {found[0][0]} and {found[1][0]} are of the same models on {suite.id}, expected one", "move one away"
        )
    return found[0] if found else None
