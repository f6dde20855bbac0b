"""`sbv2bench reproduce`: a table or a figure of the paper beside what was measured."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json
from sbv2bench.shell import print_json


def reproduce(
    target: Annotated[str, typer.Argument(metavar="TABLE|FIGURE", help="table1 to table9, fig3 or fig7.")],
    *,
    suite: Annotated[
        str, typer.Option(help="paper, one of its suites, or a mini suite, where only the order of rows is judged.")
    ] = "paper",
    results: Annotated[
        Path | None,
        typer.Option(help="Further results (for a figure: sweeps) besides leaderboards/. Default: ./results, ./sweeps."),
    ] = None,
    use: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=FOLDER", help="Weights of one's own, or released ones, in place of a model's; may be repeated."),
    ] = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print every method with its cost and what it lacks; run nothing.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Write it as a page too, to this file.")] = None,
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Set a table or figure of the paper beside what was measured, with a verdict on each number."""
    from sbv2bench.cli.pages import put
    from sbv2bench.registry import Registry
    from sbv2bench.report import terminal
    from sbv2bench.report.page import page
    from sbv2bench.reproduce import report as reproduction
    from sbv2bench.reproduce.page import content
    from sbv2bench.reproduce.request import Request, carry_out, plan_of, require_tolerance

    out = terminal.stdout_console(taken=as_json)
    with redirect_stdout(sys.stderr):
        request = Request.checked(target, suite, results, Registry.load(catalog), use or ())
        if plan:
            document = plan_of(request)
            reproduction.print_plan(out, document)
        else:
            found = carry_out(request)
            document = found.document()
            if html is not None:
                put(page(content(found)), html, "reproduce --html")
            reproduction.print_found(out, found)
    if as_json:
        print_json(document)
    if not plan:
        require_tolerance(found)
