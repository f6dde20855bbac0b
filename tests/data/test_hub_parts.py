"""Parts and adapters on the hub: of each repository only what is read is fetched."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from one_tensor_parts import pipeline
from sample_results import write_safetensors
from standin_hub import StandinHub

from sbv2bench.data import hub
from sbv2bench.data.chain import chain, model_files
from sbv2bench.errors import PrerequisiteError
from sbv2bench.evaluation import download
from sbv2bench.evaluation.costs import outline
from sbv2bench.evaluation.options import EvalOptions
from sbv2bench.machine.inventory import listed
from sbv2bench.registry import Registry
from sbv2bench.specs import MergeSpec, ModelSpec

CATALOG = """
models:
  local/mixed:
    sampler: pipeline
    location: hub:lab/base
    parts: {transformer: "hub:lab/donor", tokenizer: "hub:lab/donor", text_encoder: "hub:lab/alone"}
    adapters: [{location: "hub:lab/loras/turbo-8.safetensors", scale: 0.5}, {location: "hub:lab/loras/style.safetensors"}]
  local/donor: {sampler: pipeline, location: "hub:lab/donor"}
"""
PARTS = ("transformer", "vae", "text_encoder", "tokenizer", "scheduler")
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture
def registry(standin: StandinHub, tmp_path: Path) -> Registry:
    sources = tmp_path / "sources"
    for name in ("base", "donor"):
        standin.repositories[f"lab/{name}"] = pipeline(sources / name, *PARTS, kind="StableDiffusion3Pipeline")
    for file in sorted((sources / "donor").rglob(WEIGHTS)):  # to be told from the base's
        file.rename(file.with_name("diffusion_pytorch_model.fp16.safetensors"))
    shutil.copytree(sources / "base" / "text_encoder", sources / "alone")
    for loose in ("turbo-8", "style", "unwanted"):
        write_safetensors(sources / "loras" / f"{loose}.safetensors")
    for file in sources.rglob("*.safetensors"):  # what is the same is in the hub's cache once
        write_safetensors(file, file.relative_to(sources).as_posix().encode().ljust(80, b"."))
    standin.repositories |= {f"lab/{name}": sources / name for name in ("alone", "loras")}
    (tmp_path / "catalog.yaml").write_text(CATALOG)
    return Registry.load(tmp_path / "catalog.yaml")


FETCHED = {
    f"vae/{WEIGHTS}", "transformer/diffusion_pytorch_model.fp16.safetensors", WEIGHTS, "turbo-8.safetensors", "style.safetensors",
}  # fmt: skip


def test_only_what_is_read_is_fetched(standin: StandinHub, registry: Registry, without_network: Callable[[], None]) -> None:
    model = registry.model("local/mixed")
    planned = outline("local/mixed", "first-look", EvalOptions(), registry)
    assert {name for name in planned["download_bytes"] if name.startswith("hub:lab")} == {
        "hub:lab/base", "hub:lab/donor", "hub:lab/alone", "hub:lab/loras/turbo-8.safetensors", "hub:lab/loras/style.safetensors",
    }  # fmt: skip
    found = download.bring(registry, "local/mixed")
    assert {name for name in standin.fetched() if name.endswith(".safetensors")} == FETCHED
    assert "tokenizer/tokenizer_config.json" in standin.fetched() and next(iter(found)) == "hub:lab/base"
    standin.asked.clear()
    hashed = [file.path for file in model_files(model, registry.model)]
    assert not standin.asked
    without_network()
    assert [file.path for file in model_files(model, registry.model)] == hashed
    assert "transformer:hub:lab/donor:diffusion_pytorch_model.fp16.safetensors" in hashed
    assert "lora:hub:lab/loras/style.safetensors:style.safetensors" in hashed


def test_a_model_is_here_when_its_parts_and_adapters_are(registry: Registry) -> None:
    merge = MergeSpec(a="local/donor", b="local/donor", weight=0.5)
    adapters = registry.model("local/mixed").adapters
    registry.add("model", ModelSpec(id="local/merged", sampler="multi_step", merge=merge, adapters=adapters))

    def here() -> set[str]:
        return {str(row["id"]) for row in listed(registry, "models") if row["here"] and row["family"] == "local"}

    for name in ("hub:lab/base", "local/donor", "hub:lab/alone", "hub:lab/loras/turbo-8.safetensors"):
        download.bring(registry, name)
        assert "local/mixed" not in here() and "local/merged" not in here()
    download.bring(registry, "hub:lab/loras/style.safetensors")
    assert here() == {"local/mixed", "local/donor", "local/merged"}


def test_what_is_here_of_a_part_is_not_a_whole_model(
    standin: StandinHub, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    download.bring(registry, "local/mixed")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(PrerequisiteError, match="hub:lab/donor"):
        chain(registry.model("local/donor"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    standin.asked.clear()
    chain(registry.model("local/donor"))
    fetched = {name for name in standin.fetched() if name.endswith(".safetensors")}
    assert fetched == {f"{name}/diffusion_pytorch_model.fp16.safetensors" for name in ("vae", "text_encoder")}
    assert hub.download_bytes("hub:lab/donor", part="transformer") == 0


def test_a_repository_without_an_index_has_parts_too(standin: StandinHub, registry: Registry, tmp_path: Path) -> None:
    """As training leaves it; another part of it that is here already does not stand for this one."""
    shutil.copytree(standin.repositories["lab/base"], tmp_path / "run")
    (tmp_path / "run" / "model_index.json").unlink()
    standin.repositories["lab/run"] = tmp_path / "run"
    for name in ("vae", "transformer"):
        standin.asked.clear()
        folder = hub.hub_folder("lab/run", None, part=name)
        assert {file for file in standin.fetched() if file.endswith(".safetensors")} == {f"{name}/{WEIGHTS}"}
        assert (folder / name / WEIGHTS).is_file()
