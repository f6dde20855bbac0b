"""`sbv2bench list` and `sbv2bench show`: everything that has an id, and how it is declared."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json, completing, loaded_registry
from sbv2bench.errors import InputError
from sbv2bench.shell import print_json

LISTED = ("models", "suites", "metrics", "extractors", "plugins")


def _complete_listed(incomplete: str) -> list[str]:
    return [word for word in LISTED if word.startswith(incomplete)]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value or "")


def list_things(
    what: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(LISTED), autocompletion=_complete_listed)],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """List the models, suites, metrics, extractors or plugins, with what you choose them by."""
    from sbv2bench.machine.inventory import COLUMNS, listed
    from sbv2bench.registry import suggestion
    from sbv2bench.report import terminal

    if what not in LISTED:
        close = suggestion(what, LISTED)
        raise InputError(f"list: found {what!r}, expected {', '.join(LISTED)}", f"sbv2bench list {close}" if close else None)
    rows = listed(loaded_registry(catalog), what)
    if as_json:
        print_json(rows)
        return
    if not rows:
        typer.echo(f"no {what} on this machine", err=True)
        return
    headings = ["on this machine" if key == "here" else key.replace("_", " ") for key in COLUMNS[what]]
    terminal.print_table(terminal.stdout_console(), headings, [[_cell(row[key]) for key in COLUMNS[what]] for row in rows])


def show(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A model, suite, metric, extractor or asset.", autocompletion=completing("model"))
    ],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Print the whole declaration of a model, suite, metric, extractor or asset."""
    found = loaded_registry(catalog).show(name)
    if as_json:
        print_json(found)
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120))
