"""A second reader: it looks at all files below a folder again and again, and notes whatever it finds half written.

Hidden names and those that end in .part or .incomplete are work in progress by what every part of the packages says; all others
must parse whenever they are there: JSON, lines of JSON, safetensors with every tensor, PNG, YAML, tables. Beyond that a result
file is read as boards read it, with its captions' values, a cache's manifest with its arrays, and a checkpoint with all of its
files. Run as `python -m faults.polling FOLDER NOTES`; a line of NOTES is a fault.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import safetensors.numpy
import yaml
from PIL import Image

from sbv2bench.results import prompt_values, store

UNFINISHED = (".part", ".incomplete", ".adopted", ".lock", ".metadata")
PAUSE = 0.01  # seconds


def visible(folder: Path) -> Iterator[Path]:
    """Files below a folder that a reader may take for finished."""
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and not name.endswith(UNFINISHED)]
        for name in names:
            if not name.startswith(".") and not name.endswith(UNFINISHED):
                yield Path(place) / name


def read(path: Path) -> None:
    """Parse a file. Raises whatever its reader does of half a file."""
    content = path.read_bytes()
    match path.suffix:
        case ".json":
            parsed = json.loads(content)
            if isinstance(parsed, dict):
                look_around(path, parsed)
        case ".jsonl":
            if content and not content.endswith(b"\n"):
                raise ValueError("its last line has no end")
            for line in content.splitlines():
                json.loads(line)
        case ".safetensors":
            safetensors.numpy.load(content)
        case ".png":
            Image.open(io.BytesIO(content)).load()
        case ".yaml":
            yaml.safe_load(content)
        case ".csv":
            widths = {len(row) for row in csv.reader(io.StringIO(content.decode()))}
            if len(widths) != 1:
                raise ValueError(f"its rows have {sorted(widths)} fields")
        case ".md" | ".txt" | ".html":
            if not content.endswith(b"\n"):
                raise ValueError("its last line has no end")


def look_around(path: Path, content: dict[str, object]) -> None:
    """What a file says of the files beside it. Raises ValueError where they are others."""
    if "schema_version" in content:
        prompt_values.read(result := store.load(path), path)
        named = any(value.prompt_values for value in result.metrics.values())
        if named and not prompt_values.path_beside(path).is_file():
            raise ValueError("the captions' values that it names are not there")
    elif "arrays_sha256" in content:
        arrays = path.with_name("arrays.safetensors").read_bytes()
        if hashlib.sha256(arrays).hexdigest() != content["arrays_sha256"]:
            raise ValueError("the arrays beside it are others")
    elif path.name == "state.json":
        files = content["files"]
        assert isinstance(files, dict)
        for name, sha256 in files.items():
            if hashlib.sha256(path.with_name(name).read_bytes()).hexdigest() != sha256:
                raise ValueError(f"{name} beside it is another")


def fault(path: Path) -> str | None:
    """What is wrong with a file, if it is still there as it was when it was read; None otherwise."""
    for _ in range(2):
        try:
            before = path.stat()
            read(path)
            return None
        except FileNotFoundError as error:
            if error.filename is not None and Path(error.filename) == path:
                return None
            wrong = repr(error)
        except Exception as error:  # whatever its reader raises
            wrong = repr(error)
        try:
            after = path.stat()
        except FileNotFoundError:
            return None
        if (before.st_ino, before.st_mtime_ns, before.st_size) == (after.st_ino, after.st_mtime_ns, after.st_size):
            return f"{path}: {wrong[:300]}"
        if before.st_ino == after.st_ino:  # the same file, still being written in its place
            return f"{path}: changed while it was read, {wrong[:300]}"
    return None


def watch(folder: Path, notes: Path) -> None:
    """Look until SIGTERM; the last look is after it."""
    stopped: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stopped.append(number))
    known: dict[Path, tuple[int, int, int]] = {}
    looks = 0
    while True:
        last = bool(stopped)
        for path in visible(folder):
            try:
                found = path.stat()
            except FileNotFoundError:
                continue
            mark = (found.st_ino, found.st_mtime_ns, found.st_size)
            if known.get(path) == mark:
                continue
            known[path] = mark
            looks += 1
            if (wrong := fault(path)) is not None:
                with notes.open("a") as file:
                    file.write(f"{wrong}\n")
        if last:
            break
        time.sleep(PAUSE)
    print(json.dumps({"read": looks}), flush=True)


if __name__ == "__main__":
    watch(Path(sys.argv[1]), Path(sys.argv[2]))
