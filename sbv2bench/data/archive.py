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
from PIL import Image

from sbv2bench.data import members
from sbv2bench.data.digests import remembered
from sbv2bench.data.images import (
    HEAD,
    SUFFIXES,
    UNREADABLE,
    check_header,
    pictures_among,
    pictures_below,
    plain,
    refusing_broken,
    upright_size,
)
from sbv2bench.data.preparation import SIDE, prepare_image
from sbv2bench.errors import IntegrityError

MOST_BYTES = 2**26  # of one encoded photograph; a member that says more is no photograph
_START = 2**16  # bytes in which most images have their header

T = TypeVar("T")
Pictures = list[NDArray[np.uint8]]  # [H, W, 3] each


class ImageArchive:
    """The pictures below a folder or in a zip or a tar, by the rule of data/images.py, in natural order of their plain names.

    names: those plain names; folders: that of each, "" at the top. turn: whether a picture is turned as its EXIF orientation
    says. Nothing is ever written to disk, so a member's path cannot lead anywhere.
    """

    def __init__(self, path: Path, *, turn: bool = False) -> None:
        """Lists, and decodes nothing. Raises InputError (no images), IntegrityError (doubles), and what `members_of` raises."""
        self.path, self.turn = path, turn
        self._files = members.members_of(path, _may_be_image)
        if self._files.packed:
            self._members = pictures_among(self._files.names, lambda name: self._bytes(name, HEAD), f"reference: {path}")
        else:
            self._members = pictures_below(path, "reference")
        self.names = tuple(PurePosixPath(name).name for name in self._members)
        self.folders = tuple(PurePosixPath(name).parent.name for name in self._members)

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

        Remembered in the cache for as long as the files are the same. Raises IntegrityError where a file cannot be read.
        """
        files = [self.path] if self._files.packed else [self.path / name for name in self._members]
        named = hashlib.sha256(repr([file.name for file in files]).encode()).hexdigest()
        return remembered(["archive", str(self.path.resolve()), named], files, self.hash_all)

    def hash_all(self) -> str:
        """SHA-256 of all images' names and bytes, each of which is read."""
        whole = hashlib.sha256()
        for name, own in zip(self._members, self.names, strict=True):
            whole.update(f"{own} {hashlib.sha256(self._bytes(name)).hexdigest()}\n".encode())
        return whole.hexdigest()

    def read(self, start: int, stop: int, threads: int = 1) -> Pictures:
        """Images start .. stop - 1 as they are, uint8 [H, W, 3] each; grey becomes three equal channels. Raises as below."""
        return self.read_as(start, stop, (None,), threads)[0]

    def read_prepared(self, start: int, stop: int, threads: int = 1, side: int = SIDE) -> NDArray[np.uint8]:
        """Images start .. stop - 1, decoded and prepared: uint8 [stop - start, side, side, 3]. Raises as below."""
        return np.stack(self.read_as(start, stop, (side,), threads)[0])

    def read_as(self, start: int, stop: int, sides: Sequence[int | None], threads: int = 1) -> list[Pictures]:
        """Images start .. stop - 1, decoded once: of each of some sides, them prepared to it; None is as they are.

        Raises IntegrityError, naming the file, where one is cut, no image, or none that `plain` takes.
        """

        def each(image: Image.Image) -> Pictures:
            return [np.asarray(image.convert("RGB")) if side is None else prepare_image(image, side) for side in sides]

        found = self._each(start, stop, each, threads)
        return [[pictures[place] for pictures in found] for place in range(len(sides))]

    def _each(self, start: int, stop: int, use: Callable[[Image.Image], T], threads: int) -> list[T]:
        def one(name: str) -> T:
            return self.decoded(name, lambda image, where: use(plain(image, where, turn=self.turn)))

        names: Sequence[str] = self._members[start:stop]
        if threads == 1:
            return [one(name) for name in names]
        with ThreadPoolExecutor(threads) as pool:
            return list(pool.map(one, names))

    def check_headers(self) -> list[tuple[int, int]]:
        """(width, height) of every image, none of them decoded: the cheap half of what `read` refuses. Raises IntegrityError."""
        return [self._size(name) for name in self._members]

    def _size(self, name: str) -> tuple[int, int]:
        def size(image: Image.Image, where: str) -> tuple[int, int]:
            check_header(image, where)
            return upright_size(image) if self.turn else image.size

        try:
            with Image.open(io.BytesIO(self._bytes(name, _START))) as image:
                return size(image, self._place(name))
        except UNREADABLE:  # a format whose header is not at the start, or a file that is no image
            return self.decoded(name, size)

    def decoded(self, name: str, use: Callable[[Image.Image, str], T]) -> T:
        """What use makes of an image and where it lies. Raises IntegrityError where it is none, or broken."""
        where = self._place(name)
        with refusing_broken(where, "replace it, or leave it out"), Image.open(io.BytesIO(self._bytes(name))) as image:
            return use(image, where)

    def _place(self, name: str) -> str:
        return f"{self.path}: {name}" if self._files.packed else str(self.path / name)

    def _bytes(self, name: str, most: int = -1) -> bytes:
        """An image's bytes, or the first of them. Raises IntegrityError where it is too large for one, or cannot be read."""
        try:
            size = self._files.size(name)
            content = self._files.read(name, most) if size <= MOST_BYTES or most >= 0 else b""
        except members.UNREADABLE as error:
            raise IntegrityError(f"{self.path}: {name} cannot be read ({error})", "copy or download it again") from error
        if size > MOST_BYTES and most != HEAD:
            raise IntegrityError(f"{self.path}: {name} has {size:,} bytes, expected at most {MOST_BYTES:,} of a photograph")
        return content


def _may_be_image(name: str) -> bool:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") or part == "__MACOSX" for part in parts)
    return not hidden and PurePosixPath(name).suffix.lower() in SUFFIXES
