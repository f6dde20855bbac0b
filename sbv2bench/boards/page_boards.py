"""A board as the page shows it: rows with readable names, trainings folded, numbers rounded to their errors, ranks with ties."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from sbv2bench.boards import boards as measured
from sbv2bench.boards.frontier import Line
from sbv2bench.boards.headlines import headlined
from sbv2bench.boards.names import readable, shipped_of
from sbv2bench.boards.tables import conditions_shown
from sbv2bench.compare.differences import Contestant
from sbv2bench.compare.ranks import verdicts
from sbv2bench.metrics.comparison import spread_of
from sbv2bench.report.page_content import Board, Column, Kind, Number, Row
from sbv2bench.report.values import digits_of, mark, value_cell
from sbv2bench.results import published
from sbv2bench.results.commands import eval_command
from sbv2bench.results.conditions import date_of, dtype_of, notes
from sbv2bench.results.prompt_values import Values
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import ModelSpec

GAIN = "clip_gain"
SHOWN = {"fid", "clip_score", "hps", "attribute_accuracy", "latency_ms", "latency_paper_ms"}  # the others by the column picker
FAMILIES = {
    "mini": "The mini family: 32 px pictures of a captioned world, measured by small networks that were trained for it. Every"
    " label ends in -mini, and none of these numbers can be compared with a paper's.",
    "full": "Models at the paper's scale, measured by the networks of the field.",
}
Found = tuple[str, EvalResult]  # the path of a result below the folder, and what is in it


def board_shown(
    board: measured.Board,
    *,
    ranked: bool = True,
    values: Callable[[str, EvalResult], Values] = lambda path, result: {},
    parameters: Mapping[str, int] | None = None,
    students: Sequence[Line] = (),
) -> Board:
    """The measured rows. values: of each caption, of a result at a path; parameters: by a model's id; students: against their
    teacher's frontier. Without ranked the rows stand as they come, and nothing is headlined.
    """
    metrics = {key: board.metric(key) for key in board.keys}
    columns = [Column(key, value.label, value.direction, value.unit, key in SHOWN) for key, value in metrics.items()]
    if any(board.clip_gain(result) is not None for result in board.results):
        columns.append(Column(GAIN, "CLIP gain", "higher", shown=False))
    if not any(column.shown for column in columns):
        columns = [Column(column.key, column.label, column.direction, column.unit) for column in columns]
    folded = _folded(board.rows) if ranked else [(row, []) for row in board.rows]
    alike = Counter(result.model.id for (_, result), _ in folded)
    dominated = {line.student.model.fingerprint(): line for line in students}
    rows = _apart([
        _row(
            board, one, has_others=alike[result.model.id] > 1, parameters=(parameters or {}).get(result.model.id),
            student=dominated.get(result.model.fingerprint()),
        )
        for one in folded
        for _, result in one[:1]
    ])  # fmt: skip
    places = tuple(place for place, row in enumerate(rows) if row.kind == "measured")
    contestants = [
        Contestant(rows[place].id, folded[place][0][1], values(*folded[place][0])) for place in places
    ]  # fmt: skip
    letters = {key: verdicts(contestants, key) for key in board.keys} if len(places) > 1 else {}
    shown = Board(board.name, board.suite, _about(board, ranked), tuple(columns), tuple(rows), places, letters)
    return headlined(replace(shown, order="fid" if "fid" in board.keys else "")) if ranked else shown


def published_shown(board: measured.Board) -> Board:
    """The paper's rows of a suite, apart from what was measured."""
    declared = published.declared().metrics
    columns = tuple(Column(key, declared[key].title, declared[key].direction) for key in board.printed)
    models = published.published_models()
    rows = _apart([
        Row(
            id=_slug(f"{row.method} {row.table}"), name=models[row.name].id, title=row.method, settings=f"Table {row.table}",
            short=row.method, kind="published", nfe=row.nfe, licence=models[row.name].licence, family=models[row.name].family,
            numbers={
                key: Number(number, row.text(key) + mark(models[row.name], declared[key].key), method="none is printed")
                for key, number in row.numbers.items()
            },
            facts=(
                ("printed in", f"arXiv 2408.14176, Table {row.table}"), ("model", models[row.name].description),
                *((("no target, because it is", row.suspect),) if row.suspect else ()),
            ),
        )
        for row in board.published
    ])  # fmt: skip
    about = "What SwiftBrush v2's tables print, in their order and without uncertainty. These numbers come from other code and"
    about += " other machines and are never ranked with measured ones."
    return Board(f"{board.name}-published", f"{board.suite}, published", (about,), columns, tuple(rows))


def settings_of(model: ModelSpec) -> str:
    """How a model is sampled, in words; "" of what has no network."""
    if not model.has_network():
        return ""
    steps = model.network_evaluations()
    return f"{steps} step{'s' * (steps > 1)}" + ("" if steps == 1 and model.guidance_scale == 1 else _guided(model))


def _guided(model: ModelSpec) -> str:
    return f", guidance {model.guidance_scale:g}"


def _folded(rows: Sequence[Found]) -> list[tuple[Found, list[EvalResult]]]:
    """Every row but those of a model's further trainings, which go with the shipped one's where the board has it."""
    own = {result.model.id for _, result in rows}
    further: dict[str, list[EvalResult]] = {}
    for _, result in rows:
        shipped = shipped_of(result.model.id)
        if shipped in own:
            further.setdefault(str(shipped), []).append(result)
    return [
        (row, sorted(further.get(row[1].model.id, ()), key=lambda result: result.model.id))
        for row in rows
        if shipped_of(row[1].model.id) not in own
    ]


def _row(
    board: measured.Board, folded: tuple[Found, Sequence[EvalResult]], *, has_others: bool, parameters: int | None,
    student: Line | None,
) -> Row:  # fmt: skip
    (path, result), trainings = folded
    model = result.model
    numbers = {
        key: _number(result, key, tuple(other.metrics[key].value for other in trainings if key in other.metrics))
        for key in result.metrics
    }
    gain = board.clip_gain(result)
    if gain is not None:
        numbers[GAIN] = Number(gain, f"{gain:.3f}", method="none")
    dtype = dtype_of(result) if "dtype" in conditions_shown(board) else ""
    settings = ", ".join(filter(None, [settings_of(model), dtype]))
    tail = model.id.rpartition("/")[2]
    short = f"{tail} {model.nfe}/{model.guidance_scale:g}{f' {dtype}' if dtype else ''}" if has_others and settings else tail
    declared = float(model.denoiser_calls()) if model.has_network() else None
    passes = result.forward_passes.rows_an_image if result.forward_passes else declared
    facts = [*_facts(result, trainings), *(_against_teacher(student) if student else [])]
    return Row(
        id=_slug(short), name=model.id, settings=settings, short=short, numbers=numbers, kind=_kind(result),
        title=readable(model.id), family=model.family, nfe=model.nfe,
        guidance=model.guidance_scale if model.has_network() else None,
        passes=passes, licence=model.licence, parameters=parameters,
        facts=tuple((name, text) for name, text in facts if text),
        weights=tuple((file.path, file.sha256) for file in model.weights),
        command=eval_command(result) + (f" --repeats {len(result.suite.seeds)}" if len(result.suite.seeds) > 1 else ""),
        date=date_of(result)[:10], link=path,
    )  # fmt: skip


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.lower()).strip("-") or "row"


def _apart(rows: Sequence[Row]) -> list[Row]:
    """The rows, with a number behind an id that came before."""
    seen: Counter[str] = Counter()
    found = []
    for row in rows:
        seen[row.id] += 1
        found.append(row if seen[row.id] == 1 else replace(row, id=f"{row.id}_{seen[row.id]}"))
    return found


def _kind(result: EvalResult) -> Kind:
    kinds: dict[str, Kind] = {"world": "real", "none": "published"}
    return kinds.get(result.model.images, "measured")


def _number(result: EvalResult, key: str, trainings: tuple[float, ...]) -> Number:
    value = result.metrics[key]
    counts = f"{value.n_generated:,}" + (f" / {value.n_reference:,}" if value.n_reference else "")
    text, spread = _rounded(result, key, value)
    return Number(
        value.value, text, spread, value.ci95, value.uncertainty, value.repeats, counts, value.extractor or "", trainings
    )


def _rounded(result: EvalResult, key: str, value: MetricValue) -> tuple[str, str]:
    """A value and its spread, to the second digit of the error, or of that of its repeats."""
    scatter = None if value.std_err else spread_of(value.repeats)
    if scatter is None:
        text, _, spread = value_cell(result, key).partition(" ")
        return text, spread
    digits = digits_of(scatter.std_err)
    return f"{value.value:.{digits}f}{mark(result.model, key)}", f"± {scatter.std_err:.{digits}f}"


def _facts(result: EvalResult, trainings: Sequence[EvalResult]) -> list[tuple[str, str]]:
    model, suite, made = result.model, result.suite, result.provenance
    commit = str(made.get("git_commit") or "")
    return [
        ("what it is", model.description),
        ("made by", model.origin),
        ("trainings", ", ".join([model.id, *(other.model.id for other in trainings)]) if trainings else ""),
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
        ("date", date_of(result)),
        ("hardware", ", ".join(filter(None, [measured.hardware_of(result), str(made.get("dtype") or "")]))),
        ("libraries", ", ".join(f"{name} {version}" for name, version in result.conditions.libraries.items())),
        ("command", re.sub(r" --results \S+", "", str(made.get("command") or ""))),  # a place on somebody's machine
    ]


def _against_teacher(student: Line) -> list[tuple[str, str]]:
    share = student.dominated
    told = "" if share is None else f" (probability {share:.2f} in FID, recall and CLIP score together)"
    return [("against its teacher's settings", f"{student.verdict}{told}")]


def _about(board: measured.Board, ranked: bool) -> tuple[str, ...]:
    suite = board.rows[0][1].suite
    counts = f"{suite.num_generated:,} captions"
    counts += f" against {suite.num_reference:,} reference images" if suite.num_reference else ""
    seeds = sorted({" ".join(map(str, result.suite.seeds)) for _, result in board.rows})
    kinds = Counter(_kind(result) for _, result in board.rows)
    first = f"{kinds['measured']} ways of sampling a model" + (" and real pictures" if kinds["real"] else "")
    first += f", measured on {counts}, generation seeds {' or '.join(seeds)}."
    methods: dict[str, list[str]] = {}  # what the uncertainty is, and of which metrics
    for key in board.keys:
        found = dict.fromkeys(result.metrics[key].uncertainty for _, result in board.rows if key in result.metrics)
        methods.setdefault(" or ".join(found), []).append(board.metric(key).label)
    uncertain = "; ".join(f"{_listed(labels)}: {method}" for method, labels in methods.items())
    if len(methods) == 1:
        uncertain = f"every metric: {next(iter(methods))}"
    families = dict.fromkeys(result.model.family for _, result in board.rows)
    folded = len(board.rows) - len(_folded(board.rows))
    return (
        first,
        *(FAMILIES[family] for family in families if family in FAMILIES),
        f"± is one standard error. Uncertainty of {uncertain}. Each column's protocol is in the details of its rows.",
        "A rank is a range where tests cannot tell rows apart: every two measured rows are tested, caption by caption where both"
        " have the same captions and noise, otherwise by Welch's test on their generation seeds or repeats, or on the errors of"
        " single runs where those tell more, at 5 % after Holm's correction for all tests of a row in a column. Published"
        " rows and real pictures have no rank.",
        *(
            [f"{folded} rows are further trainings of a model by another seed: they stand as small ticks in its row, whose"
             " numbers are those of the training that ships; errors are of generation alone."]
            if folded and ranked
            else []
        ),
        *(f"{note[0].upper()}{note[1:]}." for note in notes(board.results)),
    )  # fmt: skip


def _listed(labels: Sequence[str]) -> str:
    return labels[0] if len(labels) == 1 else f"{', '.join(labels[:-1])} and {labels[-1]}"
