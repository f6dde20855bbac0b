"""CLIP, DINOv2 and ImageReward from the hub's layouts: prepared as they say, and clear about files that are not theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hub_layouts import (
    TINY_BLIP,
    TINY_CLIP,
    TINY_DINOV2,
    State,
    random_blip_vision,
    random_clip,
    random_dinov2,
    random_image_reward,
    write_clip,
    write_dinov2,
)
from PIL import Image
from safetensors.torch import load_file, save_file
from torchvision.transforms import functional as tv

from sbv2bench.data import extractor_files
from sbv2bench.data.extractor_files import with_weights
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.features.base import load_extractor
from sbv2bench.features.image_reward import cut_captions
from sbv2bench.features.transformers_clip import prepared
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec

CLIP_FILES = ("config.json", "merges.txt", "model.safetensors", "pytorch_model.bin", "vocab.json")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cat"]


def picture(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8))


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_clip(tmp_path_factory.mktemp("clip"), random_clip(TINY_CLIP), TINY_CLIP)


@pytest.fixture(scope="module")
def reward_state() -> State:
    return random_image_reward(random_blip_vision(**TINY_BLIP), width=128, layers=2, words=len(WORDS) + 2)


def spec(kind: str, folder: Path, **more: object) -> ExtractorSpec:
    return ExtractorSpec.model_validate({"id": "x", "kind": kind, "location": str(folder), **more})


def reward_spec(folder: Path, state: State, **more: object) -> ExtractorSpec:
    """ImageReward's tensors as safetensors in a folder, beside a vocabulary."""
    save_file({name: value.contiguous() for name, value in state.items()}, folder / "reward.safetensors")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    fields = {"files": ["reward.safetensors"], "tokenizer": str(folder / "vocab.txt"), **more}
    return spec("image_reward", folder, **fields)


@pytest.mark.parametrize(("width", "height"), [(45, 30), (30, 45), (47, 30), (33, 30), (30, 30), (91, 30)])
def test_crops_are_each_codes_own(width: int, height: int) -> None:
    """Of margins that are odd OpenAI's code rounds half to even, transformers' down; CMMD crops before it resizes."""
    image = picture(width, height)
    pixels = np.asarray(image)
    theirs = tv.center_crop(tv.resize(image, 30, tv.InterpolationMode.BICUBIC), [30, 30])
    assert np.array_equal(np.asarray(prepared(image, 30, "")), np.asarray(theirs))
    top, left = (height - 30) // 2, (width - 30) // 2
    down = pixels[top : top + 30, left : left + 30]
    assert np.array_equal(np.asarray(prepared(image, 30, "processor")), down)
    assert np.array_equal(np.asarray(prepared(image, 30, "crop-first")), down)  # nothing is left to resize


def test_cropping_first_is_another_picture() -> None:
    image = picture(90, 61)
    first = image.crop((14, 0, 75, 61)).resize((28, 28), Image.Resampling.BICUBIC)
    assert np.array_equal(np.asarray(prepared(image, 28, "crop-first")), np.asarray(first))
    for other in ("", "processor"):
        assert not np.array_equal(np.asarray(prepared(image, 28, other)), np.asarray(first))
        assert np.array_equal(
            np.asarray(prepared(picture(61, 61), 28, other)), np.asarray(prepared(picture(61, 61), 28, "crop-first"))
        )


def test_names_of_built_in_extractors_say_what_they_are() -> None:
    registry = Registry.built_in()
    found = {name: registry.extractor(name) for name in registry.extractors}
    gives = {"clip-vit-l-14-openai": "paired", "clip-vit-l-14-336-crop-first": "paired", "dinov2-vit-l-14": "features",
             "pickscore-v1": "scorer", "image-reward-v1.0": "scorer", "inception-2015-patch299": "features"}  # fmt: skip
    assert {name: found[name].gives for name in gives} == gives
    plain, cropped = found["clip-vit-l-14-336-openai"], found["clip-vit-l-14-336-crop-first"]
    assert plain.location == cropped.location and plain.fingerprint() != cropped.fingerprint()
    assert registry.metric("cmmd").extractor == cropped.id


@pytest.mark.parametrize("kind", ["clip", "clip_logits", "dinov2", "image_reward"])
def test_an_unknown_preparation_is_refused(kind: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found preparation 'clean299'"):
        load_extractor(spec(kind, tmp_path, preparation="clean299", tokenizer="x"))


def damaged(folder: Path, damage: str) -> str:
    """Spoil the weights of a folder; returns what the error must say."""
    path = folder / "model.safetensors"
    state = load_file(path)
    name = next(name for name in state if name.endswith("fc1.weight"))
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-100])
        return "cannot be loaded"
    if damage == "missing":
        del state[name]
    elif damage == "extra":
        state["another.weight"] = torch.zeros(3)
    else:
        state[name] = state[name][:5].clone()
    save_file(state, path, metadata={"format": "pt"})
    return {"missing": "1 missing", "extra": r"1 not expected \(another.weight\)", "reshaped": "1 of another shape"}[damage]


@pytest.mark.parametrize("damage", ["missing", "extra", "reshaped", "cut"])
@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_other_weights_are_refused_by_name(kind: str, damage: str, tmp_path: Path) -> None:
    if kind == "clip":
        write_clip(tmp_path, random_clip(TINY_CLIP), TINY_CLIP)
    else:
        write_dinov2(tmp_path, random_dinov2(**TINY_DINOV2))
    words = damaged(tmp_path, damage)
    with pytest.raises(IntegrityError, match=words) as caught:
        load_extractor(spec(kind, tmp_path))
    assert str(tmp_path) in str(caught.value) and len(str(caught.value).splitlines()) <= 3


def test_a_folder_without_a_config_or_a_tokenizer_is_refused(tmp_path: Path) -> None:
    write_clip(tmp_path, random_clip(TINY_CLIP), TINY_CLIP)
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(IntegrityError, match=r"has no merges\.txt"):
        load_extractor(spec("clip", tmp_path))
    with pytest.raises(IntegrityError, match="model_type is 'clip', expected 'dinov2'"):
        load_extractor(spec("dinov2", tmp_path))
    (tmp_path / "config.json").unlink()
    with pytest.raises(IntegrityError, match=r"has no config\.json"):
        load_extractor(spec("clip", tmp_path))


def test_a_pickle_is_read_by_its_hash_or_with_the_switch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = random_clip(TINY_CLIP)
    write_clip(tmp_path, network, TINY_CLIP, pickle=True)
    pickled = spec("clip", tmp_path, files=CLIP_FILES)
    for load in (load_extractor, with_weights):
        with pytest.raises(IntegrityError, match="not a well-known file") as caught:
            load(pickled)
        assert "SBV2BENCH_ALLOW_PICKLE=1" in str(caught.value)
    image = np.asarray(picture(50, 50))[None]
    safe = write_clip(tmp_path / "safe", network, TINY_CLIP)
    expected = load_extractor(spec("clip", safe)).embed_images(image)
    with monkeypatch.context() as patch:
        patch.setitem(extractor_files.WELL_KNOWN, sha256_file(tmp_path / "pytorch_model.bin"), "known")
        np.testing.assert_allclose(load_extractor(pickled).embed_images(image), expected, rtol=0, atol=1e-6)
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    np.testing.assert_allclose(load_extractor(pickled).embed_images(image), expected, rtol=0, atol=1e-6)

    class Harm:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return pytest.fail, ("a pickle ran code",)

    torch.save({"logit_scale": Harm()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(IntegrityError, match="cannot be loaded"):
        load_extractor(pickled)


def test_declared_hashes_are_checked(clip: Path) -> None:
    files = ("config.json", "merges.txt", "model.safetensors", "vocab.json")
    real = sha256_file(clip / "model.safetensors")
    good = spec("clip", clip, files=files, weights=[{"path": "model.safetensors", "sha256": real}])
    found = {file.path: file.sha256 for file in with_weights(good).weights}
    assert set(found) == set(files) and found["model.safetensors"] == real
    undeclared = with_weights(spec("clip", clip, files=files))
    assert undeclared.fingerprint() == with_weights(good).fingerprint()
    with pytest.raises(IntegrityError, match=r"model.safetensors is another file\nfound sha256 .*, expected 00"):
        with_weights(spec("clip", clip, files=files, weights=[{"path": "model.safetensors", "sha256": "00" * 32}]))


def test_image_rewards_tensors_each_have_a_place_or_a_reason(reward_state: State, tmp_path: Path) -> None:
    """The three that its score does not use may be there or not; any other is missed, or too many, by its name."""
    image = np.asarray(picture(60, 60))[None]
    whole = load_extractor(reward_spec(tmp_path, reward_state)).score(image, ["a red cat"])
    used = {name: value for name, value in reward_state.items() if "_proj." not in name and not name.endswith("position_ids")}
    assert len(reward_state) - len(used) == 5
    assert np.array_equal(load_extractor(reward_spec(tmp_path, used)).score(image, ["a red cat"]), whole)
    for lacking in ("mlp.layers.4.bias", "blip.visual_encoder.blocks.1.attn.qkv.weight",
                    "blip.text_encoder.encoder.layer.0.crossattention.self.value.bias"):  # fmt: skip
        state = {name: value for name, value in reward_state.items() if name != lacking}
        with pytest.raises(IntegrityError, match="1 missing") as caught:
            load_extractor(reward_spec(tmp_path, state))
        assert "reward.safetensors" in str(caught.value)
    for extra in ("mlp.layers.9.bias", "blip.visual_encoder.head.weight", "blip.text_encoder.pooler.dense.bias", "blip.itm.bias"):
        with pytest.raises(IntegrityError, match="1 not expected"):
            load_extractor(reward_spec(tmp_path, {**reward_state, extra: torch.zeros(2)}))
    with pytest.raises(IntegrityError, match="not ImageReward's tensors"):
        load_extractor(reward_spec(tmp_path, {"weight": torch.zeros(2)}))


def test_image_rewards_vocabulary_is_a_file_of_its_own(reward_state: State, tmp_path: Path) -> None:
    one = reward_spec(tmp_path, reward_state)
    assert [file.path for file in with_weights(one).weights] == ["reward.safetensors", "vocab.txt"]
    assert cut_captions(one, ["a red cat", "red " * 33, "red " * 34]) == (1, 35)
    with pytest.raises(InputError, match="no tokenizer"):
        load_extractor(one.model_copy(update={"tokenizer": ""}))
    with pytest.raises(InputError, match="does not exist"):
        load_extractor(one.model_copy(update={"tokenizer": str(tmp_path / "none.txt")}))
    with pytest.raises(PrerequisiteError, match="not on this machine"):
        with_weights(one.model_copy(update={"tokenizer": "hub:lab/bert@" + "a" * 40 + "/vocab.txt"}))
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS + [f"w{i}" for i in range(50)]))
    with pytest.raises(IntegrityError, match=r"58 words, expected at most 10"):
        load_extractor(one)


def test_image_reward_needs_the_switch(reward_state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = reward_spec(tmp_path, reward_state, files=["ImageReward.pt"])
    torch.save(reward_state, tmp_path / "ImageReward.pt")
    with pytest.raises(IntegrityError, match="SBV2BENCH_ALLOW_PICKLE=1"):
        load_extractor(one)
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    image = np.asarray(picture(60, 60))[None]
    safe = load_extractor(reward_spec(tmp_path, reward_state)).score(image, ["a red cat"])
    assert np.array_equal(load_extractor(one).score(image, ["a red cat"]), safe)


@pytest.mark.parametrize("wrong", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((8, 8, 3), np.uint8)])
def test_only_uint8_rgb_batches_are_taken(wrong: np.ndarray, clip: Path) -> None:
    with pytest.raises(ValueError, match="uint8"):
        load_extractor(spec("clip", clip)).embed_images(wrong)
