"""`python -m reference_trainer`: the trainer's commands."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from sbv2bench import paths
from sbv2bench.errors import InputError, SBV2BenchError
from sbv2bench.shell import Shell, print_json

if TYPE_CHECKING:
    from reference_trainer.config import Recipe

app = typer.Typer(cls=Shell, no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

prompts_app = typer.Typer(no_args_is_help=True, help="Make lists of captions to train on.")
app.add_typer(prompts_app, name="prompts")


BudgetHours = Annotated[float | None, typer.Option(help="shorten the recipe to this many hours, by estimate")]
TflopPerSecond = Annotated[
    float | None,
    typer.Option(min=0.001, max=1e6, help="sustained TFLOP/s of one device; default: 125, 40 % of an A100's bfloat16 peak"),
]


def _path(typed: str | Path) -> Path:
    """A path with `~` expanded. Raises InputError for one that cannot be, "" among them: it would mean the current folder."""
    if not str(typed):
        raise InputError("found '' as a path, expected the name of a folder or a file")
    return paths.as_typed(typed)


def _option(words: str, *names: str) -> object:
    """An option whose value is a path, or several."""
    return typer.Option(*names, help=words, parser=_path, metavar="PATH")


@app.callback()
def main() -> None:
    """Train the models that sbv2bench measures."""


@app.command()
def ladder(
    family: Annotated[str, typer.Argument(help="mini")] = "mini",
    *,
    until: Annotated[str, typer.Option(help="last rung to train")] = "sbv2-b-seed2",
    start: Annotated[
        str | None, typer.Option(help="first rung to train; what it needs comes from the runs or the package")
    ] = None,
    runs: Annotated[Path, _option("where checkpoints, logs and exports go")] = Path("runs/mini"),
    processes: Annotated[int, typer.Option(help="data-parallel processes of one thread each; 0: one for each core", min=0)] = 0,
    stop_after: Annotated[
        float | None, typer.Option(help="stop after so many minutes; run again to resume", min=0.1, metavar="MINUTES")
    ] = None,
) -> None:
    """Train a whole family from seeds alone, rung by rung; run again to resume."""
    _say_loading()
    from reference_trainer.ladder import climb

    if not climb(family, runs, until, processes or os.cpu_count() or 1, stop_after, start=start):
        again = f"python -m reference_trainer ladder {family} --until {until} --runs {runs}" + (
            f" --start {start}" if start else ""
        )
        typer.echo(f"the time is over; resume with: {again}", err=True)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="a recipe of the package (mini/sbv2-a) or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value over the recipe")] = None,
    *,
    output: Annotated[Path | None, _option("the run's folder; default runs/<recipe>")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps")] = "auto",
    whole_export: Annotated[bool, typer.Option(help="export a whole pipeline, or the student's part alone")] = True,
    stop_after: Annotated[
        float | None, typer.Option(help="stop after so many minutes; run again to resume", min=0.01, metavar="MINUTES")
    ] = None,
    push_to_hub: Annotated[str | None, typer.Option(help="put the finished export there, as YOU/NAME", metavar="ID")] = None,
    budget_hours: BudgetHours = None,
    processes: Annotated[
        int | None, typer.Option(help="devices of the budget; default: those that torchrun starts", min=1)
    ] = None,
    tflop_per_second: TflopPerSecond = None,
    continue_with: Annotated[
        list[str] | None,
        typer.Option(help="key=value from here on: steps, a learning rate, micro_batch_size, precision, teacher_dtype"),
    ] = None,
    deterministic: Annotated[bool, typer.Option("--deterministic", help="resume to the same bits on a GPU too; slower")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="one true step, grid and checkpoint on this device: memory, speed, hours")
    ] = False,
    json_output: Annotated[bool, typer.Option("--json", help="with --dry-run: one JSON document on stdout")] = False,
) -> None:
    """Train a student from a recipe; run again to resume. On several GPUs: torchrun or accelerate launch -m reference_trainer."""
    from reference_trainer.recipe_files import read_recipe

    if budget_hours is None:
        _without_effect("without --budget-hours", processes=processes, tflop_per_second=tflop_per_second)
    read = _fitted(read_recipe(recipe, overrides or ()), budget_hours, processes, tflop_per_second)
    folder = output or Path("runs") / read.name
    if json_output and not dry_run:
        raise InputError("--json: a training has no document to print", "--dry-run --json")
    if dry_run:
        _without_effect("with --dry-run", continue_with=continue_with, deterministic=deterministic, stop_after=stop_after)
        from reference_trainer.dry_run import print_trial, try_out
        from reference_trainer.training.stopping import ended_by_signals

        with ended_by_signals("train --dry-run: stopped, nothing is left of it"):
            trial = try_out(read, folder, device=device)
        if trial is not None and json_output:
            print_json(trial)
        elif trial is not None:
            print_trial(trial, Console())
        return
    _say_loading()
    from reference_trainer.loop import Asked
    from reference_trainer.loop import train as train_recipe

    asked = Asked(
        device=device,
        whole_export=whole_export,
        stop_after_seconds=None if stop_after is None else 60 * stop_after,
        continue_with=continue_with or (),
        deterministic=deterministic,
        push_to_hub=push_to_hub,
    )
    if not train_recipe(read, folder, asked):
        typer.echo(f"the time is over; run the same command again to resume from {folder}", err=True)


@app.command()
def merge(
    a: Annotated[str, typer.Argument(help="model id or folder", metavar="A")],
    b: Annotated[str, typer.Argument(help="model id or folder", metavar="B")],
    *,
    weight: Annotated[float, typer.Option(help="w of w A + (1 - w) B: 1 is a copy of A, 0 of B")],
    output: Annotated[Path, _option("a new folder")],
    half: Annotated[bool, typer.Option("--half", help="write float16 files")] = False,
) -> None:
    """Write w A + (1 - w) B as a folder that sbv2bench and diffusers load; everything but the UNet is A's."""
    from reference_trainer.merge import merge as merge_models

    written = merge_models(a, b, weight, output, half=half)
    typer.echo(f"{output}: {written.description}; measure it with: sbv2bench eval --model {output}", err=True)


@app.command()
def sweep(
    a: Annotated[str, typer.Argument(help="model id or folder", metavar="A")],
    b: Annotated[str, typer.Argument(help="model id or folder", metavar="B")],
    *,
    weights: Annotated[str, typer.Option(help="weights of A")] = "0,0.1,0.2,0.3,0.4,0.5,0.6,0.7,0.8,0.9,1",
    suite: Annotated[str, typer.Option(help="what every weight is evaluated on")] = "mini-choosing",
    seeds: Annotated[int, typer.Option(help="generation seeds of each weight, from 0", min=1)] = 1,
    output: Annotated[Path, _option("folder of the tables and the page")] = Path("sweep"),
) -> None:
    """Evaluate w A + (1 - w) B for every weight: sweep.csv, .md, .json, .html; run again to resume."""
    from reference_trainer.sweep import parse_weights
    from reference_trainer.sweep import sweep as sweep_weights

    found = sweep_weights(a, b, parse_weights(weights), suite, output, seeds=seeds, say=lambda line: typer.echo(line, err=True))
    typer.echo(f"{output}: {len(found.results)} values of the {found.axis}", err=True)


@app.command()
def show(
    recipe: Annotated[str, typer.Argument(help="a recipe of the package or a YAML file")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value over the recipe")] = None,
    *,
    processes: Annotated[int, typer.Option(help="devices that share the batch", min=1)] = 1,
    budget_hours: BudgetHours = None,
    tflop_per_second: TflopPerSecond = None,
    json_output: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """Estimate what a recipe needs: settings, parameters, memory by component, disk, work, hours. Nothing is loaded."""
    from reference_trainer.recipe_files import read_recipe

    read = _fitted(read_recipe(recipe, overrides or ()), budget_hours, processes, tflop_per_second)
    from reference_trainer.show import A100_TFLOP_PER_SECOND, describe, print_description

    description = describe(read, processes=processes, tflop_per_second=tflop_per_second or A100_TFLOP_PER_SECOND)
    words = ["python", "-m", "reference_trainer", "train", recipe, *(overrides or ())]
    if budget_hours is not None:
        options = {"budget-hours": budget_hours, "processes": processes, "tflop-per-second": tflop_per_second}
        words += [f"--{name}={value:g}" for name, value in options.items() if value is not None]
    description["measured_by"] = shlex.join([*words, "--dry-run"])
    if json_output:
        print_json(description)
        return
    print_description(description, Console())


def _say_loading() -> None:
    """The first line of what imports for seconds; of several processes one says it."""
    if os.environ.get("RANK", "0") == "0":
        typer.echo("loading PyTorch and the networks' libraries", err=True)


def _without_effect(why: str, **options: object) -> None:
    """Raises InputError for options that were given and would do nothing."""
    if given := [f"--{name.replace('_', '-')}" for name, value in options.items() if value]:
        raise InputError(f"{given[0]} does nothing {why}", f"the same command without {' '.join(given)}")


def _fitted(recipe: Recipe, hours: float | None, processes: int | None, tflop_per_second: float | None) -> Recipe:
    """The recipe within a budget, where there is one; rank 0 says what was changed."""
    if hours is None:
        return recipe
    from reference_trainer.budget import fit_budget
    from reference_trainer.show import A100_TFLOP_PER_SECOND

    fitted, changes = fit_budget(recipe, hours, processes, tflop_per_second=tflop_per_second or A100_TFLOP_PER_SECOND)
    if os.environ.get("RANK", "0") == "0":
        typer.echo("\n".join(changes), err=True)
    return fitted


@prompts_app.callback()
def prompts() -> None:
    """Make lists of captions to train on."""


@prompts_app.command("build")
def prompts_build(
    sources: Annotated[
        list[Path], _option("txt, jsonl, csv, parquet or json file, or a folder of them; may be repeated", "--from")
    ],
    *,
    output: Annotated[Path, _option("folder of the list and its manifest")] = Path("prompts"),
    exclude: Annotated[str, typer.Option(help="suites and files whose captions are left out, or none")] = "coco2014,hpsv2",
    name: Annotated[str | None, typer.Option(help="name of the list; default: the first source's")] = None,
    column: Annotated[str | None, typer.Option(help="column of the captions; default: prompt, caption or text")] = None,
    licence: Annotated[str | None, typer.Option(help="the sources' licence, for the manifest")] = None,
    seed: Annotated[int, typer.Option(help="seed of the order", min=0)] = 0,
    limit: Annotated[int | None, typer.Option(help="maximum number of captions", min=1)] = None,
) -> None:
    """Make a list to train on: cleaned, shuffled, without repeats or evaluation captions, and with a manifest."""
    from reference_trainer.prompts.build import build_prompts
    from reference_trainer.prompts.evaluation import names_in

    made = build_prompts(
        sources, output, exclude=names_in(exclude), name=name, column=column, licence=licence, seed=seed, limit=limit,
        say=lambda line: typer.echo(line, err=True),
    )  # fmt: skip
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in made["left_out"].items() if count) or "nothing"
    typer.echo(
        f"{output / made['file']}: captions: {made['captions']:,} of {made['rows']:,} rows; left out: {left_out}", err=True
    )


@app.command()
def rehearse(
    recipe: Annotated[str, typer.Argument(help="a recipe of the package, a YAML file, or all", metavar="RECIPE|all")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value over the recipe")] = None,
    *,
    json_output: Annotated[bool, typer.Option("--json", help="one JSON document on stdout")] = False,
) -> None:
    """Rehearse a recipe from warm-up to evaluation on small copies of its base, on a laptop: one line per leg.

    It trains, draws, measures, is killed, resumes, exports, merges and evaluates by the code of those commands. Exit 1 names
    the leg that failed.
    """
    from reference_trainer.recipe_files import read_recipe

    if recipe != "all":
        read_recipe(recipe, overrides or ())  # a wrong name costs no library's import
    from reference_trainer.rehearse.run import carry_out
    from reference_trainer.training.stopping import ended_by_signals

    with ended_by_signals("rehearse: stopped, and nothing of it is needed"):
        document, failure = carry_out(recipe, overrides or (), lambda line: typer.echo(line, err=json_output))
    if json_output:
        print_json(document)
    if failure:
        raise SBV2BenchError(failure)


@app.command()
def ship(
    runs: Annotated[Path, _option("finished runs of the ladder")] = Path("runs/mini"),
    output: Annotated[Path, _option("the package's weights folder")] = Path("sbv2bench/mini/weights"),
) -> None:
    """Copy finished rungs into the package as float16 safetensors, with hashes, figures, training times and logs."""
    from reference_trainer.shipping import ship_family

    typer.echo(f"{output}: wrote {', '.join(ship_family(runs, output)) or 'nothing'}", err=True)


if __name__ == "__main__":
    app(prog_name="python -m reference_trainer")
