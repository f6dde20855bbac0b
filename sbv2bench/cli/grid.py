"""`sbv2bench grid`: pictures of several models side by side."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import DEFAULT_SUITE, Catalog, Suite, loaded_registry
from sbv2bench.errors import InputError


def grid(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Ids, folders or hub ids; one row each.")],
    *,
    suite: Suite = DEFAULT_SUITE,
    captions: Annotated[
        str, typer.Option(help="Comma-separated numbers of the suite's captions; one column each.")
    ] = "0,1,2,3,4,5",
    seeds: Annotated[str, typer.Option(help="Comma-separated generation seeds; each caption is drawn with every seed.")] = "0",
    output: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("grid.png"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    catalog: Catalog = None,
) -> None:
    """Draw several models' images for the same captions and noise as one labelled picture."""
    from sbv2bench.evaluation.grid import sample_grid
    from sbv2bench.report import picture, terminal

    numbers, noise = _whole_numbers("--captions", captions), _whole_numbers("--seeds", seeds)
    picture.check_output(output)
    with redirect_stdout(sys.stderr):
        sampled = sample_grid(models, suite, numbers, noise, loaded_registry(catalog), device=device, dtype=dtype)
    picture.write_grid(sampled, output)
    terminal.say(terminal.stderr_console(), f"written: {output}")


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option}: found {text!r}, expected comma-separated whole numbers", f"{option} 0,1,2") from error
