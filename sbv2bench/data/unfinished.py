"""Downloads of hub repositories that were begun and not finished: what a snapshot lacks although it looks whole. No torch here.

A snapshot of huggingface_hub's has a file's name when the file is whole, and nothing says how many there should be. So what is
being fetched is noted here first, and the note goes when all of it is there.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from sbv2bench import paths
from sbv2bench.atomic import known_json, write_whole


def begin(snapshot: Path, names: Iterable[str]) -> None:
    """Note the files that are to be in a snapshot; without a cache that can be written it goes unnoted."""
    with suppress(OSError):
        _note(snapshot).parent.mkdir(parents=True, exist_ok=True)
        write_whole(_note(snapshot), json.dumps(sorted({*_noted(snapshot), *names})))


def end(snapshot: Path) -> None:
    """Forget the note, if every file of it is there."""
    if not missing(snapshot):
        with suppress(OSError):
            _note(snapshot).unlink(missing_ok=True)


def missing(snapshot: Path) -> list[str]:
    """The files that a download was to bring and did not."""
    return [name for name in _noted(snapshot) if not (snapshot / name).is_file()]


def _noted(snapshot: Path) -> list[str]:
    found = known_json(_note(snapshot))
    return [name for name in found if isinstance(name, str)] if isinstance(found, list) else []


def _note(snapshot: Path) -> Path:
    """snapshot: <hub's cache>/models--ORG--NAME/snapshots/COMMIT."""
    return paths.assets_dir() / "unfinished" / f"{snapshot.parents[1].name}-{snapshot.name}.json"
