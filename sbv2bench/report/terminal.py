"""Results, plans and leaderboards in the terminal: what was asked for goes to stdout, progress and remarks go to stderr."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from sbv2bench.data.preparation import side_of
from sbv2bench.registry import OWN_SUITE
from sbv2bench.report.values import ARROWS
from sbv2bench.results.records import EvalResult, MetricValue
from sbv2bench.specs import MetricSpec, ModelSpec, SuiteSpec

_WIDE = 200  # columns where there is no terminal to fit: a log file has room
_UNCUT = 2000  # columns that no row needs, so that grep finds whole rows
_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}
_LISTED = 8  # entries of a long list that are shown


def stderr_console() -> Console:
    """A console on stderr: the terminal's width, and wide lines where stderr is a file or a pipe."""
    console = Console(stderr=True, highlight=False)
    return console if console.is_terminal else Console(stderr=True, highlight=False, width=_WIDE)


def stdout_console(*, taken: bool = False) -> Console:
    """A console on stdout, for what was asked for: the terminal's width, and in a file or a pipe a line for each row, uncut.

    It stays on what is stdout now, wherever that is led later. taken: stdout is for a JSON document, so this is on stderr.
    """
    if taken:
        return stderr_console()
    console = Console(file=sys.stdout, highlight=False)
    return console if console.is_terminal else Console(file=sys.stdout, highlight=False, width=_UNCUT)


def say(console: Console, text: str) -> None:
    """One line as it is: never wrapped, no markup."""
    console.print(text, markup=False, soft_wrap=True)


def suite_lines(suite: SuiteSpec, limit: int | None = None, *, told: bool = False) -> list[str]:
    """The first lines of every evaluation: what is measured against. told: also what a suite has from another."""
    lines = [suite_line(suite, limit)]
    if told and suite.inherited:
        lines.append(f"suite {suite.id} has from suite {suite.inherited}")
    if suite.id == OWN_SUITE:
        what = (
            "as they are"
            if suite.preparation is None
            else f"cropped to their central square and resized (Lanczos) to {side_of(suite.preparation)} px"
        )
        turned = suite.reference is not None and suite.reference.is_turned
        what += "; photographs are turned as their EXIF orientation says" if turned else ""
        lines.append(f"images{', generated and reference alike' if suite.num_reference else ''}: {what}")
    return lines


def metrics_line(suite: SuiteSpec, metrics: Sequence[MetricSpec]) -> str:
    """What --metrics chose, and what of the suite it did not."""
    chosen = [metric.id for metric in metrics]
    others = [name for name in suite.flags if name not in chosen]
    return f"metrics chosen: {', '.join(chosen)}" + (f"; not {', '.join(others)}" if others else "")


def suite_line(suite: SuiteSpec, limit: int | None = None) -> str:
    """What is measured against, in one line."""
    images = (
        f"{suite.num_generated:,} images" if limit is None else f"the first {limit:,} of {suite.num_generated:,} images (partial)"
    )
    reference = f"{suite.num_reference:,} in the reference"
    return f"suite {suite.id}@v{suite.version}: {images}, {reference}, metrics {', '.join(suite.flags)}"


def model_line(model: ModelSpec) -> str:
    """What a model is, by its qualified id."""
    return f"model {model.id}: {model.description or model.sampler}"


def number(value: float) -> str:
    """Five significant digits, no exponent for everyday sizes."""
    return f"{value:.5g}"


def spread(metric: MetricValue) -> str:
    """The uncertainty as people read it: the interval if there is one, else one standard error, else nothing."""
    if metric.ci95 is not None:
        return f"95 % [{number(metric.ci95[0])}, {number(metric.ci95[1])}]"
    return f"± {metric.std_err:.2g}" if metric.std_err is not None else ""


def result_table(result: EvalResult) -> Table:
    """One row a metric: label with direction, value, uncertainty and its method, number of images, extractor."""
    partial = ", partial" if result.status == "partial" else ""
    title = f"{escape(result.model.id)} on {result.suite.id}@v{result.suite.version}{partial}"
    shown = Table(title=title, title_justify="left")
    for heading in ("metric", "value", "unit", "uncertainty", "method", "n", "extractor"):
        shown.add_column(heading, justify="right" if heading in ("value", "n") else "left", overflow="fold")
    for metric in result.metrics.values():
        n = f"{metric.n_generated:,}" + (f" / {metric.n_reference:,}" if metric.n_reference else "")
        method = "" if metric.uncertainty == "none" else metric.uncertainty
        label = f"{metric.label} {ARROWS[metric.direction]}"
        cells = (label, number(metric.value), metric.unit, spread(metric), method, n, metric.extractor or "")
        shown.add_row(*map(escape, cells))
        for style, parts in (metric.styles or {}).items():
            error = f"± {parts['std_err']:.2g}" if parts.get("std_err") is not None else ""
            shown.add_row(
                f"  {escape(style)}", number(parts["value"]), "", error, "", f"{parts.get('n', 0):,.0f}", "", style="dim"
            )
    return shown


def print_result(console: Console, result: EvalResult, path: Path | None, out: Console) -> None:
    """The table, on out; then remarks: where the file is, where the time went, whether the cache was used, what to do next."""
    out.print(result_table(result))
    model, seeds = result.model, ", ".join(map(str, result.suite.seeds))
    if result.status == "partial":
        say(console, f"partial: {result.suite.num_generated} images only, not comparable with full results")
    if model.has_seeds():
        how = f"{model.sampler}, NFE {model.nfe}, guidance {model.guidance_scale:g}, scheduler {model.scheduler}"
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


def print_plan(console: Console, description: Mapping[str, Any]) -> None:
    """A plan's description, one line a fact."""
    shown = Table(title=f"plan for {escape(str(description.get('model', '')))}", title_justify="left", show_header=False)
    shown.add_column("fact")
    shown.add_column("value", overflow="fold")
    for key, value in description.items():
        if key == "fetched_when_run" and not description.get("download_bytes"):
            continue  # there is nothing to fetch
        shown.add_row(key.replace("_", " "), escape(_measured(key, value)))
    if seconds := (description.get("estimated_seconds") or {}).get("networks"):
        shown.caption = f"{about(seconds)} on {'this CPU' if description.get('device') == 'cpu' else description.get('device')}"
        shown.caption_justify = "left"
    console.print(shown)


def _measured(key: str, value: object) -> str:
    """A plan's fact as people read it: bytes and seconds in their everyday units."""
    if key == "estimated_seconds" and isinstance(value, Mapping):
        unknown = f"; not known of {', '.join(value['unknown'])}" if value.get("unknown") else ""
        if unknown and not value["networks"]:
            return unknown[2:]
        return f"{about(value['networks'])}, by a matrix product's {value['rate_gflops']:,.0f} GFLOP/s{unknown}"
    if key.endswith("_bytes"):
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {_size(size)}" for name, size in value.items()) or "nothing"
        return _size(value)
    return _words(value)


def _size(value: object) -> str:
    if not isinstance(value, int):
        return "of unknown size"
    unit = next((unit for unit in ("GB", "MB", "kB") if value >= _UNITS[unit]), "")
    return f"{value / _UNITS[unit]:.3g} {unit}" if unit else f"{value} bytes"


def about(seconds: float) -> str:
    """A duration in words that claim no more than is known: "about 6 days"."""
    for unit, length in (("day", 86400), ("hour", 3600), ("minute", 60)):
        if seconds >= 1.5 * length:
            return f"about {round(seconds / length)} {unit}s"
    return f"about {max(1, round(seconds))} second{'s' if seconds >= 1.5 else ''}"


def _words(value: object) -> str:
    if isinstance(value, Mapping):
        if "path" in value:
            return f"{value['path']} {str(value.get('sha256', ''))[:8]}".rstrip()
        return ", ".join(f"{key} {_words(part)}" for key, part in value.items())
    if isinstance(value, list | tuple):
        more = f", and {len(value) - _LISTED} more" if len(value) > _LISTED else ""
        return ", ".join(map(_words, value[:_LISTED])) + more or "none"
    return {True: "yes", False: "no", None: "-"}[value] if value is None or isinstance(value, bool) else str(value)


def print_table(console: Console, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A plain table."""
    shown = Table()
    for heading in headings:
        shown.add_column(heading, overflow="fold")
    for row in rows:
        shown.add_row(*map(escape, row))
    console.print(shown)


@contextmanager
def progress_bars(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """progress(stage, done, total): one bar a stage, with its rate and the time left."""
    shown = (BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"), TimeRemainingColumn())
    with Progress(TextColumn("{task.description}"), *shown, console=console) as bars:
        tasks: dict[str, TaskID] = {}

        def progress(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=total, rate="")
            task = tasks[stage]
            bars.update(task, completed=done, total=total)
            speed = bars.tasks[bars.task_ids.index(task)].speed
            bars.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield progress
