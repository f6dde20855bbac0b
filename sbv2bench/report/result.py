"""One evaluation's result in the terminal: its numbers, and then what a reader must know of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from sbv2bench.registry import OWN_SUITE
from sbv2bench.report.columns import Column
from sbv2bench.report.layout import print_table, print_words
from sbv2bench.report.terminal import number, say
from sbv2bench.report.values import ARROWS, NOT_HELD_OUT, NOT_HELD_OUT_MEANS, mark, marked
from sbv2bench.results.records import EvalResult, MetricValue


@dataclass(frozen=True)
class _Line:
    """A metric as people read it, or a part of one (a style, the floor), which is of the metric above it."""

    label: str
    value: str
    uncertainty: str
    n: str = ""
    unit: str = ""
    extractor: str = ""
    method: str = ""
    is_part: bool = False

    def about(self) -> str:
        """What the columns say for which a narrow terminal has no room."""
        return "; ".join(filter(None, (self.unit, self.method, self.extractor)))


COLUMNS: tuple[Column[_Line], ...] = (
    Column("", "metric", lambda line: line.label, left=True, names=True),
    Column("", "value", lambda line: line.value),
    Column("", "unit", lambda line: line.unit, left=True, room=1),
    Column("", "uncertainty", lambda line: line.uncertainty, left=True),
    Column("", "n", lambda line: line.n),
    Column("", "extractor", lambda line: line.extractor, left=True, room=2),
    Column("", "method", lambda line: line.method, left=True, room=3),
)


def _lines(result: EvalResult) -> Iterator[_Line]:
    for key, metric in result.metrics.items():
        yield _Line(
            f"{metric.label} {ARROWS[metric.direction]}", number(metric.value) + mark(result.model, key), spread(metric),
            f"{metric.n_generated:,}" + (f" / {metric.n_reference:,}" if metric.n_reference else ""), metric.unit,
            metric.extractor or "", "" if metric.uncertainty == "none" else metric.uncertainty,
        )  # fmt: skip
        if floor := (metric.details or {}).get("floor"):
            yield _Line("  teacher against itself", number(floor["value"]), _error(floor), is_part=True)
        for style, part in (metric.styles or {}).items():
            yield _Line(f"  {style}", number(part["value"]), _error(part), f"{part.get('n', 0):,.0f}", is_part=True)


def _error(part: dict[str, float]) -> str:
    return f"± {part['std_err']:.2g}" if part.get("std_err") is not None else ""


def spread(metric: MetricValue) -> str:
    """The uncertainty as people read it: the interval if there is one, else one standard error, else nothing."""
    if metric.ci95 is not None:
        return f"95 % [{number(metric.ci95[0])}, {number(metric.ci95[1])}]"
    return f"± {metric.std_err:.2g}" if metric.std_err is not None else ""


def print_numbers(out: Console, result: EvalResult) -> None:
    """A row a metric; in a narrow terminal units, methods and extractors are footnotes."""
    partial = ", partial" if result.status == "partial" else ""
    title = f"{result.model.id} on {result.suite.id}@v{result.suite.version}{partial}"
    lines = list(_lines(result))
    spared = print_table(out, COLUMNS, lines, title, style=lambda line: "dim" if line.is_part else None, remark=False)
    if spared:
        about: dict[str, list[str]] = {}
        for line in lines:
            if not line.is_part and line.about():
                about.setdefault(line.about(), []).append(line.label.partition(" ")[0])
        for words, labels in about.items():
            print_words(out, f"{', '.join(labels)}: {words}", indent=2)
    if marked([result]):
        print_words(out, f"{NOT_HELD_OUT} {NOT_HELD_OUT_MEANS}", indent=2)


def print_result(console: Console, result: EvalResult, path: Path | None, out: Console) -> None:
    """The table, on out; then remarks: where the file is, where the time went, whether the cache was used, what to do next."""
    print_numbers(out, result)
    model, seeds = result.model, ", ".join(map(str, result.suite.seeds))
    if result.status == "partial":
        say(console, f"partial: {result.suite.num_generated} images only, not comparable with full results")
    if model.has_seeds():
        counted = result.forward_passes
        passes = f" ({counted.rows_an_image:g} forward passes an image, counted)" if counted else ""
        how = f"{model.sampler}, NFE {model.nfe}{passes}, guidance {model.guidance_scale:g}, scheduler {model.scheduler}"
        say(console, f"sampled: {how if model.has_network() else model.sampler}, seeds {seeds}")
    else:
        say(console, f"measured: {model.weights[0].path if model.weights else 'images that exist already'}")
    for line in cut_lines(result):
        say(console, line)
    if result.provenance.get("seeds_alike"):
        say(console, "every seed gave the same images, so they count once and no number has an interval over seeds")
    say(console, "seconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in result.seconds.items()))
    say(console, f"cache: {cache_line(result)}")
    if path is not None:
        say(console, f"result: {path}")
        grid = path.with_name(f"{path.stem}-grid.png")
        if grid.is_file():
            say(console, f"a first look, not for a leaderboard: {grid}")
        elif result.status == "complete" and result.suite.id != OWN_SUITE:
            say(console, f"to put it on a leaderboard: sbv2bench leaderboard --add {path}")


def cut_lines(result: EvalResult) -> list[str]:
    """A line for each text network that did not read all of every caption."""
    cuts = result.provenance.get("cut_captions")
    return [
        f"cut: {cut['captions']:,} of {cut['of']:,} captions are longer than the {cut['tokens']} tokens that {name} reads; "
        "the words beyond them are in none of its numbers"
        for name, cut in (cuts.items() if isinstance(cuts, dict) else ())
        if cut["captions"]
    ]


def cache_line(result: EvalResult) -> str:
    """Where the images' measurements and the reference's features came from."""
    used = result.provenance.get("cache") or {}
    made = "generated" if result.model.has_seeds() else "measured"
    words = {
        "hit": f"used: this run was measured before, no image was {made}",
        "resumed": f"used: {result.resumed_images:,} images were there already, the others were {made}",
        "miss": f"not used: every image was {made} in this run",
    }
    reference = "; reference features came from it" if used.get("reference") == "hit" else ""
    notes = "".join(f"; {note}" for note in used.get("notes") or ())
    return words.get(str(used.get("generated")), "unknown") + reference + notes
