"""What a recipe costs, told without running it: exact counts, and memory that a real pass and a real step confirm."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import init_empty_weights
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from peft import LoraConfig
from rich.console import Console
from tiny_models import TOKENS as TINY_TOKENS
from tiny_models import tiny_autoencoder, write_tiny_pipeline
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile
from transformers import CLIPTextConfig, CLIPTextModel

from reference_trainer.accounting import GpuKernels, LiveBytes
from reference_trainer.architectures import config
from reference_trainer.blank import BlankTrainer
from reference_trainer.config import Recipe
from reference_trainer.estimate import teacher_calls
from reference_trainer.networks import Networks
from reference_trainer.prompts import PromptSource
from reference_trainer.recipe_files import read_recipe
from reference_trainer.show import describe, print_description
from reference_trainer.step import Trainer
from sbv2bench.errors import InputError, PrerequisiteError
from sbv2bench.registry import Registry
from sbv2bench.report.values import quantity

BATCH, SIDE, TOKENS, WIDTH = 8, 32, 77, 64
UNET = {
    "sample_size": SIDE, "in_channels": 4, "out_channels": 4, "block_out_channels": (64, 128), "layers_per_block": 1,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"), "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    "cross_attention_dim": WIDTH, "attention_head_dim": 4, "norm_num_groups": 16,
}  # fmt: skip
TEXT = {"hidden_size": WIDTH, "intermediate_size": WIDTH, "num_hidden_layers": 1, "num_attention_heads": 4}
CLIP = {"scorer": "clip-mini-train", "threshold": 0.9, "weight": 0.1, "schedule": "constant", "share": 0.5}


def tree(teacher: str, lora: bool = False, **changes: Any) -> dict[str, Any]:
    adapter = {"rank": 16, "alpha": 32, "targets": ["to_q", "to_v"]}
    return {
        "name": "local/x",
        "family": "local",
        "teacher": teacher,
        "prediction_type": "v_prediction",
        "prompts": [{"source": "world:training"}],
        "student": {"start": teacher, "learning_rate": 1e-4, "lora": adapter if lora else None},
        "lora_teacher": {"lora": adapter, "learning_rate": 1e-3},
        "vsd": {"teacher_guidance_scale": 4.5, "lora_teacher_guidance_scale": "same"},
        "ema": {"decay": 0.9},
        "steps": 10,
        "batch_size": BATCH,
        "seed": 0,
        **changes,
    }


@pytest.fixture(scope="module")
def configs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model's folder of which only the configs are there."""
    folder = tmp_path_factory.mktemp("configs")
    (folder / "model_index.json").write_text("{}")
    with torch.device("meta"):
        vae = AutoencoderKL(block_out_channels=(32, 32), down_block_types=("DownEncoderBlock2D",) * 2,
                            up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4)  # fmt: skip
        UNet2DConditionModel(**UNET).save_config(folder / "unet")
        vae.save_config(folder / "vae")
    DDIMScheduler(prediction_type="v_prediction", clip_sample=False).save_pretrained(folder / "scheduler")
    (folder / "text_encoder").mkdir()
    (folder / "text_encoder" / "config.json").write_text(json.dumps(TEXT))
    return folder


@pytest.fixture(scope="module")
def plain(configs: Path) -> dict[str, Any]:
    """The description of a small recipe."""
    return describe(Recipe.model_validate(tree(str(configs))), registry=Registry.load())


@cache
def described(name: str, *overrides: str) -> dict[str, Any]:
    return describe(read_recipe(name, overrides), processes=4)


def measured(run: Callable[[], None]) -> int:
    """Bytes that PyTorch's allocator had given out at the worst moment of a run, over those of its beginning."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        run()
    events = [event for event in found.profiler.kineto_results.events() if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak


@pytest.mark.slow
def test_model_a_counts_exactly() -> None:
    found = described("paper/sbv2-a", "gradient_checkpointing=false")
    parameters, components = found["parameters"], found["memory"]["components"]
    assert parameters["teacher"] == parameters["student"] == parameters["student_trained"] == 865_910_724
    assert (parameters["lora_teacher_trained"], parameters["lora_teacher_layers"]) == (6_639_616, 64)
    assert (parameters["text_encoder"], parameters["vae"]) == (340_387_840, 83_653_863)
    assert components["student"] == components["gradients"] - 4 * 6_639_616 == components["ema"] == 4 * 865_910_724
    assert components["moments"] == 8 * 865_910_724
    assert components["lora_teacher"] == 12 * 6_639_616
    last_layer = 320 * 4 * 9 + 4  # float32 in a bfloat16 teacher
    assert components["teacher"] == 2 * 865_910_724 + 2 * last_layer
    parts = {"student": 2.409, "teachers": 2 * 0.804 + 2 * 0.813, "lora_teacher": 1.726, "text": 0.045, "total": 7.416}
    assert found["work"]["tflop_an_image"] == pytest.approx(parts, abs=2e-3)
    assert found["work"]["images"] == 154_686 * 64
    assert found["work"]["passes_an_image"] == {
        "student": 1, "student_without_gradient": 0, "teacher_without_gradient": 2, "lora_teacher_without_gradient": 2,
        "lora_teacher": 1,
    }  # fmt: skip
    json.dumps(found, allow_nan=False)


@pytest.mark.ci
def test_model_b_counts_exactly() -> None:
    found = described("paper/sbv2-b")
    parameters, components, work = found["parameters"], found["memory"]["components"], found["work"]
    assert parameters["student_trained"] == 53_116_928  # rank 256 on q, k, v and out
    assert components["student"] == 4 * (865_910_724 + 53_116_928)
    assert components["moments"] == 2 * components["ema"] == 8 * 53_116_928
    assert (parameters["scorers"], parameters["tiny_decoder"]) == (151_277_313, 2_445_063)
    assert work["tflop_an_image"]["clip"] == pytest.approx((2 * 0.141 + 2 * 0.009) / 2, rel=0.01)  # there and back, half of them


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.ci
def test_activations_of_a_real_pass_are_what_was_predicted(configs: Path, lora: bool, checkpointing: bool) -> None:
    recipe = Recipe.model_validate(tree(str(configs), lora, gradient_checkpointing=checkpointing))
    unet = UNet2DConditionModel(**UNET).to(memory_format=torch.channels_last)
    unet.requires_grad_(not lora)
    if lora:
        unet.add_adapter(LoraConfig(r=16, lora_alpha=32, target_modules=["to_q", "to_v"]))
    if checkpointing:
        unet.enable_gradient_checkpointing()
    text = torch.randn(BATCH, TOKENS, WIDTH)
    real = measured(lambda: unet(torch.randn(BATCH, 4, SIDE, SIDE), 999, text).sample.sum().backward())
    blank = BlankTrainer(recipe, Registry.load(), SIDE, 1, "cpu")
    text = blank.networks.null_text.expand(BATCH, -1, -1)
    found = blank.peak(lambda: blank.networks.generate(blank.latents(BATCH), text).sum().backward())
    assert found == pytest.approx(real, rel=0.06)  # 20 % was asked for


@pytest.mark.weights
@pytest.mark.parametrize("changes", [{}, {"lora": True, "clip": CLIP, "micro_batch_size": 16}], ids=["A", "B"])
@pytest.mark.ci
def test_a_real_training_step_takes_what_was_predicted(changes: dict[str, Any]) -> None:
    settings = {"batch_size": 32, "tiny_decoder": "package:mini/taesd", **changes}
    recipe, registry = Recipe.model_validate(tree("mini/sd21", **settings)), Registry.load()
    predicted = describe(recipe, registry=registry, device="cpu")["memory"]
    trainer = Trainer(recipe, Networks(recipe, torch.device("cpu"), registry), PromptSource(recipe.prompts), None)
    trainer.take_step()  # the optimiser's moments are made
    real = measured(lambda: trainer.take_step() and None)
    assert max(predicted["passes"].values()) == pytest.approx(real, rel=0.05)  # 20 % was asked for


@pytest.mark.skipif(torch.__version__ < "2.7", reason="torch 2.6 asks a GPU's driver about tensors that only claim to be on one")
def test_half_precision_keeps_what_pytorchs_own_autocast_keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    def run(device: str) -> int:
        with torch.device("meta"):
            unet = UNet2DConditionModel(**UNET)
        for module in unet.modules():
            for name, weight in list(module._parameters.items()):
                if weight is not None:
                    module._parameters[name] = torch.nn.Parameter(torch.empty(weight.shape, device=device))
        with torch.device(device), LiveBytes([unet]) as live:
            output = unet(torch.empty(2, 4, SIDE, SIDE), torch.zeros(2), torch.empty(2, TOKENS, WIDTH)).sample
            torch.clear_autocast_cache()
            assert output.dtype == torch.bfloat16
            return live.now

    def fused(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
        cast = (x.to(torch.bfloat16) for x in (query, key, value))
        return torch.ops.aten._scaled_dot_product_flash_attention(*cast)[0]

    with GpuKernels(True).patched(fused=True):
        ours = run("meta")
    monkeypatch.setattr(functional, "scaled_dot_product_attention", fused)
    before = torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")
    try:
        with FakeTensorMode():  # tensors that claim to be on a GPU, so that the dispatcher does what it would do there
            torch.set_autocast_enabled("cuda", True)
            torch.set_autocast_dtype("cuda", torch.bfloat16)
            theirs = run("cuda")
    finally:
        torch.set_autocast_enabled("cuda", before[0])
        torch.set_autocast_dtype("cuda", before[1])
    assert ours == theirs


@pytest.mark.ci
def test_settings_that_save_memory_or_work_do(configs: Path, plain: dict[str, Any]) -> None:
    def cost(**changes: Any) -> dict[str, Any]:
        return describe(Recipe.model_validate(tree(str(configs), **changes)), registry=Registry.load(), tflop_per_second=1.0)

    checkpointed = cost(gradient_checkpointing=True)
    assert checkpointed["time"]["hours"] == pytest.approx(checkpointed["work"]["tflop"] / 3600)
    assert checkpointed["memory"]["peak"] < plain["memory"]["peak"]
    assert checkpointed["work"]["tflop"] > plain["work"]["tflop"]
    memory, small = (
        found["memory"]["components"] for found in (plain, cost(micro_batch_size=2, ema_on_cpu=True, teacher_dtype="bfloat16"))
    )
    assert small["activations"] < 0.4 * memory["activations"]
    assert small["teacher"] < 0.6 * memory["teacher"]
    assert (small["ema"], memory["ema"]) == (0, memory["student"])
    pairs = {"kind": "paired", "weight": 1.0, "batch_size": 4, "distance": "latents", "pairs": 100, "teacher_steps": 10}
    other = cost(regularisation=pairs, vsd={"teacher_guidance_scale": 4.5, "lora_teacher_guidance_scale": 1.0})["work"]
    assert (other["pairs"], other["passes_an_image"]["student"]) == (100, 1.5)
    assert other["passes_an_image"]["lora_teacher_without_gradient"] == 1
    assert other["tflop_for_pairs"] == pytest.approx(100 * 10 * 2 * plain["work"]["tflop_an_image"]["student"] / 3, rel=0.02)


@pytest.mark.ci
def test_latents_and_processes_can_be_chosen(configs: Path, plain: dict[str, Any]) -> None:
    recipe = Recipe.model_validate(tree(str(configs)))
    part = describe(recipe, registry=Registry.load(), latent_size=SIDE // 2, processes=2)
    assert part["memory"]["components"]["activations"] < 0.2 * plain["memory"]["components"]["activations"]
    assert part["parameters"] == plain["parameters"]
    assert part["memory"]["micro_batch"] == BATCH // 2
    pictures = part["work"]["tflop_for_pictures"]  # made by one of the two while the other waits
    seconds = ((part["work"]["tflop"] - pictures) / 2 + pictures) / part["time"]["tflop_per_second"]
    assert part["time"]["hours"] == pytest.approx(seconds / 3600)
    with pytest.raises(InputError, match="batch_size 8: 3 processes cannot share it evenly"):
        describe(recipe, registry=Registry.load(), processes=3)


@pytest.mark.ci
def test_an_adapters_networks_are_its_bases(configs: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "unet_lora"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(configs)}))
    (tmp_path / "sbv2bench.json").write_text(json.dumps({"id": "local/b", "sampler": "one_step"}))
    changed = tree(str(configs), student={"start": str(tmp_path), "learning_rate": 1e-4})
    found = describe(Recipe.model_validate(changed), registry=Registry.load())
    assert found["parameters"]["student"] == found["parameters"]["teacher"]
    with pytest.raises(PrerequisiteError, match="not on this machine"):
        describe(Recipe.model_validate(tree("hub:nobody/nothing")), registry=Registry.load())
    lora = {"rank": 1, "alpha": 1, "targets": ["q"]}
    wrong = tree(str(configs), student={"start": str(configs), "learning_rate": 1.0, "lora": lora})
    with pytest.raises(InputError, match="the UNet has no layer 'q'"):
        describe(Recipe.model_validate(wrong), registry=Registry.load())


@pytest.mark.ci
def test_people_read_the_same_numbers(configs: Path, plain: dict[str, Any]) -> None:
    shown = StringIO()
    print_description(plain, Console(file=shown, width=160))
    assert f"{plain['parameters']['lora_teacher_trained']:,}" in shown.getvalue()
    assert quantity(plain["memory"]["peak"], "B") in shown.getvalue()
    assert " 0.000 " not in shown.getvalue() and "None" not in shown.getvalue()
    assert teacher_calls(Recipe.model_validate(tree(str(configs)))) == (2, 2)


def write_stable_diffusion(folder: Path) -> None:
    """SD 2.1-base's UNet on 16 x 16 latents, random float32 weights (3.5 GB), with small other parts that fit it."""
    with init_empty_weights():
        unet = UNet2DConditionModel.from_config(config("full/sd21", "unet", Registry.load()), sample_size=16)
    unet.to_empty(device="cpu")
    for weight in unet.parameters():
        torch.nn.init.normal_(weight, std=0.01)
    write_tiny_pipeline(folder / "model", "epsilon", latent_channels=4)
    unet.save_pretrained(folder / "model" / "unet")
    text = {"vocab_size": 200, "hidden_size": 1024, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    CLIPTextModel(CLIPTextConfig(**text, max_position_embeddings=TINY_TOKENS)).save_pretrained(folder / "model" / "text_encoder")
    tiny_autoencoder(4).save_pretrained(folder / "taesd")


def held() -> int:
    """Bytes of every storage that a tensor of this process has. (Its pages would also count a weights file that is mapped.)"""
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor) and found.device.type == "cpu"]
    return sum({tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}.values())


@pytest.mark.slow  # A takes 18 GB of memory and B 9; each 4 GB of disk and minutes
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("name", ["paper/sbv2-a", "paper/sbv2-b"])
def test_a_true_step_at_stable_diffusions_size_takes_what_was_predicted(name: str, tmp_path: Path) -> None:
    write_stable_diffusion(tmp_path)
    model = tmp_path / "model"
    common = [f"teacher={model}", f"student.start={model}", "batch_size=2", "precision=float32", "teacher_dtype=float32"]
    own = [f"tiny_decoder={tmp_path / 'taesd'}", "clip.scorer=clip-mini-train"] if name.endswith("b") else ["ema=null"]
    recipe = read_recipe(name, [*common, *own, "gradient_checkpointing=false", "prompts=[{source: world:training}]"])
    predicted = describe(recipe, device="cpu")["memory"]["peak"]
    before = held()
    trainer = Trainer(recipe, Networks(recipe, torch.device("cpu"), Registry.load()), PromptSource(recipe.prompts), None)
    trainer.take_step()  # the optimiser's moments are made
    resident = held() - before
    assert predicted == pytest.approx(resident + measured(lambda: trainer.take_step() and None), rel=0.05)
