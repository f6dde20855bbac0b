"""`sbv2bench compare`: models side by side, what separates them and what is noise."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbv2bench.cli.arguments import DEFAULT_SUITE, Catalog, Json, Suite
from sbv2bench.errors import InputError

if TYPE_CHECKING:
    from sbv2bench.compare.differences import Comparison
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
    all_pairs: Annotated[bool, typer.Option("--all-pairs", help="Compare every pair, not each model with the first.")] = False,
    form: Annotated[str, typer.Option("--format", help="table, md, csv, latex, html or json.")] = "table",
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
    from sbv2bench.compare import tables as comparison_tables
    from sbv2bench.compare.compare import compare as compared
    from sbv2bench.registry import Registry
    from sbv2bench.report import terminal

    registry, console = Registry.load(catalog), terminal.stderr_console()
    out = terminal.stdout_console()

    def evaluate(model: str) -> tuple[EvalResult, Path]:
        from sbv2bench.evaluation.evaluate import evaluate_and_store
        from sbv2bench.evaluation.options import EvalOptions
        from sbv2bench.evaluation.plan import plan

        options = EvalOptions.validated(results=results, catalog=catalog)
        with terminal.progress_bars(console) as progress:
            result, path = evaluate_and_store(plan(model, suite, options, registry), registry, progress)
        assert path is not None  # of the one process that this command is
        return result, path

    with redirect_stdout(sys.stderr):  # nothing that a library prints may get into the document
        found = compared(
            models, suite, results=results, all_pairs=all_pairs, evaluate=evaluate if run else None, registry=registry
        )
        if form == "table":
            comparison_tables.print_comparison(out, found)
            return
        text = _page(found) if form == "html" else comparison_tables.FORMATS[form](found)
    if output is None:
        sys.stdout.write(text)
    else:
        from sbv2bench.atomic import write_whole

        try:
            write_whole(output, text)
        except OSError as error:
            raise InputError(f"compare --output {output}: {error.strerror}", f"--output ./{output.name}") from error
        terminal.say(console, f"written: {output}")


def _page(found: Comparison) -> str:
    from sbv2bench.boards.page import comparison

    return comparison(found)
