"""`sbv2bench eval`: what was typed, the plans and results as they are printed; `score` is carried out the same way."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sbv2bench.cli.arguments import (
    DEFAULT_SUITE,
    Catalog,
    Json,
    Metrics,
    Models,
    Offload,
    Prompts,
    Reference,
    Suite,
    loaded_registry,
)  # fmt: skip
from sbv2bench.cli.latency import latency_of_group
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.shell import print_json

if TYPE_CHECKING:
    from rich.console import Console

    from sbv2bench.evaluation.options import EvalOptions
    from sbv2bench.evaluation.plan import EvalPlan
    from sbv2bench.registry import Registry
    from sbv2bench.specs import SuiteSpec


def evaluate_models(  # noqa: PLR0917  # the command line's options
    context: typer.Context,
    model: Models,
    suite: Suite = DEFAULT_SUITE,
    metrics: Metrics = None,
    limit: Annotated[int | None, typer.Option(help="Use the first N images only; the result is marked partial.")] = None,
    seed: Annotated[int, typer.Option(help="Generation seed of the first repeat.")] = 0,
    repeats: Annotated[int, typer.Option(help="Number of generation seeds: seed, seed + 1, ...")] = 1,
    images_per_prompt: Annotated[
        int | None, typer.Option(help="Images of each caption and seed, for metrics of several. Default: the suite's, mostly 1.")
    ] = None,
    prompts: Prompts = None,
    reference: Reference = None,
    resolution: Annotated[
        str | None, typer.Option(metavar="N|HxW", help="Image size in pixels. Default: the model's own.")
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps. Default: the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance scale; 1 means none. Default: the model's own.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    batch_size: Annotated[
        str, typer.Option(help="Images per compute block; auto: the suite's, largest: what a GPU has room for.")
    ] = "auto",
    offload: Offload = "none",
    results: Annotated[Path, typer.Option(help="Folder for result files.")] = Path("results"),
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Make the I-th of N parts of the images, keep it, score nothing."),
    ] = None,
    save_images: Annotated[str, typer.Option(help="Which generated images to keep: none, sample or all.")] = "none",
    catalog: Catalog = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and its cost, then stop.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the cache.")] = False,
    as_json: Json = False,
) -> None:
    """Generate a suite's images with a model, measure them and store the result."""
    from sbv2bench.evaluation.options import EvalOptions

    options = EvalOptions.validated(
        metrics=metrics, limit=limit, seed=seed, repeats=repeats, steps=steps, guidance_scale=guidance_scale, device=device,
        dtype=dtype, batch_size=batch_size, results=results, save_images=save_images, dry_run=dry_run, use_cache=not no_cache,
        catalog=catalog, prompts=prompts, reference=reference, resolution=resolution, images_per_prompt=images_per_prompt,
        offload=offload, shard=shard,
    )  # fmt: skip
    registry = loaded_registry(catalog)
    carry_out(model, suites_asked(context, suite, options, registry), options, registry, as_json,
               besides=latency_of_group(registry, suite, model))  # fmt: skip


def suites_asked(context: typer.Context, suite: str, options: EvalOptions, registry: Registry) -> tuple[str | None, ...]:
    """What is measured against, by name; with data of one's own None, a model's family's, where no suite was named."""
    if options.has_own_data():
        source = context.get_parameter_source("suite")
        return (None if source is not None and source.name == "DEFAULT" else suite,)
    return tuple(part.id for part in registry.suites_of(suite))


def carry_out(
    models: list[str],
    names: Sequence[str | None],
    options: EvalOptions,
    registry: Registry,
    as_json: bool,
    *,
    besides: str | None = None,
) -> None:
    """Plan every model on every suite, then carry the plans out, or print them. besides: the command that completes a row."""
    from sbv2bench.evaluation.own_suite import suite_of_run
    from sbv2bench.registry import BUILT_IN
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import loading

    leads = os.environ.get("RANK", "0") == "0"  # of several processes under torchrun, one speaks and writes
    console, out = terminal.stderr_console(), terminal.stdout_console(taken=as_json)
    console.quiet = out.quiet = not leads
    try:
        pairs = [(model, suite_of_run(model, name, options, registry)) for model in models for name in names]
    except SBV2BenchError:
        for name in filter(None, names if not options.has_own_data() else ()):
            terminal.say(console, terminal.suite_line(registry.suite(name), options.limit))
        raise
    built_in = {name for (kind, name), source in registry.sources.items() if (kind, source) == ("suite", BUILT_IN)}
    lines = (line for _, suite in pairs for line in terminal.suite_lines(suite, options.limit, told=suite.id not in built_in))
    for line in dict.fromkeys(lines):
        terminal.say(console, line)
    for model, suite in {model: (model, suite) for model, suite in reversed(pairs)}.values():
        terminal.say(console, terminal.model_line(registry.model(model, suite)))
    if besides:
        terminal.say(console, f"latency of the same leaderboard row is measured separately: {besides}")
    with redirect_stdout(sys.stderr):  # nothing that a library prints may get into the JSON
        with loading(console, "PyTorch and the networks' libraries"):
            from sbv2bench.evaluation.plan import plan

            if not options.dry_run:
                from sbv2bench.evaluation import evaluate as _  # noqa: F401  # what takes long is imported here
        if options.dry_run:
            more = {"besides": besides} if besides else {}
            documents = [document | more for document in _dry_run(pairs, options, registry, out)]
        else:
            with loading(console, "and checking files"):
                plans = [plan(*pair, options, registry) for pair in pairs]  # all of them before the first image
            for line in dict.fromkeys(map(_chosen, plans)):
                terminal.say(console, line)
            chosen = [terminal.metrics_line(planned.suite, planned.metrics) for planned in plans]
            for line in dict.fromkeys(chosen if options.metrics is not None else ()):
                terminal.say(console, line)
            one = _evaluate if options.shard is None else _measure_shard
            documents = [one(planned, registry, console, out) for planned in plans]
    if as_json and leads:
        print_json(documents[0] if len(documents) == 1 else {"plans" if options.dry_run else "results": documents})


def _chosen(plan: EvalPlan) -> str:
    """What a run computes with, as it was chosen."""
    from sbv2bench.machine.processes import workers_on

    workers = workers_on(plan.device)
    offloaded = f", offload {plan.options.offload}" if plan.options.offload != "none" else ""
    threads = f"{workers} thread{'s' if workers > 1 else ''}"
    return f"computed on {plan.device} in {plan.dtype}, blocks of {plan.block_size}, {threads}{offloaded}"


def _dry_run(
    pairs: list[tuple[str, SuiteSpec]], options: EvalOptions, registry: Registry, out: Console
) -> list[dict[str, object]]:
    """Print what each run would cost, fetching nothing.

    Of one that lacks files the outline is printed; then the error is raised, unless a run would fetch them from the hub itself.
    """
    from sbv2bench.data.hub import nothing_fetched
    from sbv2bench.evaluation import costs
    from sbv2bench.evaluation.plan import plan
    from sbv2bench.report import terminal

    documents: list[dict[str, object]] = []
    lacking: PrerequisiteError | None = None
    for pair in pairs:
        try:
            with nothing_fetched():
                planned = plan(*pair, options, registry)
            documents.append(planned.describe() | costs.describe(planned, registry))
        except PrerequisiteError as error:
            documents.append(costs.outline(*pair, options, registry))
            lacking = lacking or (None if documents[-1]["fetched_when_run"] else error)
        terminal.print_plan(out, documents[-1])
    if lacking is not None:
        raise lacking
    return documents


def _measure_shard(plan: EvalPlan, registry: Registry, console: Console, out: Console) -> dict[str, object]:
    """Make and keep one part of a plan's images. Returns what was done, JSON-ready."""
    from sbv2bench import paths
    from sbv2bench.evaluation.evaluate import measure_shard
    from sbv2bench.report import terminal
    from sbv2bench.report.progress import progress_bars

    assert plan.options.shard is not None
    number, count = plan.options.shard
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise InputError("--shard: found several processes of torchrun, which share the images by themselves", "one of the two")
    with progress_bars(console) as progress:
        made = measure_shard(plan, registry, progress)
    folder = paths.features_dir()
    terminal.say(out, f"part {number} of {count}: {made:,} images made and measured, kept in {folder}")
    terminal.say(console, "when all parts are done, the same command without --shard scores them; "
                          "of caches of other machines, first: sbv2bench merge-shards FOLDER ...")  # fmt: skip
    return {"model": plan.model.id, "suite": plan.suite.id, "shard": [number, count], "images": made, "cache": str(folder)}


def _evaluate(plan: EvalPlan, registry: Registry, console: Console, out: Console) -> dict[str, object]:
    """Carry out one plan, store and print its result. Returns the result, JSON-ready."""
    from sbv2bench.evaluation.evaluate import evaluate_and_store
    from sbv2bench.report.progress import progress_bars
    from sbv2bench.report.result import print_result

    with progress_bars(console) as progress:
        result, path = evaluate_and_store(plan, registry, progress)
    print_result(console, result, path, out)
    return result.model_dump(mode="json")
