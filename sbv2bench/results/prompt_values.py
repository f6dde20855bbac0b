"""What each caption's own images scored, beside a result file: with it two models can be compared caption by caption."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sbv2bench.errors import IntegrityError
from sbv2bench.results.records import EvalResult

# Metric key -> what each caption scored, [S, N]: seeds, captions in the suite's order. CLIP and HPS are float32, attribute
# accuracy is uint8: 1 where every attribute named is right.
Values = dict[str, NDArray[np.number]]


def attach(result: EvalResult, values: Values) -> tuple[EvalResult, bytes | None]:
    """The result with the hash of its values' file at each metric that is in it and at no other; that file's bytes, or None."""
    wanted = {key: np.ascontiguousarray(array) for key, array in values.items() if key in result.metrics}
    content = save(wanted) if wanted else None
    sha256 = None if content is None else hashlib.sha256(content).hexdigest()
    marked = {
        key: metric.model_copy(update={"prompt_values": sha256 if key in wanted else None})
        for key, metric in result.metrics.items()
    }
    return result.model_copy(update={"metrics": marked}), content


def path_beside(result_file: Path) -> Path:
    """Where the values of a result file are."""
    return result_file.with_name(f"{result_file.stem}.prompts.safetensors")


def read(result: EvalResult, result_file: Path) -> Values:
    """The values of a result; none where it has none, or where their file was not copied with it.

    Raises IntegrityError for a file that is not the one that the result was written with, or of other shapes.
    """
    path = path_beside(result_file)
    named = next((value.prompt_values for value in result.metrics.values() if value.prompt_values is not None), None)
    if named is None or not path.is_file():
        return {}
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != named:
        raise IntegrityError(
            f"{path}: found sha256 {found[:12]}, expected {named[:12]}, which {result_file.name} names",
            "copy both files again, or evaluate again",
        )
    try:
        values: Values = load(content)
    except SafetensorError as error:
        raise IntegrityError(f"{path}: found no whole safetensors file ({error})", "evaluate again") from error
    expected = (len(result.suite.seeds), result.suite.num_generated)
    for key, array in values.items():
        if array.shape != expected:
            raise IntegrityError(f"{path}: {key} has shape {list(array.shape)}, expected {list(expected)}", "evaluate again")
    return values
