"""`sbv2bench watch`: a training run's exports, scored as they appear."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbv2bench.cli.arguments import SUITE_VARIABLE, Catalog, Json, Metrics, completing, loaded_registry
from sbv2bench.errors import PrerequisiteError
from sbv2bench.shell import print_json

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sbv2bench.watch.watch import Point


def watch(  # noqa: PLR0917  # the command line's options
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a training run, finished or not.")],
    suite: Annotated[
        str,
        typer.Option(
            help="Suite to score on; mini-choosing has captions for choosing.", envvar=SUITE_VARIABLE,
            autocompletion=completing("suite"),
        ),
    ],
    every: Annotated[int, typer.Option(help="Score exports whose step is a multiple of N, and the last.", min=1)] = 1,
    metrics: Metrics = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N images only.")] = None,
    device: Annotated[
        str, typer.Option(help="auto, cpu, cuda, cuda:N or mps. auto: the last of several GPUs, else the CPU.")
    ] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    once: Annotated[bool, typer.Option("--once", help="Score the exports that are there, and do not wait for more.")] = False,
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Score a training run's exports as they appear: one curve, here and as a page. Stop it and start it again at any time."""
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import loading, progress_bars
    from sbv2bench.watch.exports import FOLDER, check_run, is_over

    console, out = terminal.stderr_console(), terminal.stdout_console(taken=as_json)
    run = run.expanduser()
    check_run(run)
    with loading(console, "PyTorch and diffusers"):
        from sbv2bench.evaluation.options import EvalOptions
        from sbv2bench.machine.devices import device_beside_a_training
        from sbv2bench.watch import report
        from sbv2bench.watch import watch as room
    registry = loaded_registry(catalog)
    declared = registry.suite(suite)
    named = metrics or ",".join(one.id for one in registry.metrics_of(declared, None) if one.reads != "latency")
    where = device_beside_a_training(device)
    options = EvalOptions.validated(metrics=named, limit=limit, device=where, dtype=dtype, results=run / FOLDER, catalog=catalog)
    terminal.say(console, terminal.suite_line(declared, limit))
    terminal.say(console, f"watching {run} on {where}; Ctrl-C stops, and the same command goes on")
    if not is_over(run) and not (run / "exports").is_dir():
        terminal.say(console, "no exports yet: a recipe writes them where it sets export_every")
    curve: list[Point] = []

    def told(point: Point, is_new: bool) -> None:
        curve.append(point)
        terminal.say(out, report.line_of(point) + ("" if is_new else " (scored before)"))
        if is_new:
            _write(room.curve(run, declared.id, frozenset(one.fingerprint for one in point.result.metrics.values())), run)

    with redirect_stdout(sys.stderr), progress_bars(console) as progress:
        found = room.watch(run, suite, options, registry, every=every, once=once, progress=progress, told=told)
    if found:
        if lacking := _write(found, run):
            terminal.say(console, f"no page was written: {lacking}")
        report.print_curve(out, found, f"{run.name} on {declared.id}@v{declared.version}")
        terminal.say(console, f"written: {run / FOLDER / 'curve.csv'}" + ("" if lacking else ", index.html"))
    else:
        terminal.say(console, f"{run} has no export")
    if as_json:
        points = [
            {"step": one.step, "result": str(one.path), "metrics": one.result.model_dump(mode="json")["metrics"]} for one in found
        ]
        print_json({"run": str(run), "suite": declared.id, "points": points})


def _write(curve: Sequence[Point], run: Path) -> str:
    """curve.csv and index.html, each whole or not at all; returns why there is no page, if there is none."""
    from sbv2bench.atomic import write_whole
    from sbv2bench.watch import report
    from sbv2bench.watch.exports import FOLDER

    write_whole(run / FOLDER / "curve.csv", report.to_csv(curve))
    try:
        write_whole(run / FOLDER / "index.html", report.to_page(curve, run.name))
    except PrerequisiteError as error:
        return error.message
    return ""
