"""`sbv2bench grid`: pictures of several models side by side."""

from __future__ import annotations

import re
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import DEFAULT_SUITE, Catalog, Offload, Suite, loaded_registry
from sbv2bench.errors import InputError


def grid(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Ids, folders or hub ids; one row each.")],
    *,
    suite: Suite = DEFAULT_SUITE,
    captions: Annotated[
        str, typer.Option(help="Numbers of the suite's captions with commas between, and ranges such as 0-47; one column each.")
    ] = "0,1,2,3,4,5",
    seeds: Annotated[str, typer.Option(help="Comma-separated generation seeds; each caption is drawn with every seed.")] = "0",
    output: Annotated[Path, typer.Option(help="PNG file to write.")] = Path("grid.png"),
    native: Annotated[
        bool, typer.Option("--native", help="The images alone at their own size, as the leaderboards' gallery takes them.")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    offload: Offload = "none",
    catalog: Catalog = None,
) -> None:
    """Draw several models' images for the same captions and noise as one labelled picture."""
    from sbv2bench.evaluation.grid import sample_grid
    from sbv2bench.report import picture, terminal

    numbers, noise = _whole_numbers("--captions", captions), _whole_numbers("--seeds", seeds)
    picture.check_output(output)
    with redirect_stdout(sys.stderr):
        registry = loaded_registry(catalog)
        sampled = sample_grid(models, suite, numbers, noise, registry, device=device, dtype=dtype, offload=offload)
    picture.write_grid(sampled, output, native=native)
    terminal.say(terminal.stderr_console(), f"written: {output}")


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        ends = [tuple(map(int, part.split("-"))) if re.fullmatch(r"\d+-\d+", part) else (int(part),) for part in text.split(",")]
        return [number for one in ends for number in range(one[0], one[-1] + 1)]
    except ValueError as error:
        raise InputError(f"{option}: found {text!r}, expected comma-separated whole numbers", f"{option} 0,1,2") from error
