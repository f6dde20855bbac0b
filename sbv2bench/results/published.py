"""The numbers that the paper prints, and what its tables and figures are: catalog/published.csv and catalog/tables.yaml."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal

import yaml
from pydantic import Field

from sbv2bench.registry import Registry
from sbv2bench.results.records import Record
from sbv2bench.specs import ModelSpec

PAPER = "arXiv 2408.14176v2"
EDGE = 1e-12  # the last digits of a difference of two decimals are noise, and must not decide on the edge
Shape = Literal["between", "end", "monotone"]


class PrintedMetric(Record):
    """A column of the paper's tables, and where a result has the same thing. catalog/tables.yaml explains the fields."""

    title: str
    direction: Literal["lower", "higher"]
    suite: str
    key: str = ""
    style: str = ""
    mini: str = ""
    scale: float = 1.0
    protocol: str = ""
    hardware: str = ""
    dtype: str = ""
    inferred: tuple[str, ...] = ()
    decimals: int
    tolerance: float = Field(default=0.0, ge=0.0)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """In what the images may have been made, the likelier first: as stated, or what the released script offers."""
        return (self.dtype,) if self.dtype else ("float32", "float16")

    def allowed(self, decimals: int | None = None) -> float:
        """How far a measured number may be off: half of the last printed digit, plus the tolerance."""
        return 0.5 * 10.0 ** -(self.decimals if decimals is None else decimals) + self.tolerance


class Table(Record):
    """What a table is. decimals: of columns printed with others than usual. suspect: methods that are no target, and why."""

    title: str
    note: str = ""
    decimals: dict[str, int] = Field(default_factory=dict)
    suspect: dict[str, str] = Field(default_factory=dict)


class Panel(Record):
    """One sweep of a figure: the bare names of its ends."""

    a: str
    b: str


class Figure(Record):
    """Curves over the merge weight, and the shape that the paper claims of each."""

    title: str
    panels: tuple[Panel, ...]
    shapes: dict[str, Shape]


class Declarations(Record):
    """catalog/tables.yaml."""

    metrics: dict[str, PrintedMetric]
    tables: dict[str, Table]
    figures: dict[str, Figure]


@dataclass(frozen=True)
class PrintedRow:
    """A method's line of a table. numbers: by metric of published.csv, in the paper's order."""

    table: str  # "3"
    method: str
    nfe: int
    numbers: dict[str, float]

    @property
    def name(self) -> str:
        """As `published_as` of a model has it."""
        return f"{self.table}/{self.method}"

    @property
    def suspect(self) -> str:
        """Why the row is no target; "" where it is one."""
        return declared().tables[f"table{self.table}"].suspect.get(self.method, "")

    def decimals(self, metric: str) -> int:
        """Digits after the point that the table prints of a metric."""
        return declared().tables[f"table{self.table}"].decimals.get(metric, declared().metrics[metric].decimals)

    def text(self, metric: str) -> str:
        """A number as it is printed; whole days of training without a point."""
        number = self.numbers[metric]
        return f"{number:.0f}" if abs(number) >= 1000 else f"{number:.{self.decimals(metric)}f}"


@cache
def declared() -> Declarations:
    """The tables and figures of the package."""
    return Declarations.model_validate(yaml.safe_load((files("sbv2bench.catalog") / "tables.yaml").read_text("utf-8")))


@cache
def published_numbers() -> dict[tuple[str, str, str], float]:
    """(table, method, metric) -> the number that the paper prints."""
    return {(row.table, row.method, metric): number for row in printed_rows() for metric, number in row.numbers.items()}


@cache
def printed_rows() -> tuple[PrintedRow, ...]:
    """Every line of every table, in the paper's order of methods, tables by their number."""
    text = (files("sbv2bench.catalog") / "published.csv").read_text("utf-8")
    rows: dict[tuple[str, str], PrintedRow] = {}
    for line in csv.DictReader(io.StringIO(text)):
        key = (line["table"], line["method"])
        row = rows.setdefault(key, PrintedRow(*key, int(line["nfe"]), {}))
        row.numbers[line["metric"]] = float(line["value"])
    return tuple(sorted(rows.values(), key=lambda row: int(row.table)))


def rows_of_table(table: str) -> tuple[PrintedRow, ...]:
    """The lines of a table by its number."""
    return tuple(row for row in printed_rows() if row.table == table)


def rows_like(metric: str, number: float, besides: PrintedRow) -> tuple[str, ...]:
    """The rows of other models than one's whose printed number a measured one cannot be told from: "method (Table 3)".

    It cannot where it is within what is allowed of them; each model once, where the paper prints it first.
    """
    models, metrics = published_models(), declared().metrics
    own, found = models[besides.name].id, dict[str, str]()
    for row in printed_rows():
        model = models[row.name].id
        if metric not in row.numbers or model == own or model in found:
            continue
        if abs(number - row.numbers[metric]) <= metrics[metric].allowed(row.decimals(metric)) + EDGE:
            found[model] = f"{row.method} (Table {row.table})"
    return tuple(found.values())


def rows_of_suites(suites: Collection[str]) -> tuple[PrintedRow, ...]:
    """Lines with the numbers that belong to some suites; those with none are left out."""
    metrics = declared().metrics
    cut = (
        replace(row, numbers={name: value for name, value in row.numbers.items() if metrics[name].suite in suites})
        for row in printed_rows()
    )
    return tuple(row for row in cut if row.numbers)


@cache
def published_models() -> dict[str, ModelSpec]:
    """The built-in model of each line, by "table/method"."""
    return {name: model for model in Registry.built_in().models.values() for name in model.published_as}
