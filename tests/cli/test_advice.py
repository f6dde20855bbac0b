"""The line `fix:` of every error: each names commands and options that exist, and what it says to type gets further."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from commands_in_process import Done
from PIL import Image
from sample_results import write_safetensors

from reference_trainer.__main__ import app as trainer
from sbv2bench.cli import app

ROOT = Path(__file__).parents[2]
ERRORS = {"InputError", "PrerequisiteError", "IntegrityError", "ToleranceError", "InterruptedRun", "TerminatedRun", "Check"}
PROGRAMS = {"sbv2bench": typer.main.get_command(app), "python -m reference_trainer": typer.main.get_command(trainer)}
# Advice of one option alone is about the command that was typed: which commands can show it, by the file that says it.
BARE = {
    "sbv2bench/cli/compare.py": ["compare"],
    "sbv2bench/boards/gallery.py": ["compare"],
    "sbv2bench/cli/export.py": ["export"],
    "sbv2bench/results/hub_eval.py": ["export"],
    "sbv2bench/report/picture.py": ["grid"],
    "sbv2bench/evaluation/grid.py": ["grid"],
    "sbv2bench/data/prompts.py": ["eval"],
    "sbv2bench/machine/checks.py": ["eval", "score", "latency"],
    "sbv2bench/machine/devices.py": ["eval", "score", "latency", "grid"],
    "sbv2bench/evaluation/block_size.py": ["eval"],
    "sbv2bench/machine/memory.py": ["eval", "grid", "latency"],
    "sbv2bench/samplers/__init__.py": ["eval", "grid", "latency"],
    "sbv2bench/samplers/pipeline_call.py": ["eval"],
    "sbv2bench/samplers/rehearsal.py": ["eval"],
    "sbv2bench/evaluation/plan.py": ["eval"],
    "sbv2bench/evaluation/sampled_model.py": ["eval"],
    "sbv2bench/evaluation/export.py": ["export"],
    "sbv2bench/evaluation/imported_scores.py": ["import-scores"],
    "sbv2bench/metrics/diversity.py": ["eval"],
    "sbv2bench/latency/plan.py": ["latency"],
    "sbv2bench/latency/compilation.py": ["latency"],
    "sbv2bench/latency/measure.py": ["latency"],
    "sbv2bench/samplers/base.py": ["eval", "grid", "latency"],
    "sbv2bench/compare/compare.py": ["compare"],
    "sbv2bench/reproduce/use.py": ["reproduce"],
    "sbv2bench/evaluation/evaluate.py": ["eval"],
    "sbv2bench/evaluation/saved_images.py": ["eval"],
    "sbv2bench/evaluation/disk.py": ["eval"],
    "sbv2bench/data/asset_store.py": ["download"],
    "sbv2bench/evaluation/own_suite.py": ["eval", "score"],
    "sbv2bench/evaluation/choice.py": ["eval"],
    "sbv2bench/samplers/components.py": ["eval"],
    "sbv2bench/samplers/pipeline.py": ["eval"],
    "sbv2bench/samplers/timesteps.py": ["eval"],
    "reference_trainer/budget.py": ["train"],
    "reference_trainer/hub.py": ["train"],
    "reference_trainer/run_folder.py": ["train"],
    "reference_trainer/__main__.py": ["train"],
    "reference_trainer/continuation.py": ["train"],
    "reference_trainer/devices.py": ["train"],
    "reference_trainer/loop.py": ["train"],
    "reference_trainer/step.py": ["train"],
    "reference_trainer/sweep.py": ["sweep"],
    "reference_trainer/merge.py": ["merge"],
    "reference_trainer/prompts/build.py": ["prompts build"],
    "reference_trainer/prompts/columns.py": ["prompts build"],
    "reference_trainer/prompts/evaluation.py": ["prompts build"],
    "reference_trainer/prompts/public_lists.py": ["prompts build"],
    "sbv2bench/compare/differences.py": ["eval", "score"],
    "sbv2bench/cli/grid.py": ["grid"],
    "sbv2bench/machine/choices.py": ["eval", "latency"],
    "sbv2bench/data/images.py": ["score"],
    "sbv2bench/compare/frontier.py": ["compare"],
    "sbv2bench/sweep/sweep.py": ["sweep"],
    "sbv2bench/cli/sweep.py": ["sweep"],
}
# What belongs to other programs, or to torchrun and accelerate.
FOREIGN = {"--force-reinstall", "--no-deps", "--upgrade", "--revision", "--repo-type", "--nproc_per_node", "--mixed_precision"}


def texts(node: ast.expr) -> Iterator[str]:
    """Every text that an expression can be, with X for what is only known when it runs."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif isinstance(node, ast.JoinedStr):
        yield "".join(part.value if isinstance(part, ast.Constant) else "X" for part in node.values)
    elif isinstance(node, ast.IfExp):
        yield from texts(node.body)
        yield from texts(node.orelse)
    elif isinstance(node, ast.BinOp):
        yield from (left + right for left in texts(node.left) for right in (*texts(node.right),) or ("X",))
    elif isinstance(node, ast.BoolOp):
        for value in node.values:
            yield from texts(value)


def advice() -> Iterator[tuple[str, str]]:
    """(file, text) of every fix that is written in the packages: arguments of errors, and variables named for them."""
    for package in ("sbv2bench", "reference_trainer"):
        for path in sorted((ROOT / package).rglob("*.py")):
            name = path.relative_to(ROOT).as_posix()
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                found: list[ast.expr] = []
                if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                    place = 3 if node.func.id == "Check" else 1  # type: ignore[attr-defined]
                    found = [*node.args[place : place + 1], *(word.value for word in node.keywords if word.arg == "fix")]
                elif isinstance(node, ast.Assign) and any(
                    getattr(target, "id", "") in {"fix", "again"} for target in node.targets
                ):
                    found = [node.value]
                yield from ((name, text) for expression in found for text in texts(expression))


def command_of(program: str, words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and the words after it."""
    command: Any = PROGRAMS[program]
    while hasattr(command, "commands"):
        assert words and words[0] in command.commands, f"{program}: no command {words[:1]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


def options_of(command: Any) -> set[str]:
    return {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


ADVICE = sorted(set(advice()))


def test_there_is_advice_to_look_at() -> None:
    assert len(ADVICE) > 120


@pytest.mark.parametrize(("file", "text"), ADVICE, ids=lambda value: str(value)[:60])
def test_commands_and_options_that_are_named_exist(file: str, text: str) -> None:
    rest = text
    for program in PROGRAMS:
        for found in re.findall(rf"{program} ((?!writes)[a-z][^;&,()]*)", text):
            words = [word.strip("'\"") for word in found.split()]
            if words[0] in {"itself", "X"}:
                continue
            command, after = command_of(program, words)
            unknown = {word.partition("=")[0] for word in after if word.startswith("--")} - options_of(command)
            assert not unknown, f"{file}: {text}: {program} {words[0]} has no {unknown}"
            rest = rest.replace(found, "")
    bare = {word.partition("=")[0].strip("',;") for word in rest.split() if re.match(r"--[a-z]", word)} - FOREIGN
    if bare:
        assert file in BARE, f"{file}: {text}: say in BARE which commands can show it"
        program = "python -m reference_trainer" if file.startswith("reference_trainer") else "sbv2bench"
        for name in BARE[file]:
            command, _ = command_of(program, name.split())
            assert bare <= options_of(command), f"{file}: {text}: {name} has no {bare - options_of(command)}"


def advised(done: Done, words: list[str]) -> list[str]:
    """What to type after an error: the command that its fix names, or the same command with the option that it names."""
    fix = next(line.removeprefix("fix: ") for line in done.err.splitlines() if line.startswith("fix: "))
    first = fix.split(" && ")[0]
    switches = [word for word in shlex.split(first) if re.fullmatch(r"[A-Z0-9_]+=\S*", word)]
    typed = shlex.split(first)[len(switches) :]
    if typed[0] == "sbv2bench":
        return typed[1:]
    assert typed[0].startswith("--"), fix
    if typed[0] in words:
        place = words.index(typed[0])
        return [*words[:place], *typed, *words[place + 2 :]]
    return [*words, *typed]


def pictures(folder: Path, count: int, side: int = 32) -> None:
    folder.mkdir()
    for number in range(count):
        Image.new("RGB", (side, side), (10 * number, 0, 0)).save(folder / f"{number:02d}.png")


CASES = [
    "score --images images",
    "grid images --captions 50",
    "eval --model sd21 --device gpu --dry-run",
    pytest.param("eval --model sd21 --dtype fp16 --dry-run", marks=pytest.mark.ci),
    "eval --model sd21 --dtype fp16",
    "eval --model sd21 --save-images sampel",
    "eval --model sd21 --batch-size 0",
    "eval --model sd21 --metrics attributs",
    "eval --model sd21 --metrics ,",
    "eval --model sd21 --limit 4000",
    "eval --model sd21 --limit 3",
    "eval --model sd21 --results a-file/results",
    "eval --model sd21 --suite minni",
    "eval --model full/sd21",
    "eval --model sd21 --suite hpsv2",
    "eval --model full/sb-a --suite hpsv2",
    "eval --model somebody/some-model",
    "eval --model sd21 --nonsense",
    "score --images images --prompts captions.txt --metrics attributes",
    "compare images images",
    "compare sd21 sbv2-merged",
    "compare sd21",
    "compare --format markdwn sd21 sbv2-merged",
    "compare results-of-none sd21",
    "grid sd21 --captions a",
    "list modles",
    "show sd22",
    "show coco2014-30",
    "download sd22",
    "download mini/sd21 --from captions.txt",
    "latency --model sd21 --protocol papr",
    "latency --model sd21 --protocol paper --batch-size 2",
    "latency --model images",
    "leaderboard missing.json",
    "leaderboard --add missing.json",
    "leaderboard --add --check missing.json",
    "reproduce tabel3",
    "reproduce table3",
    "reproduce table3 --results nowhere",
]


@pytest.mark.parametrize("typed", CASES)
@pytest.mark.usefixtures("shipped", "evaluated")
def test_what_is_advised_gets_further(run: Callable[..., Done], typed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It succeeds, or what it is refused for is another thing; offline what a network would bring is the end of the road."""
    pictures(Path("images"), 12)
    Path("results-of-none").mkdir()
    Path("a-file").write_text("")
    Path("captions.txt").write_text("".join(f"caption {number}\n" for number in range(12)))
    words = typed.split()
    first = run(*words)
    assert first.code in {2, 3, 4}, first.err
    if "fix: " not in first.err:
        pytest.fail(f"{typed}: no advice: {first.error()}")
    again = advised(first, words)
    second = run(*again)
    assert second.code in {0, 2, 3, 4}, second.err
    if second.code == 2:
        assert "No such option" not in second.err and "Missing" not in second.err and "unknown" not in second.err, (
            again,
            second.err,
        )
    if second.code:
        beyond = second.code == 3 and again[0] == "download"  # a download, which has no network here
        assert second.error().splitlines()[0] != first.error().splitlines()[0] or beyond, (again, second.error())


@pytest.mark.usefixtures("evaluated")
def test_a_file_of_a_model_advises_a_catalog(run: Callable[..., Done]) -> None:
    write_safetensors(Path("unet.safetensors"))
    assert "declare it in a catalog" in run("eval", "--model", "unet.safetensors").err
