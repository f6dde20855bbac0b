"""OpenCLIP networks at paper scale, in miniature: a bare state dict (HPSv2), hub folders with pickles beside, tensor resizes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from open_clip.tokenizer import default_bpe
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny_clip import write_tiny_clip
from torch.nn import functional
from torchvision import transforms

from sbv2bench.data import extractor_files
from sbv2bench.data.extractor_files import weights_file, with_weights
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec

ARCHITECTURE = "tiny-ViT-of-a-test"
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 28, "patch_size": 14, "layers": 1, "width": 32, "head_width": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 1},
}
HUB_FILES = ("open_clip_config.json", "open_clip_model.safetensors", "open_clip_pytorch_model.bin")


def images(count: int, size: int = 64) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def spec(location: Path, **more: object) -> ExtractorSpec:
    fields = {"id": "tiny-hps", "kind": "open_clip", "location": str(location), "architecture": ARCHITECTURE, **more}
    return ExtractorSpec.model_validate(fields)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    """A random network of an architecture that open_clip knows by name, as it knows ViT-H-14."""
    config = tmp_path_factory.mktemp("configs") / f"{ARCHITECTURE}.json"
    config.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = open_clip.create_model(ARCHITECTURE)
    model.token_embedding.weight.data.mul_(50.0)
    return model.eval()


@pytest.fixture
def checkpoint(network: torch.nn.Module, tmp_path: Path) -> Path:
    """In HPSv2's layout: a pickle whose `state_dict` is the whole network."""
    path = tmp_path / "HPS_tiny_compressed.pt"
    torch.save({"epoch": 1, "state_dict": network.state_dict()}, path)
    return path


def hps_transform(antialias: bool) -> transforms.Compose:
    """HPSv2's steps, with torchvision's default of one version or of the other said aloud."""
    return transforms.Compose([
        transforms.ToTensor(),
        transforms.Resize(28, transforms.InterpolationMode.BICUBIC, antialias=antialias),
        transforms.CenterCrop(28),
        transforms.Normalize((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    ])  # fmt: skip


@pytest.mark.parametrize("size", [64, 28, 20])
@pytest.mark.parametrize("preparation", ["legacy_no_antialias", "antialias"])
def test_hps_is_the_named_network_after_hpsv2s_transform(
    network: torch.nn.Module, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, preparation: str, size: int
) -> None:
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    scorer = OpenClipScorer(spec(checkpoint, preparation=preparation))
    transform = hps_transform(preparation == "antialias")
    pixels = torch.stack([transform(Image.fromarray(image)) for image in images(3, size)])
    prompts = ["A cat with two horns on its head", "a man"]
    with torch.no_grad():
        theirs = functional.normalize(network.encode_image(pixels), dim=-1).numpy()
        texts = functional.normalize(network.encode_text(open_clip.tokenize(prompts)), dim=-1).numpy()
    np.testing.assert_allclose(scorer.embed_images(images(3, size)), theirs, rtol=0, atol=2e-6)
    np.testing.assert_allclose(scorer.embed_text(prompts), texts, rtol=0, atol=2e-6)
    assert np.abs(theirs[0] - theirs[1]).max() > 1e-3


def test_the_three_preparations_differ(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    specs = [spec(checkpoint, preparation=way) for way in ("", "antialias", "legacy_no_antialias")]
    pil, antialias, legacy = (OpenClipScorer(one).embed_images(images(1)) for one in specs)
    assert np.abs(antialias - legacy).max() > 0.01
    assert 1e-5 < np.abs(antialias - pil).max() < 0.05  # uint8 rounding between, and nothing more
    assert len({one.fingerprint() for one in specs}) == 3


def test_training_losses_see_what_the_spec_says(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """embed_pixels: the metric's own preparation, with gradient."""
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    for way in ("antialias", "legacy_no_antialias"):
        scorer = OpenClipScorer(spec(checkpoint, preparation=way))
        pixels = (torch.from_numpy(images(2)).permute(0, 3, 1, 2).float() / 255).requires_grad_()
        embeds = scorer.embed_pixels(pixels)
        np.testing.assert_allclose(embeds.detach().numpy(), scorer.embed_images(images(2)), rtol=0, atol=1e-6)
        embeds[:, 0].sum().backward()
        assert pixels.grad is not None
        assert pixels.grad.abs().sum() > 0


def test_pictures_that_are_not_square_are_refused(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    scorer = OpenClipScorer(spec(checkpoint, preparation="antialias"))
    with pytest.raises(ValueError, match="expected square pictures"):
        scorer.embed_images(np.zeros((1, 32, 40, 3), np.uint8))


def test_a_pickled_checkpoint_needs_the_flag_or_a_known_hash(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(IntegrityError, match="not a well-known file") as caught:
        OpenClipScorer(spec(checkpoint))
    assert "SBV2BENCH_ALLOW_PICKLE=1" in str(caught.value)
    with pytest.raises(IntegrityError, match="not a well-known file"):
        with_weights(spec(checkpoint))
    monkeypatch.setitem(extractor_files.WELL_KNOWN, sha256_file(checkpoint), checkpoint.name)
    OpenClipScorer(spec(checkpoint))
    found = with_weights(spec(checkpoint)).weights
    assert [(file.path, file.sha256) for file in found] == [(checkpoint.name, sha256_file(checkpoint))]


def test_a_safetensors_copy_gives_the_same_scores(network: torch.nn.Module, tmp_path: Path) -> None:
    half = tmp_path / "hps.safetensors"
    save_file({name: value.half().contiguous() for name, value in network.state_dict().items()}, half)
    scorer = OpenClipScorer(spec(half, preparation="antialias"))
    assert {parameter.dtype for parameter in scorer.model.parameters()} == {torch.float32}
    assert not any(parameter.requires_grad for parameter in scorer.model.parameters())


def test_half_the_keys_are_refused(network: torch.nn.Module, tmp_path: Path) -> None:
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    path = tmp_path / "hps.safetensors"
    save_file(dict(list(state.items())[: len(state) // 2]), path)
    with pytest.raises(IntegrityError, match="missing") as caught:
        OpenClipScorer(spec(path))
    assert str(path) in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [({"architecture": "ViT-Z-14"}, "ViT-Z-14"), ({"preparation": "clean299"}, "found preparation 'clean299'")],
)
def test_unknown_names_are_refused(checkpoint: Path, change: dict[str, str], words: str) -> None:
    with pytest.raises(InputError, match=words):
        OpenClipScorer(spec(checkpoint, **change))


@pytest.fixture
def hub_folder(tmp_path: Path) -> Path:
    """As the hub lays an OpenCLIP repository out: several copies of the weights."""
    folder = write_tiny_clip(tmp_path / "clip", seed=1)
    state = load_file(folder / "open_clip_model.safetensors")
    torch.save(state, folder / "open_clip_pytorch_model.bin")
    save_file(state, folder / "model.safetensors")
    return folder


def hub_spec(folder: Path) -> ExtractorSpec:
    return spec(folder, architecture="", files=HUB_FILES)


def test_only_the_files_that_are_read_are_hashed(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a fingerprint does not depend on what else was downloaded, or on the flag."""
    expected = ["open_clip_config.json", "open_clip_model.safetensors"]
    assert [file.path for file in with_weights(hub_spec(hub_folder)).weights] == expected
    before = with_weights(hub_spec(hub_folder)).fingerprint()
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    (hub_folder / "model.safetensors").unlink()
    assert with_weights(hub_spec(hub_folder)).fingerprint() == before
    OpenClipScorer(hub_spec(hub_folder))


def test_a_hub_pickle_needs_the_flag(hub_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_safe = OpenClipScorer(hub_spec(hub_folder)).embed_images(images(2))
    (hub_folder / "open_clip_model.safetensors").unlink()
    for load in (OpenClipScorer, with_weights, weights_file):
        with pytest.raises(IntegrityError, match="pickle"):
            load(hub_spec(hub_folder))
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    assert weights_file(hub_spec(hub_folder)).name == "open_clip_pytorch_model.bin"
    assert np.array_equal(OpenClipScorer(hub_spec(hub_folder)).embed_images(images(2)), with_safe)
    (hub_folder / "open_clip_pytorch_model.bin").unlink()
    with pytest.raises(PrerequisiteError, match=r"none of open_clip_model\.safetensors"):
        weights_file(hub_spec(hub_folder))


def test_built_in_ids() -> None:
    registry = Registry.load()
    clip = registry.extractor("clip-vit-g-14-laion2b")
    assert (clip.prefix, clip.scale, clip.location) == ("A photo depicts ", 1.0, "hub:laion/CLIP-ViT-g-14-laion2B-s12B-b42K")
    with pytest.raises(PrerequisiteError, match="CLIP-ViT-g-14") as caught:
        with_weights(clip)
    assert "open_clip_model.safetensors" in str(caught.value.fix)
    for name, way in (("hpsv2-v2.0", "antialias"), ("hpsv2-v2.1", "antialias"), ("hpsv2-v2.1-legacy", "legacy_no_antialias")):
        hps = registry.extractor(name)
        assert (hps.architecture, hps.preparation, hps.scale, hps.prefix) == ("ViT-H-14", way, 100.0, "")
        with pytest.raises(PrerequisiteError, match="hpsv2"):
            with_weights(hps)


def test_the_hubs_cache_serves_it_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The catalog's own entry, from a cache laid out as huggingface_hub leaves it; the network in it is a tiny one."""
    revision = "a" * 40
    repository = tmp_path / "models--laion--CLIP-ViT-g-14-laion2B-s12B-b42K"
    write_tiny_clip(repository / "snapshots" / revision, seed=1)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(revision)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    found = with_weights(Registry.load().extractor("clip-vit-g-14-laion2b"))
    assert [file.path for file in found.weights] == ["open_clip_config.json", "open_clip_model.safetensors"]
    prefixed = OpenClipScorer(found).embed_text(["a red circle"])
    plain = OpenClipScorer(found.model_copy(update={"prefix": ""})).embed_text(["A photo depicts a red circle"])
    assert np.array_equal(prefixed, plain)


CAPTION_0 = "A man with a red helmet on a small moped on a dirt road. "
PREFIX_IDS = [49406, 320, 1125, 29340, 49407]
CAPTION_IDS = [
    *[49406, 320, 1125, 29340, 320, 786, 593, 320, 736, 11122, 525],
    *[320, 2442, 617, 2966, 525, 320, 11795, 1759, 269, 49407],
]


def test_tokens_of_the_prefixed_caption() -> None:
    """CLIP's vocabulary as open_clip ships it, the prefix, and the first caption of the list."""
    assert hashlib.sha256(Path(default_bpe()).read_bytes()).hexdigest() == (
        "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
    )
    prefix = Registry.load().extractor("clip-vit-g-14-laion2b").prefix
    tokenize = open_clip.get_tokenizer("ViT-g-14")
    for text, ids in ((prefix, PREFIX_IDS), (prefix + CAPTION_0, CAPTION_IDS), (prefix + CAPTION_0.strip(), CAPTION_IDS)):
        row = tokenize([text])[0].tolist()
        assert row == ids + [0] * (77 - len(ids))
