"""`sbv2bench cache`: inspect, prune and verify what is kept between runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Json
from sbv2bench.errors import IntegrityError
from sbv2bench.shell import print_json

cache_app = typer.Typer(no_args_is_help=True, help="Inspect, prune or verify what is kept between runs.")


@cache_app.command("path")
def cache_path() -> None:
    """Print the cache's folder."""
    from sbv2bench import paths

    print(paths.home())


@cache_app.command("info")
def cache_info(as_json: Json = False) -> None:
    """List the parts of the cache and their sizes."""
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
def cache_prune(
    everything: Annotated[bool, typer.Option("--all", help="Delete downloads and the trainer's pairs too.")] = False,
) -> None:
    """Delete cached features, which are made again when needed. Your own weights in models/ are never touched."""
    from sbv2bench.machine import doctor as checks

    print(f"freed {checks.prune(everything) / 1e6:.1f} MB", file=sys.stderr)


@cache_app.command("verify")
def cache_verify() -> None:
    """Check every entry against its hash; exit 4 if one is broken."""
    from sbv2bench.machine import doctor as checks

    whole, broken = checks.verify_cache()
    if broken:
        raise IntegrityError(
            f"cache: {len(broken)} of {whole + len(broken)} entries are broken, the first is {broken[0].parent}",
            "sbv2bench cache prune",
        )
    print(f"{whole} entries, all intact", file=sys.stderr)
