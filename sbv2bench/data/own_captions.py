"""Captions that a user has for images of their own: a list in the images' order, or a manifest that names the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.caption_rows import LISTS, READERS, checked, found_columns, read_rows, unit_of
from sbv2bench.data.images import natural_key
from sbv2bench.errors import InputError, IntegrityError

FORMS = "*.txt (one a line), *.json (a list of strings), or *.csv, *.jsonl or *.parquet with the columns file and caption"
CAPTION, FILE = "caption", "file"


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


def read_own_captions(path: Path, *, named: bool = False) -> OwnCaptions:
    """Captions of a file in one of the FORMS; a manifest's are put in the natural order of its files.

    A table without the column file is a list. named: it must have one, unless it has no other column than the caption: where
    images are there already, a column that names them must not be overlooked.
    Raises InputError (no file, another form), IntegrityError (not text, rows without a caption, which are named, a file named
    twice), PrerequisiteError (parquet without pyarrow).
    """
    where, suffix = f"--prompts: {path}", path.suffix.lower()
    if suffix not in READERS:
        raise InputError(f"--prompts: found {path}, expected {FORMS}")
    columns = () if suffix in LISTS or not path.is_file() else tuple(found_columns(path))
    listed = suffix in LISTS or (FILE not in columns and CAPTION in columns and (not named or columns == (CAPTION,)))
    rows = list(read_rows(path, (CAPTION,) if listed else (FILE, CAPTION), where))
    captions = list(checked(((number, row[-1]) for number, row in rows), where, unit_of(path)))
    if len(captions) < 2:
        raise InputError(f"{where} has {len(captions)} captions, expected at least two")
    if listed:
        return OwnCaptions(tuple(captions), None)
    unnamed = next((number for number, (name, _) in rows if not isinstance(name, str) or not name.strip()), None)
    if unnamed is not None:
        raise IntegrityError(f"{where}: {unit_of(path)} {unnamed} names no file, expected {FORMS}")
    pairs = sorted(((str(name), str(caption)) for _, (name, caption) in rows), key=lambda pair: natural_key(Path(pair[0])))
    files = tuple(name for name, _ in pairs)
    if len(set(files)) < len(files):
        raise IntegrityError(f"{where} names a file twice", "one row for each image")
    return OwnCaptions(tuple(caption for _, caption in pairs), files)
