"""Result files: written whole or not at all, read back with every key checked."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime
from pathlib import Path

from sbv2bench import atomic
from sbv2bench.atomic import write_whole
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.results import migrations, prompt_values
from sbv2bench.results.commands import eval_command
from sbv2bench.results.records import SCHEMA_VERSION, EvalResult, LatencyResult, R, stored, validated
from sbv2bench.specs import fingerprint

LATENCY = "latency-"  # how the folder of a model's latency results begins; no suite's does without an @ in it


def result_fingerprint(result: EvalResult | LatencyResult) -> str:
    """SHA-256 of what was asked: the model as sampled and the metrics' protocols, or how a clock was read; as a file is named."""
    if isinstance(result, LatencyResult):
        return fingerprint(
            {
                "model": result.model.protocol(),
                "latency": result.protocol_fingerprint,
                "batch_sizes": [batch.batch_size for batch in result.batches],
                "device": [result.device, result.dtype, result.threads, _compiled(result)],
            }
        )
    suite_of_1 = result.provenance.get(migrations.SUITE_OF_1)
    if suite_of_1 is None:
        return result.fingerprint()
    return fingerprint(
        {
            "model": result.model.protocol(),
            "suite": suite_of_1,
            "seeds": list(result.suite.seeds),
            "num_generated": result.suite.num_generated,
        }
    )


def _compiled(result: LatencyResult) -> bool | list[str]:
    """As schema 1 had it, whose names of files stay: false, or true of the denoiser alone."""
    parts = [*result.compiled, *(["cuda_graphs"] if result.cuda_graphs else [])]
    return bool(parts) if parts in ([], ["denoiser"]) else parts


def path_of(result: EvalResult | LatencyResult) -> Path:
    """`<family>/<model>/<suite>@v<version>/<utc>-<fingerprint8>.json`, relative to the results folder.

    Of a latency result `latency-<protocol>` takes the suite's place.
    """
    family, _, model = result.model.id.rpartition("/")
    stamp = re.sub(r"[^0-9TZ]", "", str(result.provenance.get("date_utc") or datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")))
    if isinstance(result, LatencyResult):
        what = f"{LATENCY}{result.protocol.id}"
    else:
        what = f"{_safe(result.suite.id)}@v{result.suite.version}"
    return Path(_safe(family or result.model.family), _safe(model), what, f"{stamp}-{result_fingerprint(result)[:8]}.json")


def _safe(name: str) -> str:
    """A name that stays one folder on every platform."""
    return re.sub(r"[^\w.+@-]", "_", name).lstrip(".") or "_"


def dumps(result: EvalResult | LatencyResult) -> str:
    """The result as JSON text, floats in full. Raises IntegrityError if a number in it is not finite."""
    try:
        return json.dumps(result.model_dump(mode="python"), indent=1, allow_nan=False, default=str) + "\n"
    except ValueError as error:
        parts = result.metrics if isinstance(result, EvalResult) else {str(b.batch_size): b for b in result.batches}
        wrong = [key for key, part in parts.items() if not _finite(part.model_dump())]
        raise IntegrityError(f"result of {result.model.id}: {', '.join(wrong) or 'a value'} is not a finite number") from error


def _finite(content: object) -> bool:
    try:
        json.dumps(content, allow_nan=False, default=str)
    except ValueError:
        return False
    return True


def write(result: EvalResult | LatencyResult, folder: Path, values: bytes | None = None) -> Path:
    """Store a result below a results folder and return its path; another file is never written over.

    values: the content of its values' file (`prompt_values.attach`), which is there before the result is.

    Raises InputError if the folder cannot be written, IntegrityError if the disk is full or a number is not finite.
    """
    return put(dumps(result), folder, path_of(result), values)


def put(text: str, folder: Path, place: Path, values: bytes | None) -> Path:
    """A result's text and values at a place below a folder, or beside it where another result has its name. Raises as `write`."""
    target = folder / place
    stem, count = target.stem, 1
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        while target.exists() and target.read_text("utf-8") != text:  # of the same run within one second
            count += 1
            target = target.with_name(f"{stem}-{count}.json")
        if values is not None:
            write_whole(prompt_values.path_beside(target), values)
        write_whole(target, text)
    except OSError as error:
        raise unwritable(folder, error) from error
    return target


def unwritable(folder: Path, error: OSError) -> InputError | IntegrityError:
    """The error of a results folder that does not take files: full disk (exit 4) or not a writable folder (exit 2)."""
    return atomic.unwritable(
        error,
        f"results folder {folder}: cannot be written ({error.strerror or error})",
        "--results FOLDER with a folder that you may write",
    )


def load(path: Path) -> EvalResult:
    """An evaluation's result file.

    Raises InputError if there is none, or it is of another schema or another command's, IntegrityError if it is not whole, or a
    metric's fingerprint is not that of its protocol.
    """
    result = _loaded(path, EvalResult, "eval")
    for key, metric in result.metrics.items():
        if metric.fingerprint and fingerprint(result.protocol(key)) != metric.fingerprint:
            edited = f"{path}: metrics.{key}.fingerprint is not that of its protocol, so the file was edited"
            raise IntegrityError(edited, eval_command(result))
    return result


def load_latency(path: Path) -> LatencyResult:
    """A latency result file. Raises as `load`."""
    return _loaded(path, LatencyResult, "latency")


def is_latency(path: Path) -> bool:
    """Whether a result file is of the command `latency`. Raises as `load`."""
    return _kind(_content(path)) == "latency"


def _loaded(path: Path, record: type[R], kind: str) -> R:
    content = _content(path)
    if _kind(content) != kind:
        raise InputError(
            f"result file {path}: found a result of `sbv2bench {_kind(content)}`, expected one of `sbv2bench {kind}`"
        )
    if content["schema_version"] == 1:
        content = migrations.latency_of_1(content) if kind == "latency" else migrations.eval_of_1(content, str(path))
    return validated(record, content, f"result file {path}")


def _kind(content: dict[str, object]) -> str:
    return "latency" if content.get("kind") == "latency" else "eval"


def _content(path: Path) -> dict[str, object]:
    """A file's JSON, of a schema that this version reads."""
    content = stored(path, "result file", "sbv2bench eval --model sd21", "copy the file again, or evaluate again")
    version = content.get("schema_version") if isinstance(content, dict) else None
    if type(version) is not int or version not in (1, SCHEMA_VERSION):
        newer = isinstance(version, int) and version > SCHEMA_VERSION
        raise InputError(
            f"result file {path}: found schema_version {version!r}, expected 1 or {SCHEMA_VERSION}",
            "pip install --upgrade sbv2bench, since a newer one wrote it" if newer else "sbv2bench eval --model sd21",
        )
    assert isinstance(content, dict)
    return content


def find(folder: Path) -> list[Path]:
    """All evaluations' files below a results folder, sorted by path. Hidden and unfinished files are not among them."""
    return [path for path in _found(folder) if not _in_latency_folder(path)]


def find_latency(folder: Path) -> list[Path]:
    """All latency results below a results folder, sorted by path."""
    return [path for path in _found(folder) if _in_latency_folder(path)]


def _found(folder: Path) -> list[Path]:
    paths = (path for path in folder.rglob("*.json") if path.is_file())
    return sorted(path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))


def _in_latency_folder(path: Path) -> bool:
    return path.parent.name.startswith(LATENCY) and "@" not in path.parent.name
