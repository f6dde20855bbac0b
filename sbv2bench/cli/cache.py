"""`sbv2bench cache`: what is kept between runs, looked at, thinned and proved."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Json
from sbv2bench.errors import IntegrityError
from sbv2bench.shell import print_json

cache_app = typer.Typer(no_args_is_help=True, help="What is kept between runs. Everything there may be deleted.")


@cache_app.command("path")
def cache_path() -> None:
    """The cache's folder, on stdout."""
    from sbv2bench import paths

    print(paths.home())


@cache_app.command("info")
def cache_info(as_json: Json = False) -> None:
    """What is in the cache, and how much of it."""
    from sbv2bench import paths
    from sbv2bench.machine import doctor as checks
    from sbv2bench.report import terminal

    sizes = checks.cache_sizes()
    if as_json:
        print_json(
            {"path": str(paths.home()), "parts": [dict(zip(("part", "files", "bytes"), row, strict=True)) for row in sizes]}
        )
        return
    console = terminal.stdout_console()
    terminal.say(console, str(paths.home()))
    rows = [[name, str(files), f"{size / 1e6:.1f} MB"] for name, files, size in sizes]
    terminal.print_table(console, ["part", "files", "size"], rows)


@cache_app.command("prune")
def cache_prune(everything: Annotated[bool, typer.Option("--all", help="Downloads too.")] = False) -> None:
    """Delete features and kept images; they are made again when they are needed."""
    from sbv2bench.machine import doctor as checks

    print(f"freed {checks.prune(everything) / 1e6:.1f} MB", file=sys.stderr)


@cache_app.command("verify")
def cache_verify() -> None:
    """Compare every entry with its hash; exit 4 if one is broken."""
    from sbv2bench.machine import doctor as checks

    whole, broken = checks.verify_cache()
    if broken:
        raise IntegrityError(
            f"cache: {len(broken)} of {whole + len(broken)} entries are broken, the first is {broken[0].parent}",
            "sbv2bench cache prune",
        )
    print(f"{whole} entries, all whole", file=sys.stderr)
