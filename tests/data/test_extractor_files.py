"""Files of extractors on the hub: a pickle, a vocabulary that lies elsewhere, and what is said where they are missing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from standin_hub import StandinHub

from sbv2bench.data import extractor_files
from sbv2bench.data.extractor_files import with_weights
from sbv2bench.data.needs import suite_needs
from sbv2bench.errors import IntegrityError, PrerequisiteError
from sbv2bench.evaluation import download
from sbv2bench.machine.inventory import listed
from sbv2bench.provenance import sha256_file
from sbv2bench.registry import Registry
from sbv2bench.specs import AssetSpec, ExtractorSpec, MetricSpec


@pytest.fixture
def registry() -> Registry:
    """The built-in one, and a reward model: a pickle in one repository, its vocabulary in another."""
    found = Registry.built_in()
    reward = {"kind": "image_reward", "location": "hub:lab/reward", "files": ["Reward.pt"], "tokenizer": "hub:lab/bert/vocab.txt"}
    found.add("extractor", ExtractorSpec.model_validate({"id": "reward", **reward}))
    metric = {"target": "m:f", "keys": ["reward"], "reads": "scorer", "extractor": "reward", "higher_is_better": True}
    found.add("metric", MetricSpec.model_validate({"id": "reward", **metric}))
    return found


@pytest.fixture
def served(standin: StandinHub, tmp_path: Path) -> StandinHub:
    for name, files in (("reward", ("Reward.pt", "README.md")), ("bert", ("vocab.txt", "model.safetensors"))):
        folder = tmp_path / name
        folder.mkdir()
        for file in files:
            (folder / file).write_bytes(f"{name} {file}".encode())
        standin.repositories[f"lab/{name}"] = folder
    torch.save({"x": torch.zeros(2)}, tmp_path / "reward" / "Reward.pt")
    return standin


def test_a_pickle_of_no_known_hash_is_fetched_with_the_switch_only(
    served: StandinHub, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(IntegrityError, match=r"hub:lab/reward.*/Reward\.pt: found pickled weights") as caught:
        download.bring(registry, "reward")
    assert "SBV2BENCH_ALLOW_PICKLE=1" in str(caught.value) and "Reward.pt" not in served.fetched()
    with pytest.raises(IntegrityError, match="pickled weights"):
        with_weights(registry.extractor("reward"))
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    download.bring(registry, "reward")
    assert served.fetched() == {"Reward.pt", "vocab.txt"}  # and nothing else of either
    assert [file.path for file in with_weights(registry.extractor("reward")).weights] == ["Reward.pt", "vocab.txt"]


def test_a_vocabulary_that_is_missing_is_said_with_the_extractors_name(
    served: StandinHub, registry: Registry, monkeypatch: pytest.MonkeyPatch, without_network: Callable[[], None]
) -> None:
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    needs = suite_needs(registry, registry.suite("first-look"), [registry.metric("reward")], captions=False)
    assert [(need.location, need.what) for need in needs] == [
        ("hub:lab/reward", "weights of reward"),
        ("hub:lab/bert/vocab.txt", "tokenizer of reward"),
    ]
    assert all(need.missing is not None and need.missing.fix == "sbv2bench download reward" for need in needs)
    with_weights(registry.extractor("reward"))
    here = {row["id"]: row["here"] for row in listed(registry, "extractors")}
    assert here["reward"] is True and here["image-reward-v1.0"] is False
    without_network()
    with_weights(registry.extractor("reward"))


def test_a_known_pickle_comes_as_an_asset_without_the_switch(
    served: StandinHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As OpenAI's ViT-L/14 at 336 px: its weights on the hub are a pickle that everybody has."""
    (tmp_path / "reward" / "config.json").write_text("{}")
    asset = AssetSpec(id="known", hub="lab/reward", files=("Reward.pt", "config.json"))
    place = download.asset_store.fetch(asset)
    spec = ExtractorSpec(id="x", kind="clip", location=str(place), files=("Reward.pt", "config.json"))
    with pytest.raises(IntegrityError, match="not a well-known file"):
        with_weights(spec)
    monkeypatch.setitem(extractor_files.WELL_KNOWN, sha256_file(place / "Reward.pt"), "known")
    assert [file.path for file in with_weights(spec).weights] == ["Reward.pt", "config.json"]


@pytest.mark.parametrize("name", ["clip-l14", "clip-l14-336", "pickscore", "image-reward", "cmmd", "fd-dinov2", "patch-fid"])
def test_offline_each_metric_names_the_command_that_brings_its_files(name: str) -> None:
    registry = Registry.built_in()
    metric = registry.metric(name)
    needs = suite_needs(registry, registry.suite("coco2014-30k"), [metric], captions=False)
    own = [need for need in needs if need.what.endswith(f" of {metric.extractor}")]
    assert len(own) == (2 if name == "image-reward" else 1)
    for need in own:
        assert isinstance(need.missing, PrerequisiteError) and need.missing.fix is not None
        assert need.missing.fix.startswith("HF_HUB_OFFLINE=0 SBV2BENCH_OFFLINE=0 sbv2bench download ")
        wanted = need.missing.fix.rpartition(" ")[2]
        assert wanted in (*registry.extractors, *registry.assets)
        assert {item.location for item in download.wanted_by(registry, wanted)} >= {need.location}
