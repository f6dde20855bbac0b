"""Exports: what stock diffusers makes of a whole one, which files it has, and what it says of its origin."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import PNDMScheduler, StableDiffusionPipeline
from safetensors.torch import load_file
from tiny_models import sd_scheduler
from tiny_recipe import CAPTIONS, CLIP, HPS, LORA, PAIRED, make_trainer, take_steps, tiny_recipe, write_tiny_family

from reference_trainer.export import export_student, seen_from
from reference_trainer.networks import Networks
from reference_trainer.origins import trained_with
from reference_trainer.prompts import PromptSource
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, image_seed, initial_noise
from sbv2bench.specs import ModelSpec

BLOCK = PromptBlock(0, 0, len(CAPTIONS), tuple(CAPTIONS), tuple(image_seed(0, n) for n in range(len(CAPTIONS))))
LORA_FILE = "pytorch_lora_weights.safetensors"
WHOLE = {
    "model_index.json", "sbv2bench.json", "training.json", "scheduler/scheduler_config.json",
    "text_encoder/config.json", "text_encoder/model.safetensors", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json",
    "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "vae/diffusion_pytorch_model.safetensors",
}  # fmt: skip


@pytest.fixture(scope="module")
def pndm_family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As Stable Diffusion 2.1-base is published: it predicts epsilon, and its scheduler is PNDM with leading timesteps."""
    folder = write_tiny_family(tmp_path_factory.mktemp("pndm"), "epsilon")
    for name in ("teacher", "start"):
        give_scheduler(folder / name, "epsilon")
    return folder


def give_scheduler(folder: Path, prediction_type: str) -> None:
    scheduler = sd_scheduler(
        prediction_type, PNDMScheduler, skip_prk_steps=True, set_alpha_to_one=False, timestep_spacing="leading"
    )
    scheduler.save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text()) | {"scheduler": ["diffusers", "PNDMScheduler"]}
    (folder / "model_index.json").write_text(json.dumps(index))


def student(family: Path, prediction_type: str = "epsilon", **changes: Any) -> Networks:
    """A student that has taken two steps."""
    lora, start = changes.pop("lora", None), changes.pop("start", str(family / "start"))
    own = {"start": start, "learning_rate": 1e-2, "lora": lora, **changes.pop("student", {})}
    trainer, _ = make_trainer(family, student=own, prediction_type=prediction_type, **changes)
    take_steps(trainer, 2)
    return trainer.networks


def stock_images(folder: Path) -> np.ndarray:
    """Floats [N, H, W, 3] from 0 to 255, as a reader of diffusers' documentation would make them in one step."""
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    noise = initial_noise(generators(BLOCK.noise_seeds), (8, 8, 8))
    drawn = pipeline(list(CAPTIONS), num_inference_steps=1, guidance_scale=1.0, latents=noise, output_type="np")
    return 255 * np.asarray(drawn.images)


def files_of(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("lora", [None, LORA], ids=["full", "lora"])
def test_stock_diffusers_makes_our_image_though_the_teacher_has_pndm(pndm_family: Path, tmp_path: Path, lora: Any) -> None:
    networks = student(pndm_family, lora=lora)
    export_student(networks, tmp_path / "export", whole=True, record={})
    images = np.asarray(load_model(tmp_path / "export").generate(BLOCK, Stopwatch()))
    assert images.std() > 5
    assert np.abs(images - stock_images(tmp_path / "export")).max() <= 0.51
    index = json.loads((tmp_path / "export" / "model_index.json").read_text())
    assert index["scheduler"] == ["diffusers", "DDIMScheduler"]
    assert index["safety_checker"] == index["feature_extractor"] == [None, None]
    assert files_of(tmp_path / "export") == WHOLE | ({LORA_FILE} if lora else set())


@pytest.mark.parametrize("timestep", [999, 625])
def test_stock_diffusers_with_v_prediction_at_any_timestep(family: Path, tmp_path: Path, timestep: int) -> None:
    copied = Path(shutil.copytree(family, tmp_path / "family"))
    for name in ("teacher", "start"):
        give_scheduler(copied / name, "v_prediction")
    networks = student(copied, "v_prediction", student={"timestep": timestep})
    export_student(networks, tmp_path / "export", whole=True, record={})
    images = np.asarray(load_model(tmp_path / "export").generate(BLOCK, Stopwatch()))
    assert np.abs(images - stock_images(tmp_path / "export")).max() <= 0.51


def test_of_a_snapshot_of_the_hub_only_what_is_needed_is_written(pndm_family: Path, tmp_path: Path) -> None:
    """Links into a store of blobs, twins in other precisions and formats, a checkpoint and a safety checker."""
    teacher, blobs = tmp_path / "snapshot", tmp_path / "blobs"
    shutil.copytree(pndm_family / "teacher", teacher)
    blobs.mkdir()
    for part, name in (("vae", "diffusion_pytorch_model"), ("text_encoder", "model"), ("unet", "diffusion_pytorch_model")):
        shutil.copy(teacher / part / f"{name}.safetensors", teacher / part / f"{name}.fp16.safetensors")
        (teacher / part / f"{name}.bin").write_bytes(b"pickle")
    (teacher / "v2-1_512-ema-pruned.ckpt").write_bytes(b"pickle")
    (teacher / "README.md").write_text("a card")
    shutil.copytree(teacher / "text_encoder", teacher / "safety_checker")
    index = json.loads((teacher / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (teacher / "model_index.json").write_text(json.dumps(index))
    for path in [path for path in teacher.rglob("*") if path.is_file()]:
        blob = blobs / hashlib.sha256(str(path).encode()).hexdigest()
        path.rename(blob)
        path.symlink_to(blob)
    networks = student(pndm_family, teacher=str(teacher))
    export_student(networks, tmp_path / "export", whole=True, record={})
    shutil.rmtree(teacher)
    shutil.rmtree(blobs)
    assert files_of(tmp_path / "export") == WHOLE
    assert not [path for path in (tmp_path / "export").rglob("*") if path.is_symlink()]
    assert stock_images(tmp_path / "export").std() > 5
    for path in (tmp_path / "export").rglob("*.json"):
        assert str(tmp_path) not in path.read_text()
        assert str(pndm_family) not in path.read_text()


def test_a_teacher_whose_parts_are_spread_over_a_chain(pndm_family: Path, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(pndm_family / "start" / "unet", teacher / "unet")
    declared = {"id": "local/teacher", "sampler": "multi_step", "base": str(pndm_family / "teacher")}
    (teacher / "sbv2bench.json").write_text(json.dumps(declared))
    networks = student(pndm_family, teacher=str(teacher))
    export_student(networks, tmp_path / "export", whole=True, record={})
    assert files_of(tmp_path / "export") == WHOLE
    images = np.asarray(load_model(tmp_path / "export").generate(BLOCK, Stopwatch()))
    assert np.abs(images - stock_images(tmp_path / "export")).max() <= 0.51


def test_parts_of_a_teacher_in_bfloat16_are_written_as_they_are_stored(pndm_family: Path, tmp_path: Path) -> None:
    """The trainer may hold them rounded; the export must not."""
    networks = student(pndm_family, vsd=None, lora_teacher=None, regularisation=PAIRED | {"distance": "latents"})
    networks.components.vae.bfloat16()
    networks.components.text_encoder.bfloat16()
    export_student(networks, tmp_path / "export", whole=True, record={})
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        stored, found = load_file(pndm_family / "teacher" / part), load_file(tmp_path / "export" / part)
        assert found.keys() == stored.keys()
        assert all(torch.equal(found[key], value) for key, value in stored.items())


@pytest.mark.parametrize("whole", [False, True])
def test_what_trained_a_student_and_the_licences_travel(family: Path, tmp_path: Path, whole: bool) -> None:
    start = Path(shutil.copytree(family / "start", tmp_path / "start"))
    before = {"losses": ["vsd"], "scorers": ["tiny-old"], "prompts": [{"source": "older.txt"}]}
    described = {"id": "local/start", "sampler": "one_step", "steps": 1, "licence": "MIT", "trained_with": before}
    (start / "sbv2bench.json").write_text(json.dumps(described))
    teacher = Path(shutil.copytree(family / "teacher", tmp_path / "teacher"))
    described = {"id": "local/teacher", "sampler": "multi_step", "licence": "OpenRAIL; MIT"}
    (teacher / "sbv2bench.json").write_text(json.dumps(described))
    networks = student(family, "v_prediction", teacher=str(teacher), start=str(start), clip=CLIP, hps=HPS)
    prompts = PromptSource(networks.recipe.prompts)
    prompts.parts = [replace(prompts.parts[0], manifest={"licence": "CC-BY-4.0"})]
    export_student(networks, tmp_path / "export", whole=whole, record={}, prompts=prompts)
    said = json.loads((tmp_path / "export" / "sbv2bench.json").read_text())
    assert said["licence"] == "MIT; OpenRAIL"
    sha256 = hashlib.sha256((family / "prompts.txt").read_bytes()).hexdigest()
    captions = {"source": "prompts.txt", "sha256": sha256, "captions": len(CAPTIONS), "licence": "CC-BY-4.0"}
    assert said["trained_with"] == {
        "losses": ["vsd", "clip", "hps"],
        "scorers": ["tiny-old", "tiny-clip", "tiny-hps"],
        "prompts": [{"source": "older.txt"}, captions],
    }
    spec = Registry.load().model(str(tmp_path / "export"))
    assert spec.trained_with is not None and spec.trained_with.has_hps()
    assert "trained_with" not in spec.protocol()


def test_what_the_world_and_unopened_captions_say(family: Path) -> None:
    recipe = student(family, "v_prediction").recipe
    world = recipe.model_copy(
        update={"prompts": (recipe.prompts[0].model_copy(update={"source": "world:training", "limit": 9}),)}
    )
    (opened,) = trained_with(world, PromptSource(world.prompts)).prompts
    assert (opened.source, opened.sha256, opened.captions, opened.licence) == ("world:training", "", 9, "")
    (unopened,) = trained_with(recipe).prompts
    assert (unopened.source, unopened.sha256, unopened.captions) == ("prompts.txt", "", None)
    assert not trained_with(recipe).has_hps()


def test_a_student_of_a_merged_start_is_written_whole(family: Path, tmp_path: Path) -> None:
    """No folder has the merged weights, so none can be named as the adapter's base."""
    merged = {
        "sampler": "one_step",
        "steps": 1,
        "merge": {"a": str(family / "start"), "b": str(family / "teacher"), "weight": 0.5},
    }
    copied = Path(shutil.copytree(family, tmp_path / "family"))
    catalog = yaml.safe_load((copied / "catalog.yaml").read_text()) | {"models": {"local/merged": merged}}
    (copied / "catalog.yaml").write_text(yaml.safe_dump(catalog))
    networks = student(copied, "v_prediction", start="local/merged", lora=LORA)
    export_student(networks, tmp_path / "export", whole=False, record={})
    assert files_of(tmp_path / "export") == WHOLE | {LORA_FILE}
    images = np.asarray(load_model(tmp_path / "export").generate(BLOCK, Stopwatch()))
    assert np.abs(images - stock_images(tmp_path / "export")).max() <= 0.51


@pytest.mark.parametrize(
    ("location", "revision", "expected"),
    [
        ("hub:org/name", "abc", "hub:org/name@abc"),
        ("hub:org/name@def", "abc", "hub:org/name@def"),
        ("package:mini/sd21", None, "package:mini/sd21"),
        ("{tmp}/base", None, "../base"),
    ],
)
def test_how_a_base_is_named(tmp_path: Path, location: str, revision: str | None, expected: str) -> None:
    spec = ModelSpec(id="local/x", sampler="one_step", location=location.format(tmp=tmp_path), revision=revision)
    assert seen_from(tmp_path / "export", spec) == expected


def test_what_was_encoded_before_is_no_part_of_an_export(family: Path, tmp_path: Path) -> None:
    """A run that is resumed after its last step encodes nothing more, and exports what an unbroken one does."""
    networks = Networks(tiny_recipe(family), torch.device("cpu"), Registry.load(family / "catalog.yaml"))
    export_student(networks, tmp_path / "before", whole=True, record={})
    networks.encode_text(CAPTIONS)
    export_student(networks, tmp_path / "after", whole=True, record={})
    for path in (tmp_path / "before").rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "after" / path.relative_to(tmp_path / "before")).read_bytes(), path.name
