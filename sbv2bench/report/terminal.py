"""Results, plans and leaderboards in the terminal: what was asked for goes to stdout, progress and remarks go to stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from sbv2bench.data.preparation import side_of
from sbv2bench.printable import printable
from sbv2bench.registry import OWN_SUITE
from sbv2bench.report.layout import print_words
from sbv2bench.specs import MetricSpec, ModelSpec, SuiteSpec

_WIDE = 200  # columns where there is no terminal to fit: a log file has room
_UNCUT = 2000  # columns that no row needs, so that grep finds whole rows
_UNITS = {"GB": 10**9, "MB": 10**6, "kB": 10**3}
_LISTED = 8  # entries of a long list that are shown


class PlainConsole(Console):
    """A console on which text that came from outside acts on nothing: see `printable`."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterator[Segment]:
        """As in rich, with the text of every segment made printable; rich's own controls stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(printable(segment.text), segment.style)


def stderr_console() -> Console:
    """A console on stderr: the terminal's width, and wide lines where stderr is a file or a pipe."""
    console = PlainConsole(stderr=True, highlight=False)
    return console if console.is_terminal else PlainConsole(stderr=True, highlight=False, width=_WIDE)


def stdout_console(*, taken: bool = False) -> Console:
    """A console on stdout, for what was asked for: the terminal's width, and in a file or a pipe a line for each row, uncut.

    $COLUMNS is a width for both. It stays on what is stdout now, wherever that is led later. taken: stdout is for a JSON
    document, so this is on stderr.
    """
    if taken:
        return stderr_console()
    console = PlainConsole(file=sys.stdout, highlight=False)
    fits = console.is_terminal or os.environ.get("COLUMNS", "").isdigit()  # which rich reads
    return console if fits else PlainConsole(file=sys.stdout, highlight=False, width=_UNCUT)


def say(console: Console, text: str) -> None:
    """One line as it is: never wrapped, no markup."""
    console.print(text, markup=False, soft_wrap=True)


def suite_lines(suite: SuiteSpec, limit: int | None = None, *, told: bool = False) -> list[str]:
    """The first lines of every evaluation: what is measured against. told: also what a suite has from another."""
    lines = [suite_line(suite, limit)]
    if told and suite.inherited:
        lines.append(f"suite {suite.id} has from suite {suite.inherited}")
    if suite.id == OWN_SUITE:
        side = side_of(suite.preparation)
        what = "as they are" if side is None else f"cropped to their central square and resized (Lanczos) to {side} px"
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


def print_plan(console: Console, description: Mapping[str, Any]) -> None:
    """A plan's description, a fact a line."""
    facts = [
        (key.replace("_", " "), _measured(key, value))
        for key, value in description.items()
        if key != "fetched_when_run" or description.get("download_bytes")  # else there is nothing to fetch
    ]
    print_card(console, f"plan for {description.get('model', '')}", facts)
    teacher = description.get("teacher_cost") or {}
    estimated = [(part.get("estimated_seconds") or {}).get("networks") or 0.0 for part in (description, teacher)]
    if any(estimated):
        device = description.get("device")
        whose = f", the teacher's {about(estimated[1])} among them" if estimated[1] else ""
        say(console, f"{about(sum(estimated))} on {'this CPU' if device == 'cpu' else device}{whose}")


def _measured(key: str, value: object) -> str:
    """A plan's fact as people read it: bytes and seconds in their everyday units."""
    if key == "estimated_seconds" and isinstance(value, Mapping):
        unknown = f"; not known of {', '.join(value['unknown'])}" if value.get("unknown") else ""
        if unknown and not value["networks"]:
            return unknown[2:]
        return f"{about(value['networks'])}, by a matrix product's {value['rate_gflops']:,.0f} GFLOP/s{unknown}"
    if key == "teacher_cost" and isinstance(value, Mapping):
        return ", ".join(f"{name.replace('_', ' ')} {_measured(name, part)}" for name, part in value.items())
    if key == "fits" and isinstance(value, Mapping):
        said = {True: "yes", False: "no", None: "not known"}
        return ", ".join(f"with --offload {way} {said[fits]}" for way, fits in value.items())
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


def print_card(console: Console, title: str, lines: Sequence[tuple[str, str]]) -> None:
    """A title, and below it a heading and its words a line; words without room go on below themselves."""
    say(console, title)
    indent = max(len(heading) for heading, _ in lines) + 4
    for heading, words in lines:
        print_words(console, f"  {heading:{indent - 4}}  {words}", indent)
