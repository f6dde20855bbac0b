"""`sbv2bench verify`: what this machine makes of a model of the catalog, beside what others sent in."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Json, completing
from sbv2bench.shell import print_json


def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A model of the catalog.", autocompletion=completing("model"))],
    *,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    output: Annotated[Path, typer.Option(help="Folder for the file to send in, and the picture.")] = Path("verifications"),
    as_json: Json = False,
) -> None:
    """Sample a model that is on this machine, and set its first scores and pixels beside what others sent in."""
    from sbv2bench.registry import Registry
    from sbv2bench.report import terminal
    from sbv2bench.report.layout import print_table
    from sbv2bench.report.progress import progress_bars
    from sbv2bench.results import verifications

    registry, console = Registry.built_in(), terminal.stderr_console()
    out = terminal.stdout_console(taken=as_json)
    with redirect_stdout(sys.stderr):  # nothing that a library prints may get into the JSON
        from sbv2bench.verify import comparison
        from sbv2bench.verify.verify import subject
        from sbv2bench.verify.verify import verify as verified_by

        spec, suite = subject(model, registry)
        terminal.say(console, terminal.suite_line(suite))
        terminal.say(console, terminal.model_line(spec))
        with progress_bars(console) as progress:
            done = verified_by(spec.id, registry, output, device=device, dtype=dtype, progress=progress)
    sent = verifications.of_model(spec)
    lines = comparison.lines(done.record, spec, sent)
    print_table(out, comparison.COLUMNS, lines)
    for place, image in enumerate(done.record.pixels):
        terminal.say(out, comparison.pixel_words(place, image, sent))
    terminal.say(console, f"picture: {done.picture}")
    terminal.say(console, f"written: {done.path}")
    terminal.say(console, f"to send it in: sbv2bench leaderboard --add {done.path}, and a pull request with what that changes")
    if as_json:
        before = {line.key: list(line.before) for line in lines}
        files = {"file": str(done.path), "picture": str(done.picture)}
        print_json({**files, "verification": done.record.model_dump(mode="json"), "sent_in_before": before})
