"""Declared downloads: where they lie, whether they are what they must be, and how they come there. No torch here.

A file of a URL lies in the cache as `assets/files/<its hash>/<its name>`; files of the hub lie in huggingface_hub's own cache.
Nothing is used that does not hash right, and nothing is fetched but by `fetch`, which the user asks for.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from filelock import FileLock

from sbv2bench import paths
from sbv2bench.data import transfer
from sbv2bench.data.assets import offline, online
from sbv2bench.data.digests import file_digest
from sbv2bench.data.hub import hub_folder
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec

# told(asset, done, total): bytes that are here, of all (0 where nobody says)
Told = Callable[[str, int, int], None]


def declared(name: str, assets: Mapping[str, AssetSpec] | None = None) -> AssetSpec:
    """An asset by its name, among those given or the built-in ones. Raises InputError where there is none."""
    known = Registry.built_in().assets if assets is None else assets
    if name not in known:
        raise InputError(f"unknown asset {name!r}, expected one of {', '.join(sorted(known)) or 'none'}")
    return known[name]


def command(asset: AssetSpec) -> str:
    """What to type to get it."""
    return f"{online()}sbv2bench download {asset.id}"


def place(asset: AssetSpec) -> Path:
    """Where the file of an asset with URLs lies, or would."""
    return paths.assets_dir() / "files" / str(asset.sha256 or f"md5-{asset.md5}") / asset.filename


def located(asset: AssetSpec) -> Path:
    """The verified file of an asset, or the folder of its files if there are several.

    Raises PrerequisiteError where it is not on this machine, IntegrityError where its bytes are others.
    """
    if asset.hub:
        try:
            folder = hub_folder(asset.hub, asset.revision, asset.files, kind=asset.hub_type, local_only=True, pickles=True)
        except PrerequisiteError as error:
            raise PrerequisiteError(f"asset {asset.id}: {error.message}", command(asset)) from error
        missing = [name for name in asset.files if not (folder / name).is_file()]
        if missing:
            raise PrerequisiteError(f"asset {asset.id}: {', '.join(missing)} of hub:{asset.hub} not here", command(asset))
        if len(asset.files) > 1:
            return folder
        path = folder / asset.files[0]
    else:
        path = place(asset)
        if not path.is_file():
            what = f"{asset.filename}" + (f", {asset.bytes:,} bytes," if asset.bytes else "")
            raise PrerequisiteError(f"asset {asset.id}: {what} is not on this machine", command(asset))
    verify(asset, path)
    return path


def verify(asset: AssetSpec, path: Path) -> None:
    """Raises IntegrityError unless a file has the asset's size and hash."""
    size = path.stat().st_size
    if asset.bytes is not None and size != asset.bytes:
        raise IntegrityError(f"asset {asset.id}: {path} has {size:,} bytes, expected {asset.bytes:,}", _again(asset, path))
    for algorithm, expected in (("sha256", asset.sha256), ("md5", asset.md5)):
        if expected is not None and (found := file_digest(path, algorithm)) != expected:
            raise IntegrityError(
                f"asset {asset.id}: {path} is another file\nfound {algorithm} {found}, expected {expected}", _again(asset, path)
            )


def _again(asset: AssetSpec, path: Path) -> str:
    return f"rm '{path}' and {command(asset)}" if path.is_relative_to(paths.assets_dir()) else command(asset)


def fetch(asset: AssetSpec, told: Told | None = None, pause: float = 1.0) -> Path:
    """The asset's file or folder, downloaded if it is not here; an interrupted download goes on from where it broke off.

    One process at a time; the file appears under its name whole and verified or not at all. Each URL is tried in turn.
    Raises PrerequisiteError (offline, no URL answers), IntegrityError (what came is not the asset, no room on the disk).
    """
    try:
        return located(asset)
    except PrerequisiteError:
        if offline():
            raise
    if asset.hub:
        hub_folder(asset.hub, asset.revision, asset.files, kind=asset.hub_type, pickles=True)
        return located(asset)
    target = place(asset)
    with _alone(target):
        if target.is_file():  # another process fetched it meanwhile
            return located(asset)
        part = target.with_name(f"{asset.filename}.part")
        failures: list[PrerequisiteError | IntegrityError] = []
        for url in asset.urls:
            try:
                transfer.fetch(url, part, asset.bytes, _teller(asset, told), pause)
                verify(asset, part)
            except IntegrityError as error:
                part.unlink(missing_ok=True)  # what is wrong is never gone on from
                failures.append(IntegrityError(error.message.replace(str(part), url), command(asset)))
            except PrerequisiteError as error:
                failures.append(error)
            else:
                part.replace(target)
                return target
    if not failures:
        raise PrerequisiteError(f"asset {asset.id}: no URL is known", f"sbv2bench download {asset.id} --from FILE")
    raise next((failure for failure in failures if isinstance(failure, IntegrityError)), failures[0])


def _teller(asset: AssetSpec, told: Told | None) -> transfer.Told | None:
    return None if told is None else lambda done, total: told(asset.id, done, total or asset.bytes or 0)


def adopt(asset: AssetSpec, path: Path, content: bytes | None = None) -> Path:
    """Take a file that the user has, if it hashes right, as the asset; it is linked where that can be, else copied.

    content: bytes to take instead of the file's own, where the asset can be derived from it. Raises InputError (no file, or
    an asset that lies in the hub's cache), IntegrityError (another file).
    """
    if asset.hub:
        raise InputError(f"asset {asset.id}: its files are in the hub's cache, --from is for assets with a URL", command(asset))
    if not path.is_file():
        raise InputError(f"--from: {path} is not a file, expected {asset.filename}")
    target = place(asset)
    with _alone(target):
        part = target.with_name(f"{asset.filename}.adopted")
        part.unlink(missing_ok=True)
        try:
            if content is not None:
                part.write_bytes(content)
                verify(asset, part)
            else:
                verify(asset, path)
                try:
                    os.link(path, part)
                except OSError:  # another disk, or a file system without links
                    shutil.copyfile(path, part)
                    verify(asset, part)
            part.replace(target)
        except IntegrityError as error:
            raise IntegrityError(error.message.replace(str(part), str(path)), f"--from a whole {asset.filename}") from error
        finally:
            part.unlink(missing_ok=True)
    return target


def _alone(target: Path) -> FileLock:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise PrerequisiteError(
            f"{target.parent}: the cache cannot be written ({error.strerror})",
            "export SBV2BENCH_HOME=~/sbv2bench, or another folder that you may write",
        ) from error
    return FileLock(target.with_name(f"{target.name}.lock"))
