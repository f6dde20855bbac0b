"""What made a number: the code, the versions, the machine. Nothing heavy is imported to find out."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sbv2bench import __version__

PACKAGE = Path(__file__).parent
# Distributions whose version can change a number, by the name that people know.
LIBRARIES = {
    "torch": "torch",
    "diffusers": "diffusers",
    "transformers": "transformers",
    "peft": "peft",
    "open_clip": "open_clip_torch",
    "numpy": "numpy",
    "pillow": "pillow",
}


def sha256_file(path: Path) -> str:
    """SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@functools.cache
def code_fingerprint() -> str:
    """SHA-256 over the names and bytes of the package's own .py files: part of every cache key."""
    return source_fingerprint(PACKAGE)


# The modules that sample, prepare and extract: an edit of one of these may change pixels or features, one of others does not.
MEASURING = (
    "samplers", "features", "mini", "diffusion", "weights", "evaluation.generate",
    "data.preparation", "data.images", "data.archive", "data.members", "data.reference",
)  # fmt: skip


@functools.cache
def measuring_fingerprint() -> str:
    """SHA-256 over the source of MEASURING: part of the key of all rows that are kept."""
    return modules_fingerprint(MEASURING)


@functools.cache
def metrics_fingerprint() -> str:
    """SHA-256 over the source of the metrics' maths: part of the key of what is kept of a reference alone."""
    return modules_fingerprint(["metrics"])


def modules_fingerprint(names: Iterable[str], package: Path | None = None) -> str:
    """SHA-256 over the source of modules and folders of the package, by their dotted names in it. Raises KeyError for none."""
    places = []
    for name in names:
        place = (package or PACKAGE).joinpath(*name.split("."))
        places.append(place if place.is_dir() else place.with_suffix(".py"))
        if not places[-1].exists():
            raise KeyError(name)
    return source_fingerprint(*places)


@functools.cache
def plugin_fingerprint(target: str) -> str | None:
    """SHA-256 over the source of somebody else's package or module in which a "module:name" lies; None of one of our own.

    Nothing but the package that it may lie in is imported. None, too, where it has no source that can be read.
    """
    top = target.partition(":")[0].partition(".")[0]
    found = None if top == PACKAGE.name else importlib.util.find_spec(top)
    if found is None:
        return None
    folders = found.submodule_search_locations
    places = (
        [Path(folder) for folder in folders] if folders else [Path(found.origin)] if found.has_location and found.origin else []
    )
    return source_fingerprint(*places)


def source_fingerprint(*places: Path) -> str:
    """SHA-256 over the names and bytes of .py files: those below folders, and files themselves."""
    digest = hashlib.sha256()
    for place in places:
        for path in sorted(place.rglob("*.py")) if place.is_dir() else [place]:
            name = path.relative_to(place if place.is_dir() else place.parent).as_posix()
            digest.update(f"{name}\0{sha256_file(path)}\0".encode())
    return digest.hexdigest()


def library_version(distribution: str) -> str | None:
    """The installed version of a distribution, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def environment(device: str | None = None) -> dict[str, Any]:
    """The provenance block of a result, JSON-ready. device: "cpu", "cuda", "cuda:0", ... as it was used, or None."""
    commit, dirty = git_state()
    return {
        "sbv2bench": __version__,
        "code_fingerprint": code_fingerprint(),
        "git_commit": commit,
        "git_dirty": dirty,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "libraries": {name: library_version(distribution) for name, distribution in LIBRARIES.items()},
        "device": device,
        "device_name": device_name(device),
        "date_utc": datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z"),
        "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        "command": _command(),
    }


@functools.cache
def git_state() -> tuple[str | None, bool | None]:
    """(commit, whether the package's files differ from it); (None, None) where git does not track the package."""
    if _git("ls-files", "--error-unmatch", "__init__.py") is None:  # an installed copy inside somebody else's repository
        return None, None
    status = _git("status", "--porcelain", "--", ".")
    return _git("rev-parse", "HEAD"), None if status is None else bool(status)


def _git(*arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", *arguments], cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def cpu_model() -> str:
    """The processor's name as the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    for line in lines:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def device_name(device: str | None) -> str | None:
    """The accelerator's name, or the CPU's. torch is asked only where the run has imported it already."""
    if device is None or device == "cpu":
        return None if device is None else cpu_model()
    torch = sys.modules.get("torch")
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name(device))
    return device


def _command() -> str:
    """The command line as typed, the program by its name alone so that no machine's paths are stored for it."""
    program = Path(sys.argv[0]).name if sys.argv and sys.argv[0] else "python"
    if program == "__main__.py":
        program = f"python -m {Path(sys.argv[0]).parent.name}"
    return f"{program} {shlex.join(sys.argv[1:])}".rstrip()
