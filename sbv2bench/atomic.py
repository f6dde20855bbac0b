"""Files and folders that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from filelock import FileLock, Timeout

from sbv2bench.errors import InputError, IntegrityError

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EIO}


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write bytes to; when the block ends it is on the disk and stands at `path`, in place of what was there.

    After an error nothing is left of it, and what was there stays. Raises OSError.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def held(path: Path, busy: InputError) -> Iterator[None]:
    """A lock file for one process alone while the block lasts; a killed one's is gone with it.

    Raises busy where another process has it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise busy from error
    try:
        yield
    finally:
        lock.release()


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8 with the line ends that it has. Raises OSError."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def known_json(path: Path) -> Any:
    """What a JSON file of a cache holds; None where there is none, or none that can be read."""
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """An empty folder to fill; when the block ends it stands at `path`, in place of what was there.

    Its files get ordinary permissions, as the umask has them: safetensors writes for the owner alone. After an error nothing is
    left of it, and what was there stays. No folder can be exchanged for another in one step: a process killed between the two
    leaves the old one beside its place, as `.<name>.<random>/old`. Raises OSError.
    """
    work = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    new, old = work / "new", work / "old"
    try:
        new.mkdir()
        yield new
        _open_as_the_folder(new)
        try:
            if path.exists():
                path.replace(old)
            new.replace(path)
        except BaseException:
            if old.exists():
                old.replace(path)
            raise
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _open_as_the_folder(folder: Path) -> None:
    """Let whoever may read or write a new folder do so with the files in it; nobody loses a permission."""
    allowed = folder.stat().st_mode & 0o666
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode & 0o7777 | allowed)


def unwritable(error: OSError, message: str, fix: str) -> InputError | IntegrityError:
    """The error of a place that does not take files: a full disk (exit 4), or no place to write to (exit 2)."""
    return (IntegrityError if error.errno in _FULL else InputError)(message, fix)
