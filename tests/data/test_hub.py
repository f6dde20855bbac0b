"""Repositories as people find them, from a hub on this machine: only what a run reads is fetched, and what goes wrong is said."""

from __future__ import annotations

import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from standin_hub import COMMIT, PATIENT, StandinHub
from tiny_models import write_tiny_pipeline

from sbv2bench.data import assets, hub
from sbv2bench.data.chain import model_files
from sbv2bench.data.selection import select
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation import download
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch, image_seed

UNET = "unet/diffusion_pytorch_model"
NETWORKS = ("text_encoder/model", UNET, "vae/diffusion_pytorch_model")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_pipeline(tmp_path_factory.mktemp("plain") / "model")


@pytest.fixture(scope="module")
def pipeline(plain: Path) -> StableDiffusionPipeline:
    return StableDiffusionPipeline.from_pretrained(plain, safety_checker=None)


def half(folder: Path, pipeline: StableDiffusionPipeline, **changes: object) -> Path:
    """The pipeline as a repository of float16 files: under the variant's names, or otherwise as `save_pretrained` is told."""
    copy = StableDiffusionPipeline(**pipeline.components, requires_safety_checker=False)
    for name in ("unet", "vae", "text_encoder"):
        module = type(getattr(pipeline, name)).from_config if name != "text_encoder" else type(pipeline.text_encoder)
        made = module(getattr(pipeline, name).config)
        made.load_state_dict(getattr(pipeline, name).state_dict())
        setattr(copy, name, made.half())
    copy.save_pretrained(folder, **({"variant": "fp16"} | changes))
    return folder


def sampled(name: str, dtype: torch.dtype = torch.float32) -> np.ndarray:
    block = PromptBlock(0, 0, 2, ("a red circle", "a blue star"), (image_seed(0, 0), image_seed(0, 1)))
    sampler = load_model(name, "cpu", dtype)
    return sampler.generate(block, Stopwatch())


def read(name: str, dtype: str | None = None) -> list[str]:
    registry = Registry.load()
    return [file.path for file in model_files(registry.model(name), registry.model, dtype)]


@pytest.mark.ci
def test_a_repository_of_float16_files_alone(standin: StandinHub, tmp_path: Path, pipeline: StableDiffusionPipeline) -> None:
    """D1: it is fetched, hashed and loaded as any other, and the images are those of the same weights under plain names."""
    standin.repositories["lab/half"] = half(tmp_path / "half", pipeline)
    plain_names = half(tmp_path / "plain", pipeline, variant=None)
    download.bring(Registry.load(), "hub:lab/half")
    assert {f"{name}.fp16.safetensors" for name in NETWORKS} <= standin.fetched()
    assert np.array_equal(sampled("hub:lab/half"), sampled(str(plain_names)))
    assert f"{UNET}.fp16.safetensors" in read("hub:lab/half")


@pytest.mark.ci
def test_a_run_in_float16_fetches_half_the_bytes(
    standin: StandinHub, tmp_path: Path, plain: Path, pipeline: StableDiffusionPipeline
) -> None:
    """A repository with both: each run reads and hashes its own, and neither fetches the other's."""
    both = shutil.copytree(plain, tmp_path / "both")
    half(both, pipeline)
    standin.repositories["lab/both"] = both
    small, large = (hub.download_bytes("hub:lab/both", None, dtype) for dtype in ("float16", "float32"))
    assert small is not None and large is not None and small < 0.7 * large
    found = read("hub:lab/both", "float16")
    assert f"{UNET}.fp16.safetensors" in found and f"{UNET}.safetensors" not in {*found, *standin.fetched()}
    assert hub.download_bytes("hub:lab/both", None, "float16") == 0
    found = read("hub:lab/both", "float32")
    assert f"{UNET}.safetensors" in found and f"{UNET}.fp16.safetensors" not in found
    assert np.array_equal(sampled("hub:lab/both"), sampled(str(plain)))


@pytest.mark.ci
def test_networks_in_shards_plain_and_by_variant(standin: StandinHub, tmp_path: Path, pipeline: StableDiffusionPipeline) -> None:
    sharded = half(tmp_path / "sharded", pipeline, max_shard_size="300KB")
    assert len(list((sharded / "unet").glob("*.safetensors"))) > 1
    standin.repositories["lab/sharded"] = sharded
    whole = half(tmp_path / "whole", pipeline, variant=None)
    assert np.array_equal(sampled("hub:lab/sharded"), sampled(str(whole)))
    (sharded / "unet").joinpath(sorted(path.name for path in (sharded / "unet").glob("*.safetensors"))[0]).unlink()
    with pytest.raises(PrerequisiteError, match=r"of \d+ shards"):
        assets.hash_weights(sharded)


@pytest.mark.ci
def test_a_repository_of_pickles_alone_names_the_switch(
    standin: StandinHub,
    tmp_path: Path,
    pipeline: StableDiffusionPipeline,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """D1, D3: refused before a byte of weights; with the switch it is read, and nothing of other libraries is fetched."""
    folder = half(tmp_path / "bins", pipeline, variant=None, safe_serialization=False)
    for foreign in ("unet/openvino_model.bin", "unet/model.onnx", "text_encoder/flax_model.msgpack", "old.ckpt"):
        (folder / foreign).write_bytes(b"x" * 100)
    standin.repositories["lab/bins"] = folder
    with pytest.raises(IntegrityError, match="pickled weights") as caught:
        read("hub:lab/bins")
    assert "SBV2BENCH_ALLOW_PICKLE=1" in str(caught.value)
    assert not any(name.endswith(".bin") for name in standin.fetched())
    monkeypatch.setenv(assets.ALLOW_PICKLE, "1")
    assert f"{UNET}.bin" in read("hub:lab/bins")
    assert not {"unet/openvino_model.bin", "unet/model.onnx", "text_encoder/flax_model.msgpack", "old.ckpt"} & standin.fetched()
    assert np.array_equal(sampled("hub:lab/bins"), sampled(str(half(tmp_path / "safe", pipeline, variant=None))))


def test_the_switch_changes_nothing_of_a_model_that_has_safetensors(  # noqa: PLR0917  # fixtures
    standin: StandinHub,
    tmp_path: Path,
    plain: Path,
    pipeline: StableDiffusionPipeline,
    monkeypatch: pytest.MonkeyPatch,
    without_network: Callable[[], None],
) -> None:
    """D3: neither what is fetched, nor its fingerprint, nor that it is on this machine."""
    both = shutil.copytree(plain, tmp_path / "both")
    half(both, pipeline, variant=None, safe_serialization=False)
    standin.repositories["lab/both"] = both
    before = read("hub:lab/both")
    monkeypatch.setenv(assets.ALLOW_PICKLE, "1")
    assert read("hub:lab/both") == before
    assert not any(name.endswith(".bin") for name in standin.fetched())
    without_network()
    assert read("hub:lab/both") == before


@pytest.mark.ci
def test_a_safety_checker_is_neither_fetched_nor_required(standin: StandinHub, tmp_path: Path, plain: Path) -> None:
    """D2: it is never loaded, so pickles of it stand in nobody's way."""
    folder = shutil.copytree(plain, tmp_path / "checked")
    index = json.loads((folder / "model_index.json").read_text())
    index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    (folder / "safety_checker").mkdir()
    (folder / "safety_checker" / "config.json").write_text("{}")
    (folder / "safety_checker" / "pytorch_model.bin").write_bytes(b"x" * 100)
    standin.repositories["lab/checked"] = folder
    assert np.array_equal(sampled("hub:lab/checked"), sampled(str(plain)))
    assert not any(name.startswith("safety_checker") for name in {*read("hub:lab/checked"), *standin.fetched()})


def test_only_the_parts_that_a_model_names_are_fetched(standin: StandinHub, tmp_path: Path, plain: Path) -> None:
    """Checkpoints in one file and other people's folders lie in the same repositories; of a UNet's base no UNet is needed."""
    folder = shutil.copytree(plain, tmp_path / "crowded")
    shutil.copytree(folder / "vae", folder / "vae_1_0")
    (folder / "sd_turbo.safetensors").write_bytes(b"x" * 100)
    standin.repositories |= {"lab/crowded": folder, "lab/unet": shutil.copytree(plain / "unet", tmp_path / "unet")}
    catalog = 'models: {local/swap: {sampler: pipeline, location: "hub:lab/unet", holds: unet, base: "hub:lab/crowded"}}'
    (tmp_path / "own.yaml").write_text(catalog)
    registry = Registry.load(tmp_path / "own.yaml")
    hashed = [file.path for file in model_files(registry.model("local/swap"), registry.model)]
    assert "diffusion_pytorch_model.safetensors" in hashed and f"hub:lab/crowded:{UNET}.safetensors" not in hashed
    assert not {f"{UNET}.safetensors", "vae_1_0/config.json", "sd_turbo.safetensors"} & standin.fetched()
    block = PromptBlock(0, 0, 1, ("a star",), (7,))
    images = [load_model(name, registry=registry).generate(block, Stopwatch()) for name in ("local/swap", str(plain))]
    assert images[0].shape == images[1].shape


def test_a_connection_that_breaks_in_mid_file_is_gone_on_from(standin: StandinHub, plain: Path) -> None:
    standin.repositories["lab/model"] = plain
    name = f"{UNET}.safetensors"
    standin.breaks[name] = 2
    assert np.array_equal(sampled("hub:lab/model"), sampled(str(plain)))
    starts = [start for asked, start in standin.asked if asked == name]
    assert len(starts) == 3 and starts[0] == 0 < starts[1] < starts[2]


def test_a_connection_that_is_reset_is_tried_again(
    standin: StandinHub, plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    standin.repositories["lab/model"] = plain
    name = f"{UNET}.safetensors"
    standin.resets, standin.breaks[name] = True, 1
    monkeypatch.setattr(hub, "time", PATIENT)
    assert np.array_equal(sampled("hub:lab/model"), sampled(str(plain)))
    assert capsys.readouterr().err.count("note: fetching hub:lab/model: ") == 1


def test_a_connection_that_stays_broken_says_what_is_kept(
    standin: StandinHub, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3; what came whole is not fetched again."""
    standin.repositories["lab/model"] = plain
    name = f"{UNET}.safetensors"
    standin.resets, standin.breaks[name] = True, 1000
    monkeypatch.setattr(hub, "time", PATIENT)
    with pytest.raises(PrerequisiteError, match=r"the connection broke .*; [\d.]+ MB of [\d.]+ MB are kept, in whole") as caught:
        read("hub:lab/model")
    assert caught.value.fix == "sbv2bench download hub:lab/model"
    kept = hub.snapshot("lab/model", COMMIT, "model")
    assert kept is not None and (kept / "vae" / "config.json").is_file() and not (kept / name).exists()
    standin.breaks.clear()
    standin.asked.clear()
    read("hub:lab/model")
    assert standin.fetched() == {name}


def test_a_file_that_broke_in_the_cache_is_fetched_again_by_what_is_advised(standin: StandinHub, plain: Path) -> None:
    standin.repositories["lab/model"] = plain
    read("hub:lab/model")
    snapshot = hub.snapshot("lab/model", COMMIT, "model")
    assert snapshot is not None
    blob = (snapshot / f"{UNET}.safetensors").resolve()
    blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(IntegrityError, match="the file was cut") as caught:
        read("hub:lab/model")
    remove, fetch = str(caught.value.fix).split(" && ")
    assert (remove, fetch) == (f"rm -r {snapshot.parents[1]}", "sbv2bench download hub:lab/model")
    shutil.rmtree(snapshot.parents[1])
    assert f"{UNET}.safetensors" in read("hub:lab/model")


@pytest.mark.parametrize(
    ("refusal", "error", "says", "fix"),
    [
        (401, PrerequisiteError, "asks who you are (401)", "hf auth login"),
        (403, PrerequisiteError, "your account has no access (403)", "then hf auth login"),
        ("gated", PrerequisiteError, "its authors give access on request (403)", "/lab/model, then hf auth login"),
        ("unknown", InputError, "no such repository, or it is private", "hf auth login, if it is private"),
    ],
)
def test_what_the_hub_refuses_is_said_with_what_to_do(  # noqa: PLR0917  # fixtures and cases
    standin: StandinHub, plain: Path, refusal: int | str, error: type[Exception], says: str, fix: str
) -> None:
    standin.repositories["lab/model"] = plain
    standin.refused["lab/model"] = refusal
    with pytest.raises(error) as caught:
        read("hub:lab/model")
    assert says in str(caught.value) and fix in str(caught.value)
    with pytest.raises(error) as caught:
        assets.resolve_location("hub:lab/model/unet/diffusion_pytorch_model.safetensors")
    assert says in str(caught.value)


def test_a_revision_and_a_file_that_are_not_there(standin: StandinHub, plain: Path) -> None:
    standin.repositories["lab/model"] = plain
    with pytest.raises(InputError, match="no revision v9 of it") as caught:
        read("hub:lab/model@v9")
    assert caught.value.fix == "sbv2bench download hub:lab/model"
    with pytest.raises(InputError, match="no such file") as caught:
        assets.resolve_location("hub:lab/model/unet/diffusion_pytorch_model.safetensor")
    assert caught.value.fix == f"sbv2bench download hub:lab/model/{UNET}.safetensors"


def test_a_hub_that_does_not_answer_in_time(standin: StandinHub, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is here already serves; otherwise the longer patience is named."""
    standin.repositories["lab/model"] = plain
    monkeypatch.setattr(hub, "_ASKED_WITHIN", 0.2)
    standin.slow = 1.0
    with pytest.raises(PrerequisiteError, match="did not answer in time") as caught:
        read("hub:lab/model")
    assert "HF_HUB_DOWNLOAD_TIMEOUT=120" in str(caught.value.fix)
    standin.slow = 0.0
    found = read("hub:lab/model")
    standin.slow = 1.0
    assert read("hub:lab/model") == found


def test_a_withdrawn_id_is_followed_to_its_copy(standin: StandinHub, plain: Path, capsys: pytest.CaptureFixture[str]) -> None:
    standin.repositories["stable-diffusion-v1-5/stable-diffusion-v1-5"] = plain
    with hub.nothing_fetched(), pytest.raises(PrerequisiteError):  # as a list asks, which uses no copy
        assets.resolve_location("hub:runwayml/stable-diffusion-v1-5")
    assert capsys.readouterr().err == ""
    assert assets.resolve_location("hub:runwayml/stable-diffusion-v1-5").is_dir()
    assert "hub:runwayml/stable-diffusion-v1-5 was withdrawn from the hub; using its copy" in capsys.readouterr().err


def test_an_incomplete_copy_offline_says_what_is_missing(
    standin: StandinHub, plain: Path, without_network: Callable[[], None]
) -> None:
    standin.repositories["lab/model"] = plain
    place = assets.resolve_location("hub:lab/model")
    (place / f"{UNET}.safetensors").unlink()
    without_network()
    with pytest.raises(PrerequisiteError, match=r"not on this machine \(unet: no weights found\)") as caught:
        read("hub:lab/model")
    assert caught.value.fix == "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download hub:lab/model"


def test_a_download_that_was_killed_is_not_taken_for_whole(
    standin: StandinHub, plain: Path, monkeypatch: pytest.MonkeyPatch, without_network: Callable[[], None]
) -> None:
    """A config that had not come yet is fetched by the next command, and missing to one that is offline."""
    standin.repositories["lab/model"] = plain
    download_all = huggingface_hub.snapshot_download

    def killed(*arguments: object, allow_patterns: list[str], **more: object) -> None:
        download_all(*arguments, allow_patterns=[name for name in allow_patterns if name != "vae/config.json"], **more)
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(huggingface_hub, "snapshot_download", killed)
        download.bring(Registry.load(), "hub:lab/model")
    with (
        monkeypatch.context() as patch,
        pytest.raises(PrerequisiteError, match=r"\(vae/config\.json is missing, its download was"),
    ):
        patch.setenv("SBV2BENCH_OFFLINE", "1")
        read("hub:lab/model")
    standin.asked.clear()
    download.bring(Registry.load(), "hub:lab/model")
    assert standin.fetched() == {"vae/config.json"}
    without_network()
    assert "vae/config.json" in read("hub:lab/model")


def test_no_room_on_the_disk(standin: StandinHub, plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    standin.repositories["lab/model"] = plain
    usage = shutil.disk_usage(plain)
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage._replace(free=1000))
    with pytest.raises(IntegrityError, match=r"found 0\.0 MB free, expected"):
        read("hub:lab/model")
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: usage)  # the disk may also fill up meanwhile

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", full)
    with pytest.raises(IntegrityError, match="no room on the disk"):
        read("hub:lab/model")


def test_sets_of_files_by_name() -> None:
    """The names are those of real repositories."""
    shards = [f"transformer/diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    listing = [
        "transformer/diffusion_pytorch_model.safetensors.index.json", *shards, "transformer/config.json",
        "text_encoder_3/model.fp16-00001-of-00002.safetensors", "text_encoder_3/model.fp16-00002-of-00002.safetensors",
        "text_encoder_3/model.safetensors.index.fp16.json", "text_encoder_3/model.safetensors.index.json",
        "text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model-00002-of-00002.safetensors",
        "vae/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.bin", "vae/diffusion_pytorch_model.non_ema.bin",
        "tokenizer_3/spiece.model", "unet_onnx/model.safetensors", "model_index.json",
    ]  # fmt: skip
    named = ("transformer", "text_encoder_3", "vae", "tokenizer_3")
    index = {name: ["library", "Class"] for name in named} | {"unet": [None, None]}
    half_read = set(select(listing, "float16", index).files)
    assert {*shards, "text_encoder_3/model.fp16-00001-of-00002.safetensors", "tokenizer_3/spiece.model"} <= half_read
    assert "text_encoder_3/model.safetensors.index.fp16.json" in half_read
    assert not {"text_encoder_3/model-00001-of-00002.safetensors", "text_encoder_3/model.safetensors.index.json"} & half_read
    full_read = set(select(listing, "float32", index, pickles=True).files)
    assert "text_encoder_3/model-00002-of-00002.safetensors" in full_read
    assert not {"text_encoder_3/model.safetensors.index.fp16.json", "vae/diffusion_pytorch_model.bin"} & full_read
    assert not any(name.startswith("unet_onnx") for name in full_read)
    assert select(listing[2:], "float32", index).cut == (f"{shards[1]} and others: 1 of 2 shards",)
