"""`sbv2bench list` and `sbv2bench show`: what can be named, and how it is declared."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json, completing, loaded_registry
from sbv2bench.errors import InputError
from sbv2bench.shell import print_json

LISTED = ("models", "suites", "metrics", "plugins")


def _complete_listed(incomplete: str) -> list[str]:
    return [word for word in LISTED if word.startswith(incomplete)]


def list_things(
    what: Annotated[str, typer.Argument(help=", ".join(LISTED), autocompletion=_complete_listed)],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """What can be named: models, suites, metrics or plugins."""
    from sbv2bench.registry import suggestion
    from sbv2bench.report import terminal

    if what not in LISTED:
        close = suggestion(what, LISTED)
        raise InputError(f"list: found {what!r}, expected {', '.join(LISTED)}", f"sbv2bench list {close}" if close else None)
    rows = loaded_registry(catalog).rows(what)
    if as_json:
        print_json(rows)
        return
    headings = list(rows[0]) if rows else ["id"]
    table = [["yes" if cell is True else "no" if cell is False else str(cell or "") for cell in row.values()] for row in rows]
    terminal.print_table(terminal.stdout_console(), headings, table)


def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A model, suite or metric.", autocompletion=completing("model"))],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """The whole declaration of a model, a suite or a metric, on stdout."""
    found = loaded_registry(catalog).show(name)
    if as_json:
        print_json(found)
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120))
