"""Bytes that a run writes, from what it measures; and whether the disks have room for them."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from sbv2bench import paths
from sbv2bench.errors import IntegrityError, PrerequisiteError
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.machine.checks import existing, write_something
from sbv2bench.specs import ExtractorSpec

# Bytes of cache an image, by the kind of extractor: float32 features (with nine attributes), or float64 scores.
_ROW = {"inception": 4 * 2048, "world_network": 4 * 128 + 9, "open_clip": 2 * 8}
_UNKNOWN_ROW = 4 * 2048
_PNG = 0.55  # of the bytes of its pixels, for photographs and for the mini world's pictures
_SPARE = 64 * 2**20
_ELSEWHERE = "export SBV2BENCH_HOME=FOLDER, on a disk with room"


def cache_bytes(
    rows: Sequence[ExtractorSpec], captions: int, seeds: int, references: Sequence[ExtractorSpec] = (), num_reference: int = 0
) -> int:
    """Bytes of the cache at its fullest: the rows of every seed, and those of the reference or of a seed's finished blocks.

    rows: extractors of the generated images, seeds: how many generations are not in the cache; references, num_reference: of
    the reference images that are not.
    """
    seed = captions * _row_bytes(rows)
    blocks = seed if seeds else 0  # they are dropped when their seed's entry is written, before the reference is measured
    radii = 8 * num_reference if references else 0
    return seeds * seed + max(blocks, num_reference * _row_bytes(references) + radii)


def image_bytes(count: int, height: int, width: int) -> int:
    """Bytes of saved images of height x width pixels."""
    return round(count * height * width * 3 * _PNG)


def _row_bytes(extractors: Iterable[ExtractorSpec]) -> int:
    return sum(_ROW.get(spec.kind, _UNKNOWN_ROW) for spec in extractors)


def check_disk(cache: int, images: int, options: EvalOptions) -> None:
    """Raises IntegrityError where a disk lacks room for so many bytes of cache or images, PrerequisiteError if it is locked."""
    if options.use_cache:
        try:
            place = existing(paths.features_dir())
            free = shutil.disk_usage(place).free
            write_something(place)
        except OSError as error:
            why = f"the cache cannot be written ({error.strerror})"
            raise PrerequisiteError(f"{paths.features_dir()}: {why}", _ELSEWHERE) from error
        _require(place, free, cache + _SPARE, "the cache", _ELSEWHERE)
    if images:
        place = existing(options.results)
        _require(place, shutil.disk_usage(place).free, images, "the images", "--save-images sample")


def _require(place: Path, free: int, needed: int, what: str, fix: str) -> None:
    if free < needed:
        raise IntegrityError(f"{place}: found {free // 2**20} MB free, expected {needed // 2**20} MB for {what}", fix)
