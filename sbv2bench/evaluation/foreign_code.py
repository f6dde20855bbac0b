"""Extractors and metrics that other people wrote: whatever they raise or give amiss is a short error that names them."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.errors import InputError, SBV2BenchError
from sbv2bench.evaluation.rows import Rows
from sbv2bench.results.records import MetricValue
from sbv2bench.specs import ExtractorSpec, MetricSpec

_EXPECTED = {
    "features": ("float32", 2, "[{n}, D]"),
    "paired": ("float32", 2, "[{n}, D]"),
    "scorer": ("float32", 1, "[{n}]"),
    "attributes": ("int64", 2, "[{n}, A]"),
}


def is_foreign(target: str) -> bool:
    """Whether "module:name" is somebody else's code."""
    return not target.startswith("sbv2bench.")


@contextmanager
def blamed(who: str, target: str) -> Iterator[None]:
    """Whatever foreign code raises is an InputError that says who, what, and the line of its file.

    The package's own errors pass, and those of memory, after which a run goes on with smaller blocks.
    """
    try:
        yield
    except Exception as error:
        from sbv2bench.evaluation.block_size import is_out_of_memory  # torch, which plans and wrong names do without

        if not is_foreign(target) or isinstance(error, SBV2BenchError) or is_out_of_memory(error):
            raise
        file = getattr(sys.modules.get(target.partition(":")[0]), "__file__", None)
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
        where = f" ({Path(file).name}, line {lines[-1]})" if file and lines else ""
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise InputError(f"{who}: {target} raised {said}{where}") from error


def checked_rows(spec: ExtractorSpec, found: object, count: int, width: int | None = None) -> NDArray[np.number]:
    """What an extractor gave of `count` images or captions, as an array. width: of the rows that it gave before.

    Raises InputError unless it is of the dtype and shape that the spec's `gives` promises, and finite.
    """
    try:
        rows = np.asarray(found)
    except (TypeError, ValueError):  # ragged lists, a tensor on a GPU
        rows = np.empty(0, dtype=object)
    dtype, dimensions, shape = _EXPECTED[spec.gives]
    fits = rows.dtype == dtype and rows.ndim == dimensions and len(rows) == count and 0 not in rows.shape[1:]
    if not fits or width not in (None, *rows.shape[1:]):
        promised = f"{dtype} {shape.format(n=count)}" if not fits else f"{width} columns, as before"
        given = f"{rows.dtype} {list(rows.shape)}" if isinstance(found, np.ndarray) else type(found).__name__
        raise InputError(f"extractor {spec.id} ({spec.kind}): found {given}, expected {promised}")
    if not np.isfinite(rows).all():
        raise InputError(f"extractor {spec.id} ({spec.kind}): found NaN or infinity, expected finite numbers")
    return rows


def copied(rows: Rows) -> Rows:
    """Rows whose arrays foreign code may overwrite: those that other metrics read stay as they are."""
    arrays = {field.name: getattr(rows, field.name) for field in fields(rows)}
    copies: dict[str, Any] = {name: array.copy() for name, array in arrays.items() if isinstance(array, np.ndarray)}
    return replace(rows, **copies)


def checked_values(metric: MetricSpec, found: object, rows: Rows) -> Mapping[str, MetricValue]:
    """What a metric's function gave of some rows.

    Raises InputError unless it is a finite MetricValue for every key that the metric declares, and for no other.
    """
    who = f"metric {metric.id}: {metric.target} gave"
    expected = ", ".join(metric.keys)
    captions = None if rows.generated is None else len(rows.generated) // rows.images_per_prompt
    if not isinstance(found, Mapping):
        raise InputError(f"{who} {type(found).__name__}, expected a MetricValue by key ({expected})")
    if set(found) != set(metric.keys):
        raise InputError(f"{who} {', '.join(map(str, found)) or 'nothing'}, expected {expected}")
    for key, value in found.items():
        if not isinstance(value, MetricValue):
            raise InputError(f"{who} {type(value).__name__} for {key}, expected a MetricValue")
        if not np.isfinite(value.value):
            raise InputError(f"{who} {value.value} for {key}, expected a finite number")
        each = None if value.each is None else np.asarray(value.each)
        if each is not None and captions is not None and each.shape != (captions,):
            raise InputError(f"{who} an `each` of shape {list(each.shape)} for {key}, expected [{captions}]")
        try:
            value.model_dump_json()
        except ValueError as error:
            raise InputError(f"{who} details for {key} that JSON cannot hold ({error})") from error
    return found
