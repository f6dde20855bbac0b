"""What `prompts build` says of the file that it wrote: `<name>.manifest.json` beside `<name>.txt`."""

from __future__ import annotations

import json
from pathlib import Path

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
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        found = None
    if isinstance(found, dict) and found.get("sha256") == sha256:
        return found, None
    return None, f"{path} does not describe {prompts.name} as it is now, and is not recorded"
