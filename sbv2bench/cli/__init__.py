"""The command line: reads what was typed, calls the rooms that do it, prints. No logic, and nothing heavy at import."""

from __future__ import annotations

import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from sbv2bench import __version__
from sbv2bench.cli.arguments import DEFAULT_SUITE, SUITE_VARIABLE, Catalog, Json, Models, Prompts, Reference, Suite, completing
from sbv2bench.cli.cache import cache_app
from sbv2bench.cli.compare import compare
from sbv2bench.cli.latency import latency, latency_of_group
from sbv2bench.cli.leaderboard import leaderboard
from sbv2bench.cli.reproduce import reproduce
from sbv2bench.errors import InputError, PrerequisiteError, SBV2BenchError
from sbv2bench.shell import Shell, print_json

LISTED = ("models", "suites", "metrics", "plugins")


app = typer.Typer(
    cls=Shell,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="One-step and few-step text-to-image models: generated from, scored and compared.",
)
app.add_typer(cache_app, name="cache")
app.command()(compare)
app.command()(latency)
app.command()(leaderboard)
app.command()(reproduce)


def main() -> None:
    """The console script."""
    app(prog_name="sbv2bench")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"sbv2bench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", help="The version.", callback=_print_version, is_eager=True)] = False,
) -> None:
    """One-step and few-step text-to-image models: generated from, scored and compared."""


@app.command("eval")
def evaluate_models(  # noqa: PLR0917  # the options of design.md
    context: typer.Context,
    model: Models,
    suite: Suite = DEFAULT_SUITE,
    metrics: Annotated[
        str | None, typer.Option(help="Flags with commas (fid,pr,clip), or all that can be had; else the suite's.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="The first N images only; the result is marked partial.")] = None,
    seed: Annotated[int, typer.Option(help="Generation seed of the first repeat.")] = 0,
    repeats: Annotated[int, typer.Option(help="Generation seeds: seed, seed + 1, ...")] = 1,
    prompts: Prompts = None,
    reference: Reference = None,
    resolution: Annotated[str | None, typer.Option(metavar="N|HxW", help="Pixels, instead of the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, instead of the model's own.")] = None,
    guidance_scale: Annotated[float | None, typer.Option(help="Guidance, instead of the model's own; 1 is none.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    batch_size: Annotated[str, typer.Option(help="Images in a compute block, or auto: the suite's own.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder of the result files.")] = Path("results"),
    save_images: Annotated[str, typer.Option(help="none, sample or all: which generated images are kept.")] = "none",
    catalog: Catalog = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop before the first image.")] = False,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Neither read nor write the cache.")] = False,
    as_json: Json = False,
) -> None:
    """Generate a suite's images with a model, measure them, and store the result."""
    from sbv2bench.evaluation.options import EvalOptions

    options = EvalOptions.validated(
        metrics=metrics, limit=limit, seed=seed, repeats=repeats, steps=steps, guidance_scale=guidance_scale, device=device,
        dtype=dtype, batch_size=batch_size, results=results, save_images=save_images, dry_run=dry_run, use_cache=not no_cache,
        catalog=catalog, prompts=prompts, reference=reference, resolution=resolution,
    )  # fmt: skip
    registry = _registry(catalog)
    _carry_out(model, _suites(context, suite, options, registry), options, registry, as_json,
               besides=latency_of_group(registry, suite, model))  # fmt: skip


@app.command()
def score(  # noqa: PLR0917  # the options of design.md
    context: typer.Context,
    images: Annotated[Path, typer.Option(help="A folder of images; in natural order the i-th belongs to the i-th caption.")],
    suite: Suite = DEFAULT_SUITE,
    prompts: Prompts = None,
    reference: Reference = None,
    metrics: Annotated[
        str | None, typer.Option(help="Flags with commas (fid,pr,clip), or all that can be had; else the suite's.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    results: Annotated[Path, typer.Option(help="Folder of the result files.")] = Path("results"),
    catalog: Catalog = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the plan and stop before the first image.")] = False,
    as_json: Json = False,
) -> None:
    """Score images that somebody else made, against a suite or against captions and photographs of your own."""
    from sbv2bench.evaluation.options import EvalOptions

    options = EvalOptions.validated(
        metrics=metrics, device=device, results=results, dry_run=dry_run, catalog=catalog, prompts=prompts, reference=reference
    )
    registry = _registry(catalog)
    _carry_out([_image_folder(images)], _suites(context, suite, options, registry), options, registry, as_json)


def _image_folder(images: Path) -> str:
    """A folder by a name that no id of a model has. Raises InputError where it is none."""
    from sbv2bench.data.images import ImageFolder

    folder = ImageFolder(images.expanduser()).path
    return str(folder) if folder.is_absolute() else f"./{folder}"


def _suites(context: typer.Context, suite: str, options: Any, registry: Any) -> tuple[str | None, ...]:
    """What is measured against, by name; with data of one's own None, a model's family's, where no suite was named."""
    if options.has_own_data():
        source = context.get_parameter_source("suite")
        return (None if source is not None and source.name == "DEFAULT" else suite,)
    return tuple(part.id for part in registry.suites_of(suite))


def _carry_out(models: list[str], names: Any, options: Any, registry: Any, as_json: bool, *, besides: str | None = None) -> None:
    """Plan every model on every suite, then carry the plans out, or print them. besides: the command that completes a row."""
    from sbv2bench.evaluation.own_suite import suite_of_run
    from sbv2bench.registry import BUILT_IN
    from sbv2bench.report import terminal

    leads = os.environ.get("RANK", "0") == "0"  # of several processes under torchrun, one speaks and writes
    console = terminal.stderr_console()
    console.quiet = not leads
    try:
        pairs = [(model, suite_of_run(model, name, options, registry)) for model in models for name in names]
    except SBV2BenchError:
        for name in names if not options.has_own_data() else ():
            terminal.say(console, terminal.suite_line(registry.suite(name), options.limit))
        raise
    built_in = {name for (kind, name), source in registry.sources.items() if (kind, source) == ("suite", BUILT_IN)}
    lines = (line for _, suite in pairs for line in terminal.suite_lines(suite, options.limit, told=suite.id not in built_in))
    for line in dict.fromkeys(lines):
        terminal.say(console, line)
    for model, suite in {model: (model, suite) for model, suite in reversed(pairs)}.values():
        terminal.say(console, terminal.model_line(registry.model(model, suite)))
    if besides:
        terminal.say(console, f"latency of the same leaderboard row is measured apart: {besides}")
    with redirect_stdout(sys.stderr):  # nothing that a library prints may get into the JSON
        from sbv2bench.evaluation.plan import plan

        if options.dry_run:
            more = {"besides": besides} if besides else {}
            documents = [document | more for document in _dry_run(pairs, options, registry, console)]
        else:
            plans = [plan(*pair, options, registry) for pair in pairs]  # all of them before the first image
            chosen = [terminal.metrics_line(planned.suite, planned.metrics) for planned in plans]
            for line in dict.fromkeys(chosen if options.metrics is not None else ()):
                terminal.say(console, line)
            documents = [_evaluate(planned, registry, console) for planned in plans]
    if as_json and leads:
        print_json(documents[0] if len(documents) == 1 else {"plans" if options.dry_run else "results": documents})


@app.command()
def download(
    name: Annotated[
        list[str], typer.Argument(metavar="SUITE|ID|ASSET...", help="Suites, groups, models, extractors, assets or hub:ID.")
    ],
    source: Annotated[Path | None, typer.Option("--from", help="A file that you have already; taken if it hashes right.")] = None,
    dtype: Annotated[str, typer.Option(help="What models will run in: its variant of their weights is fetched.")] = "auto",
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """Fetch what a suite or a model needs, verified by hash; an interrupted download goes on from where it broke off."""
    from sbv2bench.evaluation import download as downloads
    from sbv2bench.evaluation.options import EvalOptions
    from sbv2bench.report import terminal

    dtype = EvalOptions.validated(dtype=dtype).dtype
    console, registry = terminal.stderr_console(), _registry(catalog)
    with redirect_stdout(sys.stderr), terminal.progress_bars(console) as progress:
        if source is not None and len(name) > 1:
            raise InputError(f"--from: found {len(name)} names, expected one", f"sbv2bench download {name[0]} --from {source}")

        def told(what: str, done: int, total: int) -> None:
            progress(f"{what} (bytes)", done, total)

        found = {place: path for one in name for place, path in downloads.bring(registry, one, source, told, dtype).items()}
    for location, path in found.items():
        terminal.say(console, f"{location}: {path}")
    if as_json:
        print_json({location: str(path) for location, path in found.items()})


def _dry_run(pairs: list[tuple[str, Any]], options: Any, registry: Any, console: Any) -> list[dict[str, Any]]:
    """Print what each run would cost, fetching nothing.

    Of one that lacks files the outline is printed; then the error is raised, unless a run would fetch them from the hub itself.
    """
    from sbv2bench.data.hub import nothing_fetched
    from sbv2bench.evaluation import costs
    from sbv2bench.evaluation.plan import plan
    from sbv2bench.report import terminal

    documents: list[dict[str, Any]] = []
    lacking: PrerequisiteError | None = None
    for pair in pairs:
        try:
            with nothing_fetched():
                planned = plan(*pair, options, registry)
            documents.append(planned.describe() | costs.describe(planned, registry))
        except PrerequisiteError as error:
            documents.append(costs.outline(*pair, options, registry))
            lacking = lacking or (None if documents[-1]["fetched_when_run"] else error)
        terminal.print_plan(console, documents[-1])
    if lacking is not None:
        raise lacking
    return documents


def _evaluate(plan: Any, registry: Any, console: Any) -> dict[str, Any]:
    """Carry out one plan, store and print its result. Returns the result, JSON-ready."""
    from sbv2bench.evaluation.evaluate import evaluate_and_store
    from sbv2bench.report import terminal

    with terminal.progress_bars(console) as progress:
        result, path = evaluate_and_store(plan, registry, progress)
    terminal.print_result(console, result, path)
    return result.model_dump(mode="json")


def _registry(catalog: Path | None = None) -> Any:
    """Everything that has a name, with a word about plugins that did not load."""
    from sbv2bench.registry import Registry

    registry = Registry.load(catalog)
    for plugin in registry.plugins:
        if plugin.error:
            print(f"warning: plugin {plugin.name} did not load: {plugin.error}", file=sys.stderr)
    return registry


def _complete_listed(incomplete: str) -> list[str]:
    return [word for word in LISTED if word.startswith(incomplete)]


@app.command()
def grid(
    models: Annotated[list[str], typer.Argument(metavar="MODEL...", help="Ids, folders or hub ids: a row each.")],
    *,
    suite: Suite = DEFAULT_SUITE,
    captions: Annotated[str, typer.Option(help="Numbers of the suite's captions, with commas: a column each.")] = "0,1,2,3,4,5",
    seeds: Annotated[str, typer.Option(help="Generation seeds, with commas: each caption is shown with every one.")] = "0",
    output: Annotated[Path, typer.Option(help="The PNG file.")] = Path("grid.png"),
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto, float32, float16 or bfloat16.")] = "auto",
    catalog: Catalog = None,
) -> None:
    """A labelled picture of several models' images for the same captions and noise."""
    from sbv2bench.evaluation.grid import sample_grid
    from sbv2bench.report import picture, terminal

    numbers, noise = _whole_numbers("--captions", captions), _whole_numbers("--seeds", seeds)
    with redirect_stdout(sys.stderr):
        sampled = sample_grid(models, suite, numbers, noise, _registry(catalog), device=device, dtype=dtype)
    picture.write_grid(sampled, output)
    terminal.say(terminal.stderr_console(), f"written: {output}")


def _whole_numbers(option: str, text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option}: found {text!r}, expected whole numbers with commas between", f"{option} 0,1,2") from error


@app.command("list")
def list_things(
    what: Annotated[str, typer.Argument(help=", ".join(LISTED), autocompletion=_complete_listed)],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """What can be named: models, suites, metrics or plugins."""
    from sbv2bench.registry import suggestion
    from sbv2bench.report import terminal

    if what not in LISTED:
        close = suggestion(what, LISTED)
        raise InputError(f"list: found {what!r}, expected {', '.join(LISTED)}", f"sbv2bench list {close}" if close else None)
    rows = _registry(catalog).rows(what)
    if as_json:
        print_json(rows)
        return
    headings = list(rows[0]) if rows else ["id"]
    table = [["yes" if cell is True else "no" if cell is False else str(cell or "") for cell in row.values()] for row in rows]
    terminal.print_table(terminal.stdout_console(), headings, table)


@app.command()
def show(
    name: Annotated[str, typer.Argument(metavar="ID", help="A model, suite or metric.", autocompletion=completing("model"))],
    catalog: Catalog = None,
    as_json: Json = False,
) -> None:
    """The whole declaration of a model, a suite or a metric, on stdout."""
    found = _registry(catalog).show(name)
    if as_json:
        print_json(found)
    else:
        import yaml

        sys.stdout.write(yaml.safe_dump(found, sort_keys=False, allow_unicode=True, width=120))


@app.command()
def doctor(as_json: Json = False) -> None:
    """What this machine has, what it lacks, and the command that fixes it."""
    from sbv2bench.machine import doctor as checks
    from sbv2bench.report import terminal

    suite = os.environ.get(SUITE_VARIABLE) or DEFAULT_SUITE
    registry = _registry()
    registry.suite(suite)
    found = checks.diagnose(registry, suite)
    good = checks.runnable(found, suite)
    if as_json:
        print_json({"ok": good, "default_suite": suite, "checks": [vars(check) for check in found]})
    else:
        rows = [[check.name, check.status, check.found, check.fix or ""] for check in found]
        terminal.print_table(terminal.stderr_console(), ["check", "status", "found", "fix"], rows)
    if not good:
        first = next(check for check in found if check.status in ("missing", "broken") and check.fix)
        raise PrerequisiteError(f"suite {suite} cannot run here: {first.name}: {first.found}", first.fix)
