"""What a user can type or a file can hold: one to three lines, the right exit code, no traceback, nothing half written."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file
from tiny_recipe import PAIRED, make_trainer
from typer.testing import CliRunner

from reference_trainer.__main__ import app
from reference_trainer.needed_weights import require_weights
from reference_trainer.recipe_files import read_recipe
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry


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
        ("student.learning_rate=1e-320", "student.learning_rate: Input should be greater than"),
        ("optimiser.gradient_clip=1e300", "optimiser.gradient_clip: Input should be less than"),
        ("vsd.teacher_guidance_scale=-1e300", "vsd.teacher_guidance_scale: Input should be greater than or equal to 0"),
        ("vsd.lora_teacher_guidance_scale=1e300", "vsd.lora_teacher_guidance_scale: Input should be less than"),
        ("name=/abs", "yaml: name: found '/abs', expected words and single slashes"),
        ("name=../..", r"name: found '\.\./\.\.'"),
        ("name=a//b", "name: found 'a//b'"),
        ("name=" + "x" * 300, "name: found 'xxx"),
        ("lora_teacher.lora.rank=99999999999", "lora_teacher.lora.rank: Input should be less than"),
        ("lora_teacher.warmup_steps=999999999999999999999", "lora_teacher.warmup_steps: Input should be less than"),
        ("prompts=[{source: 'world:training', limit: 10000000000000000000000}]", "prompts.0.limit: Input should be less than"),
        ("name=''", "name: found ''"),
        ("prompts=[{source: a.txt, source: b.txt}]", "not YAML .'source' is written twice"),
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


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "mini/sbv2-a", "--output", ""], "found '' as a path"),
        (["ladder", "--runs", ""], "found '' as a path"),
        (["prompts", "build", "--from", ""], "found '' as a path"),
        (["train", "mini/sbv2-a", "--output", "~nobody-of-this-name/x"], "'~nobody-of-this-name/x' cannot be a path"),
        (["merge", "mini/sbv2-a", "mini/sbv2-b", "--weight", "0.5", "--output", "/dev/null/x"], "cannot be written"),
        (["ladder", "--runs", "/dev/null/x"], "--runs: /dev/null/x cannot be written"),
        (["train", "mini/sbv2-a", "--processes", "2"], "--processes does nothing without --budget-hours"),
        (["train", "mini/sbv2-a", "--tflop-per-second", "9"], "--tflop-per-second does nothing without --budget-hours"),
        (["train", "mini/sbv2-a", "--dry-run", "--deterministic"], "--deterministic does nothing with --dry-run"),
        (["train", "mini/sbv2-a", "--dry-run", "--continue-with", "steps=9"], "--continue-with does nothing with --dry-run"),
        (["train", "mini/sbv2-a", "--budget-hours", "1e-320"], "--budget-hours 9.99989e-321: expected a number above 0"),
        (["show", "mini/sbv2-a", "--tflop-per-second", "nan"], "Invalid value for '--tflop-per-second'"),
        (["show", "mini/sbv2-a", "--tflop-per-second", "inf"], "Invalid value for '--tflop-per-second'"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 2 and words in done.stderr, (done.exit_code, done.stderr, done.exception)
    assert len(done.stderr.splitlines()) <= 3 and list(tmp_path.iterdir()) == []


def test_home_is_expanded_in_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "home" / "a.txt").write_text("a red circle\n")
    arguments = ["prompts", "build", "--from", "~/a.txt", "--exclude", "none", "--output", "~/lists"]
    assert CliRunner().invoke(app, [*arguments, "--column", "text"]).exit_code == 2  # a text file has no columns
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert (tmp_path / "home" / "lists" / "a.txt").read_text() == "a red circle\n" and not (tmp_path / "~").exists()
    seen: list[Path] = []
    monkeypatch.setattr("reference_trainer.loop.train", lambda recipe, folder, _: seen.append(folder) or True)
    CliRunner().invoke(app, ["train", "mini/sbv2-a", "--output", "~/x"])
    assert seen == [tmp_path / "home" / "x"]


def test_a_key_written_twice_is_refused_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("extends: mini/sbv2-a\nsteps: 3\nstudent:\n  learning_rate: 1.0e-4\nsteps: 4\n")
    with pytest.raises(InputError, match=r"mine\.yaml: not YAML \(line 5: 'steps' is written twice\)"):
        read_recipe(str(path))


@pytest.mark.parametrize("switch", ["HF_HUB_OFFLINE", "SBV2BENCH_OFFLINE"])
def test_all_weights_that_are_missing_offline_are_named_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setenv(switch, "1")
    captions = tmp_path / "p.txt"
    captions.write_text("a red circle\na blue square\n")
    names = ["full/sd21", "full/sd-turbo", "hub:madebyollin/taesd", "openclip-b32-laion2b-s34b-b79k", "hpsv2-v2.0"]
    for more in ([], ["--dry-run"]):
        done = CliRunner().invoke(
            app, ["train", "paper/sbv2-b-hps", f"prompts=[{{source: {captions}}}]", "--output", str(tmp_path / "o"), *more]
        )
        assert done.exit_code == 3, done.output
        error, fix = done.stderr.splitlines()[-2:]
        assert all(name in error for name in names) and fix.endswith(f"sbv2bench download {' '.join(names)}")
    assert not (tmp_path / "o").exists()
    with pytest.raises(InputError, match="no-such-model"):
        require_weights(read_recipe("mini/sbv2-a", ["teacher=mini/no-such-model"]), Registry.load())
    require_weights(read_recipe("mini/sbv2-b"), Registry.load())


def test_teacher_steps_that_no_schedule_has_name_the_recipes_key(family: Path) -> None:
    with pytest.raises(InputError, match=r"regularisation\.teacher_steps: .*steps 5000: .* at most 1000") as refused:
        make_trainer(family, regularisation=PAIRED | {"teacher_steps": 5000})
    assert refused.value.fix == "regularisation.teacher_steps=1000"


def test_a_tiny_decoder_whose_tensors_are_missing_is_refused(family: Path, tmp_path: Path) -> None:
    shutil.copytree(family / "taesd", tmp_path / "taesd")
    file = tmp_path / "taesd" / "diffusion_pytorch_model.safetensors"
    save_file(dict(list(load_file(file).items())[:2]), file)
    with pytest.raises(IntegrityError, match=r"taesd: weights do not fit config\.json: \d+ missing \(.* and \d+ more\)"):
        make_trainer(family, tiny_decoder=str(tmp_path / "taesd"))
