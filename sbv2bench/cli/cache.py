"""`sbv2bench cache`: inspect, prune and verify what is kept between runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Json
from sbv2bench.errors import InputError, IntegrityError
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
    from sbv2bench.report.columns import Column
    from sbv2bench.report.layout import print_table

    sizes = checks.cache_sizes()
    if as_json:
        print_json(
            {"path": str(paths.home()), "parts": [dict(zip(("part", "files", "bytes"), row, strict=True)) for row in sizes]}
        )
        return
    console = terminal.stdout_console()
    terminal.say(console, str(paths.home()))
    columns: list[Column[tuple[str, int, int]]] = [
        Column("", "part", lambda row: row[0], left=True),
        Column("", "files", lambda row: f"{row[1]:,}"),
        Column("", "size", lambda row: f"{row[2] / 1e6:.1f} MB"),
    ]
    print_table(console, columns, sizes)


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


def merge_shards(
    folders: Annotated[list[Path], typer.Argument(metavar="FOLDER...", help="SBV2BENCH_HOME of each machine, or a copy of it.")],
) -> None:
    """Take what `eval --shard` kept on other machines into this machine's cache, where `eval` finds it."""
    from sbv2bench import paths
    from sbv2bench.features.cache import FeatureCache

    places = []
    for folder in map(Path.expanduser, folders):
        place = folder / "features" if (folder / "features").is_dir() else folder
        if next(place.rglob("manifest.json"), None) is None:
            raise InputError(f"merge-shards {folder}: found no measured images, expected the SBV2BENCH_HOME of `eval --shard`")
        if place.resolve() == paths.features_dir().resolve():
            raise InputError(f"merge-shards {folder}: is this machine's own cache, expected another")
        places.append(place)
    cache = FeatureCache(paths.features_dir())
    for folder, place in zip(folders, places, strict=True):
        copied, here = cache.take_from(place)
        print(f"{folder}: {copied} entries taken, {here} were here")
