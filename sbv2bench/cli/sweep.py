"""`sbv2bench sweep`: one model under several guidance scales and steps."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import DEFAULT_SUITE, Catalog, Json, Metrics, Suite, completing, loaded_registry
from sbv2bench.errors import InputError
from sbv2bench.shell import print_json


def sweep(  # noqa: PLR0917  # the command line's options
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id, folder or hub id.", autocompletion=completing("model"))],
    guidance_scale: Annotated[str | None, typer.Option(help="Guidance scales with commas between: 1,1.5,2,3.")] = None,
    steps: Annotated[str | None, typer.Option(help="Numbers of steps with commas between: 1,2,4,8.")] = None,
    suite: Suite = DEFAULT_SUITE,
    metrics: Metrics = None,
    limit: Annotated[
        int | None, typer.Option(help="First images only. Default: all; of suites of the full family 10,000.")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Number of generation seeds of each setting.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    batch_size: Annotated[
        str, typer.Option(help="Images per compute block; auto: the suite's, largest: what a GPU has room for.")
    ] = "auto",
    results: Annotated[Path, typer.Option(help="Folder for result files.")] = Path("results"),
    html: Annotated[Path | None, typer.Option(help="Write it as a page too, with its frontier, to this file.")] = None,
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model under every combination of guidance scale and steps: a frontier in place of a point."""
    from sbv2bench.evaluation.options import EvalOptions
    from sbv2bench.report import terminal
    from sbv2bench.report.layout import print_table
    from sbv2bench.report.progress import progress_bars
    from sbv2bench.sweep import sweep as room

    options = EvalOptions.validated(
        metrics=metrics, limit=limit, repeats=repeats, device=device, dtype=dtype, batch_size=batch_size, results=results,
        catalog=catalog,
    )  # fmt: skip
    scales = _numbers("--guidance-scale", guidance_scale, float, "1,1.5,2")
    counts = [int(count) for count in _numbers("--steps", steps, int, "1,2,4")]
    console = terminal.stderr_console()
    with redirect_stdout(sys.stderr), progress_bars(console) as progress:
        points = room.sweep(
            model, suite, options, loaded_registry(catalog), guidance_scales=scales, steps=counts, progress=progress,
            said=lambda line: terminal.say(console, line),
        )  # fmt: skip
    if html is not None:
        from sbv2bench.boards.page import settings
        from sbv2bench.cli.pages import put

        put(settings(points), html, "sweep --html")
    if as_json:
        print_json({"results": [result.model_dump(mode="json") for result, _ in points]})
        return
    first = points[0][0]
    title = f"{first.model.id} on {first.suite.id}@v{first.suite.version}"
    print_table(terminal.stdout_console(), room.columns(points), points, title)
    terminal.say(console, f"results: {results}; next: sbv2bench compare STUDENT {model} --suite {suite} --at-least recall")


def _numbers(option: str, text: str | None, kind: type, example: str) -> tuple[float, ...]:
    """Numbers with commas between. Raises InputError naming the option."""
    try:
        return tuple(kind(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise InputError(f"{option}: found {text!r}, expected numbers with commas between", f"{option} {example}") from error
