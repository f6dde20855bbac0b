"""`python -m reference_trainer`: the trainer's commands."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.errors import SBV2BenchError

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def main() -> None:
    """Train the models that sbv2bench measures."""


@app.command()
def ladder(
    family: Annotated[str, typer.Argument(help="mini")] = "mini",
    until: Annotated[str, typer.Option(help="last rung to train")] = "sd21",
    runs: Annotated[Path, typer.Option(help="where checkpoints, logs and exports go")] = Path("runs/mini"),
    processes: Annotated[int, typer.Option(help="data-parallel processes of one thread each; 0: one for each core", min=0)] = 0,
    sitting_minutes: Annotated[float | None, typer.Option(help="stop after this long; run again to resume", min=0.1)] = None,
) -> None:
    """Train a family from nothing but seeds, rung by rung; run again to resume."""
    from reference_trainer.ladder import climb

    if not climb(family, runs, until, processes or os.cpu_count() or 1, sitting_minutes):
        again = f"python -m reference_trainer ladder {family} --until {until} --runs {runs}"
        typer.echo(f"the sitting is over; resume with: {again}", err=True)


@app.command()
def ship(
    runs: Annotated[Path, typer.Option(help="finished runs of the ladder")] = Path("runs/mini"),
    output: Annotated[Path, typer.Option(help="the package's weights folder")] = Path("sbv2bench/mini/weights"),
) -> None:
    """Copy finished rungs as float16 safetensors, with hashes, figures, training time and logs, into the package."""
    from reference_trainer.shipping import ship_family

    ship_family(runs, output)


if __name__ == "__main__":
    try:
        app()
    except SBV2BenchError as error:
        typer.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
