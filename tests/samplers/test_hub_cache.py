"""Entries of a catalog served offline by a folder laid out as the hub's own cache: revisions, files, old names, mirrors."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import numpy as np
import pytest
import torch
from tiny_models import write_tiny_adapter, write_tiny_pipeline, write_tiny_student

from sbv2bench.data import assets
from sbv2bench.data.chain import chain, hash_chain, model_files
from sbv2bench.errors import InputError, IntegrityError, PrerequisiteError
from sbv2bench.evaluation import download
from sbv2bench.machine.inventory import why_lacking
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_model
from sbv2bench.samplers.base import PromptBlock, Stopwatch

ImagesOf = Callable[[str], np.ndarray]
OLD, NEW = "1" * 40, "2" * 40
CATALOG = f"""
models:
  full/base:
    {{sampler: one_step, location: "hub:lab/base", revision: "{OLD}", steps: 1, aliases: [gone/base], mirrors: ["hub:copy/base"]}}
  full/latest: {{sampler: one_step, location: "hub:lab/base", steps: 1}}
  full/swapped: {{sampler: one_step, location: "hub:lab/files/deep/unet.safetensors", holds: unet, base: "hub:lab/base",
    steps: 1}}
  full/lora: {{sampler: one_step, location: "hub:lab/lora", holds: lora, base: "hub:lab/base", steps: 1}}
  full/on-old: {{sampler: one_step, location: "hub:lab/lora", holds: lora, base: "hub:lab/base@{OLD}", steps: 1}}
  full/by-hand: {{sampler: one_step, location: "home:released", base: "hub:lab/base", steps: 1}}
"""


def store(cache: Path, repository: str, revision: str, folder: Path, ref: str | None = "main") -> None:
    """Put a folder into the cache as huggingface_hub does: blobs by hash, a snapshot of links to them, a ref to the snapshot."""
    root = cache / f"models--{repository.replace('/', '--')}"
    for source in (path for path in folder.rglob("*") if path.is_file()):
        blob = root / "blobs" / sha256_file(source)
        blob.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, blob)
        link = root / "snapshots" / revision / source.relative_to(folder)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    if ref is not None:
        (root / "refs").mkdir(exist_ok=True)
        (root / "refs" / ref).write_text(revision)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sources")
    write_tiny_pipeline(folder / "old")
    write_tiny_student(folder / "new", folder / "old", seed=5)
    (folder / "files" / "deep").mkdir(parents=True)
    shutil.copy(folder / "new" / "unet" / "diffusion_pytorch_model.safetensors", folder / "files" / "deep" / "unet.safetensors")
    unet = load_model(folder / "old").networks()["unet"]  # type: ignore[attr-defined]
    write_tiny_adapter(folder / "adapter", unet, "")
    (folder / "adapter" / "unet_lora").rename(folder / "lora")
    return folder


@pytest.fixture
def cache(sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The hub's cache of this test, with nothing else in it."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    store(cache, "lab/base", OLD, sources / "old", ref=None)
    store(cache, "lab/base", NEW, sources / "new")
    store(cache, "lab/files", NEW, sources / "files")
    store(cache, "lab/lora", NEW, sources / "lora")
    return cache


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    return Registry.load(tmp_path / "catalog.yaml")


@pytest.fixture
def images_of(registry: Registry, make_block: Callable[..., PromptBlock]) -> ImagesOf:
    return lambda name: load_model(name, "cpu", torch.float32, registry).generate(make_block(), Stopwatch())


@pytest.mark.usefixtures("cache")
def test_a_revision_is_the_one_that_is_pinned(images_of: ImagesOf, sources: Path) -> None:
    old, new = images_of("full/base"), images_of("full/latest")
    assert not np.array_equal(old, new)
    (sources / "old" / "sbv2bench.json").write_text('{"id": "local/x", "sampler": "one_step", "steps": 1}')
    assert np.array_equal(old, images_of(str(sources / "old")))
    assert np.array_equal(old, images_of("gone/base"))  # by the name of old


@pytest.mark.usefixtures("cache")
def test_one_file_of_a_repository_on_a_base(registry: Registry, images_of: ImagesOf) -> None:
    assert np.array_equal(images_of("full/swapped"), images_of("full/latest"))
    hashed = [file.path for file in model_files(registry.model("full/swapped"), registry.model)]
    assert hashed[0] == "unet.safetensors" and "hub:lab/base:unet/config.json" in hashed
    assert not np.array_equal(images_of("full/lora"), images_of("full/latest"))


@pytest.mark.usefixtures("cache")
def test_a_base_and_a_model_without_an_entry_have_revisions_too(registry: Registry, images_of: ImagesOf) -> None:
    on_old, on_new = ("hub:lab/base" + pin for pin in (f"@{OLD}", ""))
    assert not np.array_equal(images_of("full/on-old"), images_of("full/lora"))
    assert assets.resolve_location(on_old).name == OLD and assets.resolve_location(on_new).name == NEW
    assert assets.resolve_location(on_old, revision=NEW).name == OLD
    assert assets.resolve_location(f"hub:lab/files@{NEW}/deep/unet.safetensors").parent.parent.name == NEW
    assert registry.model(on_old).id == f"local/lab--base--{OLD}"
    with pytest.raises(PrerequisiteError, match="sbv2bench download hub:lab/base@none"):
        assets.resolve_location("hub:lab/base@none")


def test_a_mirror_serves_what_the_first_place_has_not(registry: Registry, cache: Path, sources: Path) -> None:
    expected = hash_chain(chain(registry.model("full/base")))
    shutil.rmtree(cache / "models--lab--base")
    with pytest.raises(PrerequisiteError, match="hub:lab/base") as caught:
        chain(registry.model("full/base"))
    assert f"sbv2bench download hub:lab/base@{OLD}" in str(caught.value)
    store(cache, "copy/base", NEW, sources / "old")
    assert hash_chain(chain(registry.model("full/base"))) == expected
    assert why_lacking(registry.model("full/base"), registry) == ""
    assert (
        registry.model("full/base").fingerprint() == registry.model("full/base").model_copy(update={"mirrors": ()}).fingerprint()
    )


def test_what_is_missing_is_named_with_the_command(registry: Registry, cache: Path) -> None:
    shutil.rmtree(cache / "models--lab--files")
    with pytest.raises(PrerequisiteError, match=r"hub:lab/files/deep/unet\.safetensors.*offline") as caught:
        load_model("full/swapped", registry=registry)
    assert caught.value.fix == "HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download hub:lab/files/deep/unet.safetensors"
    with pytest.raises(IntegrityError, match="pickle"):
        assets.resolve_location("hub:lab/files/unet.bin")
    (cache / "models--lab--base" / "snapshots" / NEW / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(PrerequisiteError, match="vae: no weights found"):
        load_model("full/latest", registry=registry)


@pytest.mark.usefixtures("cache")
def test_weights_that_a_user_puts_in_by_hand(registry: Registry, images_of: ImagesOf, sources: Path, own_home: Path) -> None:
    """The released SwiftBrush v2 checkpoints are in no hub: a folder with unet_ema/, for the base's other parts."""
    with pytest.raises(PrerequisiteError, match="home:released") as caught:
        load_model("full/by-hand", registry=registry)
    assert str(own_home / "models" / "released") in str(caught.value)
    shutil.copytree(sources / "new" / "unet", own_home / "models" / "released" / "unet_ema")
    assert np.array_equal(images_of("full/by-hand"), images_of("full/latest"))
    for wrong in ("home:", "home:../models/released", "home:/etc"):
        with pytest.raises(InputError, match="expected home:NAME"):
            assets.resolve_location(wrong)


def test_download_brings_all_that_a_model_is_made_of(registry: Registry, cache: Path) -> None:
    """The adapter and its base; a mirror of it; both ends of a merged model."""
    assert list(download.bring(registry, "full/lora")) == ["hub:lab/lora", "hub:lab/base"]
    (cache / "models--lab--base").rename(cache / "models--copy--base")
    assert list(download.bring(registry, "full/base")) == ["hub:copy/base"]
    assert list(download.bring(registry, "mini/sbv2-merged")) == [f"package:mini/{name}" for name in ("sbv2-a", "sd21", "sbv2-b")]
