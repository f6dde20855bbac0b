"""Captions that a user has for images of their own: a list in the images' order, or a manifest that names the images."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.images import natural_key
from sbv2bench.errors import InputError, IntegrityError

FORMS = "*.txt (one a line), *.json (a list of strings), or *.csv or *.jsonl with the columns file and caption"


@dataclass(frozen=True)
class OwnCaptions:
    """captions: in the images' natural order. files: the image of each, where the file is a manifest."""

    captions: tuple[str, ...]
    files: tuple[str, ...] | None

    def checked(self, path: Path, count: int, sha256: str | None) -> tuple[str, ...]:
        """The captions, proved to be so many and to hash to sha256. Raises IntegrityError: the file has changed since."""
        if len(self.captions) != count or (sha256 is not None and captions_sha256(self.captions) != sha256):
            raise IntegrityError(f"{path}: its {len(self.captions)} captions are not the {count} that were there before")
        return self.captions

    def require_images(self, path: Path, images: Sequence[str]) -> None:
        """Raises IntegrityError unless there is a caption for each of the images (names in natural order) and none over."""
        if self.files is None:
            if len(self.captions) != len(images):
                raise IntegrityError(f"{path}: found {len(self.captions)} captions for {len(images)} images, expected one each")
            return
        missing, over = sorted(set(images) - set(self.files)), sorted(set(self.files) - set(images))
        if missing or over:
            what = f"no caption for {missing[0]}" if missing else f"a caption for {over[0]}, which is not there"
            raise IntegrityError(
                f"{path}: found {what} ({len(missing)} images without a caption, {len(over)} captions without one)"
            )


def read_own_captions(path: Path) -> OwnCaptions:
    """Captions of a file in one of the FORMS; a manifest's are put in the natural order of its files.

    Raises InputError (no file, another form), IntegrityError (not text, rows without a caption, a file named twice).
    """
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise InputError(f"--prompts: {path} cannot be read ({error.strerror})", "give a caption file") from error
    except UnicodeDecodeError as error:
        raise IntegrityError(f"--prompts: {path} is not UTF-8 text ({error.reason})", "save it as UTF-8") from error
    suffix = path.suffix.lower()
    if suffix == ".txt":
        return OwnCaptions(_some(text.splitlines(), path), None)
    if suffix not in {".json", ".csv", ".jsonl"}:
        raise InputError(f"--prompts: found {path.name}, expected {FORMS}")
    try:
        if suffix == ".json":
            return OwnCaptions(_some(json.loads(text), path), None)
        lines = csv.DictReader(io.StringIO(text)) if suffix == ".csv" else map(json.loads, filter(str.strip, text.splitlines()))
        rows = [(row["file"], row["caption"]) for row in lines]
    except (ValueError, KeyError, TypeError, csv.Error, RecursionError) as error:
        raise IntegrityError(f"--prompts: {path}: no captions in it ({error!r:.80}), expected {FORMS}") from error
    if not all(isinstance(name, str) and isinstance(caption, str) for name, caption in rows):
        raise IntegrityError(f"--prompts: {path}: a row without a file or a caption, expected {FORMS}")
    if len({name for name, _ in rows}) < len(rows):
        raise IntegrityError(f"--prompts: {path} names a file twice", "one row for each image")
    rows.sort(key=lambda row: natural_key(Path(row[0])))
    return OwnCaptions(_some([caption for _, caption in rows], path), tuple(name for name, _ in rows))


def _some(captions: object, path: Path) -> tuple[str, ...]:
    if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
        raise IntegrityError(f"--prompts: {path}: found no list of strings, expected {FORMS}")
    if len(captions) < 2:
        raise InputError(f"--prompts: {path} has {len(captions)} captions, expected at least two")
    return tuple(captions)
