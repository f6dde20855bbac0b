"""The stages that make the mini family: exact resume, process independence, the tokenizer, the recipes, shipping."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from quick_stage import QuickExtractor
from safetensors.torch import load_file, save_file

from reference_trainer.base_models.extractor import ExtractorConfig
from reference_trainer.base_models.stage import train, training_batch
from reference_trainer.base_models.tokenizer import write_tokenizer
from reference_trainer.ladder import RUNGS, read_stage_recipe
from sbv2bench.errors import PrerequisiteError
from sbv2bench.mini import world


class StopsAt(QuickExtractor):
    """Raises at a step, as a killed sitting would."""

    def loss(self, network, batch, step):  # type: ignore[no-untyped-def]
        if step == 5:
            raise KeyboardInterrupt
        return super().loss(network, batch, step)


def config(**changes: object) -> ExtractorConfig:
    values = {"stage": "extractor", "seed": 3, "steps": 7, "batch_size": 8, "learning_rate": 1e-3, "ema_decay": 0.9}
    return ExtractorConfig.model_validate(values | {"checkpoint_every": 2, "log_every": 3} | changes)


def exported(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "export" / "model.safetensors")


@pytest.mark.ci
def test_a_killed_stage_resumes_to_the_same_bits(tmp_path: Path) -> None:
    assert train(partial(QuickExtractor, config(), {}), tmp_path / "whole", 1)
    with pytest.raises(KeyboardInterrupt):
        train(partial(StopsAt, config(), {}), tmp_path / "killed", 1)
    assert not (tmp_path / "killed" / "done.json").exists()
    assert train(partial(QuickExtractor, config(), {}), tmp_path / "killed", 1)
    whole, killed = exported(tmp_path / "whole"), exported(tmp_path / "killed")
    assert whole.keys() == killed.keys()
    for name, value in whole.items():
        assert torch.equal(value, killed[name]), name
    other = tmp_path / "other"
    train(partial(QuickExtractor, config(seed=4), {}), other, 1)
    assert not torch.equal(exported(other)["heads.style.weight"], whole["heads.style.weight"])


@pytest.mark.ci
def test_a_sitting_ends_in_time_and_is_resumed(tmp_path: Path) -> None:
    make = partial(QuickExtractor, config(), {})
    assert not train(make, tmp_path, 1, stop_after_seconds=0.0)
    step = json.loads((tmp_path / "log.jsonl").read_text().splitlines()[-1])["step"] if (tmp_path / "log.jsonl").exists() else 0
    assert step < 7
    assert train(make, tmp_path, 1)
    assert json.loads((tmp_path / "done.json").read_text())["steps"] == 7


def test_no_run_trains_on_the_reference_pictures() -> None:
    from sbv2bench.data.reference import KEY_START

    with pytest.raises(ValueError, match="reference"):
        config(seed=KEY_START // 2**40)
    assert KEY_START not in training_batch(config(seed=3), 0, 0, 1).keys


def test_processes_share_the_batch_without_overlap() -> None:
    whole = training_batch(config(), 4, 0, 1)
    halves = [training_batch(config(), 4, rank, 2) for rank in range(2)]
    assert np.array_equal(whole.keys, np.concatenate([half.keys for half in halves]))
    assert torch.equal(whole.images, torch.cat([half.images for half in halves]))
    assert not set(whole.keys) & set(training_batch(config(), 5, 0, 1).keys)


@pytest.mark.ci
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Batch norm sees half batches, so this is a closeness of losses, not of bits: gradients are averaged, not summed."""
    for processes in (1, 2):
        train(partial(QuickExtractor, config(steps=4, log_every=1, batch_size=64), {}), tmp_path / str(processes), processes)
    logs = [[json.loads(line) for line in (tmp_path / str(p) / "log.jsonl").read_text().splitlines()] for p in (1, 2)]
    assert len(logs[0]) == len(logs[1]) == 4
    for name, tolerance in (("loss", 0.15), ("gradient_norm", 0.5)):
        one, two = ([entry[name] for entry in log] for log in logs)
        assert np.allclose(one, two, rtol=tolerance)


def test_every_word_is_one_token_and_any_text_tokenises(tmp_path: Path) -> None:
    from transformers import CLIPTokenizer

    size = write_tokenizer(tmp_path)
    tokenizer = CLIPTokenizer.from_pretrained(tmp_path)
    assert len(tokenizer) == size
    for caption in world.captions(world.scenes("reporting", range(500))):
        ids = tokenizer(caption).input_ids
        assert len(ids) == 2 + len(caption.replace(",", " ,").split())
        assert max(ids) == ids[-1] == size - 1  # CLIP pools at the highest id
    assert tokenizer.decode(tokenizer("Zebra café!").input_ids, skip_special_tokens=True).replace(" ", "") == "zebracafé!"


def test_recipes_are_valid_and_typos_are_errors() -> None:
    from importlib import import_module

    for rung in (rung for rung in RUNGS if rung.target):
        module, _, config_type = rung.target.split(":")
        recipe = read_stage_recipe(
            "mini", rung.name, getattr(import_module(f"reference_trainer.base_models.{module}"), config_type)
        )
        assert recipe.stage == rung.name
        assert recipe.batch_size % 2 == 0
    with pytest.raises(ValueError, match="Extra inputs"):
        config(learning_rat=1.0)


def test_shipping_needs_a_finished_rung(tmp_path: Path) -> None:
    from reference_trainer.shipping import ship_family

    with pytest.raises(PrerequisiteError, match="no finished rung"):
        ship_family(tmp_path / "runs", tmp_path / "weights")
    assert not (tmp_path / "weights").exists()


def test_shipping_one_rung_keeps_the_others_and_names_shipped_bases(tmp_path: Path) -> None:
    from reference_trainer.shipping import ship_family

    runs, output = tmp_path / "runs", tmp_path / "weights"
    (output / "training").mkdir(parents=True)
    for rung in RUNGS:
        (output / "training" / f"{rung.name}.json").write_text("{}")
    (output / "taesd").mkdir()
    (output / "taesd" / "config.json").write_text("{}")
    export = runs / "swiftbrush" / "export"
    (export / "unet").mkdir(parents=True)
    save_file({"w": torch.full((2,), 0.1)}, export / "unet" / "diffusion_pytorch_model.safetensors")
    (export / "training.json").write_text("{}")
    (export / "sbv2bench.json").write_text(
        json.dumps({"id": "local/swiftbrush", "sampler": "one_step", "base": "../../sd21/export"})
    )
    (runs / "swiftbrush" / "log.jsonl").write_text('{"step": 1}\n')
    (runs / "swiftbrush" / "done.json").write_text('{"seconds": 3}')
    assert ship_family(runs, output) == ["swiftbrush"]
    spec = json.loads((output / "swiftbrush" / "sbv2bench.json").read_text())
    assert (spec["id"], spec["family"], spec["base"]) == ("mini/swiftbrush", "mini", "package:mini/sd21")
    manifest = json.loads((output / "manifest.json").read_text())["files"]
    assert set(manifest) == {
        "taesd/config.json",
        "swiftbrush/sbv2bench.json",
        "swiftbrush/unet/diffusion_pytorch_model.safetensors",
    }
    assert load_file(output / "swiftbrush" / "unet" / "diffusion_pytorch_model.safetensors")["w"].dtype == torch.float16
    assert json.loads((output / "training" / "swiftbrush.json").read_text()) == {"seconds": 3, "log": [{"step": 1}]}


def test_weight_of_the_velocity_error() -> None:
    """None weighs all noise levels alike; min-SNR leaves next to nothing at the highest, where a layout is decided."""
    from reference_trainer.base_models.teacher import velocity_weight
    from sbv2bench.diffusion import Schedule

    schedule = Schedule.scaled_linear()
    assert torch.equal(velocity_weight(schedule, None), torch.ones(1000))
    clamped = velocity_weight(schedule, 5.0)
    assert float(clamped[999]) == pytest.approx(float(schedule.alphas_cumprod[999]), rel=1e-5)
    snr = float(schedule.alphas_cumprod[20] / (1 - schedule.alphas_cumprod[20]))
    assert float(clamped[20]) == pytest.approx(5 / (snr + 1), rel=1e-5)


def test_the_reading_loss_knows_only_what_a_caption_names() -> None:
    from tiny_models import tiny_text_encoder, tiny_unet

    from reference_trainer.base_models.teacher import TeacherNetworks

    torch.manual_seed(0)
    networks = TeacherNetworks(tiny_unet(), tiny_text_encoder())
    scenes = world.scenes("training", np.arange(64))
    states = torch.randn(64, 16)
    loss = networks.reading_loss(states, torch.from_numpy(scenes.attributes))
    expected = 0.0
    for column, (name, values) in enumerate(world.ATTRIBUTES.items()):
        label = torch.from_numpy(scenes.attributes[:, column])
        logits = networks.readers[name](states)
        assert logits.shape == (64, len(values))
        chosen = logits.log_softmax(1)[torch.arange(64), label.clamp(min=0)]
        expected -= float(chosen[label != world.FREE].mean().detach())
    assert float(loss) == pytest.approx(expected, rel=1e-5)
