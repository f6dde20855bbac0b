"""A merge with adapters and parts: of its ends, folded in before it, and of its own, after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_loras
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file
from tiny_models import tiny_text_encoder, write_tiny_pipeline, write_tiny_student

from sbv2bench.data.chain import model_files
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.registry import Registry
from sbv2bench.samplers import load_sampler
from sbv2bench.specs import MergeSpec, ModelSpec

TARGETS = ["to_q", "to_v"]


def unet_of(folder: Path) -> UNet2DConditionModel:
    return UNet2DConditionModel.from_pretrained(folder / "unet")


def lora(folder: Path, path: Path, seed: int, *, text: bool = False) -> tuple[Path, tiny_loras.State]:
    state = tiny_loras.random_lora(unet_of(folder), seed, TARGETS)
    named = tiny_loras.under("unet")(state)
    if text:
        named |= tiny_loras.under("text_encoder")(tiny_loras.random_lora(tiny_text_encoder(), seed, ["q_proj"]))
    save_file(named, path)
    return path, state


def end(name: str, folder: Path, adapter: Path | None = None, **fields: Any) -> ModelSpec:
    adapters = [] if adapter is None else [{"location": str(adapter), "scale": 0.7}]
    named = {"id": f"local/{name}", "sampler": "one_step", "steps": 1, "location": str(folder), "adapters": adapters}
    return ModelSpec.model_validate(named | fields)


def merged(registry: Registry, a: ModelSpec, b: ModelSpec, **fields: Any) -> Any:
    for spec in (a, b):
        registry.models.pop(spec.id, None)
        registry.add("model", spec)
    spec = end("merged", Path(), merge=MergeSpec(a=a.id, b=b.id, weight=0.25), **fields).model_copy(update={"location": ""})
    model_files(spec, registry.model)
    return load_sampler(spec, "cpu", torch.float32, registry)


def test_adapters_of_the_ends_and_of_the_merge(v_folder: Path, tmp_path: Path) -> None:
    other = write_tiny_student(tmp_path / "other", v_folder, seed=5)
    (one, of_a), (two, of_all) = (lora(v_folder, tmp_path / f"{seed}.safetensors", seed) for seed in (1, 2))
    a, b = unet_of(v_folder).state_dict(), unet_of(other).state_dict()
    a |= tiny_loras.folded(a, of_a, 0.7, {})
    mixed = {key: 0.25 * a[key] + 0.75 * b[key] for key in b}
    mixed |= tiny_loras.folded(mixed, of_all, 0.3, {})
    adapters = [{"location": str(two), "scale": 0.3}]
    found = merged(Registry.load(), end("a", v_folder, one), end("b", other), adapters=adapters).networks()["unet"].state_dict()
    for key, value in found.items():
        torch.testing.assert_close(value, mixed[key], rtol=0, atol=1e-6)


def test_parts_of_a_merge(v_folder: Path, tmp_path: Path) -> None:
    other, donor = write_tiny_student(tmp_path / "other", v_folder, seed=5), write_tiny_pipeline(tmp_path / "donor", seed=6)
    a, b, registry = end("a", v_folder), end("b", other), Registry.load()
    weights = "embeddings.token_embedding.weight"
    expected = load_sampler(end("donor", donor), "cpu", torch.float32).networks()["text_encoder"].state_dict()[weights]
    for place in (donor, donor / "text_encoder" / "model.safetensors"):
        found = merged(registry, a, b, parts={"text_encoder": str(place)}).networks()["text_encoder"]
        assert torch.equal(found.state_dict()[weights], expected)
    for parts, says in (({"unet": str(donor)}, "its UNet is merged"), ({"transformer": str(donor)}, "no transformer")):
        with pytest.raises(InputError, match=says):
            merged(registry, a, b, parts=parts)


def test_ends_must_share_what_is_not_averaged(v_folder: Path, tmp_path: Path) -> None:
    donor, registry = write_tiny_pipeline(tmp_path / "donor", seed=6), Registry.load()
    file, _ = lora(v_folder, tmp_path / "text.safetensors", 1, text=True)
    with pytest.raises(InputError, match=r"text\.safetensors: an adapter of text_encoder too"):
        merged(registry, end("a", v_folder, file), end("b", v_folder))
    with pytest.raises(IntegrityError, match="different weights of text_encoder"):
        merged(registry, end("a", v_folder), end("b", v_folder, parts={"text_encoder": str(donor)}))
    same = {"text_encoder": str(v_folder / "text_encoder" / "model.safetensors")}
    merged(registry, end("a", v_folder), end("b", v_folder, parts=same))
