"""The command line, a file a command: each reads what was typed, calls the room that does it, and prints.

No logic, and nothing heavy at import: torch and the like are imported where a command needs them. To add a command, write its
file and name it below; the order below is that of `sbv2bench --help`.
"""

from __future__ import annotations

from typing import Annotated

import typer

from sbv2bench import __version__
from sbv2bench.cli.cache import cache_app, merge_shards
from sbv2bench.cli.compare import compare
from sbv2bench.cli.doctor import doctor
from sbv2bench.cli.download import download
from sbv2bench.cli.eval import evaluate_models
from sbv2bench.cli.export import export, import_scores
from sbv2bench.cli.grid import grid
from sbv2bench.cli.latency import latency
from sbv2bench.cli.leaderboard import leaderboard
from sbv2bench.cli.listing import list_things, show
from sbv2bench.cli.reproduce import reproduce
from sbv2bench.cli.score import score
from sbv2bench.cli.sweep import sweep
from sbv2bench.cli.verify import verify
from sbv2bench.cli.watch import watch
from sbv2bench.shell import Shell

app = typer.Typer(
    cls=Shell,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Evaluate one-step and few-step text-to-image models: generate, measure, compare.",
)
app.command("eval")(evaluate_models)
app.command()(score)
app.command()(compare)
app.command()(sweep)
app.command()(latency)
app.command()(reproduce)
app.command()(leaderboard)
app.command()(grid)
app.command()(verify)
app.command()(watch)
app.command()(export)
app.command("import-scores")(import_scores)
app.command("merge-shards")(merge_shards)
app.command("list")(list_things)
app.command()(show)
app.command()(download)
app.add_typer(cache_app, name="cache")
app.command()(doctor)


def main() -> None:
    """The console script."""
    app(prog_name="sbv2bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sbv2bench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Evaluate one-step and few-step text-to-image models: generate, measure, compare."""
