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

# Bytes of cache an image, by the kind of extractor: float32 features or embeddings, int64 attributes.
_ROW = {"inception": 4 * 2048, "world_network": 4 * 128, "world_attributes": 8 * 9, "open_clip": 4 * 1024}
_MINI = 4 * 64  # an embedding of the mini family's
_UNKNOWN_ROW = 4 * 2048
_PNG = 0.55  # of the bytes of its pixels, for photographs and for the mini world's pictures
_SPARE = 64 * 2**20
_ELSEWHERE = "export SBV2BENCH_HOME=FOLDER, on a disk with room"


def cache_bytes(
    draws: Sequence[Sequence[ExtractorSpec]], captions: int, references: Sequence[ExtractorSpec] = (), num_reference: int = 0
) -> int:
    """Bytes of the cache at its fullest: the rows of every draw of images, of a draw's finished blocks, and of the reference.

    draws: of each the extractors of which the cache has no rows; references, num_reference: those of the reference images.
    """
    rows = [captions * row_bytes(extractors) for extractors in draws]
    texts = {spec.id: spec for extractors in draws for spec in extractors if spec.gives == "paired"}  # and as many false ones
    radii = 8 * num_reference if references else 0
    blocks = max(rows, default=0)  # they are dropped when their draw's entries are written
    return sum(rows) + blocks + num_reference * row_bytes(references) + radii + 2 * captions * row_bytes(texts.values())


def image_bytes(count: int, height: int, width: int) -> int:
    """Bytes of saved images of height x width pixels."""
    return round(count * height * width * 3 * _PNG)


def row_bytes(extractors: Iterable[ExtractorSpec]) -> int:
    """Bytes of an image's rows, in memory and in the cache alike."""
    return sum(
        _MINI if spec.kind == "open_clip" and spec.family == "mini" else _ROW.get(spec.kind, _UNKNOWN_ROW) for spec in extractors
    )


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
