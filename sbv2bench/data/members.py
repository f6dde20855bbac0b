"""Where files lie: in a folder, a zip or a tar. Their names are proved before one is read, and nothing is ever unpacked.

A tar that is compressed as a whole has no way to a member but through all before it, so its stream is written out once, to a
nameless temporary file that goes with the process.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import shutil
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO

from sbv2bench.errors import InputError, IntegrityError

MOST_TIMES = 100  # a compressed tar may not become larger than so many times its file: photographs are compressed already
SMALL = 2**26  # bytes that it may become, whatever its size
_CHUNK = 2**20
_KIND, _LINK = 0o170000, 0o120000  # of a zip member's mode: the bits of its kind, and a symbolic link as Info-ZIP stores it
_COMPRESSED: dict[bytes, Callable[[IO[bytes]], gzip.GzipFile | bz2.BZ2File | lzma.LZMAFile]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
UNREADABLE = (OSError, EOFError, zipfile.BadZipFile, RuntimeError, NotImplementedError, zlib.error, lzma.LZMAError)

Wanted = Callable[[str], bool]


def members_of(path: Path, wanted: Wanted) -> Members:
    """What lies at a path. wanted: the names that will be read; all others must only lie inside the archive.

    Raises InputError (nothing there), IntegrityError (no whole archive, a member that leads outside of it, one that is wanted
    and is no plain file, or a compressed tar that becomes too large).
    """
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise InputError(f"reference: {path} does not exist, expected a folder, a zip or a tar of images")
    try:
        if zipfile.is_zipfile(path):
            return _Zip(path, wanted)
        if (opened := _opened_tar(path)) is not None:
            return _Tar(path, opened, wanted)
    except (tarfile.TarError, *UNREADABLE) as error:
        raise IntegrityError(f"{path}: found an archive that is cut or broken ({error})", "copy or download it again") from error
    raise IntegrityError(
        f"{path}: found a file that is no whole zip and no tar, expected one of them, or a folder", "copy or download it again"
    )


class _Folder:
    """Files by their names, relative and with "/" between the parts; several threads may read at once. packed: in one file.

    size: bytes that a member is said to have. read: its bytes, or the first of them. Both raise one of UNREADABLE, reading also
    where a whole zip member fails its checksum.
    """

    packed = False

    def __init__(self, path: Path) -> None:
        self._path = path
        self.names = [file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()]

    def size(self, name: str) -> int:
        return (self._path / name).stat().st_size

    def read(self, name: str, most: int = -1) -> bytes:
        with (self._path / name).open("rb") as file:
            return file.read(most)


class _Zip:
    """As `_Folder`."""

    packed = True

    def __init__(self, path: Path, wanted: Wanted) -> None:
        self._zip = zipfile.ZipFile(path)
        members = [member for member in self._zip.infolist() if not member.is_dir()]
        for member in members:
            _check_inside(path, member.filename)
            if wanted(member.filename) and (member.external_attr >> 16) & _KIND == _LINK:
                raise _no_plain_file(path, member.filename, "a link")
        self.names = [member.filename for member in members]

    def size(self, name: str) -> int:
        return self._zip.getinfo(name).file_size

    def read(self, name: str, most: int = -1) -> bytes:
        with self._zip.open(name) as member:  # never gives more than the header says
            return member.read(most)


class _Tar:
    """As `_Folder`."""

    packed = True

    def __init__(self, path: Path, file: IO[bytes], wanted: Wanted) -> None:
        self._file, self._lock = file, threading.Lock()
        self._places: dict[str, tuple[int, int]] = {}  # of a name: the first byte, and how many
        self.names = []
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                name = member.name.removeprefix("./")
                _check_inside(path, name)
                if member.isdir():
                    continue
                if wanted(name) and (not member.isreg() or member.issparse()):
                    linked = member.issym() or member.islnk()
                    raise _no_plain_file(path, name, "a link" if linked else "no plain file")
                self.names.append(name)
                self._places[name] = (member.offset_data, member.size)

    def size(self, name: str) -> int:
        return self._places[name][1]

    def read(self, name: str, most: int = -1) -> bytes:
        start, size = self._places[name]
        count = size if most < 0 else min(most, size)
        with self._lock:
            self._file.seek(start)
            found = self._file.read(count)
        if len(found) < count:
            raise EOFError(f"found {len(found)} of {count} bytes")
        return found


Members = _Folder | _Zip | _Tar


def _opened_tar(path: Path) -> IO[bytes] | None:
    """A tar, uncompressed, open for reading; None where a file is none."""
    file = path.open("rb")  # it stays open, as what is returned
    start = file.read(6)
    file.seek(0)
    decompress = next((opened for magic, opened in _COMPRESSED.items() if start.startswith(magic)), None)
    if decompress is None:
        tar = tarfile.is_tarfile(file)
        file.seek(0)
        return file if tar else None
    with file, decompress(file) as stream:
        most = max(SMALL, MOST_TIMES * path.stat().st_size)
        whole = tempfile.TemporaryFile()  # noqa: SIM115  # it stays open, as what is returned
        free = shutil.disk_usage(tempfile.gettempdir()).free
        while chunk := stream.read(_CHUNK):
            if whole.tell() + len(chunk) > most:
                raise IntegrityError(f"{path}: found a stream of more than {most:,} bytes, {MOST_TIMES} times the file's own")
            if whole.tell() + len(chunk) > free:
                raise IntegrityError(
                    f"{path}: uncompressed it needs more than the {free // 2**20} MB that are free in {tempfile.gettempdir()}",
                    "unpack it into a folder, or set TMPDIR",
                )
            whole.write(chunk)
    whole.seek(0)
    tar = tarfile.is_tarfile(whole)
    whole.seek(0)
    return whole if tar else None


def _check_inside(path: Path, name: str) -> None:
    """Nothing is unpacked, but nobody honest packs such a name."""
    if ".." in PurePosixPath(name).parts or name.startswith(("/", "\\")):
        raise IntegrityError(f"{path}: found the member {name!r}, expected names inside the archive")


def _no_plain_file(path: Path, name: str, found: str) -> IntegrityError:
    return IntegrityError(f"{path}: {name} is {found}, expected the image itself", "pack the files that the links lead to")
