"""`sbv2bench compare`: models side by side, what separates them and what is noise."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbv2bench.cli.arguments import DEFAULT_SUITE, Catalog, Json, Suite
from sbv2bench.cli.pages import put
from sbv2bench.errors import InputError

if TYPE_CHECKING:
    from sbv2bench.compare.differences import Comparison
    from sbv2bench.registry import Registry
    from sbv2bench.results.records import EvalResult

FORMATS = ("table", "md", "csv", "latex", "html", "json")


def compare(  # noqa: PLR0917  # the command line's options
    models: Annotated[
        list[str], typer.Argument(metavar="A B [C ...]", help="Ids, result files, or folders of models, images or results.")
    ],
    suite: Suite = DEFAULT_SUITE,
    results: Annotated[Path, typer.Option(help="Folder of result files; leaderboards/results is searched next.")] = Path(
        "results"
    ),
    run: Annotated[bool, typer.Option("--run", help="Evaluate models that have no result yet.")] = False,
    at_least: Annotated[
        str | None, typer.Option(help="recall or clip_score: A against the best FID of B's settings that have as much of it.")
    ] = None,
    chosen_on: Annotated[
        str | None, typer.Option(help="With --at-least: the suite on whose results B's setting is chosen, such as mini-choosing.")
    ] = None,
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Compare every pair, not each model with the first.")] = False,
    form: Annotated[str, typer.Option("--format", help="table, md, csv, latex, html or json.")] = "table",
    worst: Annotated[
        int | None, typer.Option(min=1, help="html: pictures of the captions that A did worst, this many, by --metric.")
    ] = None,
    metric: Annotated[str, typer.Option(help="hps, clip_score or attribute_accuracy: what --worst goes by.")] = "hps",
    output: Annotated[Path | None, typer.Option(help="File to write to. Default: stdout.")] = None,
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Compare models by their results on one suite: better, worse or within noise."""
    form = "json" if as_json else form
    if form not in FORMATS:
        raise InputError(f"compare --format: found {form!r}, expected one of {', '.join(FORMATS)}", "--format table")
    if output is not None and form == "table":
        raise InputError(f"compare --output {output}: a table is for the terminal, expected another --format", "--format md")
    if worst is not None and form != "html":
        raise InputError(f"compare --worst: found --format {form}, pictures are in a page alone", "--format html")
    from sbv2bench.cli.arguments import loaded_registry
    from sbv2bench.compare import tables as comparison_tables
    from sbv2bench.compare.compare import compare as compared
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import progress_bars

    registry, console = loaded_registry(catalog), terminal.stderr_console()
    out = terminal.stdout_console()

    def evaluate(model: str) -> tuple[EvalResult, Path]:
        from sbv2bench.evaluation.evaluate import evaluate_and_store
        from sbv2bench.evaluation.options import EvalOptions
        from sbv2bench.evaluation.plan import plan

        options = EvalOptions.validated(results=results, catalog=catalog)
        with progress_bars(console) as progress:
            result, path = evaluate_and_store(plan(model, suite, options, registry), registry, progress)
        assert path is not None  # of the one process that this command is
        return result, path

    if at_least is not None:
        _print_frontier(models, at_least, (suite, chosen_on, results), (form, output), registry)
        return
    if chosen_on is not None:
        raise InputError("compare --chosen-on: found no --at-least, which it is for", "--at-least recall")
    with redirect_stdout(sys.stderr):  # nothing that a library prints may get into the document
        found = compared(
            models, suite, results=results, all_pairs=all_pairs, evaluate=evaluate if run else None, registry=registry
        )
        if form == "table":
            comparison_tables.print_comparison(out, found)
            return
        text = _page(found, worst, metric, registry) if form == "html" else comparison_tables.FORMATS[form](found)
    put(text, output, "compare --output")


def _print_frontier(
    models: list[str], held: str, where: tuple[str, str | None, Path], form: tuple[str, Path | None], registry: Registry
) -> None:
    """`--at-least`: one model against another's measured settings."""
    from sbv2bench.compare import tables
    from sbv2bench.compare.compare import compare_frontier
    from sbv2bench.report import terminal

    if len(models) != 2 or form[0] == "html":
        what = f"found {len(models)} models" if len(models) != 2 else "found --format html"
        raise InputError(
            f"compare --at-least: {what}, expected A and B, and another format", "sbv2bench compare A B --at-least recall"
        )
    with redirect_stdout(sys.stderr):
        suite, chosen_on, results = where
        found = compare_frontier(models[0], models[1], held, suite, results=results, registry=registry, chosen_on=chosen_on)
    if form[0] == "table":
        tables.print_frontier(terminal.stdout_console(), found)
    else:
        put(tables.FRONTIER_FORMATS[form[0]](found), form[1], "compare --output")


def _page(found: Comparison, worst: int | None, metric: str, registry: Registry) -> str:
    from sbv2bench.boards import gallery
    from sbv2bench.boards.page import comparison
    from sbv2bench.report.page import check_packages

    check_packages()  # before pictures are drawn
    return comparison(found, None if worst is None else gallery.worst(found, metric, worst, registry))
