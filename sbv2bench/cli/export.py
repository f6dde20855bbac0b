"""`sbv2bench export` and `import-scores`: images out with a manifest, another tool's scores in."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import Catalog, Json, loaded_registry
from sbv2bench.errors import InputError
from sbv2bench.shell import print_json


def export(  # noqa: PLR0917  # the command line's options
    result: Annotated[Path, typer.Argument(metavar="RESULT", help="A result file of `sbv2bench eval`.")],
    to: Annotated[Path, typer.Option("--to", help="New folder for the images; of hf_eval, the model's repository.")],
    form: Annotated[str, typer.Option("--format", help="images, or hf_eval: the hub's .eval_results/*.yaml.")] = "images",
    dataset: Annotated[str, typer.Option(help="hf_eval: NAMESPACE/NAME of the benchmark's dataset on the hub.")] = "",
    source: Annotated[str | None, typer.Option(help="hf_eval: https address of the result file.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    catalog: Catalog = None,
) -> None:
    """Write a result's images as PNG files with a manifest, for tools that score them; or its numbers as the hub shows them."""
    if form not in {"images", "hf_eval"}:
        raise InputError(f"export --format: found {form!r}, expected images or hf_eval", "--format hf_eval")
    if form == "hf_eval":
        from sbv2bench.results import hub_eval, store

        print(hub_eval.write(store.load(result.expanduser()), to.expanduser(), dataset, source))
        return
    from sbv2bench.evaluation.export import export_images
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import progress_bars

    console = terminal.stderr_console()
    with redirect_stdout(sys.stderr), progress_bars(console) as progress:
        count = export_images(result.expanduser(), to.expanduser(), loaded_registry(catalog), device=device, progress=progress)
    print(f"{count} images and manifest.jsonl in {to}")
    terminal.say(console, "next: sbv2bench import-scores SCORES.csv --manifest "
                 f"{to}/manifest.jsonl --metric NAME --tool NAME --tool-version V")  # fmt: skip


def import_scores(  # noqa: PLR0917  # the command line's options
    scores: Annotated[Path, typer.Argument(metavar="FILE", help="CSV or JSONL with id and value of every image.")],
    manifest: Annotated[Path, typer.Option(help="manifest.jsonl of the images that were scored, beside them.")],
    metric: Annotated[str, typer.Option(help="Id of a metric that reads scores: one of `list metrics`, or your catalog's.")],
    tool: Annotated[str, typer.Option(help="What scored the images.")],
    tool_version: Annotated[str, typer.Option(help="Its version.")],
    results: Annotated[Path, typer.Option(help="Folder with the result that the images belong to.")] = Path("results"),
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Add another tool's scores of exported images to their result, as a metric."""
    from sbv2bench.evaluation import imported_scores
    from sbv2bench.report import terminal
    from sbv2bench.report.result import print_result

    result, path = imported_scores.import_scores(
        scores.expanduser(), manifest.expanduser(), metric, tool=tool, tool_version=tool_version,
        results=results.expanduser(), registry=loaded_registry(catalog),
    )  # fmt: skip
    print_result(terminal.stderr_console(), result, path, terminal.stdout_console(taken=as_json))
    if as_json:
        print_json(result.model_dump(mode="json"))
