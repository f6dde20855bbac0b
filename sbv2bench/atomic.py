"""Files and folders that appear whole or not at all: written beside their place, then renamed into it."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


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


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file whole or not at all; text as UTF-8 with the line ends that it has. Raises OSError."""
    with whole_file(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


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
