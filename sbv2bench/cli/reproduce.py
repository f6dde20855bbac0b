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
        str, typer.Option(help="paper, one of its suites, or a mini suite, in which only orders are judged.")
    ] = "paper",
    results: Annotated[
        Path | None,
        typer.Option(help="More results (of a figure: sweeps) than leaderboards/ has. Default: ./results, ./sweeps."),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Every method with what it costs and lacks; nothing is run.")] = False,
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """A table or figure of the paper: published and measured numbers, their difference, and a verdict on each."""
    from sbv2bench.registry import Registry
    from sbv2bench.report import terminal
    from sbv2bench.reproduce import report as reproduction
    from sbv2bench.reproduce.request import Request, carry_out, plan_of, require_tolerance

    out = terminal.stdout_console(taken=as_json)
    with redirect_stdout(sys.stderr):
        request = Request.checked(target, suite, results, Registry.load(catalog))
        if plan:
            document = plan_of(request)
            reproduction.print_plan(out, document)
        else:
            found = carry_out(request)
            document = found.document()
            reproduction.print_found(out, found)
    if as_json:
        print_json(document)
    if not plan:
        require_tolerance(found)
