"""First scores of a model and the pixels of four captions, made by the means of `eval` and `grid`, and written as one file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sbv2bench.atomic import write_whole
from sbv2bench.data.hub import nothing_fetched
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.evaluation.evaluate import evaluate
from sbv2bench.evaluation.grid import sample_grid
from sbv2bench.machine.choices import Progress
from sbv2bench.machine.inventory import why_lacking
from sbv2bench.registry import BUILT_IN, Registry
from sbv2bench.report.picture import Grid, write_grid
from sbv2bench.results import store, verifications
from sbv2bench.results.records import EvalResult
from sbv2bench.results.verifications import IMAGES, SIDE, Made, Pixels, Score, Verification
from sbv2bench.specs import ModelSpec, SuiteSpec

SEED = 0  # of the noise, as `eval` draws it


@dataclass(frozen=True)
class Verified:
    """A verification, its file, and the picture of its images."""

    record: Verification
    path: Path
    picture: Path


def verify(
    name: str,
    registry: Registry,
    folder: Path = Path(verifications.FOLDER),
    *,
    device: str = "auto",
    dtype: str = "auto",
    progress: Progress | None = None,
) -> Verified:
    """Measure a model of the catalog on its family's first suite, and write what was found below a folder.

    Nothing is fetched. Raises InputError (a model that only its user has, or that is not sampled), PrerequisiteError (weights,
    scorers or captions are not on this machine), and what `evaluate` raises.
    """
    model, suite = subject(name, registry)
    if why := why_lacking(model, registry):
        raise PrerequisiteError(f"model {model.id}: its weights are not on this machine\n{why}", f"sbv2bench download {model.id}")
    metrics = tuple(metric.id for metric in registry.metrics_of(suite, suite.flags) if metric.reads != "latency")
    with nothing_fetched():
        result = evaluate(
            model.id, suite.id, metrics=",".join(metrics), device=device, dtype=dtype, registry=registry, progress=progress
        )
        grid = sample_grid([model.id], suite.id, range(IMAGES), (SEED,), registry, device=device, dtype=dtype)
    record = recorded(model, result, grid)
    path = folder / verifications.path_of(record)
    picture = path.with_suffix(".png")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_grid(grid, picture)
        write_whole(path, verifications.dumps(record))
    except OSError as error:
        raise store.unwritable(folder, error) from error
    return Verified(record, path, picture)


def subject(name: str, registry: Registry) -> tuple[ModelSpec, SuiteSpec]:
    """The model that is meant, and the suite that its family is verified on. Raises InputError, and what naming it raises."""
    model = registry.model(name)
    own = registry.sources.get(("model", model.id), "") != BUILT_IN
    suite = verifications.suite_for(model.family, registry)
    if own or suite is None:
        what = f"model {model.id} is not of the package's catalog"
        raise InputError(f"verify: {what}, so that nobody else has it by that name", "sbv2bench list models")
    found = registry.suite(suite)
    model = registry.model(model.id, found)  # refuses one of which only published numbers exist
    if not model.has_network():
        raise InputError(f"verify: model {model.id} has no network, its images are {model.images}", "sbv2bench list models")
    return model, found


def recorded(model: ModelSpec, result: EvalResult, grid: Grid) -> Verification:
    """What is sent in: of a result, its numbers and conditions, and of a grid of one model the hash of every image."""
    made, sampled = result.provenance, result.model.spec()
    dtype, device = result.conditions.dtype, result.conditions.device
    fields = set(Score.model_fields)
    scores = {key: Score.model_validate(value.model_dump(include=fields)) for key, value in result.metrics.items()}
    return Verification.model_validate(
        {
            "model": model.id,
            "settings": model.fingerprint(),
            "fingerprint": sampled.fingerprint(),
            "weights": sampled.weights,
            "suite": f"{result.suite.id}@v{result.suite.version}",
            "made": Made.model_validate(
                {
                    "card": str(made.get("device_name") or made.get("cpu") or "")[:200],
                    "device": device,
                    "dtype": dtype,
                    "libraries": result.conditions.libraries,
                    "sbv2bench": made["sbv2bench"],
                    "date_utc": made["date_utc"],
                }
            ),
            "pixels": tuple(map(pixels, grid.captions, grid.images[0])),
            "scores": scores,
            "protocols": {score.fingerprint: result.protocol(key) for key, score in scores.items()},
        }
    ).signed()


def pixels(caption: str, image: NDArray[np.uint8]) -> Pixels:
    """The hash of an image, uint8 [H, W, 3], and the means of its SIDE x SIDE parts."""
    height, width, _ = image.shape
    rows = [part.mean(axis=0) for part in np.array_split(image.astype(np.float64), SIDE, axis=0)]
    means = np.stack([[cell.mean(axis=0) for cell in np.array_split(row, SIDE, axis=0)] for row in rows])
    digest = hashlib.sha256(np.ascontiguousarray(image).tobytes()).hexdigest()
    reduced = np.rint(means).astype(np.uint8).tobytes().hex()
    return Pixels(caption=caption, height=height, width=width, sha256=digest, reduced=reduced)
