"""Rehearsals: one recipe goes through, every leg can fail and says so, and small copies differ from originals in size alone."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_models import sd_scheduler, write_tiny_pipeline
from typer.testing import CliRunner

from reference_trainer import architectures, export, loop, pictures, step
from reference_trainer.__main__ import app
from reference_trainer.recipe_files import recipe_names
from reference_trainer.rehearse import first_run, legs, run, watch
from reference_trainer.rehearse.cutting import cut_autoencoder, cut_scorer, cut_text_encoder, cut_unet
from reference_trainer.rehearse.legs import LegFailed, Stage
from reference_trainer.rehearse.redirect import STEPS, redirect
from sbv2bench.errors import InputError
from sbv2bench.registry import Registry

RECIPE = "paper/efficient-clip"  # bfloat16, checkpointing, micro-batches, two adapters, a scored half of the batch


@pytest.fixture(scope="module")
def rehearsed(tmp_path_factory: pytest.TempPathFactory) -> tuple[run.Report, Stage]:
    """A recipe's report, without the legs that need processes of their own, and what it left."""
    folder = tmp_path_factory.mktemp("rehearsal")
    found: list[Stage] = []
    patch, original = pytest.MonkeyPatch(), legs.stock_diffusers
    patch.setattr(legs, "stock_diffusers", lambda stage: (found.append(stage), original(stage))[1])
    report = run.rehearse(RECIPE, (), folder, lambda line: None, whole=False)
    patch.undo()
    return report, found[0]


@pytest.mark.ci
def test_a_recipe_is_rehearsed_as_it_stands(rehearsed: tuple[run.Report, Stage]) -> None:
    report, stage = rehearsed
    assert report.failed is None, report.failed
    assert [leg.name for leg in report.legs] == [
        *("small copies", "loading", "LoRA-teacher warm-up", "step-0 and later grids", "panels", "three steps"),
        *("in-loop measurement", "checkpoint", "export", "stop", "resume to the same bits", "stock diffusers"),
    ]
    recipe, original = stage.rehearsed.recipe, architectures.own("sd21-base-unet")
    assert (recipe.precision, recipe.teacher_dtype, recipe.gradient_checkpointing) == ("bfloat16", "bfloat16", True)
    assert recipe.teacher == "full/sd21" and recipe.clip and recipe.clip.scorer == "openclip-b32-laion2b-s34b-b79k"
    unet = json.loads((stage.run / "export" / "unet" / "config.json").read_text())
    assert unet["attention_head_dim"] == original["attention_head_dim"] and unet["use_linear_projection"]
    assert all(leg.seconds >= 0 for leg in report.legs) and sum(leg.seconds for leg in report.legs) > 1
    assert "steps 60936 -> 3" in report.changes and "batch_size 64 -> 4" in report.changes


@pytest.mark.ci
def test_exports_are_merged_and_evaluated(rehearsed: tuple[run.Report, Stage]) -> None:
    with run.environment(rehearsed[1].rehearsed):
        legs.merge_exports(rehearsed[1])
        legs.evaluate_merged(rehearsed[1])


def _rehearse(*arguments: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "reference_trainer", "rehearse", *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    document: dict[str, Any] = json.loads(done.stdout)
    return document


@pytest.mark.slow  # the gate rehearses every recipe
@pytest.mark.timeout(600)
def test_a_recipe_is_killed_and_shared_by_two_processes() -> None:
    report = _rehearse("mini/sbv2-b")
    assert report.keys() == {"recipe", "changes", "factor", "legs"} and report["recipe"] == "mini/sbv2-b"
    assert [leg["name"] for leg in report["legs"]][-6:] == [
        *("kill -9", "resume to the same bits", "two processes", "stock diffusers", "merge", "sbv2bench eval"),
    ]
    assert all(leg.keys() == {"name", "seconds", "ok", "why"} and leg["ok"] for leg in report["legs"])


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_all_recipes_are_rehearsed() -> None:
    """The gate runs the command itself, with its time."""
    reports = _rehearse("all")["recipes"]
    assert sorted(report["recipe"] for report in reports) == recipe_names()
    whole = {report["recipe"] for report in reports if {"kill -9", "two processes"} <= {leg["name"] for leg in report["legs"]}}
    assert whole == set(run.KINDS.values())


# What a leg is broken by: a change of what the trainer left, or of what it is started as.
Break = Callable[[pytest.MonkeyPatch, Stage], None]


def _edit_log(change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Break:
    def edit(_: pytest.MonkeyPatch, stage: Stage) -> None:
        path = stage.run / "log.jsonl"
        entries = change([json.loads(line) for line in path.read_text().splitlines()])
        path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))

    return edit


def _flip(name: str) -> Break:
    """Change the last byte of the first file of that name."""

    def flip(_: pytest.MonkeyPatch, stage: Stage) -> None:
        path = sorted(stage.folder.glob(name))[0]
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

    return flip


def _remove(name: str) -> Break:
    return lambda _, stage: (stage.folder / name).unlink()


def _other_recipe(_: pytest.MonkeyPatch, stage: Stage) -> None:
    path = stage.run / "recipe.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"precision": "float32"}))


def _not_warmed(_: pytest.MonkeyPatch, stage: Stage) -> None:
    path = stage.run / "checkpoints" / f"{STEPS:08d}" / "lora_teacher.safetensors"
    save_file({k: v - 1 if k.endswith("|step") else v for k, v in load_file(path).items()}, path)


def _one_colour(_: pytest.MonkeyPatch, stage: Stage) -> None:
    from PIL import Image

    Image.new("RGB", (64, 64)).save(stage.run / "samples" / f"{STEPS:08d}-teachers.png")


def _infinite(_: pytest.MonkeyPatch, stage: Stage) -> None:
    path = stage.run / "export" / "unet" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(path) | {"conv_in.bias": torch.full((20,), torch.inf)}, path, metadata={"format": "pt"})


def _ends_at_once(patch: pytest.MonkeyPatch, _: Stage) -> None:
    patch.setattr(Stage, "command", lambda self, *launcher, output: [sys.executable, "-c", "raise SystemExit('no such device')"])


def _other_losses(patch: pytest.MonkeyPatch, stage: Stage) -> None:
    """Two processes whose first step is not that of one."""
    shutil.copytree(stage.run, stage.folder / "two")
    log = stage.folder / "two" / "log.jsonl"
    log.write_text(log.read_text().replace('"lora_teacher_loss": ', '"lora_teacher_loss": 9'))
    patch.setattr(Stage, "command", lambda self, *launcher, output: [sys.executable, "-c", ""])


def _teachers_scheduler(_: pytest.MonkeyPatch, stage: Stage) -> None:
    """The fault that exports had: one step by the teacher's PNDM file is garbage."""
    path = stage.run / "export" / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(architectures.own("sd21-base-scheduler")))
    index = stage.run / "export" / "model_index.json"
    index.write_text(json.dumps(json.loads(index.read_text()) | {"scheduler": ["diffusers", "PNDMScheduler"]}))


def _another_grid(_: pytest.MonkeyPatch, stage: Stage) -> None:
    from PIL import Image, ImageOps

    path = stage.run / "samples" / f"{STEPS:08d}.png"
    ImageOps.invert(Image.open(path)).save(path)


BREAKS: list[tuple[str, Break, str]] = [
    ("loading", _other_recipe, "recipe.json is not the recipe"),
    ("LoRA-teacher warm-up", _not_warmed, "updated [4] times, expected 5"),
    ("step-0 and later grids", _remove(f"run/samples/{0:08d}.png"), "00000000.png was not drawn"),
    ("panels", _one_colour, "of one colour"),
    ("three steps", _edit_log(lambda entries: entries[:-1]), "expected 1 to 3"),
    ("in-loop measurement", _edit_log(lambda entries: [e for e in entries if "suite" not in e]), "measurements at []"),
    ("checkpoint", _flip("run/checkpoints/*3/average.safetensors"), "not the bytes that its state.json says"),
    ("export", _infinite, "conv_in.bias is not finite"),
    ("kill -9", _ends_at_once, "ended by itself (exit 1) before its first checkpoint: no such device"),
    ("resume to the same bits", _flip("killed/export/unet/*.safetensors"), "other bits than those of the undisturbed run"),
    ("two processes", _ends_at_once, "exit 1: no such device"),
    ("two processes", _other_losses, "step 1: lora_teacher_loss is"),
    ("stock diffusers", _teachers_scheduler, "grey levels from sbv2bench's of the same export"),
    ("stock diffusers", _another_grid, "from the trainer's last grid"),
    ("merge", _flip("run/export/unet/config.json"), "config.json"),
    ("sbv2bench eval", lambda _, stage: shutil.rmtree(stage.merged / "vae"), "vae"),
]


@pytest.mark.parametrize(("name", "broken", "said"), BREAKS, ids=[f"{name}-{said[:12]}" for name, _, said in BREAKS])
@pytest.mark.ci
def test_a_broken_leg_is_named_and_exits_1(
    rehearsed: tuple[run.Report, Stage], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, broken: Break, said: str
) -> None:
    """The finished run of the module stands in for this one's; legs before the broken one are as good as passed."""
    stage = rehearsed[1]
    whole = {"kill -9": "kill", "resume to the same bits": "resume", "two processes": "two_processes"}
    whole |= {"stock diffusers": "stock_diffusers", "merge": "merge_exports", "sbv2bench eval": "evaluate_merged"}
    for leg, function in whole.items():
        if leg != name and not (leg == "merge" and name == "sbv2bench eval"):
            monkeypatch.setattr(legs, function, lambda stage: None)

    def finished(mine: Stage) -> tuple[dict[str, float], None]:
        (mine.folder.parent / "bases").symlink_to(stage.folder.parent / "bases")
        for part in ("run",) if name == "kill -9" else ("run", "killed"):
            shutil.copytree(stage.folder / part, mine.folder / part)
        if name != "sbv2bench eval":
            broken(monkeypatch, mine)
        return {}, None

    if name == "sbv2bench eval":
        whole_merge = legs.merge_exports
        monkeypatch.setattr(legs, "merge_exports", lambda mine: (whole_merge(mine), broken(monkeypatch, mine))[0])
    if name == "resume to the same bits":
        monkeypatch.setattr(legs, "train", lambda *_, **__: True)
    monkeypatch.setattr(first_run, "run", finished)
    monkeypatch.setattr(run, "redirect", lambda *_: stage.rehearsed)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = CliRunner().invoke(app, ["rehearse", RECIPE])
    assert done.exit_code == 1, done.output
    assert done.stderr.startswith(f"error: rehearse {RECIPE}: leg {name!r} failed: ") and said in done.stderr, done.stderr
    assert f"FAILED {name}" in done.stdout and len(list(tmp_path.glob("rehearsal-*"))) == 1
    assert len(done.stderr.splitlines()) <= 3 and "Traceback" not in done.stderr


def _raise(*_: Any, **__: Any) -> Any:
    raise RuntimeError("broken for the test")


def _only_the_last(folder: Path) -> Any:
    if folder.name == "export":
        _raise()
    return whole_folder(folder)


whole_folder = export.whole_folder
TRAINERS_FAULTS = [
    ("loading", loop, "Trainer", _raise),
    ("LoRA-teacher warm-up", step.Trainer, "lora_teacher_batch", _raise),
    ("step-0 and later grids", pictures, "sample_student", _raise),
    ("panels", pictures, "guidance_scale", _raise),
    ("three steps", step.Trainer, "student_batch", _raise),
    ("in-loop measurement", loop, "measure_student", _raise),
    ("export", export, "whole_folder", _only_the_last),
]


@pytest.mark.ci
@pytest.mark.parametrize(("name", "where", "what", "fault"), TRAINERS_FAULTS, ids=[fault[0] for fault in TRAINERS_FAULTS])
def test_what_the_trainer_raises_is_put_down_to_its_leg(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, name: str, where: Any, what: str, fault: Any
) -> None:
    monkeypatch.setattr(where, what, fault)
    report = run.rehearse("paper/swiftbrush", (), tmp_path, lambda line: None, whole=False)
    assert report.failed is not None and report.failed.name == name, report.legs
    assert "RuntimeError: broken for the test" in report.failed.why


@pytest.mark.ci
def test_a_full_disk_is_put_down_to_the_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reference_trainer.training.checkpoint.write_whole", full)
    report = run.rehearse("paper/swiftbrush", (), tmp_path, lambda line: None, whole=False)
    assert report.failed is not None and report.failed.name == "checkpoint", report.legs
    assert "No space left on device" in report.failed.why


def test_an_interrupted_rehearsal_is_no_failed_leg(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "Networks", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = CliRunner().invoke(app, ["rehearse", "paper/swiftbrush"])
    assert done.exit_code == 130, done.output
    assert not list(tmp_path.glob("rehearsal-*"))


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("paper/sbv2-aa",), 2, "did you mean 'paper/sbv2-a'"),
        (("paper/sbv2-a", "student.learning_rat=1"), 2, "did you mean 'learning_rate'"),
        (("all", "steps=4"), 2, "rehearse all: found 'steps=4'"),
        (("paper/sbv2-a", "teacher=hub:nobody/nothing"), 3, "hub:nobody/nothing: its files are not on this machine"),
        (("paper/sbv2-b", "clip.scorer=clip-of-nobody"), 2, "unknown extractor 'clip-of-nobody'"),
        (("paper/sbv2-b", "tiny_decoder=./nowhere"), 2, "'./nowhere' does not exist"),
    ],
)
def test_bad_input_is_short(arguments: tuple[str, ...], code: int, said: str) -> None:
    done = CliRunner().invoke(app, ["rehearse", *arguments])
    assert done.exit_code == code, done.output
    assert said in done.stderr and len(done.stderr.splitlines()) <= 3 and "Traceback" not in done.stderr


def _own_recipe(folder: Path) -> Path:
    write_tiny_pipeline(folder / "base", "v_prediction", scheduler=sd_scheduler("v_prediction"))
    base = str(folder / "base")
    tree = {
        "extends": "paper/swiftbrush",
        "name": "local/mine",
        "family": "local",
        "prediction_type": "v_prediction",
        "teacher": base,
        "student": {"start": base},
        "lora_teacher": {"lora": {"targets": ["to_q", "to_v", "conv1"]}},
    }
    (folder / "mine.yaml").write_text(json.dumps(tree))
    return folder / "mine.yaml"


def test_a_users_own_base_is_cut_from_its_config_files(tmp_path: Path) -> None:
    """Its classes, latent channels, prediction type and tokenizer; its weights are not read."""
    for weights in (recipe := _own_recipe(tmp_path)).parent.rglob("*.safetensors"):
        weights.write_bytes(b"")
    found = redirect(str(recipe), (), tmp_path, tmp_path / "bases", Registry.load())
    small = Path(found.recipe.teacher)
    assert small.is_relative_to(tmp_path / "bases") and found.recipe.student.start == str(small)
    unet, original = (json.loads((folder / "unet" / "config.json").read_text()) for folder in (small, tmp_path / "base"))
    assert unet["in_channels"] == original["in_channels"] == 8 and unet["down_block_types"] == original["down_block_types"]
    assert json.loads((small / "scheduler" / "scheduler_config.json").read_text())["prediction_type"] == "v_prediction"
    tokenizers = [{p.name: p.read_bytes() for p in (folder / "tokenizer").iterdir()} for folder in (small, tmp_path / "base")]
    assert tokenizers[0] == tokenizers[1] and tokenizers[0]


@pytest.mark.ci
def test_a_users_own_recipe_is_rehearsed(tmp_path: Path) -> None:
    report = run.rehearse(str(_own_recipe(tmp_path)), (), tmp_path / "rehearsal", lambda line: None, whole=False)
    assert report.failed is None and report.recipe == "local/mine", report.failed


def test_small_copies_differ_in_widths_and_depths_alone() -> None:
    sizes = {
        "unet": {"sample_size", "block_out_channels", "layers_per_block", "norm_num_groups", "cross_attention_dim"},
        "text": {"hidden_size", "intermediate_size", "projection_dim", "num_hidden_layers"},
        "vae": {"sample_size", "block_out_channels", "layers_per_block", "norm_num_groups"},
        "taesd": {"encoder_block_out_channels", "decoder_block_out_channels", "num_encoder_blocks", "num_decoder_blocks"},
    }
    pairs = [
        ("unet", original := architectures.own("sd21-base-unet"), cut_unet(original, 64)),
        ("unet", original := architectures.own("sd15-unet"), cut_unet(original, 48)),
        ("text", original := architectures.own("sd21-base-text_encoder"), cut_text_encoder(original)),
        ("text", original := architectures.own("sd15-text_encoder"), cut_text_encoder(original)),
        ("vae", original := architectures.own("sd-vae"), cut_autoencoder(original)),
        ("taesd", original := architectures.own("taesd"), cut_autoencoder(original)),
    ]
    for kind, original, small in pairs:
        changed = {key for key in small if key not in original or small[key] != original[key]}
        assert changed == sizes[kind], kind
    every = [architectures.scorer_config(name, Registry.load()) for name in architectures.SCORERS]
    for original in [*every, open_clip.get_model_config("ViT-g-14")]:  # whose heads are of 88
        assert _heads_and_patch(cut_scorer(original)) == _heads_and_patch(original)


def _heads_and_patch(config: dict[str, Any]) -> tuple[int, int, int]:
    vision, text = config["vision_cfg"], config["text_cfg"]
    return vision["width"] // vision.get("head_width", 64), text["heads"], vision["patch_size"]


def test_every_leg_of_the_watch_is_a_function_of_the_trainer() -> None:
    """A function that is renamed there would lose its seconds and its blame here."""
    import importlib

    for module, name in watch.LEGS:
        found = importlib.import_module(f"reference_trainer.{module}")
        classes = [value for value in vars(found).values() if isinstance(value, type) and value.__module__ == found.__name__]
        assert any(name in vars(place) for place in (found, *classes)), (module, name)


@pytest.mark.ci
def test_proofs_raise_what_a_leg_says(rehearsed: tuple[run.Report, Stage]) -> None:
    with pytest.raises(LegFailed, match="was not drawn"):
        first_run.check_picture(rehearsed[1].folder / "nothing.png")
    with pytest.raises(InputError, match="expected no overrides"):
        run.carry_out("all", ["x=1"], lambda line: None)


@pytest.mark.weights
def test_a_teacher_of_ones_own_with_a_start_of_the_package_is_cut_with_it(tmp_path: Path) -> None:
    """One cut and the other not would be of two sizes, and a recipe that trains would fail its rehearsal."""
    teacher = shutil.copytree(Path(architectures.__file__).parents[2] / "sbv2bench/mini/weights/sd21", tmp_path / "teacher")
    recipe = tmp_path / "own.yaml"
    recipe.write_text(f"extends: mini/sbv2-a\nname: local/own\nteacher: {teacher}\n")
    found = redirect(str(recipe), (), tmp_path, tmp_path / "bases", Registry.load())
    assert "mini/sd-turbo, teacher" in found.changes[-1] and found.factor > 1
    plain = tmp_path / "plain"
    plain.mkdir()
    assert redirect("mini/sbv2-a", (), plain, tmp_path / "bases", Registry.load()).factor == 1
