"""Declarations in YAML: the built-in ones beside this file, and users' own. Text in, frozen specs out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from sbv2bench.errors import InputError
from sbv2bench.specs import AssetSpec, ExtractorSpec, GroupSpec, MetricSpec, ModelSpec, SamplerSpec, Spec, SuiteSpec
from sbv2bench.strict_yaml import read_yaml

# Section of a catalog -> the kind of thing, and its spec.
SECTIONS: dict[str, tuple[str, type[Spec]]] = {
    "assets": ("asset", AssetSpec),
    "samplers": ("sampler", SamplerSpec),
    "extractors": ("extractor", ExtractorSpec),
    "metrics": ("metric", MetricSpec),
    "models": ("model", ModelSpec),
    "suites": ("suite", SuiteSpec),
    "groups": ("group", GroupSpec),
}
BUILT_IN = ("assets.yaml", "extractors.yaml", "metrics.yaml", "models.yaml", "models-full.yaml",
            "models-unet.yaml", "models-transformer.yaml", "suites.yaml")  # fmt: skip
PROMPT_FIELDS = ("world_seed", "split", "caption_offset")  # may be written flat in a suite

S = TypeVar("S", bound=Spec)


@dataclass(frozen=True)
class Declaration:
    """One entry of a catalog."""

    kind: str
    spec: Spec
    replaces: bool


@cache
def built_in() -> tuple[tuple[str, str], ...]:
    """(name, text) of each catalog that ships in the package, read once a process."""
    return tuple((name, (resources.files(__name__) / name).read_text("utf-8")) for name in BUILT_IN)


def read(text: str, name: str, folder: Path | None, suites: Mapping[str, SuiteSpec]) -> Iterator[Declaration]:
    """The declarations of a catalog. suites: those that an `extends` may name, besides the catalog's own.

    folder: what relative locations are relative to. Raises InputError naming the catalog, the entry and the key.
    """
    document = read_yaml(text, f"catalog {name}")
    document = {} if document is None else document
    if not isinstance(document, dict) or not set(document) <= set(SECTIONS):
        found = ", ".join(map(str, document)) if isinstance(document, dict) else type(document).__name__
        raise InputError(f"catalog {name}: found {found} at the top, expected a mapping with {', '.join(SECTIONS)}")
    for section, (kind, spec_class) in SECTIONS.items():
        entries = document.get(section) or {}
        if not isinstance(entries, dict) or not all(isinstance(fields, dict) for fields in entries.values()):
            raise InputError(f"catalog {name}, {section}: expected a mapping of ids to fields")
        for key in map(str, entries):
            where = f"catalog {name}, {section}.{key}"
            fields = _suite_fields(key, entries, suites, where) if section == "suites" else dict(entries[key])
            replaces = fields.pop("replaces", False) is True
            if section == "models":
                fields = _model_fields(key, fields, where)
            if folder is not None:
                fields = _absolute(fields, folder)
            yield Declaration(kind, parse(spec_class, {"id": key, **fields}, where), replaces)


def parse(spec_class: type[S], fields: dict[str, object], where: str) -> S:
    """A spec from fields read from a file. Raises InputError with the first wrong key, what was found and expected."""
    try:
        return spec_class.model_validate(fields)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        found = "nothing" if first["type"] == "missing" else repr(first["input"])[:80]
        raise InputError(f"{where}.{key}: found {found}. {first['msg']}") from error


def _absolute(fields: dict[str, object], folder: Path) -> dict[str, object]:
    """The fields with every location that is a path meant from the catalog's folder, also those of prompts and reference."""
    found = {name: _meant_from(value, folder) if name in ("location", "base", "vae") else value for name, value in fields.items()}
    for part in ("prompts", "reference"):
        if isinstance(own := found.get(part), dict):
            found[part] = _absolute(own, folder)
    if isinstance(own := found.get("parts"), dict):
        found["parts"] = {name: _meant_from(location, folder) for name, location in own.items()}
    if isinstance(listed := found.get("adapters"), list):
        found["adapters"] = [_absolute(own, folder) if isinstance(own, dict) else own for own in listed]
    return found


def _meant_from(location: object, folder: Path) -> object:
    if isinstance(location, str) and location and not location.startswith(("package:", "hub:", "asset:", "home:", "~")):
        return str(folder / location)
    return location


def _model_fields(key: str, fields: dict[str, object], where: str) -> dict[str, object]:
    """A model's family is the first part of its id, `local` where the id has one part."""
    family, slash, _ = key.partition("/")
    if not slash:
        family, key = "local", f"local/{key}"
    if fields.setdefault("family", family) != family:
        raise InputError(f"{where}.family: found {fields['family']!r}, expected {family!r}, as the id says")
    return {**fields, "id": key}


def _suite_fields(
    key: str, entries: Mapping[str, Mapping[str, Any]], suites: Mapping[str, SuiteSpec], where: str, seen: tuple[str, ...] = ()
) -> dict[str, object]:
    """A suite's own fields over those of the suite that it extends (looked up in its own catalog first)."""
    fields = dict(entries[key])
    base = fields.pop("extends", None)
    prompts = {name: fields.pop(name) for name in PROMPT_FIELDS if name in fields}
    inherited: dict[str, Any] = {}
    if base is not None:
        if not isinstance(base, str):
            raise InputError(f"{where}.extends: found {base!r:.80}, expected the id of a suite")
        if base in seen or (base == key and base not in suites):
            raise InputError(f"{where}.extends: {' -> '.join((*seen, key, str(base)))} goes round in a circle")
        if base in entries and base != key:  # a suite that replaces another may extend the one that it replaces
            inherited = _suite_fields(base, entries, suites, where, (*seen, key))
        elif base in suites:
            inherited = suites[base].model_dump()
        else:
            known = ", ".join(sorted({*suites, *map(str, entries)} - {key}))
            raise InputError(f"{where}.extends: found {base!r}, expected one of {known}")
        for name in ("id", "description", "replaces", "inherited"):
            inherited.pop(name, None)
    own = fields.get("prompts", {})
    if isinstance(own, dict):
        fields["prompts"] = {**_inherited_prompts(inherited, fields, own), **own, **prompts}
    if inherited and "metrics" in fields:
        fields["metrics"] = _inherited_changes(SuiteSpec.by_name(inherited["metrics"]), fields["metrics"])
    if "reference" not in fields and _changed("num_reference", fields, inherited):
        _forget(inherited, "reference", "content_sha256")  # it is the hash of so many photographs
    return {**inherited, **fields} | ({"inherited": _in_words(base, inherited, fields)} if base is not None else {})


def _inherited_changes(before: Any, own: object) -> object:
    """A suite's own list of metrics, each with what the suite that is extended changes of it, and over that its own changes.

    Metrics of that suite which it does not list stay as they are there, on request.
    """
    listed = SuiteSpec.by_name(own)
    if not isinstance(listed, list):
        return own
    entries = {one["id"]: one for one in before}
    ids = [str(one["id"]) if isinstance(one, dict) and "id" in one else "" for one in listed]
    mine = [{**entries.get(name, {}), "on_request": False, **one} if name else one for name, one in zip(ids, listed, strict=True)]
    return mine + [{**entry, "on_request": True} for name, entry in entries.items() if name not in ids]


def _inherited_prompts(inherited: dict[str, Any], fields: dict[str, Any], own: dict[str, object]) -> dict[str, object]:
    """The prompts' fields of the suite that is extended, but for what is said of other captions than the extension's.

    Puts into fields what the reference's renderings show, where it was the captions of the world that are given up.
    """
    before = dict(inherited.get("prompts", {}))
    if before and own.get("kind", before["kind"]) != before["kind"]:
        if before["kind"] == "world" and inherited.get("num_reference") and "reference" not in fields:
            fields.setdefault("rendered", before)
        return {}
    if "location" in own or _changed("num_generated", fields, inherited):
        before.pop("captions_sha256", None)
    return before


def _changed(name: str, fields: Mapping[str, object], inherited: Mapping[str, object]) -> bool:
    return name in fields and fields[name] != inherited.get(name)


def _forget(inherited: dict[str, Any], part: str, name: str) -> None:
    if isinstance(inherited.get(part), dict):
        inherited[part] = {key: value for key, value in inherited[part].items() if key != name}


def _in_words(base: str, inherited: dict[str, object], fields: dict[str, object]) -> str:
    """What an extension takes from the suite that it extends: "mini-5k: features, clip, ..."."""
    kept = [name for name, value in inherited.items() if name not in fields and value not in (None, "", ())]
    return f"{base}: {', '.join(kept)}"
