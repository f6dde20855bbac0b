"""What each caption's own images scored, beside a result file: with it two models can be compared caption by caption."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load, save

from sbv2bench.errors import IntegrityError
from sbv2bench.results.records import EvalResult, PromptValues

Values = dict[str, NDArray[Any]]  # metric key -> [S, N]: seeds, captions in the suite's order

_COSINES = {"clip": "clip_score", "hps": "hps", "hps_v21": "hps_v21"}  # rows of a measurement -> the metric's key


def of_rows(seeds: Sequence[Mapping[str, NDArray[Any]]]) -> Values:
    """Rows of each seed, as `measure_block` gives them, to the values whose means are the result's metrics.

    clip_score, hps, hps_v21 float32 [S, N] · attribute_accuracy uint8 [S, N]: 1 where every attribute named is right.
    """
    found: Values = {}
    for row, key in _COSINES.items():
        if all(row in rows for rows in seeds):
            found[key] = np.stack([rows[row] for rows in seeds]).astype(np.float32)
    if all("attributes" in rows for rows in seeds):
        found["attribute_accuracy"] = np.stack([(rows["attributes"] != 0).all(axis=1) for rows in seeds]).astype(np.uint8)
    return found


def attach(result: EvalResult, values: Values) -> tuple[EvalResult, bytes | None]:
    """The result with the hash of its values' file, and that file's bytes; nothing where no metric is of single captions."""
    wanted = {key: array for key, array in values.items() if key in result.metrics}
    if not wanted:
        return result, None
    content = save(wanted)
    record = PromptValues(sha256=hashlib.sha256(content).hexdigest(), metrics=tuple(sorted(wanted)))
    return result.model_copy(update={"prompt_values": record}), content


def path_beside(result_file: Path) -> Path:
    """Where the values of a result file are."""
    return result_file.with_name(f"{result_file.stem}.prompts.safetensors")


def read(result: EvalResult, result_file: Path) -> Values:
    """The values of a result; none where it has none, or where their file was not copied with it.

    Raises IntegrityError for a file that is not the one that the result was written with, or of other shapes.
    """
    path = path_beside(result_file)
    if result.prompt_values is None or not path.is_file():
        return {}
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if found != result.prompt_values.sha256:
        raise IntegrityError(
            f"{path}: found sha256 {found[:12]}, expected {result.prompt_values.sha256[:12]}, which {result_file.name} names",
            "copy both files again, or evaluate again",
        )
    values: Values = load(content)
    expected = (len(result.suite.seeds), result.suite.num_generated)
    for key, array in values.items():
        if array.shape != expected:
            raise IntegrityError(f"{path}: {key} has shape {list(array.shape)}, expected {list(expected)}", "evaluate again")
    return values
