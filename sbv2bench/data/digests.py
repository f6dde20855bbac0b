"""Hashes of files, computed once for what a file is: its path, size and modification time. No torch here."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sbv2bench import paths
from sbv2bench.atomic import write_whole
from sbv2bench.provenance import sha256_file


def file_digest(path: Path, algorithm: str = "sha256") -> str:
    """A file's hash in hex digits, remembered by (path, size, modification time) in the cache folder."""
    stat = path.stat()
    now = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]

    def read() -> str:
        if algorithm == "sha256":
            return sha256_file(path)
        with path.open("rb") as file:
            return hashlib.file_digest(file, algorithm).hexdigest()

    return remembered(now if algorithm == "sha256" else [algorithm, *now], stat.st_mtime_ns, read)


def remembered(signature: list[Any], newest_ns: int, compute: Callable[[], str]) -> str:
    """A hash that was computed before for files of the same signature (paths, sizes, times), or is now.

    newest_ns: the latest modification time among the files.
    """
    entry = paths.assets_dir() / "hashes" / f"{hashlib.sha256(str(signature).encode()).hexdigest()[:32]}.json"
    try:
        known = json.loads(entry.read_text("utf-8"))
        if known["signature"] == signature:
            return str(known["hash"])
    except (OSError, ValueError, KeyError, TypeError):
        pass
    found = compute()
    # A file changed within the clock's grain of its own time stamp would look unchanged: do not remember fresh ones.
    if time.time_ns() - newest_ns > 2 * 10**9:
        _remember(entry, {"signature": signature, "hash": found})
    return found


def _remember(entry: Path, content: dict[str, Any]) -> None:
    """Whole or not at all; a cache that cannot be written only costs time."""
    try:
        entry.parent.mkdir(parents=True, exist_ok=True)
        write_whole(entry, json.dumps(content))
    except OSError:
        pass
