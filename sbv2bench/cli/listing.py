"""`sbv2bench list` and `sbv2bench show`: everything that has an id, and how it is declared."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json, completing, loaded_registry
from sbv2bench.errors import InputError
from sbv2bench.report.columns import Column
from sbv2bench.shell import print_json

_PROSE = {"what_it_is", "metrics", "suites", "licence", "origin"}
# What `show` tells at any width.
_ROOM = {"models": {"what_it_is": 4, "guidance_scale": 3, "licence": 2, "gated": 1}, "suites": {"metrics": 1},
         "metrics": {"suites": 1}}  # fmt: skip
# What people read first of a metric.
_FIRST = ("what", "id", "title", "description", "direction", "confused_with", "punishes", "rewards_wrongly", "printed_by",
          "published", "extractors", "cost_basis")  # fmt: skip
LISTED = ("models", "suites", "metrics", "extractors", "plugins")


def _complete_listed(incomplete: str) -> list[str]:
    return [word for word in LISTED if word.startswith(incomplete)]


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value or "")


def _column(what: str, key: str, rows: list[dict[str, object]]) -> Column[dict[str, object]]:
    counts = all(isinstance(row[key], int | float | None) and not isinstance(row[key], bool) for row in rows)
    heading = "on this\nmachine" if key == "here" else key.replace("_scale", "\nscale").replace("_", " ")
    return Column(
        key, heading, lambda row: row[key], lambda row: _cell(row[key]), left=not counts, names=key == "id",
        prose=key in _PROSE, room=_ROOM.get(what, {}).get(key, 0),
    )  # fmt: skip


def list_things(
    what: Annotated[str, typer.Argument(metavar="KIND", help=", ".join(LISTED), autocompletion=_complete_listed)],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """List the models, suites, metrics, extractors or plugins, with what you choose them by."""
    from sbv2bench.machine.inventory import COLUMNS, listed
    from sbv2bench.registry import suggestion
    from sbv2bench.report import terminal
    from sbv2bench.report.layout import print_table

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
    print_table(terminal.stdout_console(), [_column(what, key, rows) for key in COLUMNS[what]], rows)


def show(
    name: Annotated[
        str, typer.Argument(metavar="ID", help="A model, suite, metric, extractor or asset.", autocompletion=completing("model"))
    ],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Print a model's card, or the whole declaration of a suite, metric (with what it costs), extractor or asset.

    --json gives the declaration of a model too.
    """
    registry = loaded_registry(catalog)
    found = registry.show(name)
    if found["what"] == "metric":
        from sbv2bench.evaluation.metric_card import metric_card

        found |= metric_card(name, registry)
        found = {key: found[key] for key in _FIRST if key in found} | found
    if as_json:
        print_json(found)
        return
    from sbv2bench.report import terminal

    out = terminal.stdout_console()
    if found["what"] == "model":
        from sbv2bench.machine.model_card import card

        model = registry.model(name)
        terminal.print_card(out, model.id, card(registry, model))
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=min(120, out.width)))
