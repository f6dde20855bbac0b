"""What a name stands for, brought onto this machine: the files of a suite, a group, a model, an extractor, or one asset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from sbv2bench.data import asset_store, assets, caption_files
from sbv2bench.data.needs import suite_needs
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec

_Wanted = tuple[str, str | None, tuple[str, ...]]  # location, revision, files


def bring(registry: Registry, name: str, source: Path | None = None, told: asset_store.Told | None = None) -> dict[str, Path]:
    """Fetch all that a name needs and verify it. Returns location -> where it lies. What is here already is not asked for.

    source: the user's own file for an asset; for a caption list also COCO's annotations or Karpathy's split. Everything that
    can be had is fetched before the first error is raised; offline that error lists all that is missing.
    Raises InputError (unknown name), PrerequisiteError (offline, unreachable), IntegrityError (other bytes).
    """
    if source is not None:
        if name not in registry.assets:
            raise InputError(f"--from: {name!r} is not an asset, expected one of {', '.join(registry.assets)}")
        return {f"{assets.ASSET}{name}": take(registry.asset(name), source)}
    found: dict[str, Path] = {}
    failures: list[tuple[str, SBV2BenchError]] = []
    for location, revision, files in dict.fromkeys(_wanted(registry, name)):
        try:
            if location.startswith(assets.ASSET):
                found[location] = asset_store.fetch(registry.asset(location.removeprefix(assets.ASSET)), told)
            else:
                found[location] = assets.resolve_location(location, revision, files, registry.assets)
        except (PrerequisiteError, IntegrityError) as error:
            failures.append((location, error))
    broken = next((error for _, error in failures if isinstance(error, IntegrityError)), None)
    if broken is not None or len(failures) == 1:
        raise broken or failures[0][1]
    if failures:
        why = "offline, and " if assets.offline() else ""
        switch = "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 " if assets.offline() else ""
        raise PrerequisiteError(
            f"download {name}: {why}{len(failures)} locations are not on this machine and cannot be had\n"
            f"missing: {', '.join(location for location, _ in failures)}",
            f"{switch}sbv2bench download {name}",
        )
    return found


def take(asset: AssetSpec, source: Path) -> Path:
    """A user's own file as an asset; a caption list may also be derived from another of its forms, if that gives its bytes."""
    try:
        return asset_store.adopt(asset, source)
    except IntegrityError as error:
        try:
            orders = caption_files.all_captions(source)
        except (SBV2BenchError, UnicodeDecodeError):
            raise error from None
        for captions in orders:
            content = caption_files.released_form(captions)
            if hashlib.sha256(content).hexdigest() == asset.sha256:
                return asset_store.adopt(asset, source, content)
        raise


def _wanted(registry: Registry, name: str) -> Iterator[_Wanted]:
    if name in registry.assets and name not in registry.suites:
        yield f"{assets.ASSET}{name}", None, ()
    elif name in registry.suites or name in registry.groups:
        files = {spec.location: spec.files for spec in registry.extractors.values()}
        for suite in registry.suites_of(name):
            for need in suite_needs(registry, suite):
                yield need.location, None, files.get(need.location, ())
    elif name in registry.extractors:
        extractor = registry.extractor(name)
        yield extractor.location, None, extractor.files
    else:
        model = registry.model(name)
        for location in (model.location, model.base):
            if location:
                yield location, model.revision if location == model.location else None, ()
