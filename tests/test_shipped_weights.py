"""The shipped mini weights: whole, small, genuine layouts that stock libraries load, and good enough to measure with."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest
import torch

from reference_trainer.base_models.stage import pictures
from reference_trainer.ladder import RUNGS
from sbv2bench.features.base import load_extractor
from sbv2bench.mini import rendering, world
from sbv2bench.paths import package_weights
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.samplers.base import PromptBlock, Stopwatch

pytestmark = pytest.mark.weights

COUNT = 300
KEYS = np.arange(COUNT, dtype=np.int64) + 50_000


@pytest.fixture(scope="module")
def scenes() -> world.Scenes:
    return world.scenes("reporting", KEYS)


@pytest.fixture(scope="module")
def images(scenes: world.Scenes) -> torch.Tensor:
    return pictures(scenes, KEYS, 0)


def test_manifest_lists_every_file_with_its_hash() -> None:
    folder = package_weights()
    manifest = json.loads((folder / "manifest.json").read_text())["files"]
    for name, entry in manifest.items():
        content = (folder / name).read_bytes()
        assert hashlib.sha256(content).hexdigest() == entry["sha256"], name
    on_disk = {path.relative_to(folder).as_posix() for path in folder.rglob("*.safetensors")}
    assert on_disk <= manifest.keys()
    # All rungs of the ladder, nine of them whole UNets of 4.5 MB. The design's bound was 40 MB for a few of them.
    assert sum(entry["bytes"] for entry in manifest.values()) < 75e6


def test_everything_shipped_says_how_it_was_trained() -> None:
    names = {path.parts[-2] for path in package_weights().glob("*/sbv2bench.json")} | {rung.name for rung in RUNGS if rung.target}
    assert {rung.name for rung in RUNGS if rung.shipped} - {"tokenizer"} <= names
    for name in names:
        record = json.loads((package_weights() / "training" / f"{name}.json").read_text())
        assert record["seconds"] > 0
        assert record["log"][-1]["step"] == record["steps"]


@pytest.mark.ci
def test_stock_diffusers_loads_the_teacher_and_draws_what_is_asked(scenes: world.Scenes) -> None:
    from diffusers import StableDiffusionPipeline

    from sbv2bench.features.world_network import WorldNetwork

    pipeline = StableDiffusionPipeline.from_pretrained(package_weights() / "sd21", local_files_only=True)
    assert type(pipeline.unet).__name__ == "UNet2DConditionModel"
    pipeline.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(i) for i in range(100)]
    settings = {"num_inference_steps": 25, "guidance_scale": 3.0, "generator": generators, "output_type": "pt"}
    drawn = pipeline(world.captions(scenes[:100]), **settings).images
    assert drawn.shape == (100, 3, 32, 32)
    network = WorldNetwork()
    from safetensors.torch import load_file

    network.load_state_dict(load_file(package_weights() / "extractor" / "model.safetensors"), strict=False)
    with torch.inference_mode():
        _, logits = network.eval()(drawn.float() * 2 - 1)
    colour = (logits["colour_0"].argmax(1).numpy() == scenes[:100].column("colour_0")).mean()
    style = (logits["style"].argmax(1).numpy() == scenes[:100].column("style")).mean()
    assert colour > 0.8  # chance: 0.125
    assert style > 0.9  # chance: 0.25


@pytest.mark.ci
@pytest.mark.parametrize(("model", "changes"), [("mini/sd21", {"steps": 8}), ("mini/swiftbrush", {})])
def test_two_objects_stand_in_the_order_asked_for(model: str, changes: dict[str, int]) -> None:
    """Left and right, above and below: by the colours that the extractor reads at each place."""
    drawn_scenes = world.scenes("reporting", np.arange(60_000, 60_400))
    first, second = drawn_scenes.column("colour_0"), drawn_scenes.column("colour_1")
    pairs = drawn_scenes[np.flatnonzero((drawn_scenes.column("layout") > 0) & (first != second))[:50]]
    block = PromptBlock(0, 0, len(pairs), tuple(world.captions(pairs)), tuple(range(len(pairs))))
    sampler = load_sampler(Registry.load().model(model).model_copy(update=changes), "cpu", torch.float32)
    _, read = load_extractor(Registry.load().extractor("world-128")).predict(sampler.generate(block, Stopwatch()))
    places = [list(world.ATTRIBUTES).index(name) for name in ("colour_0", "colour_1")]
    asked, found = pairs.attributes[:, places], read[:, places]
    assert (found == asked).all(1).mean() > 0.85  # chance, where both colours are right: 0.5
    assert (found == asked[:, ::-1]).all(1).mean() < 0.05


@pytest.mark.ci
def test_stock_autoencoders_reconstruct(images: torch.Tensor) -> None:
    from diffusers import AutoencoderKL, AutoencoderTiny

    full = AutoencoderKL.from_pretrained(package_weights() / "sd21" / "vae", local_files_only=True).eval()
    tiny = AutoencoderTiny.from_pretrained(package_weights() / "taesd", local_files_only=True).eval()
    with torch.inference_mode():
        latents = full.encode(images).latent_dist.mean
        by_full = full.decode(latents).sample
        by_tiny = tiny.decode(latents * full.config.scaling_factor).sample
    assert psnr(by_full, images) > 26
    assert psnr(by_tiny, images) > 22
    assert abs(float((latents * full.config.scaling_factor).std()) - 1) < 0.05


@pytest.mark.ci
@pytest.mark.parametrize("name", ["clip", "clip-train", "hps", "hps-train"])
def test_stock_open_clip_tells_a_true_caption_from_a_false_one(name: str, scenes: world.Scenes, images: torch.Tensor) -> None:
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{package_weights() / name}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{package_weights() / name}")
    false = world.hard_negatives(scenes, KEYS)
    with torch.inference_mode():
        seen = model.eval().encode_image(images, normalize=True)
        cosine = [(seen * model.encode_text(tokenize(world.captions(s)), normalize=True)).sum(1) for s in (scenes, false)]
    assert float((cosine[0] > cosine[1]).float().mean()) > 0.85


def test_preference_prefers_the_undamaged(scenes: world.Scenes, images: torch.Tensor) -> None:
    import open_clip

    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{package_weights() / 'hps'}")
    tokenize = open_clip.get_tokenizer(f"local-dir:{package_weights() / 'hps'}")
    blurred = torch.nn.functional.avg_pool2d(images, 3, 1, 1)
    noisy = images + 0.3 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        text = model.eval().encode_text(tokenize(world.captions(scenes)), normalize=True)
        scores = [(model.encode_image(x, normalize=True) * text).sum(1) for x in (images, blurred, noisy)]
    assert float((scores[0] > scores[1]).float().mean()) > 0.9
    assert float((scores[0] > scores[2]).float().mean()) > 0.9


def test_extractor_reads_real_pictures(scenes: world.Scenes, images: torch.Tensor) -> None:
    from safetensors.torch import load_file

    from sbv2bench.features.world_network import WorldNetwork

    network = WorldNetwork()
    network.load_state_dict(load_file(package_weights() / "extractor" / "model.safetensors"), strict=False)
    with torch.inference_mode():
        _, logits = network.eval()(images)
    labels = rendering.complete(scenes, KEYS)
    named = scenes.attributes != world.FREE
    right = np.stack([logits[name].argmax(1).numpy() == labels[:, i] for i, name in enumerate(world.ATTRIBUTES)], 1)
    assert (right | ~named).all(1).mean() > 0.9


def psnr(decoded: torch.Tensor, images: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (decoded - images).square().mean()))
