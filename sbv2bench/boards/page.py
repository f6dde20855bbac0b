"""The leaderboards' page, gathered from their folder: boards and claims from results/, sweeps/**/*.json, grids/*.png."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image
from pydantic import ValidationError

from sbv2bench.boards import boards as measured
from sbv2bench.boards import claims
from sbv2bench.boards.tables import MARK, conditions_shown
from sbv2bench.compare.differences import Comparison as Found
from sbv2bench.compare.tables import DIFFERENCES
from sbv2bench.compare.tables import notes as comparison_notes
from sbv2bench.errors import IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.report.page import page
from sbv2bench.report.page_content import Board, Claim, Column, Comparison, Content, Curve, Kind, Number, Picture, Row, Sweep
from sbv2bench.report.values import NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked, value_cell
from sbv2bench.results import published, sweeps
from sbv2bench.results.conditions import dtype_of, notes
from sbv2bench.results.records import EvalResult, MetricValue, ModelRecord
from sbv2bench.specs import ModelSpec

GAIN = "clip_gain"
FAMILIES = {
    "mini": "The mini family: 32 px pictures of a captioned world, measured by small networks that were trained for it. Every"
    " label ends in -mini, and none of these numbers can be compared with a paper's.",
    "full": "Models at the paper's scale, measured by the networks of the field.",
}
MEANINGS = (
    ("-mini", "measured by the small networks that ship with the package, and not what a paper calls by that name"),
    ("±", "one standard error; the row's provenance names its method and has the 95 % interval"),
    ("NFE", "evaluations of the denoising network for one image; the two halves of guidance count once"),
    ("guidance", "the usual scale, where 1 means none"),
    ("more", "sbv2bench/README.md in the repository explains every number and names the other numbers called by the same name"),
    ("protocol", "a hash of metric, extractor, preparation, captions, reference and numbers of images; a column has only one"),
)


def build(folder: Path) -> str:
    """The page's text, a function of the folder's files alone. Raises as `measured.boards`, `page` and the readers below."""
    return page(gathered(folder))


def comparison(found: Found) -> str:
    """A comparison as a page that needs nothing else. Raises PrerequisiteError where the [report] extra is not installed."""
    suite = found.contestants[0].result.suite
    rows = tuple((contestant.name, contestant.result) for contestant in found.contestants)
    board = measured.Board(suite.id, f"{suite.id}@v{suite.version}", rows)
    shown = _board(board, ranked=False)
    named = (replace(row, name=name, short=name, link="") for row, (name, _) in zip(shown.rows, rows, strict=True))
    columns = [column for column in DIFFERENCES if column.heading]
    return page(
        Content(
            title=f"sbv2bench compare on {board.suite}", about=(), boards=(replace(shown, rows=tuple(named)),),
            comparisons=tuple(Comparison(*(column.read(row) for column in columns)) for row in found.differences),
            comparisons_about=tuple(comparison_notes(found)), meanings=_meanings([board]),
        )
    )  # fmt: skip


def gathered(folder: Path) -> Content:
    """What the page shows. Raises as `measured.boards`, and IntegrityError for a sweep or a grid that is not as written."""
    boards = measured.boards(folder)
    claimed = next((board for board in boards if board.name == claims.declared().suite), None)
    results = [] if claimed is None else [result for _, result in claimed.rows]
    found = claims.measured(results) if claims.any_measured(results) else []
    claimed_columns = [column for column in claims.columns(results) if column.heading]
    return Content(
        title="sbv2bench leaderboards",
        about=(
            "One-step and few-step text-to-image models, all measured in the same way. Each table has one protocol."
            " The numbers come from the result files beside this page; those that a paper prints are marked as published.",
        ),
        boards=(
            *(_board(board) for board in boards if board.rows),
            *(_published(board) for board in boards if board.published),
        ),
        sweeps=tuple(_sweep(path) for path in sorted((folder / "sweeps").rglob(sweeps.NAME))),
        pictures=tuple(_picture(path, boards) for path in sorted((folder / "grids").glob("*.png"))),
        claims=tuple(Claim(*(column.read(row) for column in claimed_columns)) for row in found),
        claims_about=f"Each claim is an order of two models that the paper prints and {claims.declared().suite} repeats in"
        " miniature. ± is one standard error over what the table says. Each difference has Welch's 95 % interval; where it"
        " contains 0, the claim is not separated.",
        meanings=_meanings(boards),
        mark=MARK,
    )


def _board(board: measured.Board, ranked: bool = True) -> Board:
    results = [result for _, result in board.rows]
    values = {key: board.metric(key) for key in board.keys}
    columns = [Column(key, value.label, value.direction, value.unit) for key, value in values.items()]
    if any(board.clip_gain(result) is not None for result in results):
        columns.append(Column(GAIN, "CLIP gain", "higher"))
    alike = Counter(result.model.id for result in results)
    rows = tuple(_row(board, path, result, alike[result.model.id] > 1) for path, result in board.rows)
    return Board(board.suite, _about(board, ranked), tuple(columns), rows)


def _published(board: measured.Board) -> Board:
    """The paper's rows of a suite, apart from what was measured."""
    declared = published.declared().metrics
    columns = tuple(Column(key, declared[key].title, declared[key].direction) for key in board.printed)
    models = published.published_models()
    rows = tuple(
        Row(
            name=row.method, settings=f"Table {row.table}", short=row.method, kind="published", nfe=row.nfe,
            numbers={key: Number(number, row.text(key), method="none is printed") for key, number in row.numbers.items()},
            facts=(
                ("printed in", f"arXiv 2408.14176, Table {row.table}"), ("model", models[row.name].id),
                *((("no target, because it is", row.suspect),) if row.suspect else ()),
            ),
        )
        for row in board.published
    )  # fmt: skip
    about = "What SwiftBrush v2's tables print, in their order and without uncertainty. These numbers come from other code and"
    about += " other machines and are never ranked with measured ones."
    return Board(f"{board.suite}, published", (about,), columns, rows)


def _about(board: measured.Board, ranked: bool) -> tuple[str, ...]:
    suite = board.rows[0][1].suite
    counts = f"{suite.num_generated:,} captions"
    counts += f" against {suite.num_reference:,} reference images" if suite.num_reference else ""
    seeds = sorted({" ".join(map(str, result.suite.seeds)) for _, result in board.rows})
    kinds = Counter(_kind(result) for _, result in board.rows)
    first = f"{kinds['measured']} ways of sampling a model" + (" and real pictures" if kinds["real"] else "")
    first += f", measured on {counts}, generation seeds {' or '.join(seeds)}."
    first += f" Ordered by {board.metric('fid').label}, the best first." if ranked and "fid" in board.keys else ""
    methods: dict[str, list[str]] = {}  # what the uncertainty is, and of which metrics
    for key in board.keys:
        found = dict.fromkeys(result.metrics[key].uncertainty for _, result in board.rows if key in result.metrics)
        methods.setdefault(" or ".join(found), []).append(board.metric(key).label)
    uncertain = "; ".join(f"{_listed(labels)}: {method}" for method, labels in methods.items())
    if len(methods) == 1:
        uncertain = f"every metric: {next(iter(methods))}"
    families = dict.fromkeys(result.model.family for _, result in board.rows)
    return (
        first,
        *(FAMILIES[family] for family in families if family in FAMILIES),
        f"± is one standard error. Uncertainty of {uncertain}. Each column's protocol is in the provenance of its rows.",
        *(f"{note[0].upper()}{note[1:]}." for note in notes(board.results)),
    )


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"


def _row(board: measured.Board, path: str, result: EvalResult, has_others: bool) -> Row:
    model = result.model
    numbers = {key: _number(value, value_cell(result, key)) for key, value in result.metrics.items()}
    gain = board.clip_gain(result)
    if gain is not None:
        numbers[GAIN] = Number(gain, f"{gain:.3f}", method="none")
    dtype = dtype_of(result) if "dtype" in conditions_shown(board) else ""
    settings = ", ".join(filter(None, [_settings(model), dtype]))
    tail = model.id.rpartition("/")[2]
    short = f"{tail} {model.nfe}/{model.guidance_scale:g}{f' {dtype}' if dtype else ''}" if has_others and settings else tail
    return Row(
        name=model.id, settings=settings, short=short, numbers=numbers, kind=_kind(result), nfe=model.nfe,
        guidance=model.guidance_scale if model.has_network() else None,
        facts=tuple((name, text) for name, text in _facts(board, result) if text),
        weights=tuple((file.path, file.sha256) for file in model.weights), link=path,
    )  # fmt: skip


def _kind(result: EvalResult) -> Kind:
    kinds: dict[str, Kind] = {"world": "real", "none": "published"}
    return kinds.get(result.model.images, "measured")


def _settings(model: ModelSpec) -> str:
    if not model.has_network():
        return ""
    steps = model.network_evaluations()
    if steps == 1 and model.guidance_scale == 1:
        return "1 step"
    return f"{steps} step{'s' * (steps > 1)}, guidance {model.guidance_scale:g}"


def _number(value: MetricValue, shown: str) -> Number:
    text, _, spread = shown.partition(" ")
    counts = f"{value.n_generated:,}" + (f" / {value.n_reference:,}" if value.n_reference else "")
    return Number(value.value, text, spread, value.ci95, value.uncertainty, value.repeats, counts, value.extractor or "")


def _facts(board: measured.Board, result: EvalResult) -> list[tuple[str, str]]:
    model, suite, made = result.model, result.suite, result.provenance
    commit = str(made.get("git_commit") or "")
    return [
        ("model", model.description),
        ("made by", model.origin),
        ("licence", model.licence),
        ("sampled by", f"{model.sampler}, scheduler {model.scheduler}, timestep {model.timestep}"),
        ("weights from", model.location + (f" at revision {model.revision}" if model.revision else "")),
        ("merge", f"{model.merge.weight:g} {model.merge.a} + {1 - model.merge.weight:g} {model.merge.b}" if model.merge else ""),
        ("model's fingerprint", model.fingerprint()),
        ("protocols", ", ".join(f"{key} {value.fingerprint[:16]}" for key, value in result.metrics.items())),
        ("captions' SHA-256", suite.prompts_sha256),
        ("reference's fingerprint", str((suite.reference or {}).get("fingerprint", ""))),
        ("generation seeds", ", ".join(map(str, suite.seeds))),
        ("commit", commit + (" with changes" if commit and made.get("git_dirty") else "")),
        ("date", str(made.get("date_utc") or "")),
        ("hardware", _hardware(made)),
        ("libraries", ", ".join(f"{name} {version}" for name, version in result.conditions.libraries.items())),
        ("command", re.sub(r" --results \S+", "", str(made.get("command") or ""))),  # a place on somebody's machine
    ]


def _hardware(made: dict[str, object]) -> str:
    name = str(made.get("device_name") or made.get("cpu") or "")
    parts = [name, f"{made['cores']} cores" if made.get("cores") and str(made.get("device") or "cpu") == "cpu" else ""]
    return ", ".join(filter(None, [*parts, str(made.get("dtype") or "")]))


def _meanings(boards: Sequence[measured.Board]) -> tuple[tuple[str, str], ...]:
    labels: dict[str, dict[str, None]] = {}  # of each metric key, on any board
    for board in boards:
        for key in board.keys:
            labels.setdefault(key, {})[board.metric(key).label] = None
    found = []
    for metric in Registry.built_in().metrics.values():
        names = [label for key in metric.keys for label in labels.get(key, ())]
        if names:
            found.append((", ".join(names), f"{metric.title}: {metric.description}"))
    if any(board.clip_gain(result) is not None for board in boards for _, result in board.rows):
        text = "mean cosine with the caption minus that with a false one, as a share of the same for real pictures"
        found.append(("CLIP gain", text))
    if any(marked(board.results) for board in boards):
        found.append((NOT_HELD_OUT, NOT_HELD_OUT_MEANS))
    return (*found, *MEANINGS)


def _sweep(path: Path) -> Sweep:
    """A sweep.json as `python -m reference_trainer sweep` writes it: the metrics of the claims' table by weight."""
    found = sweeps.load(path)
    suite = found.suite
    seeds = ", ".join(map(str, suite.seeds))
    about = f"{suite.id}@v{suite.version}, {suite.num_generated:,} images a seed, seeds {seeds}."
    curves = []
    for key in claims.SHOWN:
        values = [(row.weight, row.metrics[key]) for row in found.rows if key in row.metrics]
        if len(values) > 1:
            spots = tuple((weight, value.value, value.ci95) for weight, value in values)
            curves.append(Curve(values[0][1].label, values[0][1].direction, spots))
    return Sweep(path.parent.name, about, found.axis, tuple(curves))


def _picture(path: Path, boards: Sequence[measured.Board]) -> Picture:
    """A grid as `sbv2bench grid` writes it, with what its models score on the board of its suite."""
    data = path.read_bytes()
    try:
        with Image.open(io.BytesIO(data)) as image:
            width, height = image.size
            about = json.loads(image.info["sbv2bench"])
        models = [ModelSpec.model_validate(model) for model in about["models"]]
        columns, suite = about["columns"], str(about["suite"])
        captions = [f"{column['caption']} (seed {column['seed']}) {column.get('text', '')}".strip() for column in columns]
    except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
        raise IntegrityError(
            f"{path}: found no grid in it ({type(error).__name__}), expected a PNG that `sbv2bench grid` wrote",
            f"sbv2bench grid sd21 sbv2-merged --output {path}",
        ) from error
    board = next((board for board in boards if board.name == suite), None)
    alt = f"Images of {', '.join(model.id for model in models)}, a row each, for captions of {suite}: {'; '.join(captions)}."
    text = f"One row per model, one column per caption of {suite} and seed; every model gets the same noise."
    text += " Scores are those of the whole board, for the same weights sampled in the same way." if board else ""
    return Picture(path.stem, text, alt, data, width, height, _scores(models, board))


def _scores(models: Sequence[ModelSpec], board: measured.Board | None) -> tuple[tuple[str, ...], ...]:
    """A heading and a row for each model that the board has, sampled with the same weights in the same way."""
    if board is None:
        return ()
    measured = {result.model.fingerprint(): result for _, result in board.rows}
    keys = [key for key in claims.SHOWN if key in board.keys]
    rows = []
    for model in models:
        result = measured.get(ModelRecord(**model.model_dump(), nfe=model.network_evaluations()).fingerprint())
        if result is not None:
            cells = [value_cell(result, key) if key in result.metrics else "" for key in keys]
            rows.append((", ".join(filter(None, (model.id, _settings(model)))), *cells))
    heading = (board.suite, *(board.metric(key).label for key in keys))
    return (heading, *rows) if rows else ()
