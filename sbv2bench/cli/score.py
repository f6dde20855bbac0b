"""`sbv2bench score`: images that somebody else made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sbv2bench.cli.arguments import DEFAULT_SUITE, Catalog, Json, Metrics, Prompts, Reference, Suite, loaded_registry
from sbv2bench.cli.eval import carry_out, suites_asked


def score(  # noqa: PLR0917  # the command line's options
    context: typer.Context,
    images: Annotated[Path, typer.Option(help="Folder of images; in natural order, image i belongs to caption i.")],
    suite: Suite = DEFAULT_SUITE,
    prompts: Prompts = None,
    reference: Reference = None,
    metrics: Metrics = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder for result files.")] = Path("results"),
    catalog: Catalog = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, then stop.")] = False,
    as_json: Json = False,
) -> None:
    """Score existing images against a suite, or against your own captions and photographs."""
    from sbv2bench.evaluation.options import EvalOptions

    options = EvalOptions.validated(
        metrics=metrics, device=device, results=results, dry_run=dry_run, catalog=catalog, prompts=prompts, reference=reference
    )
    registry = loaded_registry(catalog)
    carry_out([_image_folder(images)], suites_asked(context, suite, options, registry), options, registry, as_json)


def _image_folder(images: Path) -> str:
    """A folder by a name that no id of a model has. Raises InputError where it is none."""
    from sbv2bench.data.images import ImageFolder

    folder = ImageFolder(images.expanduser()).path
    return str(folder) if folder.is_absolute() else f"./{folder}"
