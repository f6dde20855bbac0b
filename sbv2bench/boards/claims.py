"""The paper's claims on a board: each an order of two models in one metric, measured with an interval, whatever comes out.

A model that was trained several times has rows `<id>-seed1`, `<id>-seed2` beside its own; its value is then their mean and its
scatter is that of training. Otherwise the scatter is that of generation seeds alone, and the table says so. Intervals are
Welch's; both sides have the same captions and noise, which is left out of account and makes them wider, not narrower.
"""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import BaseModel, ConfigDict

from sbv2bench.metrics.comparison import Difference, Mean, spread_of, welch
from sbv2bench.results.conditions import dtype_of, usual_dtype
from sbv2bench.results.published import published_numbers
from sbv2bench.results.records import EvalResult, MetricValue

Verdict = Literal["agrees", "disagrees", "not separated", "not run"]
SHOWN = ("fid", "precision", "recall", "clip_score", "hps", "attribute_accuracy")  # of the ladder's table
PUBLISHED = ("fid", "precision", "recall", "clip_score")
HEADS = ("claim", "metric", "the paper", "first", "second", "difference", "over", "verdict")


class _Declared(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Side(_Declared):
    """A model as it was sampled. guidance_scale: None takes the model's only one."""

    model: str
    nfe: int = 1
    guidance_scale: float | None = None


class Printed(_Declared):
    """Where the paper prints both sides: a table and two methods of published.csv."""

    table: str
    better: str
    worse: str


class Claim(_Declared):
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


class Claims(_Declared):
    """catalog/claims.yaml."""

    suite: str
    ladder: tuple[Row, ...]
    claims: tuple[Claim, ...]


@dataclass(frozen=True)
class Estimate:
    """A mean with its error. over: what it scatters over, "3 training seeds" or "3 generation seeds"."""

    mean: Mean
    over: str


@dataclass(frozen=True)
class Measured:
    """A claim with what was found. difference: better less worse, with its 95 % interval."""

    claim: Claim
    better: Estimate | None
    worse: Estimate | None
    difference: Difference | None
    verdict: Verdict


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
    if len(trained) > 1:
        values = [value.value for value in trained.values()]
        return _estimate(values, "training seeds")
    return _estimate(trained[side.model].repeats, "generation seeds")


def _estimate(values: Sequence[float], what: str) -> Estimate | None:
    """None for fewer than two values; those that are all the same have an error of 0, by which nothing is separated."""
    if len(values) < 2:
        return None
    return Estimate(spread_of(values) or Mean(values[0], 0.0, len(values) - 1), f"{len(values)} {what}")


def measure(claim: Claim, results: Sequence[EvalResult]) -> Measured:
    """A claim by the rows of a board. The verdict: does the interval leave out 0, and on which side."""
    better, worse = (estimate(side, claim.metric, results) for side in (claim.better, claim.worse))
    if better is None or worse is None:
        return Measured(claim, better, worse, None, "not run")
    difference = welch(better.mean, worse.mean)
    if difference is None:
        return Measured(claim, better, worse, None, "not separated")
    low, high = difference.interval
    if low <= 0 <= high:
        return Measured(claim, better, worse, difference, "not separated")
    direction = next(result.metrics[claim.metric].direction for result in results if claim.metric in result.metrics)
    agrees = (high < 0) == (direction == "lower")
    return Measured(claim, better, worse, difference, "agrees" if agrees else "disagrees")


def any_measured(results: Sequence[EvalResult]) -> bool:
    """Whether a board has both sides of any claim."""
    return any(measure(claim, results).verdict != "not run" for claim in declared().claims)


def to_markdown(mark: str, suite: str, results: Sequence[EvalResult]) -> str:
    """The ladder beside the paper's, then every claim: a page built from the board's rows."""
    labels = {key: value for result in results for key, value in result.metrics.items()}
    lines = [mark, f"# The ladder and the paper's claims on {suite}", ""]
    lines += [
        "± is one standard error over what the column `over` says. The paper's numbers come from other models, data and"
        " extractors: only orders can be compared, and the claims below are such orders.",
        "",
    ]
    shown = [key for key in SHOWN if key in labels]
    heads = [
        "model",
        "guidance",
        "over",
        *(labels[key].label for key in shown),
        "paper's row",
        *(f"paper's {_plain(key)}" for key in PUBLISHED),
    ]
    lines += _table(heads, [_ladder_row(row, shown, results) for row in declared().ladder])
    lines += ["", "## Claims", "", "difference: first minus second, with its 95 % interval (Welch).", ""]
    lines += _table(HEADS, [[*cells[:-1], f"**{cells[-1]}**"] for cells in table(results)])
    return "\n".join(lines) + "\n"


def table(results: Sequence[EvalResult]) -> list[list[str]]:
    """Every claim as people read it, in the order of HEADS."""
    labels = {key: value for result in results for key, value in result.metrics.items()}
    return [_claim_row(measure(claim, results), labels) for claim in declared().claims]


def to_csv(results: Sequence[EvalResult]) -> str:
    """Every claim with its numbers in full."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    sides = [f"{side}_{part}" for side in ("better", "worse") for part in ("model", "mean", "std_err", "over")]
    writer.writerow(["claim", "metric", *sides, "difference", "ci95_low", "ci95_high", "verdict"])
    for claim in declared().claims:
        found = measure(claim, results)
        cells: list[object] = []
        for side, value in ((claim.better, found.better), (claim.worse, found.worse)):
            cells += [side.model, *([value.mean.value, value.mean.std_err, value.over] if value else ["", "", ""])]
        numbers = [found.difference.value, *found.difference.interval] if found.difference else ["", "", ""]
        writer.writerow([claim.says, claim.metric, *cells, *numbers, found.verdict])
    return out.getvalue()


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows)]


def _ladder_row(row: Row, shown: Sequence[str], results: Sequence[EvalResult]) -> list[str]:
    found = {key: estimate(row, key, results) for key in shown}
    over = next((value.over for value in found.values() if value), "not run")
    printed = [published_numbers().get((row.table, row.method, key)) for key in PUBLISHED]
    name = row.model + (f" ({row.note})" if row.note else "")
    guidance = "" if row.guidance_scale is None else f"{row.guidance_scale:g}"
    numbers = ["" if number is None else f"{number:g}" for number in printed]
    return [name, guidance, over, *(cell(value) for value in found.values()), f"Table {row.table}, {row.method}", *numbers]


def _claim_row(found: Measured, labels: dict[str, MetricValue]) -> list[str]:
    claim = found.claim
    printed = ""
    if claim.published:
        table = claim.published.table
        numbers = (
            published_numbers().get((table, method, claim.metric)) for method in (claim.published.better, claim.published.worse)
        )
        printed = f"Table {table}: " + " against ".join("-" if number is None else f"{number:g}" for number in numbers)
    label = labels[claim.metric].label if claim.metric in labels else claim.metric
    difference = ""
    if found.difference is not None:
        low, high = found.difference.interval
        digits = _digits((high - low) / 2)
        difference = f"{found.difference.value:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
    sides = [f"{_name(side)} {cell(value)}".strip() for side, value in ((claim.better, found.better), (claim.worse, found.worse))]
    over = " / ".join(dict.fromkeys(value.over for value in (found.better, found.worse) if value))
    return [claim.says, label, printed, *sides, difference, over, found.verdict]


def _name(side: Side) -> str:
    short = side.model.rpartition("/")[2]
    return short if side.guidance_scale is None else f"{short} at {side.guidance_scale:g}"


def cell(value: Estimate | None) -> str:
    """A mean and its error, rounded to the error's second digit; nothing for None."""
    if value is None:
        return ""
    digits = _digits(value.mean.std_err)
    return f"{value.mean.value:.{digits}f} ± {value.mean.std_err:.{digits}f}"


def _digits(error: float) -> int:
    """Decimals that show an error's two leading digits."""
    return 3 if error <= 0 else min(6, max(0, 1 - math.floor(math.log10(error))))


def _plain(metric: str) -> str:
    return {"fid": "FID", "clip_score": "CLIP"}.get(metric, metric)
