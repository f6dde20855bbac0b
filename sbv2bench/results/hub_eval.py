"""A result as the hub shows it on a model's page: `.eval_results/*.yaml` in the model's repository.

A list of {dataset: {id, task_id}, value, date, source: {url, name}, notes}, as huggingface_hub 1.x reads and writes it
(https://huggingface.co/docs/hub/eval-results). The dataset is the benchmark's on the hub, and a task of it is a metric.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from sbv2bench.atomic import unwritable, write_whole
from sbv2bench.errors import InputError
from sbv2bench.results.conditions import commit_of, date_of
from sbv2bench.results.records import EvalResult, MetricValue

FOLDER = ".eval_results"
_DATASET = re.compile(r"[A-Za-z0-9][\w-]*/[A-Za-z0-9](?:[\w-]|\.(?!\.))*", re.ASCII)


def entries(result: EvalResult, dataset: str, source: str | None = None) -> list[dict[str, Any]]:
    """An entry a metric, JSON-ready. dataset: NAMESPACE/NAME on the hub. source: address of the result file.

    Raises InputError for a partial result, whose numbers are of other counts than the benchmark's, and for no such names.
    """
    if result.status != "complete":
        raise InputError(
            f"--format hf_eval: this result is partial ({result.suite.num_generated} images), the hub takes complete ones only",
            f"sbv2bench eval --model {result.model.id} --suite {result.suite.id}",
        )
    if not _DATASET.fullmatch(dataset):
        raise InputError(f"--dataset: found {dataset!r}, expected NAMESPACE/NAME of a dataset", "--dataset me/bench")
    if source is not None and not source.startswith("https://"):
        raise InputError(f"--source: found {source!r}, expected an address that begins with https://", "--source https://...")
    return [
        {
            "dataset": {"id": dataset, "task_id": key},
            "value": value.value,
            **({"date": date_of(result)} if date_of(result) else {}),
            **({"source": {"url": source, "name": "sbv2bench result"}} if source else {}),
            "notes": _notes(result, value),
        }
        for key, value in result.metrics.items()
    ]


def _notes(result: EvalResult, value: MetricValue) -> str:
    """What a reader must know beside the number: its name, error, counts, protocol and how the model was sampled."""
    model, suite = result.model, result.suite
    error = "" if value.std_err is None else f" ± {value.std_err:.2g} ({value.uncertainty})"
    counts = f"{value.n_generated:,} images" + (f" against {value.n_reference:,}" if value.n_reference else "")
    sampled = f"{model.nfe} steps, guidance {model.guidance_scale:g}" if model.has_network() else model.sampler
    protocol = f"protocol {value.fingerprint[:16]}" if value.fingerprint else ""
    commit = f"sbv2bench commit {commit_of(result)}" if commit_of(result) else ""
    label = f"{value.label}{f', {value.unit}' if value.unit else ''}{error}, {value.direction} is better"
    return "; ".join(filter(None, [label, f"{suite.id}@v{suite.version}", counts, sampled, protocol, commit]))


def write(result: EvalResult, folder: Path, dataset: str, source: str | None = None) -> Path:
    """Write `<folder>/.eval_results/sbv2bench-<suite>.yaml`, whole or not at all.

    Raises as `entries`; IntegrityError (full disk), InputError (a folder that cannot be written).
    """
    text = yaml.safe_dump(entries(result, dataset, source), sort_keys=False, allow_unicode=True, width=1000)
    path = folder / FOLDER / f"sbv2bench-{result.suite.id}.yaml"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, text)
    except OSError as error:
        message = f"{path}: cannot be written ({error.strerror or error})"
        raise unwritable(error, message, "--to FOLDER that you may write, on a disk with room") from error
    return path
