"""The leaderboards' page, gathered from their folder: boards and claims from results/, curves from sweeps/**/*.json."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from sbv2bench.boards import boards as measured
from sbv2bench.boards import claims, frontier
from sbv2bench.boards.gallery import gallery
from sbv2bench.boards.page_boards import board_shown, published_shown
from sbv2bench.boards.tables import MARK
from sbv2bench.compare.differences import Comparison as Found
from sbv2bench.compare.tables import DIFFERENCES
from sbv2bench.compare.tables import notes as comparison_notes
from sbv2bench.latency import board as latency_board
from sbv2bench.registry import Registry
from sbv2bench.report.page import page
from sbv2bench.report.page_content import Content, Curve, Gallery, Sweep
from sbv2bench.report.values import NOT_HELD_OUT, NOT_HELD_OUT_MEANS, marked
from sbv2bench.results import prompt_values, sweeps
from sbv2bench.results.records import EvalResult, SuiteRecord
from sbv2bench.results.sweeps import SweepFile, SweepSuite

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


def comparison(found: Found, pictures: Gallery | None = None) -> str:
    """A comparison as a page that needs nothing else, with pictures of it if there are any.

    Raises PrerequisiteError where the [report] extra is not installed.
    """
    suite = found.contestants[0].result.suite
    rows = tuple((contestant.name, contestant.result) for contestant in found.contestants)
    board = measured.Board(suite.id, f"{suite.id}@v{suite.version}", rows)
    values = {contestant.name: contestant.values for contestant in found.contestants}
    shown = board_shown(board, ranked=False, values=lambda name, result: values[name])
    named = (
        replace(row, title=row.title if name == row.name else name, short=name, link="")
        for row, (name, _) in zip(shown.rows, rows, strict=True)
    )
    return page(
        Content(
            title=f"sbv2bench compare on {board.suite}", about=(), boards=(replace(shown, rows=tuple(named)),),
            comparisons=(DIFFERENCES, found.differences), gallery=pictures,
            comparisons_about=tuple(comparison_notes(found)), meanings=_meanings([board]),
        )
    )  # fmt: skip


def settings(points: Sequence[tuple[EvalResult, Path]]) -> str:
    """One model under several settings as a page. points: results of one suite, with their files. Raises as `page`."""
    suite = points[0][0].suite
    board = measured.Board(suite.id, f"{suite.id}@v{suite.version}", tuple((str(path), result) for result, path in points))
    shown = board_shown(board, values=lambda path, result: prompt_values.read(result, Path(path)))
    rows = tuple(replace(row, link="") for row in shown.rows)
    return page(
        Content(f"{points[0][0].model.id} on {board.suite}", (), (replace(shown, rows=rows),), meanings=_meanings([board]))
    )


def gathered(folder: Path) -> Content:
    """What the page shows. Raises as `measured.boards`, and IntegrityError for a sweep or a grid that is not as written."""
    boards = measured.boards(folder)
    claimed = next((board for board in boards if board.name == claims.declared().suite), None)
    results = [] if claimed is None else [result for _, result in claimed.rows]
    found = claims.measured(results) if claims.any_measured(results) else []
    registry = Registry.built_in()
    timed = latency_board.rows(folder)
    parameters = {row.result.model.id: sum(row.result.parameters.values()) for row in timed if row.result.parameters}
    shown = (
        *(
            board_shown(
                board, values=lambda path, result: prompt_values.read(result, folder / path), parameters=parameters,
                students=frontier.lines(board, registry),
            )
            for board in boards
            if board.rows
        ),
        *(published_shown(board) for board in boards if board.published),
    )  # fmt: skip
    atlas = next(iter(sorted((folder / "gallery").glob("*.png"))), None)
    return Content(
        title="sbv2bench leaderboards",
        about=(
            "One-step and few-step text-to-image models, all measured in the same way, from the result files beside this page.",
        ),
        boards=shown,
        gallery=gallery(atlas, folder, boards, shown) if atlas else None,
        sweeps=tuple(
            sweep_shown(sweeps.load(path), path.parent.name, claims.SHOWN)
            for path in sorted((folder / "sweeps").rglob(sweeps.NAME))
        ),
        claims=(claims.columns(results), found) if found else None,
        claims_about=f"Each claim is an order of two models that the paper prints and {claims.declared().suite} repeats in"
        f" miniature. ± is one standard error over what the table says. {claims.CORRECTION}",
        meanings=_meanings(boards),
        mark=MARK,
    )


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


def sweep_shown(found: SweepFile, name: str, keys: Iterable[str]) -> Sweep:
    """A sweep's curves of some metrics, of those that it has at more than one weight."""
    curves = []
    for key in keys:
        values = [(row.weight, row.metrics[key]) for row in found.rows if key in row.metrics]
        if len(values) > 1:
            spots = tuple((weight, value.value, value.ci95) for weight, value in values)
            curves.append(Curve(values[0][1].label, values[0][1].direction, spots))
    return Sweep(name, suite_measured(found.suite), found.axis, tuple(curves))


def suite_measured(suite: SweepSuite | SuiteRecord) -> str:
    """What a sweep was measured on, a sentence."""
    return f"{suite.id}@v{suite.version}, {suite.num_generated:,} images a seed, seeds {', '.join(map(str, suite.seeds))}."
