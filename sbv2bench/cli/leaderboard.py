"""`sbv2bench leaderboard`: the boards, built from the committed result files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.errors import InputError


def leaderboard(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE]...", help="More result files for --add.", show_default=False)
    ] = None,
    add: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="Copy result files into the folder, then build.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Build in memory and compare; exit 4 if a file differs.")] = False,
    folder: Annotated[
        Path, typer.Option("--dir", help="The leaderboards' folder; everything is built from its results/.")
    ] = Path("leaderboards"),
) -> None:
    """Build the leaderboards, and the tables of the READMEs, from committed result files and published numbers."""
    from sbv2bench.boards import files as whole_folder
    from sbv2bench.boards import text as built
    from sbv2bench.boards.boards import boards
    from sbv2bench.boards.terminal import print_board
    from sbv2bench.report import terminal

    console, out = terminal.stderr_console(), terminal.stdout_console()
    if add and check:
        raise InputError(
            "leaderboard: --add changes the folder and --check only looks, expected one of them", "sbv2bench leaderboard --check"
        )
    if files and not add:
        raise InputError(
            f"leaderboard: found {files[0]} alone, expected --add before it", f"sbv2bench leaderboard --add {files[0]}"
        )
    for path in built.add([*(add or []), *(files or [])], folder):
        terminal.say(console, f"added: {path}")
    written = whole_folder.check(folder) if check else whole_folder.build(folder)
    for board in boards(folder):
        print_board(out, board)
    terminal.say(console, f"{'up to date' if check else 'written'}: {', '.join(map(str, written))}")
    if lacking := whole_folder.lacks_page():
        terminal.say(console, f"no page was built: {lacking}")
