"""Where things lie on this machine. Nothing is created here: whoever writes makes the folder."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from sbv2bench.errors import InputError


def home() -> Path:
    """The cache: $SBV2BENCH_HOME, else the platform's cache folder. Everything in it but `models` may be deleted."""
    chosen = os.environ.get("SBV2BENCH_HOME")
    return Path(chosen).expanduser() if chosen else platformdirs.user_cache_path("sbv2bench")


def as_typed(path: str | Path) -> Path:
    """A path that a user typed, `~` expanded. Raises InputError where it cannot be one: nobody's home, signs, or length."""
    try:
        found = Path(path).expanduser()
        os.fspath(found).encode()
        found.exists()
    except (RuntimeError, ValueError, OSError) as error:
        if isinstance(error, PermissionError):
            return Path(path).expanduser()
        shown = str(path).encode("utf-8", "replace").decode()
        raise InputError(f"{shown[:80]!r} cannot be a path ({getattr(error, 'strerror', None) or error})") from error
    return found


def features_dir() -> Path:
    """Features and scores, keyed by content."""
    return home() / "features"


def pairs_dir() -> Path:
    """Noise and latents that the trainer made for image regularisation."""
    return home() / "pairs"


def assets_dir() -> Path:
    """Downloads and the hashes of weights."""
    return home() / "assets"


def models_dir() -> Path:
    """Weights that no hub has, put here by the user: what `home:NAME` names. The one folder that is not a cache."""
    return home() / "models"


def package_captions() -> Path:
    """The folder of the captions that ship in the package, beside the catalogs that name them."""
    return Path(__file__).parent / "catalog"


def package_weights() -> Path:
    """The folder of the weights that ship in the package."""
    return Path(__file__).parent / "mini" / "weights"
