"""The command that makes a result again, as it is typed. Advice names it, so it must work where it is read."""

from __future__ import annotations

import shlex

from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec


def eval_command(result: EvalResult, *, suite: str | None = None, limit: int | None = None) -> str:
    """`sbv2bench eval` of a result's model on a suite, by default its own: whole, or its first images.

    A model that no catalog names is written by its location. A suite of one's own captions or photographs exists in the
    command that made it alone; there the family's default is named.
    """
    chosen = suite or result.suite.id
    words = ["sbv2bench", "eval", "--model", model_word(result.model)]
    if not is_own(chosen):
        words += ["--suite", chosen]
    return shlex.join(words + ([] if limit is None else ["--limit", str(limit)]))


def model_word(model: ModelSpec) -> str:
    """What names a model on the command line."""
    return model.location if model.family == "local" and model.location else model.id


def is_own(suite: str) -> bool:
    """Whether a suite is of somebody's own captions or photographs, which no other command knows by its name."""
    return suite == "own" or suite.endswith(".own")
