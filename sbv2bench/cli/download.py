"""`sbv2bench download`: files that models and suites need."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json, loaded_registry
from sbv2bench.errors import InputError
from sbv2bench.shell import print_json


def download(
    name: Annotated[
        list[str], typer.Argument(metavar="SUITE|ID|ASSET...", help="Suites, groups, models, extractors, assets or hub:ORG/NAME.")
    ],
    source: Annotated[
        Path | None, typer.Option("--from", help="A file that you already have, accepted if its hash is right.")
    ] = None,
    dtype: Annotated[
        str, typer.Option(help="Precision that models will run in; its variant of the weights is fetched.")
    ] = "auto",
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Download what suites or models need and verify it by hash; run again to continue from the files that are there."""
    from sbv2bench.evaluation import download as downloads
    from sbv2bench.evaluation.options import EvalOptions
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import progress_bars

    dtype = EvalOptions.validated(dtype=dtype).dtype
    console, registry = terminal.stderr_console(), loaded_registry(catalog)
    with redirect_stdout(sys.stderr), progress_bars(console) as progress:
        if source is not None and len(name) > 1:
            raise InputError(f"--from: found {len(name)} names, expected one", f"sbv2bench download {name[0]} --from {source}")

        def told(what: str, done: int, total: int) -> None:
            progress(f"{what} (bytes)", done, total)

        found = {place: path for one in name for place, path in downloads.bring(registry, one, source, told, dtype).items()}
    for location, path in found.items():
        terminal.say(console, f"{location}: {path}")
    if as_json:
        print_json({location: str(path) for location, path in found.items()})
