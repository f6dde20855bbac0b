"""Pictures that a page shows: image files as `sbv2bench grid` writes them, with what their models score."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from shlex import join

from PIL import Image
from pydantic import ValidationError

from sbv2bench.boards import boards as measured
from sbv2bench.boards.names import readable
from sbv2bench.compare.differences import Comparison
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.evaluation.grid import sample_grid
from sbv2bench.registry import OWN_SUITE, Registry
from sbv2bench.report.page_content import Board, Column, Gallery, Shown
from sbv2bench.report.picture import tiles
from sbv2bench.results import prompt_values
from sbv2bench.results.commands import eval_command
from sbv2bench.results.prompt_values import Values
from sbv2bench.results.records import EvalResult, ModelRecord
from sbv2bench.specs import ModelSpec

SCORES = ("hps", "clip_score", "attribute_accuracy")  # of single captions, in the order in which they are offered


@dataclass(frozen=True)
class Drawn:
    """What a picture's own text says of it. columns: (caption number, seed, caption)."""

    png: bytes
    width: int  # pixels
    height: int
    suite: str
    models: tuple[ModelSpec, ...]
    columns: tuple[tuple[int, int, str], ...]


def drawn(path: Path) -> Drawn:
    """A picture with its text. Raises IntegrityError for a file that is none, or that `sbv2bench grid` did not write."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            about = json.loads(image.info["sbv2bench"])
        models = tuple(ModelSpec.model_validate(model) for model in about["models"])
        columns = tuple((int(one["caption"]), int(one["seed"]), str(one.get("text", ""))) for one in about["columns"])
        return Drawn(data, width, height, str(about["suite"]), models, columns)
    except (OSError, ValueError, KeyError, TypeError, RecursionError, ValidationError) as error:
        raise IntegrityError(
            f"{path}: found no grid in it ({type(error).__name__}), expected a PNG that `sbv2bench grid` wrote",
            f"sbv2bench grid sd21 sbv2-merged --output {path}",
        ) from error


def _of(model: ModelSpec, results: Sequence[EvalResult]) -> EvalResult | None:
    """The result of the same weights sampled in the same way."""
    wanted = ModelRecord(**model.model_dump(), nfe=model.network_evaluations()).fingerprint()
    return next((result for result in results if result.model.fingerprint() == wanted), None)


def gallery(path: Path, folder: Path, boards: Sequence[measured.Board], shown: Sequence[Board]) -> Gallery:
    """The images of a file that `sbv2bench grid --native` wrote, with each caption's scores, from the values beside the results.

    folder: of the leaderboards. shown: the boards as the page shows them, for the rows' ids. Raises as `drawn`, and
    IntegrityError where the picture is not one square of the same size for each model and caption.
    """
    found = drawn(path)
    side = found.width // max(1, len(found.columns))
    if (found.width, found.height) != (side * len(found.columns), side * len(found.models)):
        again = ["sbv2bench", "grid", *(model.id for model in found.models), "--suite", found.suite, "--captions",
                 ",".join(str(number) for number, _, _ in found.columns), "--native", "--output", str(path)]  # fmt: skip
        raise IntegrityError(f"{path}: found a labelled grid, expected images alone", join(again))
    board = next((board for board in boards if board.name == found.suite), None)
    rows = {row.link: row.id for one in shown if one.id == found.suite for row in one.rows}
    models = []
    for model in found.models:
        result = _of(model, board.results if board else ())
        link = next((path for path, other in board.rows if other is result), "") if board else ""
        values = prompt_values.read(result, folder / link) if result is not None else {}
        models.append(shown_model(model, rows.get(link, ""), scores_of(values, result, found.columns)))
    about = (
        f"Every model draws the first {len(found.columns)} captions of {found.suite} from the same noise. Images are in their own"
        f" {side} pixels, enlarged without blurring. Scores are of the image that is shown. A real"
        " picture of each caption stands first; it is drawn by the world itself, so nothing of it is meant to match."
    )
    captions = tuple((number, text) for number, _, text in found.columns)
    metrics = score_columns(board.results if board else (), [key for model in models for key in model.scores])
    return Gallery(about, found.png, side, captions, tuple(models), metrics, found.suite if board else "")


def worst(found: Comparison, key: str, count: int, registry: Registry) -> Gallery:
    """The captions that the first contestant of a comparison did worst in a score, drawn again by all, real pictures beside.

    Raises InputError for a score that is not of single captions in every result, or a suite of somebody's own; PrerequisiteError
    and IntegrityError where a model cannot be sampled as it was measured.
    """
    contestants = found.contestants
    shared = [one for one in contestants[0].values if all(one in other.values for other in contestants)]
    if key not in shared:
        fix = f"--metric {shared[0]}" if shared else "sbv2bench eval --metrics clip,hps"
        raise InputError(
            f"--worst: found --metric {key}, expected a score of captions in every result: {', '.join(shared) or 'none is'}", fix
        )
    result = contestants[0].result
    if result.suite.id == OWN_SUITE or any(other.result.suite.seeds[0] != result.suite.seeds[0] for other in contestants):
        raise InputError(
            "--worst: found captions of somebody's own or other seeds, expected one declared suite and seed", "--suite mini-5k"
        )
    scores, lower = contestants[0].values[key][0], result.metrics[key].direction == "lower"
    numbers = [int(number) for number in (-scores if lower else scores).argsort(kind="stable")[:count]]
    suite, seed = registry.suite(result.suite.id), result.suite.seeds[0]
    specs = [contestant.result.model.spec().model_copy(update={"weights": ()}) for contestant in contestants]
    real = [registry.model("real", suite)] if suite.family == "mini" else []
    grid = sample_grid([*real, *specs], suite.id, numbers, [seed], registry)
    for contestant, spec in zip(contestants, grid.models[len(real) :], strict=True):
        if spec.fingerprint() != contestant.result.model.spec().fingerprint():
            raise IntegrityError(
                f"{contestant.name}: its weights are others than those that were measured", eval_command(contestant.result)
            )
    file = io.BytesIO()
    tiles(grid).save(file, "PNG", optimize=True)
    columns = [(number, seed, text) for (number, _), text in zip(grid.columns, grid.captions, strict=True)]
    models = [Shown(readable(spec.id), spec.id, "", {}, "real") for spec in real]
    models += [
        Shown(contestant.name, contestant.name, "", scores_of(contestant.values, contestant.result, columns))
        for contestant in contestants
    ]
    label = result.metrics[key].label
    about = (
        f"The {len(numbers)} captions of {suite.id} that {contestants[0].name} did worst in {label}, so they are no fair sample:"
    )
    about += " whoever is chosen by its worst looks worse than it is. Drawn again from the same noise, seed " + f"{seed}."
    metrics = score_columns([result], [key, *shared])
    metrics = tuple(sorted(metrics, key=lambda column: column.key != key))
    return Gallery(
        about,
        file.getvalue(),
        grid.images[0].shape[1],
        tuple((number, text) for number, _, text in columns),
        tuple(models),
        metrics,
        picked=True,
    )


def shown_model(model: ModelSpec, row: str, scores: dict[str, tuple[float, ...]]) -> Shown:
    """A model with a readable name."""
    real = "real" if model.images == "world" else "measured"
    return Shown(readable(model.id), model.id, row, scores, real)  # type: ignore[arg-type]


def scores_of(values: Values, result: EvalResult | None, columns: Sequence[tuple[int, int, str]]) -> dict[str, tuple[float, ...]]:
    """What each (caption number, seed, caption) scored, to six digits; nothing where a seed was not measured."""
    if result is None or any(seed not in result.suite.seeds for _, seed, _ in columns):
        return {}
    seeds = result.suite.seeds
    return {
        key: tuple(float(f"{values[key][seeds.index(seed), number]:.6g}") for number, seed, _ in columns)
        for key in SCORES
        if key in values
    }


def score_columns(results: Sequence[EvalResult], keys: Sequence[str]) -> tuple[Column, ...]:
    """The scores of single captions that any result has among some keys."""
    found = []
    for key in SCORES:
        value = next((result.metrics[key] for result in results if key in result.metrics), None)
        if key in keys and value is not None:
            found.append(Column(key, value.label, value.direction))
    return tuple(found)
