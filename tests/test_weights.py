"""Weights: reading, comparing, folding LoRA, merging. Broken files beside their good twins."""

from __future__ import annotations

import json
import math
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import save_file
from tiny_models import tiny_unet
from torch import nn

from sbv2bench.errors import IntegrityError, PrerequisiteError
from sbv2bench.weights import (
    LoraSettings,
    check_finite,
    compare_keys,
    first_not_finite,
    fold_lora,
    interpolate,
    load_adapter,
    load_state_dict,
)

Weights = dict[str, torch.Tensor]


def weights(seed: int, dtype: torch.dtype = torch.float32) -> Weights:
    rng = torch.Generator().manual_seed(seed)
    return {
        "conv.weight": torch.randn(4, 3, 3, 3, generator=rng).to(dtype),
        "proj.weight": torch.randn(5, 4, generator=rng).to(dtype),
        "norm.bias": torch.randn(4, generator=rng).to(dtype),
        "steps": torch.tensor(seed),
    }


def same_bits(a: Weights, b: Weights) -> bool:
    """Equal names, dtypes and bytes: a NaN equals itself, 0.0 is not -0.0."""
    return a.keys() == b.keys() and all(
        a[key].dtype == b[key].dtype and a[key].numpy().tobytes() == b[key].numpy().tobytes() for key in a
    )


def test_a_file_and_a_folder_are_read_as_they_were_written(tmp_path: Path) -> None:
    state = weights(0, torch.float16)
    save_file(state, tmp_path / "model.safetensors")
    assert same_bits(load_state_dict(tmp_path / "model.safetensors"), state)
    assert same_bits(load_state_dict(tmp_path), state)
    save_file(weights(1), tmp_path / "model.fp16.safetensors")  # a variant beside it is not another model
    assert same_bits(load_state_dict(tmp_path), state)


def test_shards_are_one_model(tmp_path: Path) -> None:
    state = weights(0)
    names = list(state)
    for shard, keys in enumerate((names[:2], names[2:])):
        save_file({key: state[key] for key in keys}, tmp_path / f"model-0000{shard}-of-00002.safetensors")
    with pytest.raises(IntegrityError, match="2 weights files"):
        load_state_dict(tmp_path)
    where = {key: f"model-0000{0 if key in names[:2] else 1}-of-00002.safetensors" for key in names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    assert same_bits(load_state_dict(tmp_path), state)


def test_missing_weights(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"gone\.safetensors"):
        load_state_dict(tmp_path / "gone.safetensors")
    with pytest.raises(PrerequisiteError, match="no weights found"):
        load_state_dict(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_file_is_refused_by_name(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "model.safetensors"
    save_file(weights(0), path)
    load_state_dict(path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match=r"model\.safetensors") as caught:
        load_state_dict(path)
    assert caught.value.exit_code == 4


class Exploit:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_pickles_are_read_only_where_they_are_allowed_and_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SBV2BENCH_ALLOW_PICKLE", raising=False)
    torch.save(weights(0), tmp_path / "good.bin")
    torch.save({"x": Exploit(tmp_path / "touched")}, tmp_path / "evil.bin")
    with pytest.raises(IntegrityError, match="pickle"):
        load_state_dict(tmp_path / "good.bin")
    monkeypatch.setenv("SBV2BENCH_ALLOW_PICKLE", "1")
    assert same_bits(load_state_dict(tmp_path / "good.bin"), weights(0))
    with pytest.raises(IntegrityError, match=r"evil\.bin"):
        load_state_dict(tmp_path / "evil.bin")
    assert not (tmp_path / "touched").exists()


def test_differences_of_keys_are_counted_and_named() -> None:
    expected = {f"layer.{i}.weight": torch.zeros(2) for i in range(9)}
    compare_keys(expected, expected, "student")
    found = {**{key: value for key, value in expected.items() if int(key[6]) > 4}, "odd": torch.zeros(1)}
    found["layer.8.weight"] = torch.zeros(3)
    with pytest.raises(IntegrityError) as caught:
        compare_keys(found, expected, "student")
    message = str(caught.value)
    assert "student" in message
    assert "5 missing (layer.0.weight, layer.1.weight, layer.2.weight and 2 more)" in message
    assert "1 not expected (odd)" in message
    assert "1 of another shape (layer.8.weight [3] for [2])" in message


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_ends_of_a_merge_are_bitwise_copies(dtype: torch.dtype) -> None:
    a, b = weights(1, dtype), weights(2, dtype)
    a["norm.bias"][:2] = torch.tensor([float("nan"), -0.0])  # which 1 a + 0 b would not keep
    b["norm.bias"][0] = float("inf")
    assert same_bits(interpolate(a, b, 1.0), a)
    assert same_bits(interpolate(a, b, 0.0), b)
    interpolate(a, b, 1.0)["proj.weight"].zero_()
    assert bool(a["proj.weight"].any())


def test_a_merge_is_linear_in_float32_and_copies_integers() -> None:
    a, b = weights(1, torch.float16), weights(2, torch.float16)
    merged = interpolate(a, b, 0.3)
    exact = 0.3 * a["conv.weight"].double() + 0.7 * b["conv.weight"].double()
    assert merged["conv.weight"].dtype == torch.float32
    torch.testing.assert_close(merged["conv.weight"].double(), exact, rtol=1e-6, atol=1e-7)
    assert merged["steps"].dtype == torch.int64
    assert int(merged["steps"]) == 1
    halfway = interpolate(interpolate(a, b, 0.5), b, 0.5)
    torch.testing.assert_close(halfway["proj.weight"], interpolate(a, b, 0.25)["proj.weight"], rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_not_merged() -> None:
    a, b = weights(1), weights(2)
    with pytest.raises(IntegrityError, match=r"1 missing \(norm\.bias\)"):
        interpolate(a, {key: value for key, value in b.items() if key != "norm.bias"}, 0.5)
    with pytest.raises(IntegrityError, match="another shape"):
        interpolate(a, b | {"norm.bias": torch.zeros(5)}, 0.5)
    with pytest.raises(IntegrityError, match="integer"):
        interpolate(a, b | {"steps": torch.tensor(1.0)}, 0.5)
    with pytest.raises(ValueError, match="weight"):
        interpolate(a, b, 1.5)


class Block(nn.Module):
    """Kinds of layers that a UNet's adapter may name."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(6, 8)
        self.conv = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.point = nn.Conv2d(6, 6, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.point(self.conv(x))
        return self.to_q(x.flatten(2).transpose(1, 2))


@pytest.mark.parametrize("rslora", [False, True])
def test_folding_is_what_pefts_adapter_computes(tmp_path: Path, rslora: bool) -> None:
    torch.manual_seed(0)
    block = Block()
    before = {key: value.clone() for key, value in block.state_dict().items()}
    config = peft.LoraConfig(
        r=4,
        lora_alpha=6,
        target_modules=["to_q", "conv", "point"],
        use_rslora=rslora,
        alpha_pattern={"conv": 10},
        rank_pattern={"point": 2},
    )
    adapted = peft.get_peft_model(block, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            nn.init.normal_(parameter, std=0.3)
    adapted.save_pretrained(tmp_path)
    adapter, settings = load_adapter(tmp_path)
    folded = Block()
    folded.load_state_dict(fold_lora(before, adapter, settings))
    x = torch.randn(2, 3, 8, 8)
    expected = adapted(x).detach()
    assert float((expected - _run(before, x)).abs().max().detach()) > 0.1  # the adapter does something
    torch.testing.assert_close(folded(x), expected, rtol=1e-4, atol=1e-4)


def _run(state: Weights, x: torch.Tensor) -> torch.Tensor:
    block = Block()
    block.load_state_dict(state)
    return block(x)


def test_folding_takes_the_names_of_diffusers_and_of_a_module_in_memory(tmp_path: Path) -> None:
    unet = tiny_unet()
    base = {key: value.clone() for key, value in unet.state_dict().items()}
    unet.add_adapter(peft.LoraConfig(r=2, lora_alpha=4, target_modules=["to_q", "to_v"], init_lora_weights=False))
    live = {key: value for key, value in unet.state_dict().items() if "lora_" in key}
    unet.save_lora_adapter(tmp_path, adapter_name="default")
    stored = load_state_dict(tmp_path)
    inputs = torch.randn(1, 8, 8, 8), 999, torch.randn(1, 4, 16)
    with torch.no_grad():
        expected = unet(*inputs).sample
        unet.disable_adapters()
        assert float((expected - unet(*inputs).sample).abs().max()) > 0.01  # the adapter does something
        for adapter in (live, {f"unet.{key}": value for key, value in stored.items()}):
            folded = tiny_unet()
            folded.load_state_dict(fold_lora(base, adapter, LoraSettings(lora_alpha=4)))
            torch.testing.assert_close(folded(*inputs).sample, expected, rtol=1e-4, atol=1e-4)


def test_folding_is_in_float32_and_leaves_its_inputs() -> None:
    base = {"to_q.weight": torch.full((8, 8), 0.1, dtype=torch.float16), "steps": torch.tensor(3)}
    adapter = {"to_q.lora_A.weight": torch.full((2, 8), 1e-3).half(), "to_q.lora_B.weight": torch.full((8, 2), 1e-2).half()}
    folded = fold_lora(base, adapter, LoraSettings(lora_alpha=2))
    delta = folded["to_q.weight"].double() - base["to_q.weight"].double()
    assert folded["to_q.weight"].dtype == torch.float32
    # float16 would round it away
    torch.testing.assert_close(delta, torch.full((8, 8), 2e-5, dtype=torch.float64), rtol=2e-3, atol=0)
    assert int(folded["steps"]) == 3
    assert base["to_q.weight"].dtype == torch.float16


def test_an_adapter_that_does_not_fit_is_refused() -> None:
    base = {"to_q.weight": torch.zeros(8, 6)}
    good = {"to_q.lora_A.weight": torch.ones(2, 6), "to_q.lora_B.weight": torch.ones(8, 2)}
    assert float(fold_lora(base, good, LoraSettings(lora_alpha=2))["to_q.weight"][0, 0]) == 2.0
    bad = {
        "no to_k.weight": {"to_k.lora_A.weight": torch.ones(2, 6)},
        "only lora_A": {"to_q.lora_A.weight": torch.ones(2, 6)},
        "expected names": {**good, "to_q.lora_magnitude_vector": torch.ones(8)},
        r"lora_A \[2, 5\]": {**good, "to_q.lora_A.weight": torch.ones(2, 5)},
    }
    for message, adapter in bad.items():
        with pytest.raises(IntegrityError, match=message):
            fold_lora(base, adapter, LoraSettings(lora_alpha=2))


def test_adapters_that_are_more_than_lora_are_refused(tmp_path: Path) -> None:
    with pytest.raises(PrerequisiteError, match=r"adapter_config\.json"):
        load_adapter(tmp_path)
    save_file({"to_q.lora_A.weight": torch.ones(2, 6)}, tmp_path / "adapter_model.safetensors")
    plain = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "package:mini/sd-turbo"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(plain))
    assert load_adapter(tmp_path)[1] == LoraSettings(lora_alpha=4.0, r=2)
    for extra in ({"use_dora": True}, {"bias": "all"}, {"modules_to_save": ["conv_in"]}, {"peft_type": "LOHA"}):
        (tmp_path / "adapter_config.json").write_text(json.dumps(plain | extra))
        with pytest.raises(IntegrityError, match="expected plain LoRA"):
            load_adapter(tmp_path)


def test_numbers_that_are_not_finite_are_counted_and_named() -> None:
    sound = {"a": torch.ones(3), "b": torch.ones(2, 2), "count": torch.ones(1, dtype=torch.int64)}
    check_finite(sound, "x")
    for number in (math.nan, math.inf, -math.inf):
        broken = sound | {"b": torch.tensor([[1.0, number], [number, 2.0]])}
        with pytest.raises(IntegrityError, match=r"^merge: b of x: 2 of its 4 numbers are not finite"):
            check_finite(broken, "x")
    opposite = sound | {"b": torch.tensor([[math.inf, -math.inf], [0.0, 0.0]])}  # their sum hides neither
    assert first_not_finite(opposite) == "b"
    assert first_not_finite(sound | {"b": torch.full((4,), 3e38)}) is None  # finite, though the sum is not
    assert first_not_finite({"b": torch.full((4,), 6e4, dtype=torch.float16)}) is None
