"""Scores of another tool, image by image, as a metric of the result whose images it scored; matched by hashes, never by order."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sbv2bench.data.caption_files import captions_sha256
from sbv2bench.data.prompts import load_prompts
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation.manifest import Manifest, read_manifest
from sbv2bench.evaluation.rows import Rows
from sbv2bench.evaluation.score import Labels, MetricRows, score
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.results import prompt_values, store
from sbv2bench.results.commands import eval_command
from sbv2bench.results.records import EvalResult
from sbv2bench.specs import MetricSpec, SuiteSpec, fingerprint

EXTENDS = "extends"  # provenance: SHA-256 of the result file that scores were added to


def import_scores(
    scores: Path, manifest: Path, metric: str, *, tool: str, tool_version: str, results: Path, registry: Registry
) -> tuple[EvalResult, Path]:
    """Write a new file of the manifest's result with one more metric, and return both; the older file stays as it was.

    scores: CSV or JSONL with `id` and `value`, each id of the manifest once. metric: id of a MetricSpec with `reads: scores`. A
    caption's value is the mean over its images (of the first alone, where the metric is of one image a caption).
    Raises InputError (names, columns), PrerequisiteError (no such result), IntegrityError naming the id (twice, missing, not a
    number, another image).
    """
    spec = registry.metric(metric)
    if spec.reads != "scores":
        raise InputError(
            f"--metric {metric}: it reads {spec.reads}, expected a metric with `reads: scores`", "sbv2bench list metrics"
        )
    for option, value in (("--tool", tool), ("--tool-version", tool_version)):
        if not value.strip():
            raise InputError(f"{option}: found nothing, expected the name and the version of what scored the images")
    listed = read_manifest(manifest)
    values = _values_by_id(scores, listed)
    listed.check_files()
    before, file = _result_of(listed, results)
    made = tool, tool_version, sha256_file(scores)
    extended, own = _with_metric(before, spec, _by_seed(listed, values, before, spec), made, registry)
    extended = extended.model_copy(update={"provenance": {**extended.provenance, EXTENDS: listed.head.result.sha256}})
    extended, content = prompt_values.attach(extended, prompt_values.read(before, file) | own)
    return extended, store.write(extended, results, content)


def _values_by_id(path: Path, manifest: Manifest) -> dict[str, float]:
    """The score of every image of the manifest."""
    known, found = {image.id for image in manifest.images}, dict[str, float]()
    for number, row in _rows(path):
        where = f"{path}, line {number}"
        if not {"id", "value"} <= {*row}:
            raise InputError(f"{where}: found columns {', '.join(map(str, row))}, expected id and value")
        name = str(row["id"] or "").strip()
        if not name:
            raise IntegrityError(f"{where}: found no id, expected that of an image in {manifest.path}")
        if name not in known:
            raise IntegrityError(f"{where}: id {name!r} is not in {manifest.path}", "score the images of that manifest")
        if name in found:
            raise IntegrityError(f"{where}: found id {name!r} twice")
        try:
            value = float(str(row["value"]))
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise IntegrityError(f"{where}: value of {name} is {row['value']!r}, expected a finite number")
        found[name] = value
    if missing := [image.id for image in manifest.images if image.id not in found]:
        raise IntegrityError(f"{path}: no value for {len(missing)} of {len(known)} images, {missing[0]} first")
    return found


def _rows(path: Path) -> Iterator[tuple[int, dict[str, object]]]:
    """(line, columns) of a CSV or a JSONL file."""
    try:
        lines = path.read_text("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"scores {path}: {getattr(error, 'strerror', None) or error}") from error
    if path.suffix.lower() == ".csv":
        for number, row in enumerate(csv.DictReader(lines), 2):
            yield number, dict(row)
        return
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            content = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path}, line {number}: no JSON ({error}), expected CSV (.csv) or a JSON object a line") from error
        if not isinstance(content, dict):
            raise InputError(f"{path}, line {number}: found {line[:40]!r}, expected an object with id and value")
        yield number, content


def _result_of(manifest: Manifest, results: Path) -> tuple[EvalResult, Path]:
    """The manifest's result, with all that was added to it before."""
    wanted = manifest.head.result
    files = store.find(results) if results.is_dir() else []
    for file in files:
        if file.name == wanted.file and sha256_file(file) == wanted.sha256:
            break
    else:
        raise PrerequisiteError(
            f"{results}: no file {wanted.file} with sha256 {wanted.sha256[:12]}, the result of {manifest.path}",
            "--results FOLDER",
        )
    found = [(store.load(file), file)]
    for other in store.find(file.parent):
        result = store.load(other)
        if result.provenance.get(EXTENDS) == wanted.sha256:
            found.append((result, other))
    return max(found, key=lambda one: (len(one[0].metrics), one[1].name))


def _by_seed(manifest: Manifest, values: dict[str, float], result: EvalResult, metric: MetricSpec) -> list[NDArray[np.float32]]:
    """Of each seed the scores [N * K] in caption order. Raises IntegrityError where the manifest has not every image once."""
    suite = result.suite
    images = suite.images_per_prompt if metric.images_per_prompt > 1 else 1
    if suite.images_per_prompt < metric.images_per_prompt:
        needed = f"--metric {metric.id}: it needs {metric.images_per_prompt} images of each caption"
        fix = f"sbv2bench eval --images-per-prompt {metric.images_per_prompt} ..., then export again"
        raise InputError(f"{needed}, the result has {suite.images_per_prompt}", fix)
    places = {(image.seed, image.index, image.k): values[image.id] for image in manifest.images}
    captions = sorted({image.index for image in manifest.images})
    wanted = [(seed, index, k) for seed in suite.seeds for index in captions for k in range(suite.images_per_prompt)]
    texts = {image.index: image.caption for image in manifest.images}
    whole = len(captions) == suite.num_generated == captions[-1] - captions[0] + 1 and {*places} == {*wanted}
    same = captions_sha256(texts[index] for index in captions) == suite.prompts_sha256
    named = (manifest.head.model, manifest.head.suite) == (result.model.id, f"{suite.id}@v{suite.version}")
    if not (whole and same and named) or any(texts[image.index] != image.caption for image in manifest.images):
        raise IntegrityError(
            f"{manifest.path}: its {len(manifest.images)} images are not the {len(wanted)} of {result.model.id} on "
            f"{suite.id}@v{suite.version}, of {suite.num_generated} captions",
            "sbv2bench export again",
        )
    return [
        np.array([places[seed, index, k] for index in captions for k in range(images)], dtype=np.float32) for seed in suite.seeds
    ]


def _with_metric(
    result: EvalResult, metric: MetricSpec, seeds: list[NDArray[np.float32]], made: tuple[str, str, str], registry: Registry
) -> tuple[EvalResult, prompt_values.Values]:
    """made: tool, its version, SHA-256 of the file of scores."""
    if not result.provenance.get("suite"):
        raise InputError(f"{result.model.id}: its result does not say its suite, as those of schema 1", eval_command(result))
    suite = _recorded_suite(result.provenance["suite"])
    tool, version, sha256 = made
    images = result.suite.images_per_prompt
    protocol = suite.metric_protocol(metric, None, result.suite.prompts_sha256, None, images) | {"tool": [tool, version]}
    each = images if metric.images_per_prompt > 1 else 1
    styles = _tasks(result, registry) if metric.parameters.get("mean_over") == "tasks" else None
    rows = [Rows(generated=own, images_per_prompt=each, styles=styles, parameters=metric.parameters) for own in seeds]
    labels = Labels(suite.label_suffix, result.suite.num_generated, result.status == "partial")
    found, values = score([MetricRows(metric, fingerprint(protocol), rows)], labels)
    details = {"tool": tool, "tool_version": version, "scores_sha256": sha256}
    found = {key: value.model_copy(update={"details": {**(value.details or {}), **details}}) for key, value in found.items()}
    protocols = {**(result.provenance.get("protocols") or {}), fingerprint(protocol): protocol}
    provenance = {**result.provenance, "protocols": protocols}
    return result.model_copy(update={"metrics": {**result.metrics, **found}, "provenance": provenance}), values


def _recorded_suite(fields: dict[str, Any]) -> SuiteSpec:
    """The suite as a result has it, which does not say where its captions and photographs lay."""
    unsaid = {"location": "not recorded"}
    prompts, reference = fields["prompts"], fields.get("reference")
    parts = {
        "prompts": prompts if prompts["kind"] in ("world", "none") else unsaid | prompts,
        "reference": reference and unsaid | reference,
    }
    return SuiteSpec.model_validate(fields | parts)


def _tasks(result: EvalResult, registry: Registry) -> tuple[str, ...] | None:
    """GenEval's task of each caption, as the suite's own file has it. None on a suite whose captions have none.

    Raises PrerequisiteError where that file is not here, IntegrityError where its captions are others by now.
    """
    suite = registry.suites.get(result.suite.id)
    if suite is None or suite.prompts.kind != "geneval":
        return None
    prompts = load_prompts(suite, result.suite.num_generated, registry.assets)
    if prompts.sha256 != result.suite.prompts_sha256:
        raise IntegrityError(f"suite {result.suite.id}: its captions are not those of the result", eval_command(result))
    return prompts.styles
