"""The paper's claims on a board: each an order of two models in one metric, measured with an interval, whatever comes out.

A model that was trained several times has rows `<id>-seed1`, `<id>-seed2` beside its own; its value is then their mean and its
scatter is that of training. Otherwise there was one training, the scatter is that of generation seeds alone, and the table says
so. Intervals are Welch's; both sides have the same captions and noise, which is left out of account and makes them wider, not
narrower. Verdicts are by p-values corrected for the number of claims on the page (Holm), so that a few do not hold by chance.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal, Protocol, TypeVar

import yaml

from sbv2bench.metrics.comparison import Difference, Mean, holm, spread_of, welch
from sbv2bench.report.columns import Column, csv_text, markdown_lines
from sbv2bench.report.values import NOT_HELD_OUT, NOT_HELD_OUT_MEANS, digits_of, mark, marked, p_cell, with_error, with_mark
from sbv2bench.results.conditions import dtype_of, usual_dtype
from sbv2bench.results.published import published_numbers
from sbv2bench.results.records import EvalResult, Record

Verdict = Literal["agrees", "disagrees", "not separated", "not run"]
SHOWN = ("fid", "precision", "recall", "clip_score", "hps", "attribute_accuracy")  # of the ladder's table
PUBLISHED = ("fid", "precision", "recall", "clip_score")
LEVEL = 0.05
CORRECTION = (
    "Difference: first minus second, with its own 95 % interval (Welch's t, df degrees of freedom). A verdict is at 5 % after"
    " Holm's correction for all measured claims of this page."
)


class Side(Record):
    """A model as it was sampled. guidance_scale: None takes the model's only one."""

    model: str
    nfe: int = 1
    guidance_scale: float | None = None


class Printed(Record):
    """Where the paper prints both sides: a table and two methods of published.csv."""

    table: str
    better: str
    worse: str


class Claim(Record):
    """`better` is better than `worse` in a metric, says the paper."""

    says: str
    metric: str
    better: Side
    worse: Side
    published: Printed | None = None


class Row(Side):
    """A row of the ladder and the paper's row that it stands for."""

    table: str
    method: str
    note: str = ""


class Claims(Record):
    """catalog/claims.yaml."""

    suite: str
    ladder: tuple[Row, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean with its error. over: what it scatters over, "3 training seeds" or "3 generation seeds". sign: of `mark`.

    trainings: how many.
    """

    mean: Mean
    over: str
    sign: str = ""
    trainings: int = 1

    @property
    def words(self) -> str:
        """What it scatters over, and that there was one training where there was one."""
        return self.over if self.trainings > 1 else f"one training, {self.over}"


class Judged(Protocol):
    """A dataclass with a difference, a verdict and a field corrected_p."""

    @property
    def difference(self) -> Difference | None: ...
    @property
    def verdict(self) -> Verdict: ...


J = TypeVar("J", bound=Judged)


@dataclass(frozen=True)
class Measured:
    """A claim with what was found. difference: better less worse, with its 95 % interval.

    corrected_p: its p-value by Holm among the claims of a page; None of a claim by itself.
    """

    claim: Claim
    better: Estimate | None
    worse: Estimate | None
    difference: Difference | None
    verdict: Verdict
    corrected_p: float | None = None


@cache
def declared() -> Claims:
    """The claims of the package."""
    return Claims.model_validate(yaml.safe_load((files("sbv2bench.catalog") / "claims.yaml").read_text("utf-8")))


def estimate(side: Side, metric: str, results: Sequence[EvalResult]) -> Estimate | None:
    """The metric of a side; None where it was not run, or has neither several trainings nor several generation seeds.

    Only results of the dtype that most of them have are taken: two dtypes of a model are two rows, and no repeats.
    """
    dtype = usual_dtype(results)
    own = re.compile(re.escape(side.model) + r"(-seed\d+)?")
    rows = [
        result
        for result in results
        if own.fullmatch(result.model.id)
        and dtype_of(result) in {dtype, ""}
        and metric in result.metrics
        and side.guidance_scale in (None, result.model.guidance_scale)
        and side.nfe == result.model.nfe
    ]
    trained = {result.model.id: result.metrics[metric] for result in rows}
    if side.model not in trained:
        return None
    sign = mark(rows[0].model, metric)
    if len(trained) > 1:
        values = [value.value for value in trained.values()]
        return _estimate(values, "training seeds", sign, len(values))
    return _estimate(trained[side.model].repeats, "generation seeds", sign, 1)


def _estimate(values: Sequence[float], what: str, sign: str, trainings: int) -> Estimate | None:
    """None for fewer than two values; those that are all the same have an error of 0, by which nothing is separated."""
    if len(values) < 2:
        return None
    mean = spread_of(values) or Mean(values[0], 0.0, len(values) - 1)
    return Estimate(mean, f"{len(values)} {what}", sign, trainings)


def measure(claim: Claim, results: Sequence[EvalResult]) -> Measured:
    """A claim by itself, by the rows of a board. The verdict: does the interval leave out 0, and on which side."""
    better, worse = (estimate(side, claim.metric, results) for side in (claim.better, claim.worse))
    if better is None or worse is None:
        return Measured(claim, better, worse, None, "not run")
    difference = welch(better.mean, worse.mean)
    if difference is None or difference.interval[0] <= 0 <= difference.interval[1]:
        return Measured(claim, better, worse, difference, "not separated")
    direction = next(result.metrics[claim.metric].direction for result in results if claim.metric in result.metrics)
    agrees = (difference.value < 0) == (direction == "lower")
    return Measured(claim, better, worse, difference, "agrees" if agrees else "disagrees")


def any_measured(results: Sequence[EvalResult]) -> bool:
    """Whether a board has both sides of any claim."""
    return any(measure(claim, results).verdict != "not run" for claim in declared().claims)


def to_markdown(head: str, suite: str, results: Sequence[EvalResult]) -> str:
    """The ladder beside the paper's, then every claim: a page built from the board's rows."""
    lines = [head, f"# The ladder and the paper's claims on {suite}", ""]
    lines += [
        "± is one standard error over what the column `over` says. The paper's numbers come from other models, data and"
        " extractors: only orders can be compared, and the claims below are such orders.",
        "",
    ]
    lines += markdown_lines(ladder_columns(results), declared().ladder)
    lines += ["", f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}"] if marked(results) else []
    lines += ["", "## Claims", "", CORRECTION, ""]
    lines += markdown_lines(columns(results), measured(results))
    return "\n".join(lines) + "\n"


def to_csv(results: Sequence[EvalResult]) -> str:
    """Every claim with its numbers in full."""
    return csv_text((columns(results), measured(results)))


def measured(results: Sequence[EvalResult]) -> list[Measured]:
    """Every declared claim by the rows of a board, Holm's correction made: the verdict holds for all of them together."""
    return judged_together([measure(claim, results) for claim in declared().claims])


def judged_together(found: Sequence[J]) -> list[J]:
    """Verdicts at LEVEL after Holm's correction for all that have a difference; the others stay as they are."""
    judged = list(found)
    places = [place for place, one in enumerate(judged) if one.difference is not None]
    corrected = holm([one.difference.p_value for one in judged if one.difference is not None])
    for place, p_value in zip(places, corrected, strict=True):
        verdict = judged[place].verdict if p_value < LEVEL else "not separated"
        judged[place] = replace(judged[place], corrected_p=p_value, verdict=verdict)  # type: ignore[type-var]
    return judged


def columns(results: Sequence[EvalResult]) -> list[Column[Measured]]:
    """The table of claims, for files and for people."""
    labels = _labels(results)
    return [
        Column("claim", "claim", lambda row: row.claim.says, left=True),
        Column("metric", "metric", lambda row: row.claim.metric, lambda row: labels.get(row.claim.metric, row.claim.metric)),
        Column("", "the paper", _printed),
        *_side_columns("better", "first", lambda row: row.claim.better, lambda row: row.better),
        *_side_columns("worse", "second", lambda row: row.claim.worse, lambda row: row.worse),
        Column("difference", "difference", lambda row: None if row.difference is None else row.difference.value, _difference),
        Column("ci95_low", "", lambda row: None if row.difference is None else row.difference.interval[0]),
        Column("ci95_high", "", lambda row: None if row.difference is None else row.difference.interval[1]),
        Column("freedom", "", lambda row: None if row.difference is None else row.difference.freedom),
        Column("p_value", "", lambda row: None if row.difference is None else row.difference.p_value),
        Column("p_corrected", "p (Holm)", lambda row: row.corrected_p, lambda row: p_cell(row.corrected_p)),
        Column("", "over", lambda row: " / ".join(dict.fromkeys(side.words for side in (row.better, row.worse) if side))),
        Column("verdict", "verdict", lambda row: row.verdict, strong=lambda row: True),
    ]


def _side_columns(
    key: str, heading: str, side: Callable[[Measured], Side], found: Callable[[Measured], Estimate | None]
) -> list[Column[Measured]]:
    def number(part: Callable[[Estimate], object]) -> Callable[[Measured], object]:
        return lambda row: None if (value := found(row)) is None else part(value)

    return [
        Column("", heading, lambda row: f"{named(side(row))} {cell(found(row))}".strip()),
        Column(f"{key}_model", "", lambda row: side(row).model),
        Column(f"{key}_mean", "", number(lambda value: value.mean.value)),
        Column(f"{key}_std_err", "", number(lambda value: value.mean.std_err)),
        Column(f"{key}_over", "", number(lambda value: value.over)),
        Column(f"{key}_trainings", "", number(lambda value: value.trainings)),
    ]


def ladder_columns(results: Sequence[EvalResult]) -> list[Column[Row]]:
    """The ladder with its measured numbers and the paper's."""
    labels = _labels(results)
    shown = [key for key in SHOWN if key in labels]

    def over(row: Row) -> str:
        found = (estimate(row, key, results) for key in shown)
        return next((value.words for value in found if value), "not run")

    def own(key: str) -> Column[Row]:
        return Column(key, labels[key], lambda row: cell(estimate(row, key, results)))

    def papers(key: str) -> Column[Row]:
        name = {"fid": "FID", "clip_score": "CLIP"}.get(key, key)
        return Column("", f"paper's {name}", lambda row: _plain(published_numbers().get((row.table, row.method, key))))

    return [
        Column("model", "model", lambda row: row.model + (f" ({row.note})" if row.note else ""), left=True),
        Column("guidance", "guidance", lambda row: _plain(row.guidance_scale)),
        Column("over", "over", over),
        *map(own, shown),
        Column("", "paper's row", lambda row: f"Table {row.table}, {row.method}"),
        *map(papers, PUBLISHED),
    ]


def _labels(results: Sequence[EvalResult]) -> dict[str, str]:
    return {key: value.label for result in results for key, value in result.metrics.items()}


def _printed(found: Measured) -> str:
    if found.claim.published is None:
        return ""
    table, claim = found.claim.published.table, found.claim
    methods = (found.claim.published.better, found.claim.published.worse)
    numbers = (published_numbers().get((table, method, claim.metric)) for method in methods)
    return f"Table {table}: " + " against ".join("-" if number is None else f"{number:g}" for number in numbers)


def _difference(found: Measured) -> str:
    if found.difference is None:
        return ""
    low, high = found.difference.interval
    digits = digits_of((high - low) / 2)
    return f"{found.difference.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}], df {found.difference.freedom:.1f}"


def named(side: Side, name: str = "") -> str:
    """A side's name, by default its bare id, with its guidance where it states one."""
    short = name or side.model.rpartition("/")[2]
    return short if side.guidance_scale is None else f"{short} at {side.guidance_scale:g}"


def cell(value: Estimate | None) -> str:
    """A mean and its error, rounded to the error's second digit; "" for None."""
    return "" if value is None else with_mark(with_error(value.mean.value, value.mean.std_err), value.sign)


def _plain(number: float | None) -> str:
    return "" if number is None else f"{number:g}"
