"""`merge`: equation 6 on whole networks, LoRA folded first, written as a folder that stock diffusers samples alike."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, UNet2DConditionModel
from merge_ends import declare
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_models import tiny_unet, write_tiny_adapter
from typer.testing import CliRunner

from reference_trainer import merge as merge_module
from reference_trainer.__main__ import app
from reference_trainer.merge import find_ends, merge, merged_spec
from sbv2bench.data.assets import hash_weights
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model, load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch, generators, image_seed, initial_noise
from sbv2bench.specs import ModelSpec

UNET = "unet/diffusion_pytorch_model.safetensors"
BLOCK = PromptBlock(0, 0, 3, ("a red circle", "blue star", ""), tuple(image_seed(0, row) for row in range(3)))


def same_bits(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> bool:
    return found.keys() == expected.keys() and all(
        found[key].dtype == value.dtype and found[key].numpy().tobytes() == value.numpy().tobytes()
        for key, value in expected.items()
    )


def images_of(model: Any) -> np.ndarray:
    return np.asarray(model.generate(BLOCK, Stopwatch()))


def hidden(folder: Path) -> list[Path]:
    """What an interrupted merge might have left."""
    return [path for path in folder.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_an_end_is_a_bitwise_copy(a: Path, b: Path, tmp_path: Path, weight: float) -> None:
    merge(str(a), str(b), weight, tmp_path / "m")
    assert same_bits(load_file(tmp_path / "m" / UNET), load_file((a if weight else b) / UNET))
    assert not same_bits(load_file(tmp_path / "m" / UNET), load_file((b if weight else a) / UNET))


def test_between_the_ends_it_is_the_formula(a: Path, b: Path, tmp_path: Path) -> None:
    merge(str(a), str(b), 0.3, tmp_path / "m")
    found, first, second = (load_file(folder / UNET) for folder in (tmp_path / "m", a, b))
    for key, value in found.items():
        expected = np.float32(0.3) * first[key].numpy() + np.float32(1 - 0.3) * second[key].numpy()
        assert value.dtype == torch.float32
        assert np.array_equal(value.numpy(), expected), key


def test_everything_but_the_unet_is_as(a: Path, b: Path, tmp_path: Path) -> None:
    merge(str(a), str(b), 0.3, tmp_path / "m")
    for part in ("vae/diffusion_pytorch_model.safetensors", "text_encoder/model.safetensors"):
        assert same_bits(load_file(tmp_path / "m" / part), load_file(a / part))
    assert (tmp_path / "m/tokenizer/tokenizer.json").read_text() == (a / "tokenizer/tokenizer.json").read_text()


def test_a_lora_is_folded_into_its_own_base_first(a: Path, b: Path, tmp_path: Path) -> None:
    """The adapter belongs to b, not to a: at weight 0 the merge is b with its adapter, as peft runs it."""
    adapted = write_tiny_adapter(tmp_path / "lora", UNet2DConditionModel.from_pretrained(b / "unet"), str(b))
    declare(tmp_path / "lora")
    merge(str(a), str(tmp_path / "lora"), 0.0, tmp_path / "end")
    inputs = torch.randn(2, 8, 8, 8, generator=torch.Generator().manual_seed(1)), 999, torch.randn(2, 5, 16)
    with torch.no_grad():
        expected = adapted(*inputs).sample
        found = UNet2DConditionModel.from_pretrained(tmp_path / "end" / "unet")(*inputs).sample
        assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())
        unadapted = UNet2DConditionModel.from_pretrained(b / "unet")(*inputs).sample
    assert float((unadapted - expected).abs().max()) > 0.01 * float(expected.abs().max())
    merge(str(a), str(tmp_path / "lora"), 0.5, tmp_path / "half_way")
    first, folded, found_weights = (load_file(folder / UNET) for folder in (a, tmp_path / "end", tmp_path / "half_way"))
    for key, value in found_weights.items():
        assert np.array_equal(value.numpy(), np.float32(0.5) * first[key].numpy() + np.float32(0.5) * folded[key].numpy())
    record = json.loads((tmp_path / "half_way" / "merge.json").read_text())
    assert f"{b}:{UNET}" in record["b"]["weights"]
    assert "unet_lora/adapter_model.safetensors" in record["b"]["weights"]


def test_an_adapter_on_the_wrong_base_is_refused(a: Path, tmp_path: Path) -> None:
    write_tiny_adapter(tmp_path / "lora", tiny_unet(), str(a))
    weights = tmp_path / "lora" / "unet_lora" / "adapter_model.safetensors"
    state = load_file(weights)
    save_file({key: torch.cat([value, value], 1) if "lora_A" in key else value for key, value in state.items()}, weights)
    declare(tmp_path / "lora")
    with pytest.raises(InputError, match="an adapter of another network than the UNet") as caught:
        merge(str(a), str(tmp_path / "lora"), 0.5, tmp_path / "m")
    assert "name the model that it was trained on as its base" in str(caught.value)
    assert not (tmp_path / "m").exists()
    assert not hidden(tmp_path)


CASES: list[dict[str, Any]] = [{}, {"timestep": 625}, {"alpha_T": math.sqrt(0.0047)}, {"prediction_type": "sample"}]


@pytest.mark.parametrize("fields", CASES, ids=str)
def test_folder_merge_on_load_and_stock_diffusers_make_the_same_images(
    a: Path, b: Path, tmp_path: Path, fields: dict[str, Any]
) -> None:
    first, second = (declare(Path(shutil.copytree(end, tmp_path / end.name)), **fields) for end in (a, b))
    merge(str(first), str(second), 0.4, tmp_path / "m")
    registry = Registry.load()
    on_load = merged_spec(*find_ends(str(first), str(second), registry), 0.4)
    images = images_of(load_sampler(on_load, "cpu", torch.float32, registry))
    from_folder = load_model(tmp_path / "m")
    assert type(from_folder).__name__ == "OneStepSampler"
    assert np.array_equal(images_of(from_folder), images)
    assert images.std() > 5
    assert not np.array_equal(images_of(load_model(first)), images)
    ours = from_folder.pipeline()
    stock = StableDiffusionPipeline.from_pretrained(tmp_path / "m", local_files_only=True)
    for pipeline in (ours, stock):
        pipeline.set_progress_bar_config(disable=True)
        noise = initial_noise(generators(BLOCK.noise_seeds), (8, 8, 8))
        drawn = pipeline(list(BLOCK.captions), num_inference_steps=1, guidance_scale=1.0, latents=noise, output_type="np").images
        assert np.abs(images - 255 * drawn).max() <= 0.51


def test_what_the_folder_says_of_itself(a: Path, b: Path, tmp_path: Path) -> None:
    registry = Registry.load()
    registry.add("model", ModelSpec(id="mini/first", family="mini", sampler="one_step", location=str(a), steps=1, licence="MIT"))
    merge("first", str(b), 0.25, tmp_path / "m", registry)
    found = registry.model(str(tmp_path / "m"), "mini")
    assert (found.id, found.sampler, found.timestep, found.prediction_type) == ("local/m", "one_step", 999, "v_prediction")
    assert (found.merge, found.base, found.steps, found.guidance_scale, found.licence) == (None, "", 1, 1.0, "MIT")
    assert found.description == "0.25 x mini/first + 0.75 x local/b"
    record = json.loads((tmp_path / "m" / "merge.json").read_text())
    assert (record["weight"], record["dtype"]) == (0.25, "float32")
    assert (record["a"]["id"], record["a"]["location"], record["b"]["id"]) == ("mini/first", str(a), "local/b")
    for end, folder in (("a", a), ("b", b)):
        assert record[end]["weights"] == {file.path: file.sha256 for file in hash_weights(folder)}
    assert record["versions"]["torch"] == importlib.metadata.version("torch")


def test_the_same_merge_is_the_same_files_wherever_the_ends_lie(a: Path, b: Path, tmp_path: Path) -> None:
    """No path of this machine is in anything that is hashed."""
    moved = [str(shutil.copytree(end, tmp_path / "moved" / end.name)) for end in (a, b)]
    merge(str(a), str(b), 0.5, tmp_path / "here")
    merge(*moved, 0.5, tmp_path / "there")  # type: ignore[misc]
    assert hash_weights(tmp_path / "here") == hash_weights(tmp_path / "there")
    assert "merge.json" not in [file.path for file in hash_weights(tmp_path / "here")]


def test_half_precision_files(a: Path, b: Path, tmp_path: Path) -> None:
    merge(str(a), str(b), 0.5, tmp_path / "exact")
    merge(str(a), str(b), 0.5, tmp_path / "half", half=True)
    exact, half = load_file(tmp_path / "exact" / UNET), load_file(tmp_path / "half" / UNET)
    assert same_bits(half, {key: value.half() for key, value in exact.items()})
    assert json.loads((tmp_path / "half" / "merge.json").read_text())["dtype"] == "float16"
    assert np.abs(images_of(load_model(tmp_path / "half")).astype(int) - images_of(load_model(tmp_path / "exact"))).mean() < 2


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"timestep": 749}, r"timestep 999 of .*a and 749 of .*b"),
        ({"alpha_T": 0.07}, "alpha_T 0.068"),
        ({"prediction_type": "sample"}, "prediction_type v_prediction of"),
    ],
    ids=["timestep", "alpha_T", "prediction_type"],
)
@pytest.mark.usefixtures("no_compute")
def test_ends_that_are_asked_differently(a: Path, copy_of_b: Path, tmp_path: Path, fields: dict[str, Any], says: str) -> None:
    declare(copy_of_b, **fields)
    with pytest.raises(InputError, match=says):
        merge(str(a), str(copy_of_b), 0.5, tmp_path / "m")
    assert not (tmp_path / "m").exists()


def test_the_schedules_own_alpha_written_out_is_the_same_alpha(a: Path, copy_of_b: Path, tmp_path: Path) -> None:
    """Trained students say it, their starting points leave it to the schedule."""
    declare(copy_of_b, alpha_T=find_ends(str(a), str(a), Registry.load())[0].alpha_T)
    merge(str(copy_of_b), str(a), 0.5, tmp_path / "m")
    scheduler = json.loads((tmp_path / "m/scheduler/scheduler_config.json").read_text())
    assert scheduler["trained_betas"] is None  # the schedule is still Stable Diffusion's


@pytest.mark.usefixtures("no_compute")
def test_bad_arguments_are_found_before_anything_is_loaded(a: Path, b: Path, tmp_path: Path) -> None:
    for weight in (-0.1, 1.1, math.nan):
        with pytest.raises(InputError, match="--weight"):
            merge(str(a), str(b), weight, tmp_path / "m")
    (tmp_path / "images").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "images" / "0.png")
    none, images = str(tmp_path / "none"), str(tmp_path / "images")
    for wrong, says in (("sd2l", "sd21"), (none, "does not exist"), ("mini/real", "no network"), (images, "no network")):
        with pytest.raises(InputError, match=says):
            merge(str(a), wrong, 0.5, tmp_path / "m")
    with pytest.raises(PrerequisiteError, match="sbv2bench download hub:"):
        merge("full/sd-turbo", str(b), 0.5, tmp_path / "m")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    for output in (tmp_path / "taken", tmp_path / "taken" / "notes.txt", tmp_path / "taken" / "notes.txt" / "below"):
        with pytest.raises(InputError, match="--output"):
            merge(str(a), str(b), 0.5, output)
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["notes.txt"]
    assert (tmp_path / "taken" / "notes.txt").read_text() == "mine"


def test_the_same_merge_into_its_own_folder_is_done_already(a: Path, b: Path, tmp_path: Path) -> None:
    """What a run that was killed after its last write finds when it is run again; any other merge is refused."""
    written = merge(str(a), str(b), 0.25, tmp_path / "m")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "m").rglob("*")}
    assert merge(str(a), str(b), 0.25, tmp_path / "m") == written
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "m").rglob("*")} == before
    for other in ({"weight": 0.5}, {"weight": 0.25, "half": True}):
        with pytest.raises(InputError, match="exists already"):
            merge(str(a), str(b), output=tmp_path / "m", **other)  # type: ignore[arg-type]


def test_an_empty_folder_is_free(a: Path, b: Path, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    merge(str(a), str(b), 0.5, tmp_path / "m")
    assert (tmp_path / "m" / "merge.json").is_file()


def test_networks_that_are_not_alike_are_named(a: Path, copy_of_b: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy_of_b / "unet")
    tiny_unet(latent_channels=4).save_pretrained(copy_of_b / "unet")
    with pytest.raises(IntegrityError, match=r"3 of another shape \(conv_in.weight"):
        merge(str(a), str(copy_of_b), 0.5, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    assert not hidden(tmp_path)


@pytest.mark.usefixtures("no_compute")
@pytest.mark.parametrize("part", ["vae", "text_encoder"])
def test_ends_that_differ_in_more_than_the_unet(a: Path, copy_of_b: Path, tmp_path: Path, part: str) -> None:
    """Their latents, or what they read, mean different things: the average would be of nothing."""
    (weights,) = (copy_of_b / part).glob("*.safetensors")
    state = load_file(weights)
    name = next(iter(state))
    save_file(state | {name: state[name] + 1e-3}, weights, metadata={"format": "pt"})
    with pytest.raises(IntegrityError, match=f"have different weights of {part} ") as caught:
        merge(str(a), str(copy_of_b), 0.5, tmp_path / "m")
    assert str(copy_of_b) in str(caught.value) and len(str(caught.value).splitlines()) == 1
    assert not (tmp_path / "m").exists()


def test_an_end_may_have_been_written_again_in_another_dtype(a: Path, b: Path, tmp_path: Path) -> None:
    merge(str(a), str(b), 1.0, tmp_path / "half", half=True)
    merge(str(tmp_path / "half"), str(tmp_path / "half"), 0.5, tmp_path / "exact")
    merge(str(tmp_path / "half"), str(tmp_path / "exact"), 0.5, tmp_path / "m")


def test_a_folder_is_for_everybody_whom_the_umask_allows(a: Path, b: Path, tmp_path: Path) -> None:
    """safetensors writes its files for their owner alone."""
    merge(str(a), str(b), 0.5, tmp_path / "m")
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "m").rglob("*") if path.is_file()} == {0o644}


def test_an_interrupted_merge_leaves_nothing(a: Path, b: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: object, **__: object) -> str:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(merge_module.json, "dumps", stop)
        with pytest.raises(KeyboardInterrupt):
            merge(str(a), str(b), 0.5, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(StableDiffusionPipeline, "save_pretrained", full)
    with pytest.raises(IntegrityError, match="No space left"):
        merge(str(a), str(b), 0.5, tmp_path / "m")
    assert list(tmp_path.iterdir()) == []


def test_a_merged_folder_can_be_merged_again(a: Path, b: Path, tmp_path: Path) -> None:
    merge(str(a), str(b), 0.5, tmp_path / "m")
    merge(str(tmp_path / "m"), str(a), 0.5, tmp_path / "again")
    found, first, second = (load_file(folder / UNET) for folder in (tmp_path / "again", a, b))
    for key, value in found.items():
        torch.testing.assert_close(value, 0.75 * first[key] + 0.25 * second[key], rtol=1e-6, atol=1e-7)


@pytest.mark.ci
def test_the_command(a: Path, b: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["merge", str(a), str(b), "--weight", "0.5", "--output", str(tmp_path / "m")])
    assert done.exit_code == 0, done.output
    assert f"sbv2bench eval --model {tmp_path / 'm'}" in done.output
    assert json.loads((tmp_path / "m" / "merge.json").read_text())["weight"] == 0.5
    command = [
        sys.executable,
        "-m",
        "reference_trainer",
        "merge",
        str(a),
        str(b),
        "--weight",
        "2",
        "--output",
        str(tmp_path / "x"),
    ]
    failed = subprocess.run(command, capture_output=True, text=True, check=False)
    assert failed.returncode == 2
    assert "\nerror: --weight: found 2.0" in f"\n{failed.stderr}"
    assert "Traceback" not in failed.stderr
