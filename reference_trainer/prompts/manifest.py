"""What `prompts build` says of the file that it wrote: `<name>.manifest.json` beside `<name>.txt`."""

from __future__ import annotations

from pathlib import Path

from sbv2bench.atomic import known_json

ENDING = ".manifest.json"


def manifest_path(prompts: Path) -> Path:
    """prompts/laion-2m.txt -> prompts/laion-2m.manifest.json"""
    return prompts.with_name(f"{prompts.name.removesuffix('.txt')}{ENDING}")


def read_manifest(prompts: Path, sha256: str) -> tuple[dict[str, object] | None, str | None]:
    """(the manifest of a file of captions, what to tell the user); no manifest if there is none or it is of other bytes.

    sha256: of the file's bytes, 64 hex digits.
    """
    path = manifest_path(prompts)
    if prompts.suffix.lower() != ".txt" or not path.is_file():
        return None, None
    found = _describing(path, sha256)
    return found, None if found else f"{path} does not describe {prompts.name} as it is now, and is not recorded"


def unfinished(prompts: Path) -> Path:
    """Where the manifest of a file lies until the file is in its place: what a kill between the two is known by."""
    return manifest_path(prompts).with_name(f".{manifest_path(prompts).name}")


def is_ours(prompts: Path, sha256: str) -> bool:
    """Whether `prompts build` wrote a file of captions, although it may have been killed before its manifest was in place."""
    return any(_describing(path, sha256) is not None for path in (manifest_path(prompts), unfinished(prompts)))


def _describing(manifest: Path, sha256: str) -> dict[str, object] | None:
    found = known_json(manifest)
    return found if isinstance(found, dict) and found.get("sha256") == sha256 else None
