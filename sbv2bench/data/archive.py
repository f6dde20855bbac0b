"""Real photographs in a zip or a folder: listed and hashed without decoding, decoded one block at a time, never unpacked."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from sbv2bench.data.digests import remembered
from sbv2bench.data.images import HEAD, UNREADABLE, check_header, pictures_among, pictures_below, plain
from sbv2bench.data.preparation import prepare_image
from sbv2bench.errors import InputError, IntegrityError

MOST_BYTES = 2**26  # of one encoded photograph; a member that says more is no photograph
T = TypeVar("T")


class ImageArchive:
    """The pictures in a zip or below a folder, by the rule of data/images.py, in natural order of their plain names.

    names: those plain names. turn: whether a picture is turned as its EXIF orientation says. Nothing is ever written to disk,
    so a member's path cannot lead anywhere.
    """

    def __init__(self, path: Path, *, turn: bool = False) -> None:
        """Lists, and decodes nothing. Raises InputError (nothing there, no images), IntegrityError (broken zip, doubles)."""
        self.path, self.turn = path, turn
        self._zip: zipfile.ZipFile | None = None
        if path.is_file():
            try:
                self._zip = zipfile.ZipFile(path)
            except (zipfile.BadZipFile, OSError) as error:
                raise IntegrityError(f"{path}: found a file that is no whole zip ({error})", "download it again") from error
            packed = [member.filename for member in self._zip.infolist() if not member.is_dir()]
            climbing = next((name for name in packed if ".." in PurePosixPath(name).parts or name.startswith("/")), None)
            if climbing is not None:  # nothing is unpacked, but nobody honest packs such a name
                raise IntegrityError(f"{path}: found the member {climbing!r}, expected names inside the archive")
            self._members = pictures_among(packed, self._head, f"reference: {path}")
        elif path.is_dir():
            self._members = pictures_below(path, "reference")
        else:
            raise InputError(f"reference: {path} does not exist, expected a zip or a folder of images")
        self.names = tuple(PurePosixPath(name).name for name in self._members)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.names)

    def require_count(self, expected: int) -> None:
        """Raises IntegrityError unless there are exactly so many images."""
        if len(self) != expected:
            raise IntegrityError(
                f"reference: {self.path} holds {len(self):,} images, expected {expected:,}",
                "take the whole archive, and nothing but it",
            )

    def content_sha256(self) -> str:
        """SHA-256 over "name sha256-of-its-bytes" of every image, in order: equal for a zip and for its unpacked folder.

        Remembered in the cache for as long as the files are the same. Raises IntegrityError where a file cannot be read.
        """
        files = [self.path] if self._zip is not None else [self.path / name for name in self._members]
        named = hashlib.sha256(repr([file.name for file in files]).encode()).hexdigest()
        return remembered(["archive", str(self.path.resolve()), named], files, self._hash_all)

    def _hash_all(self) -> str:
        whole = hashlib.sha256()
        for name, own in zip(self._members, self.names, strict=True):
            whole.update(f"{own} {hashlib.sha256(self._bytes(name)).hexdigest()}\n".encode())
        return whole.hexdigest()

    def read_prepared(self, start: int, stop: int, threads: int = 1) -> NDArray[np.uint8]:
        """Images start .. stop - 1, decoded and prepared: uint8 [stop - start, 256, 256, 3].

        Raises IntegrityError, naming the file, where one is cut, no image, or none that `plain` takes.
        """

        def one(name: str) -> NDArray[np.uint8]:
            return self._decoded(name, lambda image, where: prepare_image(plain(image, where, turn=self.turn)))

        names = self._members[start:stop]
        if threads == 1:
            return np.stack([one(name) for name in names])
        with ThreadPoolExecutor(threads) as pool:
            return np.stack(list(pool.map(one, names)))

    def check_headers(self) -> None:
        """Opens every image without decoding it: the cheap half of what `read_prepared` refuses. Raises IntegrityError."""
        for name in self._members:
            self._decoded(name, check_header)

    def _decoded(self, name: str, use: Callable[[Image.Image, str], T]) -> T:
        where = f"{self.path}: {name}" if self._zip is not None else str(self.path / name)
        try:
            with Image.open(io.BytesIO(self._bytes(name))) as image:
                return use(image, where)
        except UnidentifiedImageError as error:
            raise IntegrityError(f"{where}: found a file that is not an image", "take the whole archive again") from error
        except UNREADABLE as error:
            raise IntegrityError(f"{where}: the image is broken or cut ({error})", "take the whole archive again") from error

    def _bytes(self, name: str) -> bytes:
        """An image's bytes. Raises IntegrityError where it is too large for one, or the zip's own checksum is not met."""
        try:
            if self._zip is None:
                file = self.path / name
                size = file.stat().st_size
                content = file.read_bytes() if size <= MOST_BYTES else b""
            else:
                size = self._zip.getinfo(name).file_size
                content = self._zip.read(name) if size <= MOST_BYTES else b""  # reads at most what the header says
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise IntegrityError(f"{self.path}: {name} cannot be read ({error})", "take the whole archive again") from error
        if size > MOST_BYTES:
            raise IntegrityError(f"{self.path}: {name} has {size:,} bytes, expected at most {MOST_BYTES:,} of a photograph")
        return content

    def _head(self, name: str) -> bytes:
        """The first bytes of a member. Raises IntegrityError where the zip does not give them."""
        assert self._zip is not None
        try:
            with self._zip.open(name) as member:
                return member.read(HEAD)
        except (OSError, zipfile.BadZipFile, RuntimeError, NotImplementedError) as error:
            raise IntegrityError(f"{self.path}: {name} cannot be read ({error})", "take the whole archive again") from error
