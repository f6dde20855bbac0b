"""Real photographs in a folder, a zip or a tar: listed and hashed without decoding, decoded a block at a time, never unpacked."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sbv2bench.data.digests import remembered
from sbv2bench.data.images import SUFFIXES, natural_key
from sbv2bench.data.members import UNREADABLE, members_of
from sbv2bench.data.preparation import SIDE, prepare_image
from sbv2bench.errors import InputError, IntegrityError

MODES = frozenset({"RGB", "L"})  # what the released evaluation's PNG step keeps as it is (protocols.md 1.4)
MOST_BYTES = 2**26  # of one encoded photograph; a member that says more is no photograph
_HEAD = 2**16  # bytes in which most images have their header
_BROKEN = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)  # what PIL raises

T = TypeVar("T")


class ImageArchive:
    """The png, jpg, jpeg and webp files below a folder or in a zip or a tar, sorted by their plain names in natural order.

    names: those plain names. Hidden files and macOS's doubles are left out. Nothing is ever written to disk, so a member's
    path cannot lead anywhere.
    """

    def __init__(self, path: Path) -> None:
        """Lists, and decodes nothing. Raises InputError (no images), IntegrityError (doubles), and what `members_of` raises."""
        self.path = path
        self._files = members_of(path, _is_image)
        members = self._files.names
        self._members = sorted((name for name in members if _is_image(name)), key=_order)
        self.names = tuple(PurePosixPath(name).name for name in self._members)
        if not self.names:
            raise InputError(f"reference: {path} holds no images, expected {', '.join(sorted(SUFFIXES))}")
        seen: set[str] = set()
        for name in self.names:
            if name in seen:
                raise IntegrityError(f"reference: {path} holds {name} twice", "keep one of the two")
            seen.add(name)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def require_count(self, expected: int, inherited: str = "") -> None:
        """Raises IntegrityError unless there are exactly so many images. inherited: what the suite took from another."""
        if len(self) != expected:
            taken = "num_reference" in inherited
            raise IntegrityError(
                f"reference: {self.path} holds {len(self):,} images, expected {expected:,}"
                + (f", inherited from suite {inherited.partition(':')[0]}" if taken else ""),
                f"write num_reference: {len(self)} in the suite" if taken else "take the whole archive, and nothing but it",
            )

    def content_sha256(self) -> str:
        """SHA-256 over "name sha256-of-its-bytes" of every image, in order: equal for an archive and for its unpacked folder.

        Remembered in the cache by size and modification time. Raises IntegrityError where a file cannot be read.
        """
        files = [self.path] if self._files.packed else [self.path / name for name in self._members]
        stats = [(file.name, stat.st_size, stat.st_mtime_ns) for file in files for stat in (file.stat(),)]
        listing = hashlib.sha256(repr((str(self.path.resolve()), stats)).encode()).hexdigest()
        return remembered(["archive", listing], max(stat[2] for stat in stats), self._hash_all)

    def _hash_all(self) -> str:
        whole = hashlib.sha256()
        for name, plain in zip(self._members, self.names, strict=True):
            whole.update(f"{plain} {hashlib.sha256(self._bytes(name)).hexdigest()}\n".encode())
        return whole.hexdigest()

    def read(self, start: int, stop: int, threads: int = 1) -> list[NDArray[np.uint8]]:
        """Images start .. stop - 1 as they are, uint8 [H, W, 3] each; grey becomes three equal channels. Raises as below."""
        return self._each(start, stop, lambda image: np.asarray(image.convert("RGB")), threads)

    def read_prepared(self, start: int, stop: int, threads: int = 1, side: int = SIDE) -> NDArray[np.uint8]:
        """Images start .. stop - 1, decoded and prepared: uint8 [stop - start, side, side, 3].

        Raises IntegrityError, naming the file, where one is cut, no image, or neither 8-bit RGB nor grey.
        """
        return np.stack(self._each(start, stop, lambda image: prepare_image(image, side), threads))

    def _each(self, start: int, stop: int, use: Callable[[Image.Image], T], threads: int) -> list[T]:
        names: Sequence[str] = self._members[start:stop]
        if threads == 1:
            return [self._decoded(name, use) for name in names]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda name: self._decoded(name, use), names))

    def check_headers(self) -> list[tuple[int, int]]:
        """(width, height) of every image, none of them decoded: the cheap half of what `read` refuses. Raises IntegrityError."""
        return [self._size(name) for name in self._members]

    def _size(self, name: str) -> tuple[int, int]:
        try:
            with Image.open(io.BytesIO(self._bytes(name, _HEAD))) as image:
                self._check(image, name)
                return image.size
        except _BROKEN:  # a format whose header is not at the start, or a file that is no image
            return self._decoded(name, lambda image: image.size)

    def _decoded(self, name: str, use: Callable[[Image.Image], T]) -> T:
        where = self._place(name)
        try:
            with Image.open(io.BytesIO(self._bytes(name))) as image:
                self._check(image, name)
                return use(image)
        except UnidentifiedImageError as error:
            raise IntegrityError(f"{where}: found a file that is not an image", "replace it, or leave it out") from error
        except _BROKEN as error:
            raise IntegrityError(f"{where}: the image is broken or cut ({error})", "replace it, or leave it out") from error

    def _check(self, image: Image.Image, name: str) -> None:
        if image.mode not in MODES:
            raise IntegrityError(f"{self._place(name)}: found pixels of mode {image.mode}, expected 8-bit RGB or grey")
        if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
            most = Image.MAX_IMAGE_PIXELS
            raise IntegrityError(
                f"{self._place(name)}: found {image.width}x{image.height} pixels, expected at most {most} in all"
            )

    def _place(self, name: str) -> str:
        return f"{self.path}: {name}" if self._files.packed else str(self.path / name)

    def _bytes(self, name: str, most: int = -1) -> bytes:
        """An image's bytes, or the first of them. Raises IntegrityError where it is too large for one, or cannot be read."""
        try:
            size = self._files.size(name)
            content = self._files.read(name, most) if size <= MOST_BYTES else b""
        except UNREADABLE as error:
            raise IntegrityError(f"{self.path}: {name} cannot be read ({error})", "copy or download it again") from error
        if size > MOST_BYTES:
            raise IntegrityError(f"{self.path}: {name} has {size:,} bytes, expected at most {MOST_BYTES:,} of a photograph")
        return content


def _is_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES


def _order(name: str) -> tuple[object, str]:
    return natural_key(Path(PurePosixPath(name).name)), name
