"""The extractors of the mini family: equal to the libraries whose layouts they use, and clear about broken folders."""

from __future__ import annotations

import socket
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import write_tiny_clip, write_tiny_extractor
from torch.nn import functional as F

from sbv2bench.errors import InputError, IntegrityError, SBV2BenchError
from sbv2bench.features.base import load_extractor, to_tensor
from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.features.world import WorldAttributes, WorldExtractor
from sbv2bench.features.world_network import WorldNetwork
from sbv2bench.mini import rendering, world
from sbv2bench.specs import ExtractorSpec

CAPTIONS = ["a photo of a red circle", "a large blue star, neon", "a photo of a red circle without pattern left of a green ring"]


def images(count: int, size: int = 32) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def clip_spec(folder: Path, **more: object) -> ExtractorSpec:
    return ExtractorSpec.model_validate({"id": "tiny-clip", "kind": "open_clip", "location": str(folder), **more})


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_clip(tmp_path_factory.mktemp("clip"), seed=1)


def stock(folder: Path, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Normalised embeddings by open_clip alone, its own preprocessing and tokenizer: the oracle."""
    model, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(CAPTIONS)
    pixels = torch.stack([preprocess(Image.fromarray(image)) for image in images(3, size)])
    with torch.no_grad():
        model.eval()
        return tuple(F.normalize(embeds, dim=-1).numpy() for embeds in (model.encode_image(pixels), model.encode_text(tokens)))


@pytest.mark.parametrize("size", [32, 48, 21])
def test_clip_equals_stock_open_clip(clip_folder: Path, size: int) -> None:
    """size 32: no resize; larger and smaller: open_clip's own bicubic transform on PIL images."""
    scorer = OpenClipScorer(clip_spec(clip_folder))
    of_images, of_texts = stock(clip_folder, size)
    np.testing.assert_allclose(scorer.embed_images(images(3, size)), of_images, rtol=0, atol=1e-6)
    np.testing.assert_allclose(scorer.embed_text(CAPTIONS), of_texts, rtol=0, atol=1e-6)
    assert scorer.embed_images(images(3, size)).dtype == np.float32
    # the tiny tower tells images and texts apart, so equality above is not that of constants
    assert np.abs(of_images[0] - of_images[1]).max() > 1e-3
    assert np.abs(of_texts[0] - of_texts[1]).max() > 1e-3


def test_clip_pixels_without_resize_are_open_clips(clip_folder: Path) -> None:
    scorer = OpenClipScorer(clip_spec(clip_folder))
    expected = torch.stack([scorer.preprocess(Image.fromarray(image)) for image in images(2)])
    assert torch.equal(scorer.pixels(images(2)), expected)


def test_clip_embeds_text_in_fixed_batches_of_unit_rows(clip_folder: Path) -> None:
    scorer = OpenClipScorer(clip_spec(clip_folder))
    captions = world.captions(world.scenes("reporting", range(300)))
    embeds = scorer.embed_text(captions)
    assert embeds.shape == (300, 16)
    np.testing.assert_allclose(np.linalg.norm(embeds, axis=1), 1.0, atol=1e-6)
    assert np.array_equal(embeds[:256], scorer.embed_text(captions[:256]))
    assert np.array_equal(embeds[256:], scorer.embed_text(captions[256:]))


def test_clip_prefix_goes_before_the_prompt(clip_folder: Path) -> None:
    with_prefix = OpenClipScorer(clip_spec(clip_folder, prefix="photo of "))
    plain = OpenClipScorer(clip_spec(clip_folder))
    assert np.array_equal(with_prefix.embed_text(CAPTIONS), plain.embed_text([f"photo of {caption}" for caption in CAPTIONS]))
    assert not np.array_equal(with_prefix.embed_text(CAPTIONS), plain.embed_text(CAPTIONS))


def test_clip_touches_no_network(clip_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[object] = []

    def refuse(*arguments: object, **_: object) -> None:
        asked.append(arguments)
        raise OSError("no network in this test")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    OpenClipScorer(clip_spec(clip_folder)).embed_text(CAPTIONS)
    assert asked == []


def test_clip_weights_are_float32_and_frozen_whatever_is_on_disk(tmp_path: Path) -> None:
    folder = write_tiny_clip(tmp_path / "half", seed=1)
    weights = folder / "open_clip_model.safetensors"
    save_file({name: value.half() for name, value in load_file(weights).items()}, weights)
    model = OpenClipScorer(clip_spec(folder)).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("damage", ["config", "weights", "tensor"])
def test_broken_clip_folder_is_named(tmp_path: Path, damage: str) -> None:
    folder = write_tiny_clip(tmp_path / "clip", seed=1)
    weights = folder / "open_clip_model.safetensors"
    if damage == "config":
        (folder / "open_clip_config.json").unlink()
    elif damage == "weights":
        weights.write_bytes(weights.read_bytes()[:100])
    else:
        save_file({name: value for name, value in load_file(weights).items() if name != "text_projection"}, weights)
    with pytest.raises(IntegrityError, match="tiny-clip") as caught:
        OpenClipScorer(clip_spec(folder))
    assert str(folder) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


def world_spec(folder: Path) -> ExtractorSpec:
    return ExtractorSpec(id="tiny-world", kind="world_network", location=str(folder))


def test_world_extractor_is_the_network_in_evaluation_mode(tmp_path: Path) -> None:
    folder = write_tiny_extractor(tmp_path, seed=3)
    extractor = WorldExtractor(world_spec(folder))
    network = WorldNetwork()
    network.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    with torch.no_grad():
        network.eval()
        expected, logits = network(torch.from_numpy(images(5)).permute(0, 3, 1, 2).contiguous().float() / 127.5 - 1.0)
    features, read = extractor.predict(images(5))
    assert np.array_equal(features, expected.numpy())
    assert features.dtype == np.float32
    assert read.shape == (5, len(world.ATTRIBUTES))
    for column, name in enumerate(world.ATTRIBUTES):
        assert np.array_equal(read[:, column], logits[name].argmax(1).numpy())
    assert np.array_equal(extractor(images(5)), features)
    assert np.array_equal(WorldAttributes(world_spec(folder))(images(5)), read)


def test_world_patch_is_the_centre_at_twice_its_size(tmp_path: Path) -> None:
    folder = write_tiny_extractor(tmp_path, seed=3)
    patches = WorldExtractor(world_spec(folder).model_copy(update={"preparation": "patch16"}))
    whole = WorldExtractor(world_spec(folder))
    borders = images(5)
    borders[:, 8:24, 8:24] = images(5)[0, 8:24, 8:24]
    found = patches(borders)
    np.testing.assert_allclose(
        found, np.broadcast_to(found[0], found.shape), rtol=0, atol=1e-4
    )  # what is around it does not count
    assert np.abs(whole(borders)[0] - whole(borders)[1]).max() > 0.01
    flat = np.repeat(np.arange(0, 250, 50, dtype=np.uint8), 32 * 32 * 3).reshape(5, 32, 32, 3)
    np.testing.assert_allclose(patches(flat), whole(flat), rtol=1e-4, atol=1e-3)
    large = np.stack([np.asarray(Image.fromarray(x[8:24, 8:24]).resize((32, 32), Image.Resampling.BICUBIC)) for x in images(5)])
    near, far = np.abs(patches(images(5)) - whole(large)).max(), np.abs(patches(images(5)) - whole(images(5))).max()
    assert near < 0.2 * far  # Pillow's cubic is a little softer, and its pixels are whole numbers
    with pytest.raises(InputError, match="expected none or patch16"):
        WorldExtractor(world_spec(folder).model_copy(update={"preparation": "patch8"}))


def test_world_extractor_refuses_other_weights(tmp_path: Path) -> None:
    folder = write_tiny_extractor(tmp_path, seed=3)
    weights = folder / "model.safetensors"
    save_file({name: value for name, value in load_file(weights).items() if "style" not in name}, weights)
    with pytest.raises(IntegrityError, match="attribute extractor"):
        WorldExtractor(world_spec(folder))
    weights.write_bytes(b"not weights")
    with pytest.raises(SBV2BenchError):
        WorldExtractor(world_spec(folder))


def test_load_extractor_by_kind(tmp_path: Path) -> None:
    spec = world_spec(write_tiny_extractor(tmp_path, seed=3))
    assert isinstance(load_extractor(spec), WorldExtractor)
    named = spec.model_copy(update={"kind": "sbv2bench.features.world:WorldExtractor"})
    assert isinstance(load_extractor(named), WorldExtractor)
    with pytest.raises(InputError, match="kind 'none_of_ours'"):
        load_extractor(spec.model_copy(update={"kind": "none_of_ours"}))


@pytest.mark.parametrize("wrong", [images(2).astype(np.float32), images(2)[0], images(2)[..., :1]])
def test_to_tensor_takes_uint8_rgb_batches_only(wrong: np.ndarray) -> None:
    with pytest.raises(ValueError, match="uint8"):
        to_tensor(wrong, "cpu")


def test_extraction_does_not_depend_on_the_thread(tmp_path: Path) -> None:
    """What the run relies on: a worker's thread computes the main thread's bits."""
    from sbv2bench.machine.processes import each, exact_arithmetic

    extractor = WorldExtractor(world_spec(write_tiny_extractor(tmp_path, seed=3)))
    blocks = [rendering.render(world.scenes("reporting", range(i, i + 10)), np.arange(i, i + 10)) for i in range(0, 80, 10)]
    with exact_arithmetic():
        alone = [extractor(block) for block in blocks]
        threaded = dict(each(lambda i: extractor(blocks[i]), list(range(8)), 3))
    assert all(np.array_equal(alone[i], threaded[i]) for i in range(8))
