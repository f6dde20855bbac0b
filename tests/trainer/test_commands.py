"""The trainer's command line: bad input is three lines at most and exit code 2, before anything heavy is imported."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """What a command says of its error; before it, a library may have warned of something as it was imported."""
    return done.stderr[done.stderr.find("error: ") :].strip()


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "reference_trainer", *arguments], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("train", "mini/swiftbrsh"), "did you mean 'mini/swiftbrush'"),
        (
            ("train", "mini/swiftbrush", "student.learning_rat=1"),
            "unknown key 'student.learning_rat', did you mean 'learning_rate'",
        ),
        (("train", "mini/swiftbrush", "batch_size"), "expected key=value"),
        (("train", "mini/swiftbrush", "batch_size=0"), "batch_size: Input should be greater than or equal to 1"),
        (("train", "mini/swiftbrush", "vsd=null"), "vsd and lora_teacher: both or neither"),
        (("train", "mini/sbv2-b", "tiny_decoder=''"), "tiny_decoder: clip decodes with it, found none"),
        (("show", "paper/nothing-like-it"), "neither a YAML file nor a recipe of the package"),
        pytest.param(
            ("ladder", "mini", "--until", "sd12"), "--until: found 'sd12', expected one of extractor", marks=pytest.mark.ci
        ),
    ],
)
def test_bad_input_is_short_and_exits_2(arguments: tuple[str, ...], said: str) -> None:
    done = call(*arguments)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert len(complaint(done).splitlines()) <= 3 and "Traceback" not in done.stderr


@pytest.mark.ci
def test_a_recipe_file_and_what_is_wrong_with_it(tmp_path: Path) -> None:
    good = tmp_path / "mine.yaml"
    good.write_text("extends: mini/swiftbrush\nname: local/mine\nsteps: 7\n")
    shown = call("show", str(good), "--json")
    assert shown.returncode == 0, shown.stderr
    assert '"steps": 7' in shown.stdout
    for text, said in (
        ("extends: mini/swiftbrush\nvsd: {wieght: dmd}\n", "mine.yaml: unknown key 'vsd.wieght', did you mean 'weight'"),
        ("- a list\n", "mine.yaml: found list, expected keys and values"),
        ("steps: [\n", "mine.yaml: not YAML"),
        ("name: local/x\n", "is missing"),
    ):
        good.write_text(text)
        done = call("train", str(good))
        assert done.returncode == 2 and said in done.stderr, done.stderr
