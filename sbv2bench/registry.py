"""One Registry of everything that has a name: built-in catalogs, plugins and the user's catalog come in by the same door.

A model may also be a folder or a hub id that no catalog names; what it is sampled by is then stated in its spec.
"""

from __future__ import annotations

import difflib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast, get_args

from pydantic import ValidationError

from sbv2bench import catalog, paths
from sbv2bench.data.hub import WITHDRAWN
from sbv2bench.data.remarks import say_once
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.specs import AssetSpec, ExtractorSpec, Family, GroupSpec, MetricSpec, ModelSpec, SamplerSpec, Spec, SuiteSpec
from sbv2bench.unlisted import BY_DEFAULTS, UNSTATED, is_hub_id, model_in_file, model_on_hub

PLUGINS = "sbv2bench.plugins"  # entry-point group: a module with register(registry)
BUILT_IN = "built-in"
FIRST_LOOK = "first-look"  # the suite for a first try of a model of the full family
KINDS: dict[str, type[Spec]] = dict(catalog.SECTIONS.values())
OWN_SUITE = "own"  # of captions and photographs that a user names on the command line: it is in no catalog
_ID = re.compile(r"[A-Za-z0-9_][\w.+-]*(/[A-Za-z0-9_][\w.+-]*)?")


@dataclass(frozen=True)
class Plugin:
    """An entry point of the group, and what happened when it was loaded (None: it registered)."""

    name: str
    distribution: str
    error: str | None = None


@dataclass
class Registry:
    """Tables of specs by id. Make it by `Registry.load`; `Registry()` is empty."""

    models: dict[str, ModelSpec] = field(default_factory=dict)
    suites: dict[str, SuiteSpec] = field(default_factory=dict)
    extractors: dict[str, ExtractorSpec] = field(default_factory=dict)
    metrics: dict[str, MetricSpec] = field(default_factory=dict)
    samplers: dict[str, SamplerSpec] = field(default_factory=dict)
    assets: dict[str, AssetSpec] = field(default_factory=dict)
    groups: dict[str, GroupSpec] = field(default_factory=dict)
    plugins: list[Plugin] = field(default_factory=list)
    sources: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, id) -> who registered it
    source: str = BUILT_IN  # who is registering now

    @classmethod
    def load(cls, catalog_file: Path | None = None) -> Registry:
        """Built-ins, then plugins, then the user's catalog: the file given, else $SBV2BENCH_CATALOG, else ./sbv2bench.yaml.

        Raises InputError on a catalog that is wrong. A plugin that fails is kept in `plugins` with its error.
        """
        registry = cls.built_in()
        registry._load_plugins()
        path = _user_catalog(catalog_file)
        if path is not None:
            registry.add_user_catalog(path)
        return registry

    @classmethod
    def built_in(cls) -> Registry:
        """What the package itself declares, the same on every machine."""
        registry = cls()
        for name, text in catalog.built_in():
            registry.add_catalog(text, name)
        return registry

    def add(self, kind: str, spec: Spec, replaces: bool = False) -> None:
        """Register a spec under its id. kind: model, suite, group, extractor, metric, sampler or asset.

        Raises InputError if the kind or the id cannot be, or if the id is taken and `replaces` is not said.
        """
        if not isinstance(spec, KINDS.get(kind, ())):
            raise InputError(
                f"{self.source}: add({kind!r}, {type(spec).__name__}), expected a kind of {', '.join(KINDS)} and its spec"
            )
        table, name = self.table(kind), str(spec.id)  # type: ignore[attr-defined]
        if not _ID.fullmatch(name):
            raise InputError(f"{self.source}: {kind} id {name!r}, expected letters, digits and . _ + - (family/name for a model)")
        if isinstance(spec, ModelSpec) and name.partition("/")[0] != spec.family:
            raise InputError(f"{self.source}: model {name!r} of family {spec.family}, expected the id {spec.family}/...")
        if kind in ("suite", "group") and name == OWN_SUITE:
            raise InputError(f"{self.source}: {kind} id {name!r} is that of runs with --prompts or --reference, expected another")
        twin = {"suite": "group", "group": "suite"}.get(kind, kind)  # --suite takes either
        taken = kind if name in table and not replaces else twin if twin != kind and name in self.table(twin) else None
        if taken is not None:
            raise InputError(
                f"{self.source}: {taken} {name!r} is taken (by {self.sources[taken, name]})",
                "choose another id" + (", or say `replaces: true` if you mean to replace it" if taken == kind else ""),
            )
        table[name] = spec
        self.sources[kind, name] = self.source

    def add_catalog(self, text: str, name: str, folder: Path | None = None) -> None:
        """Register everything that a YAML catalog declares. folder: what relative locations are relative to."""
        for declared in catalog.read(text, name, folder, self.suites):
            self.add(declared.kind, declared.spec, declared.replaces)

    def add_user_catalog(self, path: Path) -> None:
        """Register what a user's YAML file declares. Raises InputError on a catalog that is wrong, or cannot be read as text."""
        try:
            text = path.read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"catalog {path}: cannot be read as UTF-8 text ({error})") from error
        self.source = f"catalog {path.name}"
        self.add_catalog(text, str(path), path.resolve().parent)

    def table(self, kind: str) -> dict[str, object]:
        """The table of a kind: id -> spec."""
        return cast("dict[str, object]", getattr(self, f"{kind}s"))

    def suite(self, name: str) -> SuiteSpec:
        """A suite whose extractors and metrics are all known. Raises InputError with a suggestion."""
        if name == OWN_SUITE:
            raise InputError(
                "suite own is made of your captions and photographs when it is run, expected --prompts or --reference",
                "sbv2bench eval --model sd21 --prompts FILE --reference FOLDER",
            )
        found: SuiteSpec = self._find("suite", name)
        self.extractors_of(self.metrics_of(found, [metric.id for metric in found.metrics]))
        return found

    def metrics_of(self, suite: SuiteSpec, flags: Iterable[str] | None = None) -> tuple[MetricSpec, ...]:
        """Metrics as a suite has them: by default its own."""
        return tuple(suite.changed(self.metric(flag)) for flag in (suite.flags if flags is None else flags))

    def extractors_of(self, metrics: Iterable[MetricSpec]) -> dict[str, ExtractorSpec]:
        """The extractors of metrics, by id. Raises InputError where one is not known, or does not give what its metric reads."""
        found: dict[str, ExtractorSpec] = {}
        for metric in metrics:
            if metric.extractor is None:
                continue
            try:
                extractor = found.setdefault(metric.extractor, self.extractor(metric.extractor))
            except InputError as error:
                raise InputError(f"metric {metric.id}: {error.message}", error.fix) from error
            if not metric.fits(extractor):
                gives = f"its extractor {extractor.id} gives {extractor.gives}"
                raise InputError(f"metric {metric.id}: it reads {metric.reads}, {gives}", "sbv2bench list extractors")
        return found

    def declared_anew(self, suite: SuiteSpec) -> list[str]:
        """Of a suite, its extractors and metrics, those of a built-in id that a plugin or a catalog declares: "extractor x"."""
        extractors = self.extractors_of(self.metrics_of(suite))
        used = [("suite", suite.id), *(("extractor", name) for name in extractors), *(("metric", flag) for flag in suite.flags)]
        foreign = [key for key in dict.fromkeys(used) if self.sources.get(key, BUILT_IN) != BUILT_IN]
        shipped = Registry.built_in() if foreign else Registry()
        return [f"{kind} {name}" for kind, name in foreign if name in shipped.table(kind)]

    def default_suite(self, family: str) -> str:
        """The suite that a family is measured by where nobody says another: the first that was declared; of `local` mini's."""
        wanted = "mini" if family == "local" else family
        return next(name for name, suite in self.suites.items() if suite.family == wanted)

    def suites_of(self, name: str) -> tuple[SuiteSpec, ...]:
        """The suites that a name means: those of a group, or the one suite. Raises InputError with a suggestion."""
        group = self.groups.get(name)
        return tuple(self.suite(part) for part in (group.suites if group is not None else (name,)))

    def extractor(self, name: str) -> ExtractorSpec:
        """An extractor by id. Raises InputError with a suggestion."""
        return cast(ExtractorSpec, self._find("extractor", name))

    def asset(self, name: str) -> AssetSpec:
        """A declared download by its name. Raises InputError with a suggestion."""
        return cast(AssetSpec, self._find("asset", name))

    def metric(self, flag: str) -> MetricSpec:
        """A metric by its flag. Raises InputError with a suggestion."""
        return cast(MetricSpec, self._find("metric", flag))

    def sampler(self, kind: str) -> SamplerSpec:
        """A way to sample by its kind. Raises InputError with a suggestion."""
        return cast(SamplerSpec, self._find("sampler", kind))

    def model(self, reference: str, suite: SuiteSpec | str | None = None) -> ModelSpec:
        """The model that a user names: a qualified id, a bare name of the suite's family, an alias, a folder, a hub id.

        suite: what it is to be evaluated on (default: only looked up, bare names take the family `mini`).
        Raises InputError if there is none, or if its family does not fit the suite, PrerequisiteError if it is to be
        evaluated and nothing but published numbers is known of it.
        """
        wanted = self.suite(suite) if isinstance(suite, str) else suite
        found = self._model(reference, wanted.family if wanted is not None else "mini")
        if wanted is not None and found.images == "none":
            raise only_published(found)
        if wanted is not None and found.family not in ("local", wanted.family):
            own = f"{wanted.family}/{found.id.partition('/')[2]}"
            fix = f"sbv2bench eval --model {own} --suite {wanted.id}" if own in self.models else "sbv2bench list models"
            if found.family == "full" and FIRST_LOOK in self.suites:  # what was asked for, where it can be had
                fix = f"sbv2bench eval --model {found.id} --suite {FIRST_LOOK}"
            raise InputError(
                f"model {found.id} is of family {found.family}, expected family {wanted.family} for suite {wanted.id}", fix
            )
        sampler = self.sampler(found.sampler)
        if (found.images, found.one_step) == (sampler.images, sampler.one_step):
            return found
        return found.model_copy(update={"images": sampler.images, "one_step": sampler.one_step})

    def show(self, name: str) -> dict[str, object]:
        """A whole declaration, JSON-ready: by id of anything but a model, else of whatever model the name means."""
        kind = next((kind for kind in ("suite", "group", "metric", "extractor", "asset") if name in self.table(kind)), "model")
        try:
            spec: Spec = self.model(name) if kind == "model" else self._find(kind, name)
        except InputError as error:
            models = {*self.models, *(key.partition("/")[2] for key in self.models)}
            close = suggestion(name, [*self.suites, *self.groups, *self.metrics, *models])
            if close is None or close in models:
                raise
            raise InputError(
                f"unknown model, suite or metric {name!r}, did you mean {close!r}?", f"sbv2bench show {close}"
            ) from error
        content = spec.model_dump(mode="json")
        source = self.sources.get((kind, content["id"]), "found on this machine")
        return {"what": kind, "registered_by": source, "fingerprint": spec.fingerprint(), **content}

    def _model(self, reference: str, family: str) -> ModelSpec:
        for candidate in (reference, *(f"{own}/{reference}" for own in dict.fromkeys((family, "local", *get_args(Family))))):
            if candidate in self.models:
                return self.models[candidate]
        for spec in self.models.values():
            if reference.removeprefix("hub:") in spec.aliases and not Path(reference).exists():
                if (gone := reference.removeprefix("hub:")) in WITHDRAWN:
                    say_once(f"{gone} was withdrawn from the hub; {spec.id} is its copy")
                return spec
        folder = paths.as_typed(reference)
        if folder.exists() and reference:
            return model_in_folder(folder)
        if reference.startswith(("./", "../", "/", "~")):
            raise InputError(f"model folder: {reference!r} does not exist")
        hub = reference.removeprefix("hub:")
        close = suggestion(reference, [*self.models, *(name for s in self.models.values() for name in s.aliases)])
        known_family = hub.partition("/")[0] in get_args(Family)
        if is_hub_id(hub) and (hub != reference or not (known_family or close)):
            return model_on_hub(hub)
        raise self._unknown("model", reference)

    def _find(self, kind: str, name: str) -> Any:
        if name not in self.table(kind):
            raise self._unknown(kind, name)
        return self.table(kind)[name]

    def _unknown(self, kind: str, name: str) -> InputError:
        known = {**self.table(kind), **(self.groups if kind == "suite" else {})}
        bare = [key.partition("/")[2] for key in known] if kind == "model" else []
        close = suggestion(name, [*known, *bare])
        listed = (
            f"sbv2bench list {kind}s" if kind in ("model", "suite", "metric", "extractor") else f"known are {', '.join(known)}"
        )
        failed = "; ".join(f"plugin {plugin.name} did not load: {plugin.error}" for plugin in self.plugins if plugin.error)
        return InputError(
            f"unknown {kind} {name!r}" + (f", did you mean {close!r}?" if close else "") + (f"\n{failed}" if failed else ""),
            listed,
        )

    def _load_plugins(self) -> None:
        for entry in sorted(importlib.metadata.entry_points(group=PLUGINS), key=lambda entry: entry.name):
            owner = entry.dist
            distribution = f"{owner.name} {owner.version}" if owner is not None else "unknown"
            before, sources = {kind: dict(self.table(kind)) for kind in KINDS}, dict(self.sources)
            self.source = f"plugin {entry.name}"
            error = None
            try:
                entry.load().register(self)
            except Exception as failure:  # somebody else's code: whatever it raises must not take the built-ins away
                error = " ".join(_in_words(failure).split())[:200]
                self.sources = sources
                for kind, table in before.items():  # all of a plugin, or nothing
                    self.table(kind).clear()
                    self.table(kind).update(table)
            self.plugins.append(Plugin(entry.name, distribution, error))


def only_published(spec: ModelSpec) -> PrerequisiteError:
    """The error for a model that cannot be sampled: it is in the catalog for its published numbers."""
    rows = ", ".join(f"table {table} ({method})" for table, _, method in (row.partition("/") for row in spec.published_as))
    return PrerequisiteError(
        f"model {spec.id}: only published numbers of it exist{f', {rows}' if rows else ''}; there is nothing to sample",
        f"sbv2bench show {spec.id}",
    )


def suggestion(name: str, known: Iterable[str]) -> str | None:
    """The known name that is closest to a name that is not, if any is close."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def _in_words(failure: Exception) -> str:
    """What a plugin raised, of several fields that are wrong the first."""
    if isinstance(failure, ValidationError):
        first = failure.errors()[0]
        return f"{failure.title}: {'.'.join(map(str, first['loc'])) or 'fields'}: {first['msg']}, found {first['input']!r:.60}"
    return failure.message if isinstance(failure, SBV2BenchError) else f"{type(failure).__name__}: {failure}"


def _user_catalog(given: Path | None) -> Path | None:
    named = given or (Path(os.environ["SBV2BENCH_CATALOG"]) if os.environ.get("SBV2BENCH_CATALOG") else None)
    if named is None:
        default = Path("sbv2bench.yaml")
        return default if default.is_file() else None
    path = named.expanduser()
    if not path.is_file():
        raise InputError(f"{'--catalog' if given else 'SBV2BENCH_CATALOG'}: {named} does not exist, expected a YAML file")
    return path


def model_in_folder(folder: Path) -> ModelSpec:
    """What a folder is: as its sbv2bench.json says, else a diffusers pipeline by stated defaults, else a folder of images.

    Raises InputError if it is none of these.
    """
    if not folder.is_dir():
        return model_in_file(folder)
    name = re.sub(r"[^\w.+-]", "_", folder.resolve().name).lstrip(".+-") or "folder"
    identity = {"id": f"local/{name}", "family": "local", "location": str(folder)}
    declared = folder / "sbv2bench.json"
    if declared.is_file():
        try:
            fields = json.loads(declared.read_text("utf-8"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"{declared}: found text that is not JSON ({error}), expected a ModelSpec") from error
        if not isinstance(fields, dict):
            raise InputError(f"{declared}: found {type(fields).__name__}, expected the fields of a ModelSpec")
        return catalog.parse(ModelSpec, {**fields, **identity}, str(declared))
    if (folder / "model_index.json").is_file():
        own = {"description": f"a pipeline folder; {BY_DEFAULTS}", "unstated": UNSTATED}
        return ModelSpec.model_validate({**identity, "sampler": "pipeline", **own})
    from sbv2bench.data.images import shows_pictures  # numpy and PIL, which the other names do without

    if shows_pictures(folder):
        return ModelSpec.model_validate({**identity, "sampler": "image_folder", "description": "images that exist already"})
    raise InputError(
        f"model folder: {folder} is neither a model nor images\n"
        f"found {', '.join(sorted(path.name for path in folder.iterdir())[:4]) or 'nothing in it'}, "
        "expected sbv2bench.json, model_index.json or pictures"
    )
