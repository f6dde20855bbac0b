"""What a name stands for, brought onto this machine: the files of a suite, a group, a model, an extractor, or one asset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from sbv2bench.data import asset_store, assets, caption_files
from sbv2bench.data.needs import suite_needs
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec, ModelSpec

_Wanted = tuple[str, str | None, tuple[str, ...], tuple[str, ...]]  # location, revision, files, mirrors


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
    for location, revision, files, mirrors in dict.fromkeys(_wanted(registry, name)):
        try:
            if location.startswith(assets.ASSET):
                found[location] = asset_store.fetch(registry.asset(location.removeprefix(assets.ASSET)), told)
            else:
                place, found_there = _first(location, revision, files, mirrors, registry)
                found[place] = found_there
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


def _first(
    location: str, revision: str | None, files: tuple[str, ...], mirrors: tuple[str, ...], registry: Registry
) -> tuple[str, Path]:
    """A location's files, or those of its first mirror that has some; the location's own error where none has."""
    try:
        return location, assets.resolve_location(location, revision, files, registry.assets)
    except (PrerequisiteError, InputError):
        for mirror in mirrors:
            with suppress(PrerequisiteError, InputError):
                return mirror, assets.resolve_location(mirror, None, files, registry.assets)
        raise


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
        yield f"{assets.ASSET}{name}", None, (), ()
    elif name in registry.suites or name in registry.groups:
        files = {spec.location: spec.files for spec in registry.extractors.values()}
        for suite in registry.suites_of(name):
            for need in suite_needs(registry, suite):
                yield need.location, None, files.get(need.location, ()), ()
    elif name in registry.extractors:
        extractor = registry.extractor(name)
        yield extractor.location, None, extractor.files, ()
    else:
        yield from _of_model(registry, registry.model(name))


def _of_model(registry: Registry, model: ModelSpec) -> Iterator[_Wanted]:
    """A model's own location, its base and its autoencoder; of a merged model those of both its ends."""
    if model.location:
        yield model.location, model.revision, (), model.mirrors
    for location in (model.base, model.vae):
        if location:
            yield location, None, (), _mirrors_of(registry, location)
    for end in () if model.merge is None else (model.merge.a, model.merge.b):
        yield from _of_model(registry, registry.model(end))


def _mirrors_of(registry: Registry, location: str) -> tuple[str, ...]:
    """The mirrors that the catalog knows of a location, whatever its revision, which is another model's own."""
    repository = location.partition("@")[0]
    return next((model.mirrors for model in registry.models.values() if model.location.partition("@")[0] == repository), ())
