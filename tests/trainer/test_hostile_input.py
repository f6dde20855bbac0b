"""What a user can type or a file can hold: one to three lines, the right exit code, no traceback, nothing half written."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from reference_trainer.__main__ import app
from reference_trainer.recipe_files import read_recipe
from sbv2bench.errors import InputError


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("steps=yes", "steps: found true, expected no truth value"),
        ("steps=100000000", "steps: Input should be less than or equal to 99999999"),
        ("seed=99999999999999999999999999", "seed: Input should be less than"),
        ("batch_size=1000000000000", "batch_size: Input should be less than or equal to"),
        ("optimiser.betas=[1.5,2]", r"optimiser\.betas\.0: Input should be less than 1"),
        ("vsd.teacher_guidance_scale=[5,1]", "expected the smaller one first"),
        ("student.learning_rate=.inf", "student.learning_rate: Input should be"),
    ],
)
def test_numbers_that_cannot_be_meant_are_refused(override: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        read_recipe("mini/sbv2-a", [override])
    read_recipe("nasa/sbv2-a", ["vsd.teacher_guidance_scale=[0.5,4]", "gradient_checkpointing=true"])


@pytest.mark.parametrize("name", ["~nobody-of-this-name/r.yaml", "x" * 300 + ".yaml", "a\0b.yaml"])
def test_a_path_that_cannot_be_is_one_line(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (
        ["show", name],
        ["show", "mini/sbv2-a", f"teacher={name}"],
        ["prompts", "build", "--from", name, "--exclude", "none"],
    ):
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 2 and done.stderr.startswith("error: "), (arguments, done.stderr)
        assert len(done.stderr.splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="file names there are text")
def test_names_that_are_not_utf8_leave_no_half_of_a_list(tmp_path: Path) -> None:
    source = tmp_path / "a.txt"
    source.write_text("a red circle\n")
    bad = Path(str(tmp_path / "caf\udce9.txt"))
    bad.write_text("a blue square\n")
    output = tmp_path / "out"
    for arguments in (["--from", str(bad)], ["--from", str(source), "--licence", "caf\udce9"]):
        done = CliRunner().invoke(
            app, ["prompts", "build", *arguments, "--exclude", "none", "--output", str(output), "--name", "q"]
        )
        assert done.exit_code == 2 and not output.exists(), done.output
    done = CliRunner().invoke(app, ["prompts", "build", "--from", str(source), "--exclude", "none", "--output", str(output)])
    assert done.exit_code == 0
    again = CliRunner().invoke(
        app, ["prompts", "build", "--from", str(output), "--exclude", "none", "--output", str(tmp_path / "b")]
    )
    assert again.exit_code == 0, again.output  # its own manifest is no list
