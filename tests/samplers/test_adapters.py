"""Every kind of peft adapter: folded as peft itself merges it, or refused by the key that is not understood."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from tiny_models import tiny_text_encoder

from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers import load_sampler
from sbv2bench.specs import ModelSpec
from sbv2bench.weights import load_state_dict

TARGETS = ["to_q", "to_v", "conv1", "proj_in"]


def unet_with(location: Path, base: Path, sampler: str = "one_step") -> Any:
    spec = ModelSpec(
        id="local/x", sampler=sampler, location=str(location), holds="lora", base=str(base), steps=2, guidance_scale=1.0
    )
    loaded: Any = load_sampler(spec, "cpu", torch.float32)
    return loaded.networks()["unet"]


def trained(base: Path, folder: Path, train_bias: bool = False, **config: Any) -> dict[str, torch.Tensor]:
    """Write an adapter that was "trained" from its initialisation on; returns the whole network as peft merges it."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    chosen = {"r": 4, "lora_alpha": 6, "target_modules": TARGETS} | config
    adapted = peft.get_peft_model(unet, peft.LoraConfig(**chosen))
    random = torch.Generator().manual_seed(1)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name or (train_bias and name.endswith("bias")) or "modules_to_save" in name:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=random)
    adapted.save_pretrained(folder)
    return dict(adapted.merge_and_unload().state_dict())


FOLDED: dict[str, dict[str, Any]] = {
    "default": {},
    "gaussian": {"init_lora_weights": "gaussian"},
    "random": {"init_lora_weights": False},
    "rslora": {"use_rslora": True},
    "patterns": {"alpha_pattern": {"attn1.to_q": 12, "conv1": 3}, "rank_pattern": {"to_v": 2, "conv1": 6}},
    "patterns and rslora": {"use_rslora": True, "alpha_pattern": {"to_q": 12}, "rank_pattern": {"to_q": 8}},
    "a pattern from a name's start": {"alpha_pattern": {r"^down_blocks\..*\.to_q": 12}},
    "dropout": {"lora_dropout": 0.5},
    "some layers": {"exclude_modules": ["attn2.to_q"], "target_modules": ["to_q"]},
    "orthogonal": {"init_lora_weights": "orthogonal", "target_modules": ["to_q", "to_v"]},
    "eva": {"init_lora_weights": "eva", "eva_config": peft.EvaConfig(), "target_modules": ["to_q", "to_v"]},
    "mica": {"init_lora_weights": "mica", "target_modules": ["to_q", "to_v"]},
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "pissa": ({"init_lora_weights": "pissa", "target_modules": ["to_q"]}, "init_lora_weights: pissa changes the base"),
    "pissa by iterations": (
        {"init_lora_weights": "pissa_niter_4", "target_modules": ["to_q"]},
        "init_lora_weights: pissa_niter_4 changes the base",
    ),
    "olora": ({"init_lora_weights": "olora", "target_modules": ["to_q"]}, "init_lora_weights: olora changes the base"),
    "dora": ({"use_dora": True}, "use_dora"),
    "bias of the layers": ({"bias": "lora_only"}, "bias"),
    "all biases": ({"bias": "all"}, "bias"),
    "bias of the adapter": ({"lora_bias": True, "target_modules": ["conv1"]}, "lora_bias"),
    "modules_to_save": ({"modules_to_save": ["conv_in"]}, "modules_to_save"),
}
# What a tiny UNet cannot be trained with here, or what peft may bring: by the config alone.
CONFIGS: dict[str, Any] = {
    "init_lora_weights": ["loftq", "corda", "lora_ga", "some_later_one", 7],
    "fan_in_fan_out": [True],
    "layer_replication": [[[0, 4], [2, 5]]],
    "use_qalora": [True],
    "target_parameters": [["experts.weight"]],
    "trainable_token_indices": [[1]],
    "megatron_config": [{"hidden_size": 1}],
    "a_key_of_a_later_peft": [True, 0.5, "on", {"x": 1}],
    "peft_type": ["LOHA", "OFT"],
    "lora_alpha": ["many"],
    "alpha_pattern": [{"(": 3}, {"(.*a)*": 3}, {"(a|a)+b": 3}, {"(x){9}": 3}, {"a?a?a?a?b": 3}, {".*.*.*.*x": 3}],
}


@pytest.mark.ci
@pytest.mark.parametrize("kind", FOLDED)
@pytest.mark.parametrize("sampler", ["one_step", "pipeline"])
def test_what_is_folded_is_what_peft_merges(v_folder: Path, tmp_path: Path, kind: str, sampler: str) -> None:
    whole = trained(v_folder, tmp_path / "lora", **FOLDED[kind])
    found, before = unet_with(tmp_path / "lora", v_folder, sampler).state_dict(), load_state_dict(v_folder / "unet")
    assert any(not torch.allclose(value, before[key], atol=1e-3) for key, value in whole.items())  # it does something
    for key, value in whole.items():
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.parametrize("sampler", ["one_step", "pipeline"])
def test_an_adapter_that_is_more_than_that_is_refused_by_its_key(v_folder: Path, tmp_path: Path, kind: str, sampler: str) -> None:
    config, says = REFUSED[kind]
    trained(v_folder, tmp_path / "lora", train_bias="bias" in config, **config)
    with pytest.raises(IntegrityError, match=says) as caught:
        unet_with(tmp_path / "lora", v_folder, sampler)
    assert "adapter_config.json" in caught.value.message and "merge_and_unload" in str(caught.value.fix)
    assert len(str(caught.value).splitlines()) <= 3


@pytest.fixture(scope="module")
def plain(v_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "plain"
    trained(v_folder, folder)
    return folder


def changed(plain: Path, folder: Path, **fields: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes((plain / "adapter_model.safetensors").read_bytes())
    config = json.loads((plain / "adapter_config.json").read_text()) | fields
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


@pytest.mark.parametrize("key", CONFIGS)
def test_a_key_that_is_not_understood_is_refused(v_folder: Path, plain: Path, tmp_path: Path, key: str) -> None:
    for number, value in enumerate(CONFIGS[key]):
        with pytest.raises(IntegrityError, match=key):
            unet_with(changed(plain, tmp_path / str(number), **{key: value}), v_folder)
    unet_with(changed(plain, tmp_path / "off", a_key_of_a_later_peft=None, another=False, more={}), v_folder)


def test_a_rank_that_is_not_the_configs_is_refused(v_folder: Path, plain: Path, tmp_path: Path) -> None:
    """peft would not load it."""
    with pytest.raises(IntegrityError, match="has rank 4, expected 8"):
        unet_with(changed(plain, tmp_path / "r", r=8), v_folder)
    with pytest.raises(IntegrityError, match="has rank 4, expected 2"):
        unet_with(changed(plain, tmp_path / "pattern", rank_pattern={"to_q": 2}), v_folder)


def test_pefts_file_without_its_config_is_refused(v_folder: Path, plain: Path, tmp_path: Path) -> None:
    """Its alpha is in the config: alpha = rank would be another model."""
    with pytest.raises(InputError, match=r"adapter_config\.json") as caught:
        unet_with(plain / "adapter_model.safetensors", v_folder)
    assert str(plain) in str(caught.value.fix)
    (tmp_path / "renamed.safetensors").write_bytes((plain / "adapter_model.safetensors").read_bytes())
    with pytest.raises(InputError, match=r"adapter_config\.json"):
        unet_with(tmp_path / "renamed.safetensors", v_folder)


def kohya(plain: Path) -> dict[str, torch.Tensor]:
    """A LoRA of attention layers in kohya's layout, alphas included."""
    state: dict[str, torch.Tensor] = {}
    for key, value in load_file(plain / "adapter_model.safetensors").items():
        module, _, side = key.removeprefix("base_model.model.").removesuffix(".weight").rpartition(".")
        if "to_" not in module:
            continue
        name = f"lora_unet_{module.replace('.', '_')}"
        state[f"{name}.lora_{'down' if side == 'lora_A' else 'up'}.weight"] = value
        state[f"{name}.alpha"] = torch.tensor(2.0)
    return state


MORE: dict[str, tuple[str, tuple[int, ...]]] = {
    "dora": ("dora_scale", (16, 1)),
    "a difference of biases": ("diff_b", (16,)),
    "a whole difference": ("diff", (16, 16)),
    "a middle factor": ("lora_mid.weight", (4, 4, 1, 1)),
    "LoHa": ("hada_w1_a", (16, 4)),
    "LoKr": ("lokr_w1", (4, 4)),
    "of the norm": ("w_norm", (16,)),
}


@pytest.mark.parametrize("kind", MORE)
def test_tensors_of_a_file_that_are_no_plain_loras(v_folder: Path, plain: Path, tmp_path: Path, kind: str) -> None:
    """diffusers leaves some of these out in silence (dora_scale)."""
    state, (suffix, shape) = kohya(plain), MORE[kind]
    save_file(state, tmp_path / "plain.safetensors")
    unet_with(tmp_path / "plain.safetensors", v_folder)
    name = next(iter(state)).partition(".")[0]
    save_file(state | {f"{name}.{suffix}": torch.ones(shape)}, tmp_path / "more.safetensors")
    with pytest.raises(IntegrityError, match=suffix):
        unet_with(tmp_path / "more.safetensors", v_folder)


def test_a_text_encoders_adapter_is_refused_in_pefts_layout_too(v_folder: Path, tmp_path: Path) -> None:
    encoder = peft.get_peft_model(tiny_text_encoder(), peft.LoraConfig(r=2, target_modules=["q_proj"]))
    encoder.save_pretrained(tmp_path / "text")
    with pytest.raises(InputError, match=r"another network than the UNet2DConditionModel.*have no place there"):
        unet_with(tmp_path / "text", v_folder)
