"""The command that measures another model as a result was measured."""

from __future__ import annotations

from typing import Any

from sbv2bench.registry import OWN_SUITE
from sbv2bench.results.records import EvalResult


def eval_command(result: EvalResult, model: str) -> str:
    """`sbv2bench eval` of a model on the suite of a result; of suite `own` with the files that it was made of, as named then."""
    if result.suite.id != OWN_SUITE:
        return f"sbv2bench eval --model {model} --suite {result.suite.id}"
    own: dict[str, Any] = result.provenance.get("own") or {}
    height, width = own.get("resolution") or (None, None)
    words = {
        "--suite": str(own.get("from", "")).partition(":")[0],
        "--prompts": own.get("prompts"),
        "--reference": own.get("reference"),
        "--resolution": f"{height}x{width}" if height else None,
    }
    return " ".join([f"sbv2bench eval --model {model}", *(f"{option} {word}" for option, word in words.items() if word)])
