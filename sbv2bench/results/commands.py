"""The command that makes a result again, as it is typed. Advice names it, so it must work where it is read."""

from __future__ import annotations

import shlex

from sbv2bench.registry import OWN_SUITE
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import ModelSpec


def eval_command(
    result: EvalResult, model: ModelSpec | None = None, *, suite: str | None = None, limit: int | None = None
) -> str:
    """`sbv2bench eval` of a model, by default the result's own, as the result was measured: whole, or its first images.

    suite: another than its own. A model that no catalog names is written by its location. Suite `own` exists in the command that
    made it alone; there the files that it was made of are named, as they were named then.
    """
    words = ["sbv2bench", "eval", "--model", model_word(model or result.model)]
    chosen = suite or result.suite.id
    for option, word in (_own_words(result) if chosen == OWN_SUITE else {"--suite": chosen}).items():
        words += [option, str(word)] if word else []
    return shlex.join(words + ([] if limit is None else ["--limit", str(limit)]))


def model_word(model: ModelSpec) -> str:
    """What names a model on the command line."""
    return model.location if model.family == "local" and model.location else model.id


def _own_words(result: EvalResult) -> dict[str, object]:
    own = result.provenance.get("own") or {}
    height, width = own.get("resolution") or (None, None)
    return {
        "--suite": str(own.get("from", "")).partition(":")[0],
        "--prompts": own.get("prompts"),
        "--reference": own.get("reference"),
        "--resolution": f"{height}x{width}" if height else None,
    }
