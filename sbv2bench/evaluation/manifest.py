"""The manifest of exported images: which file is which image of which result, each known by its SHA-256.

`manifest.jsonl` has a first line {"manifest": 1, "result": {"file", "sha256"}, "model", "suite"}, then a line an image.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.provenance import sha256_file

NAME = "manifest.jsonl"
_SHA256 = "^[0-9a-f]{64}$"


class _Line(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ResultFile(_Line):
    """The result that the images belong to."""

    file: str
    sha256: str = Field(pattern=_SHA256)


class Head(_Line):
    """The first line."""

    manifest: Literal[1] = 1
    result: ResultFile
    model: str
    suite: str


class ExportedImage(_Line):
    """One image. file: its name, in the manifest's folder. index: of the caption in the suite's list; k: which of its images."""

    id: str
    file: str = Field(pattern=r"^[\w.+-]+$")  # a name alone: no folder, no parent
    caption: str
    index: int = Field(ge=0)
    k: int = Field(ge=0)
    seed: int = Field(ge=0)
    sha256: str = Field(pattern=_SHA256)


@dataclass(frozen=True)
class Manifest:
    """A manifest as it was read; path: its file."""

    path: Path
    head: Head
    images: tuple[ExportedImage, ...]

    def check_files(self) -> None:
        """Raises IntegrityError naming the first image that is not there or is not the one that was exported."""
        for image in self.images:
            place = self.path.parent / image.file
            found = sha256_file(place) if place.is_file() else None
            if found != image.sha256:
                state = "not found" if found is None else f"found sha256 {found[:12]}"
                raise IntegrityError(
                    f"{place}: {state}, expected {image.sha256[:12]}, image {image.id} of the manifest",
                    "sbv2bench export again, and score those images",
                )


def image_id(index: int, seed: int, k: int) -> str:
    """An image's id, which is also its file's name without the suffix."""
    return f"{index:08d}-s{seed}-k{k}"


def to_text(head: Head, images: Iterable[ExportedImage]) -> str:
    """A manifest as it is written."""
    return "".join(line.model_dump_json() + "\n" for line in (head, *images))


def read_manifest(path: Path) -> Manifest:
    """Raises InputError where there is none, IntegrityError for a line that is not as it was written, or an id twice."""
    path = path / NAME if path.is_dir() else path
    try:
        text = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"manifest {path}: {getattr(error, 'strerror', None) or error}", "sbv2bench export RESULT --to FOLDER"
        ) from error
    images: dict[str, ExportedImage] = {}
    head, number = None, 0
    try:
        for number, line in enumerate(text.removesuffix("\n").split("\n"), 1):
            content = json.loads(line)
            if head is None:
                head = Head.model_validate(content)
                continue
            image = ExportedImage.model_validate(content)
            if image.id in images:
                raise IntegrityError(f"{path}, line {number}: found id {image.id!r} twice", "sbv2bench export again")
            images[image.id] = image
    except (ValueError, RecursionError) as error:
        first = error.errors()[0] if isinstance(error, ValidationError) else None
        what = str(error) if first is None else f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
        raise IntegrityError(f"{path}, line {number}: {what}", "sbv2bench export again") from error
    if head is None or not images:
        raise IntegrityError(f"{path}: found no images", "sbv2bench export again")
    for image in images.values():
        named = image_id(image.index, image.seed, image.k)
        if (image.id, image.file) != (named, f"{named}.png"):
            found = f"{path}: found id {image.id!r} and file {image.file!r}"
            raise IntegrityError(f"{found}, expected {named}", "sbv2bench export again")
    if text != to_text(head, images.values()):
        raise IntegrityError(f"{path}: it was written by another program, or edited", "sbv2bench export again")
    return Manifest(path, head, tuple(images.values()))
