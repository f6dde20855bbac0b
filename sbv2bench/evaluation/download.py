"""What a name stands for, brought onto this machine: the files of a suite, a group, a model, an extractor, or one asset."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from sbv2bench.data import asset_store, assets, caption_files, hub
from sbv2bench.data.needs import suite_needs
from sbv2bench.data.parts import is_config_alone, supplied_elsewhere
from sbv2bench.data.single_file import base_of
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError, SBV2BenchError
from sbv2bench.machine.checks import available_device, chosen_dtype
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec, ModelSpec


@dataclass(frozen=True)
class Wanted:
    """A location that a name needs. files, unused, part, configs_only: as in `resolve_location`.

    origin: how it was made, where no hub has it.
    """

    location: str
    revision: str | None = None
    files: tuple[str, ...] = ()
    mirrors: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    part: str = ""
    configs_only: bool = False
    dtype: str | None = None
    origin: str = ""
    whole: bool = False  # of a model: one file of it needs the configs of another, which it tells

    def bytes_to_fetch(self) -> int | None:
        """What bringing it would fetch now; None where that is not known."""
        if not self.location.startswith(assets.HUB):
            return None
        return hub.download_bytes(
            self.location,
            self.revision,
            self.dtype,
            files=self.files,
            unused=self.unused,
            part=self.part,
            configs_only=self.configs_only,
        )

    def resolve(self, location: str, revision: str | None, known: Mapping[str, AssetSpec] | None = None) -> Path:
        """Where its files are, there or at a mirror; see `resolve_location`."""
        return assets.resolve_location(
            location,
            revision,
            self.files,
            known,
            dtype=self.dtype,
            unused=self.unused,
            part=self.part,
            configs_only=self.configs_only,
        )


def bring(
    registry: Registry, name: str, source: Path | None = None, told: asset_store.Told | None = None, dtype: str = "auto"
) -> dict[str, Path]:
    """Fetch all that a name needs and verify it. Returns location -> where it lies. What is here already is not asked for.

    name: of anything in the registry, a model's folder or hub id, or a location on the hub. source: the user's own file for an
    asset; for a caption list also COCO's annotations or Karpathy's split. dtype: what models will run in, which decides what
    variants of their weights are fetched; auto is what this machine would take. Everything that can be had is fetched before
    the first error is raised; that error lists all that is missing, and what of it no network can bring.
    Raises InputError (unknown name), PrerequisiteError (offline, unreachable), IntegrityError (other bytes).
    """
    if source is not None:
        if name not in registry.assets:
            raise InputError(
                f"--from: {name!r} is not an asset, expected one of {', '.join(registry.assets)}", f"sbv2bench download {name}"
            )
        return {f"{assets.ASSET}{name}": take(registry.asset(name), source)}
    found: dict[str, Path] = {}
    failures: list[tuple[Wanted, SBV2BenchError]] = []
    for wanted in dict.fromkeys(wanted_by(registry, name, dtype)):
        try:
            if wanted.location.startswith(assets.ASSET):
                asset = registry.asset(wanted.location.removeprefix(assets.ASSET))
                found[wanted.location] = asset_store.fetch(asset, told)
            else:
                place, found_there = _first(wanted, registry)
                found[place] = found_there
                if wanted.whole and found_there.is_file():
                    base = base_of(found_there)
                    found[base] = assets.resolve_location(base, configs_only=True)
        except (PrerequisiteError, IntegrityError) as error:
            failures.append((wanted, error))
    broken = next((error for _, error in failures if isinstance(error, IntegrityError)), None)
    by_hand = [wanted for wanted, _ in failures if wanted.location.startswith(assets.HOME)]
    if broken is not None or (len(failures) == 1 and not by_hand):
        raise broken or failures[0][1]
    if failures:
        raise _all_missing(name, [wanted for wanted, _ in failures], by_hand)
    return found


def _all_missing(name: str, missing: Sequence[Wanted], by_hand: Sequence[Wanted]) -> PrerequisiteError:
    """One error for all that could not be had, in two lines, and what to do about it."""
    offline = assets.offline()
    others = [wanted for wanted in missing if wanted not in by_hand]
    lines = [f"download {name}: {'offline, and ' if offline else ''}{len(missing)} of its locations are not on this machine"]
    if others:
        lines[0] += f": {', '.join(wanted.location for wanted in others)}"
    if by_hand:
        made = dict.fromkeys(f"{wanted.location} ({wanted.origin or 'origin not stated'})" for wanted in by_hand)
        lines.append(f"no network brings {', '.join(made)}")
    if others:
        switch = "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 " if offline else ""
        return PrerequisiteError("\n".join(lines), f"{switch}sbv2bench download {name}")
    place = assets.home_place(by_hand[0].location)
    return PrerequisiteError("\n".join(lines), f"mkdir -p '{place.parent}' && cp -r YOUR_COPY '{place}'")


def _first(wanted: Wanted, registry: Registry) -> tuple[str, Path]:
    """A location's files, or those of its first mirror that has some; the location's own error where none has."""

    def located(location: str, revision: str | None) -> Path:
        return wanted.resolve(location, revision, registry.assets)

    try:
        return wanted.location, located(wanted.location, wanted.revision)
    except (PrerequisiteError, InputError):
        for mirror in wanted.mirrors:
            with suppress(PrerequisiteError, InputError):
                return mirror, located(mirror, None)
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


def wanted_by(registry: Registry, name: str, dtype: str = "auto") -> Iterator[Wanted]:
    """Every location that a name needs; see `bring`. Raises InputError where the name means nothing."""
    if name in registry.assets and name not in registry.suites:
        yield Wanted(f"{assets.ASSET}{name}")
    elif name in registry.suites or name in registry.groups:
        files = {spec.location: spec.files for spec in registry.extractors.values()}
        for suite in registry.suites_of(name):
            for need in suite_needs(registry, suite):
                yield Wanted(need.location, files=files.get(need.location, ()))
    elif name in registry.extractors:
        extractor = registry.extractor(name)
        yield Wanted(extractor.location, files=extractor.files)
        if extractor.tokenizer:
            yield Wanted(extractor.tokenizer)
    elif name.startswith(assets.HUB):
        yield Wanted(name, dtype=_dtype(dtype, None))
    else:
        yield from of_model(registry, registry.model(name), dtype)


def of_model(registry: Registry, model: ModelSpec, dtype: str = "auto") -> Iterator[Wanted]:
    """A model's own location, its base, its parts and its adapters; of a merged model those of both its ends."""
    chosen, unused = _dtype(dtype, model), supplied_elsewhere(model)
    if model.location:
        yield Wanted(
            model.location,
            model.revision,
            mirrors=model.mirrors,
            unused=unused if model.holds == "model" else (),
            dtype=chosen,
            origin=model.origin,
            whole=model.holds == "model" and not model.base,
        )
    if model.base:
        yield Wanted(model.base, mirrors=_mirrors_of(registry, model.base), unused=unused, dtype=chosen)
    for part, location in model.named_parts().items():
        mirrors = _mirrors_of(registry, location)
        yield Wanted(location, mirrors=mirrors, part=part, configs_only=is_config_alone(part), dtype=chosen)
    for adapter in model.adapters:
        yield Wanted(adapter.location, mirrors=_mirrors_of(registry, adapter.location), dtype=chosen)
    for end in () if model.merge is None else (model.merge.a, model.merge.b):
        yield from of_model(registry, registry.model(end), dtype)


def _dtype(wanted: str, model: ModelSpec | None) -> str:
    return chosen_dtype(wanted, available_device("auto"), model)


def _mirrors_of(registry: Registry, location: str) -> tuple[str, ...]:
    """The mirrors that the catalog knows of a location, whatever its revision, which is another model's own."""
    repository = location.partition("@")[0]
    return next((model.mirrors for model in registry.models.values() if model.location.partition("@")[0] == repository), ())
