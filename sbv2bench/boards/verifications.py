"""Verifications that users sent in, `<leaderboards>/verifications/**.json`: checked, and counted into the package's catalog."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sbv2bench.data.chain import model_files
from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError, IntegrityError, SBV2BenchError
from sbv2bench.registry import Registry
from sbv2bench.results import verifications
from sbv2bench.results.verifications import FOLDER, Verification
from sbv2bench.specs import SuiteSpec, WeightsFile

PACKAGED = f"../sbv2bench/catalog/{verifications.SHIPPED}"  # seen from the leaderboards' folder
_WEIGHTS = TypeAdapter(tuple[WeightsFile, ...])


def admit(path: Path, registry: Registry | None = None) -> Verification:
    """A verification that counts: of a model of the catalog by its present settings, on its suite as that is now. registry: the
    package's own by default.

    Raises InputError (another model, settings, captions or metrics) or IntegrityError (it was edited).
    """
    record, registry = verifications.load(path), registry or Registry.built_in()
    if differs := _difference(record, registry):
        known = record.model in registry.models
        fix = f"sbv2bench verify {record.model}" if known else "sbv2bench list models"
        raise InputError(f"{path}: {differs}", fix)
    return record


def counted(folder: Path, registry: Registry | None = None) -> list[Verification]:
    """The verifications of a leaderboards' folder that count. One of a model or suite that has changed since is left out.

    Raises IntegrityError for one that was edited, or lies elsewhere than its content says.
    """
    registry = registry or Registry.built_in()
    records = []
    for path in sorted((folder / FOLDER).rglob("*.json")):
        record = verifications.load(path)
        place = folder / FOLDER / verifications.path_of(record)
        if path != place:
            raise IntegrityError(f"{path}: its content says that it is {place}", f"mv '{path}' '{place}'")
        if not _difference(record, registry):
            records.append(record)
    return records


def rendered(folder: Path) -> dict[str, str]:
    """The package's file by its path seen from the folder; nothing where the folder is not beside the package."""
    return {PACKAGED: verifications.to_ship(counted(folder))} if (folder / PACKAGED).is_file() else {}


def _difference(record: Verification, registry: Registry) -> str:
    """Why a verification is of another model or suite than the catalog's, in words; "" where it is not."""
    model = registry.models.get(record.model)
    if model is None or not model.has_network():
        return f"model {record.model} is none of the catalog's that can be sampled"
    if not record.fits(model):
        return f"model {record.model} was sampled by other settings than the catalog's"
    if model.family == "mini" and record.weights != model_files(model, registry.model):  # which may be trained anew
        return f"model {record.model} was sampled with other weights than the package's"
    name, _, version = record.suite.partition("@v")
    suite = registry.suites.get(name)
    if suite is None or suite.id != verifications.suite_for(model.family, registry) or version != str(suite.version):
        return f"suite {record.suite} is not the one that models of family {model.family} are verified on"
    return _difference_of_suite(record, suite, registry)


def _difference_of_suite(record: Verification, suite: SuiteSpec, registry: Registry) -> str:
    prompts = load_prompts(suite)
    for image, caption in zip(record.pixels, prompts.captions, strict=False):
        if image.caption != caption:
            return f"pixels are of the caption {image.caption!r:.60}, expected {caption!r:.60}, of suite {suite.id}"
    by_key = {key: metric for metric in registry.metrics_of(suite) for key in metric.keys}
    for key, score in record.scores.items():
        found = record.protocols[score.fingerprint]
        if key not in by_key:
            return f"scores.{key} is no metric of suite {suite.id}"
        metric = by_key[key]
        try:
            extractor = registry.extractor(metric.extractor or "").model_copy(update={"weights": _weights(found)})
        except (SBV2BenchError, ValidationError):
            return f"scores.{key} is of no extractor"
        expected = suite.metric_protocol(metric, extractor, prompts.sha256)
        if json.loads(json.dumps(expected)) != found:
            return f"scores.{key} is by another protocol than that of suite {suite.id}"
    return ""


def _weights(protocol: dict[str, Any]) -> tuple[WeightsFile, ...]:
    extractor = protocol.get("extractor")
    return _WEIGHTS.validate_python(extractor.get("weights") if isinstance(extractor, dict) else None)
