"""The cast of a run: adapters that start as nothing, one copy of the base, gradients that arrive, dtypes, what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_clip import write_tiny_clip
from tiny_models import write_tiny_pipeline
from tiny_recipe import CAPTIONS, CLIP, LORA, make_trainer, take_steps, tiny_recipe

from reference_trainer.networks import LORA_TEACHER, STUDENT, Networks
from reference_trainer.pictures import sample_student, write_panels, write_samples
from reference_trainer.recipe_files import read_recipe
from sbv2bench import diffusion
from sbv2bench.errors import InputError
from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.mini import rendering, world
from sbv2bench.registry import Registry
from sbv2bench.specs import ExtractorSpec


def load(family: Path, **changes: object) -> Networks:
    return Networks(tiny_recipe(family, **changes), torch.device("cpu"), Registry.load(family / "catalog.yaml"))


def some_latents(networks: Networks, count: int = 3) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(3)
    text = networks.encode_text(CAPTIONS[:count])
    return (
        torch.randn(count, *networks.latent_shape),
        torch.tensor([20, 500, 980][:count]),
        text,
        networks.encode_text([""]).expand_as(text),
    )


def test_the_lora_teacher_begins_as_the_frozen_teacher_to_the_bit(family: Path) -> None:
    networks = load(family)
    arguments = some_latents(networks)
    frozen = networks.teacher_epsilon(*arguments, 4.5, lora=False)
    assert torch.equal(frozen, networks.teacher_epsilon(*arguments, 4.5, lora=True))
    with torch.no_grad():
        for name, parameter in networks.trained(LORA_TEACHER).items():
            if "lora_B" in name:
                parameter.add_(0.1)
    assert torch.equal(frozen, networks.teacher_epsilon(*arguments, 4.5, lora=False))
    assert not torch.allclose(frozen, networks.teacher_epsilon(*arguments, 4.5, lora=True))


def test_switching_the_adapter_freezes_nothing(family: Path) -> None:
    networks = load(family)
    with networks.lora_teacher():
        pass
    assert all(parameter.requires_grad for parameter in networks.trained(LORA_TEACHER).values())


@pytest.mark.weights
def test_pixels_are_the_pictures_that_latents_were_made_of() -> None:
    """In [0, 1], under the decoder's own scaling: real pictures through the teacher's autoencoder and the tiny decoder."""
    networks = Networks(read_recipe("mini/swiftbrush"), torch.device("cpu"), Registry.load())
    keys = np.arange(8, dtype=np.int64)
    images = torch.from_numpy(rendering.render(world.scenes("choosing", keys), keys)).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        scale = networks.components.vae.config.scaling_factor
        latents = networks.components.vae.encode(images * 2 - 1).latent_dist.mean * scale
        errors = [float((networks.pixels(latents, decoder) - images).square().mean()) for decoder in ("tiny", "full")]
    assert max(errors) < 0.003 and abs(scale - 1) > 0.05  # 25 dB; a wrong range or scale is above 0.02


def test_the_student_is_asked_at_its_timestep(family: Path) -> None:
    networks, asked = load(family), []

    def unet(x: torch.Tensor, timesteps: object, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        asked.append(timesteps)
        return SimpleNamespace(sample=torch.ones_like(x))

    unet.dtype = torch.float32  # type: ignore[attr-defined]
    networks.student, z = unet, torch.randn(2, *networks.latent_shape)
    x0 = networks.generate(z, networks.encode_text(CAPTIONS[:2]))
    assert asked == [999]
    assert torch.allclose(x0, networks.alpha_T * z - networks.sigma_T, atol=1e-6)  # of the velocity 1
    assert networks.alpha_T == pytest.approx(0.0682649142, rel=1e-6)


def test_a_learned_variance_is_dropped(family: Path) -> None:
    networks = load(family)
    channels = networks.latent_shape[0]

    def unet(x: torch.Tensor, timesteps: object, encoder_hidden_states: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(sample=torch.cat([x, x + 1], 1))

    unet.dtype = torch.float32  # type: ignore[attr-defined]
    z = torch.randn(2, *networks.latent_shape)
    assert (
        torch.equal(networks.predict(unet, z, 999, networks.encode_text(CAPTIONS[:2]), torch.float32), z)
        and z.shape[1] == channels
    )


def test_training_moves_what_is_trained_and_nothing_else(family: Path) -> None:
    trainer, _ = make_trainer(family)
    networks = trainer.networks
    arguments = some_latents(networks)
    teacher_before = networks.teacher_epsilon(*arguments, 1.0, lora=False)
    frozen = {k: v.clone() for k, v in networks.teacher.state_dict().items() if "lora_" not in k}
    before = {name: {k: v.detach().clone() for k, v in networks.trained(name).items()} for name in (STUDENT, LORA_TEACHER)}
    take_steps(trainer, 2)
    assert torch.equal(teacher_before, networks.teacher_epsilon(*arguments, 1.0, lora=False))
    assert all(torch.equal(value, networks.teacher.state_dict()[key]) for key, value in frozen.items())
    for name, old in before.items():
        moved = [not torch.equal(old[key], value) for key, value in networks.trained(name).items()]
        assert np.mean(moved) > 0.95, name
    assert all(p.grad is None for n in (STUDENT, LORA_TEACHER) for p in networks.trained(n).values())


def test_only_the_adapter_of_a_lora_student_is_trained(family: Path) -> None:
    trainer, _ = make_trainer(family, student={"start": str(family / "start"), "learning_rate": 1e-3, "lora": LORA})
    student = trainer.networks.student
    before = {key: value.clone() for key, value in student.state_dict().items()}
    take_steps(trainer, 2)
    changed = {key for key, value in student.state_dict().items() if not torch.equal(before[key], value)}
    assert changed and all("lora_" in key for key in changed)
    modules = {key.partition(".lora_")[0] for key in changed}
    assert {m.rpartition(".")[2] for m in modules} == {"to_q", "to_v", "conv1"}


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 4.5])
def test_guidance_is_the_usual_convention_in_one_call_of_two_halves(family: Path, scale: float) -> None:
    networks = load(family)
    x_t, timesteps, text, null = some_latents(networks)
    conditional = networks.teacher_epsilon(x_t, timesteps, text, null, 1.0, lora=False)
    unconditional = networks.teacher_epsilon(x_t, timesteps, null, null, 1.0, lora=False)
    guided = networks.teacher_epsilon(x_t, timesteps, text, null, scale, lora=False)
    assert torch.allclose(guided, unconditional + scale * (conditional - unconditional), atol=1e-4)


def test_the_null_prompt_is_the_encoding_of_the_empty_string(family: Path) -> None:
    networks = load(family)
    parts = networks.components
    ids = parts.tokenizer([""], padding="max_length", max_length=parts.tokenizer.model_max_length, return_tensors="pt").input_ids
    assert torch.equal(networks.encode_text([""]), parts.text_encoder(ids)[0])
    assert not torch.allclose(networks.encode_text([""]), torch.zeros(()))


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_gives_the_same_noise(tmp_path: Path, family: Path, prediction_type: str) -> None:
    """An output read as epsilon, velocity or sample, and then as noise: `diffusion` is the only place that knows."""
    write_tiny_pipeline(tmp_path / "teacher", prediction_type, seed=0)
    networks = load(family, teacher=str(tmp_path / "teacher"), prediction_type=prediction_type)
    x_t, timesteps, text, null = some_latents(networks)
    found = networks.teacher_epsilon(x_t, timesteps, text, null, 1.0, lora=False)
    raw = networks.teacher(x_t, timesteps, encoder_hidden_states=text).sample
    assert torch.allclose(found, diffusion.predict_epsilon(raw, x_t, *networks.levels(timesteps), prediction_type), atol=1e-5)


def test_gradient_of_the_clip_loss_reaches_the_student_through_the_decoder(family: Path) -> None:
    networks = load(family, clip=CLIP)
    z = torch.randn(2, *networks.latent_shape)
    x0 = networks.generate(z, networks.encode_text(CAPTIONS[:2]))
    cosine = networks.cosines("clip", x0, CAPTIONS[:2], "tiny")
    assert cosine.shape == (2,) and (cosine < 0.9).all()
    (0.9 - cosine).relu().mean().backward()
    gradients = [p.grad for p in networks.trained(STUDENT).values()]
    assert all(g is not None for g in gradients) and sum(float(g.square().sum()) for g in gradients) > 1e-12
    assert all(p.grad is None for p in networks.tiny_decoder.parameters())


@pytest.mark.parametrize("size", [32, 48])
def test_differentiable_preprocessing_is_openclips_to_a_hundredth(tmp_path: Path, size: int) -> None:
    scorer = OpenClipScorer(ExtractorSpec(id="c", kind="open_clip", location=str(write_tiny_clip(tmp_path / "clip"))))
    smooth = torch.nn.functional.interpolate(
        torch.rand(8, 3, 6, 6, generator=torch.Generator().manual_seed(0)), size=size, mode="bicubic"
    )
    pixels = (smooth.clamp(0, 1) * 255).round() / 255
    by_pil = scorer.embed_images((pixels * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy())
    by_tensor = scorer.embed_pixels(pixels.requires_grad_())
    assert float((1 - (torch.from_numpy(by_pil) * by_tensor).sum(1)).detach().max()) < 0.01
    by_tensor.sum().backward()
    assert float(pixels.grad.abs().max()) > 0
    with pytest.raises(ValueError, match="square"):
        scorer.embed_pixels(torch.rand(1, 3, 32, 48))


def test_dtypes(family: Path) -> None:
    """What is trained is float32 though the base is not; z and the formula stay float32."""
    networks = load(
        family,
        teacher_dtype="bfloat16",
        precision="bfloat16",
        student={"start": str(family / "start"), "learning_rate": 1e-3, "lora": LORA},
    )
    assert {p.dtype for name in (STUDENT, LORA_TEACHER) for p in networks.trained(name).values()} == {torch.float32}
    assert {p.dtype for n, p in networks.teacher.named_parameters() if "lora_" not in n and "conv_out" not in n} == {
        torch.bfloat16
    }
    assert networks.teacher.conv_out.weight.dtype == torch.float32
    x0 = networks.generate(torch.randn(2, *networks.latent_shape), networks.encode_text(CAPTIONS[:2]))
    assert x0.dtype == torch.float32
    assert networks.teacher_epsilon(*some_latents(networks), 4.5, lora=True).dtype == torch.float32


def test_the_output_that_the_formula_amplifies_is_not_rounded(family: Path) -> None:
    """1 / alpha_T = 14.65 multiplies rounding of the output: the last layer is float32 where the passes are bfloat16."""
    networks = load(family, precision="bfloat16")
    seen = []
    networks.student.conv_out.register_forward_hook(lambda layer, inputs, output: seen.append(output.detach()))
    z, text = torch.randn(4, *networks.latent_shape), networks.encode_text(CAPTIONS[:4])
    x0 = networks.generate(z, text).detach()
    assert seen[0].dtype == torch.float32
    assert float((seen[0].bfloat16().float() != seen[0]).double().mean()) > 0.9
    in_float64 = diffusion.predict_x0(seen[0].double(), z.double(), networks.alpha_T, networks.sigma_T, "v_prediction")
    assert float((x0 - in_float64).square().mean().sqrt()) < 1e-5


def test_what_does_not_fit_is_refused_before_anything_is_trained(family: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"predicts v_prediction.*recipe is for epsilon"):
        load(family, prediction_type="epsilon")
    write_tiny_pipeline(tmp_path / "narrow", latent_channels=4)
    with pytest.raises(InputError, match=r"in_channels 4.*has 8"):
        load(family, student={"start": str(tmp_path / "narrow"), "learning_rate": 1e-3})
    with pytest.raises(InputError, match="no layer 'to_qq'"):
        load(family, student={"start": str(family / "start"), "learning_rate": 1e-3, "lora": LORA | {"targets": ["to_qq"]}})
    write_tiny_pipeline(tmp_path / "stranger", seed=7)
    with pytest.raises(InputError, match="text encoder of local/stranger is not that of its teacher"):
        load(family, student={"start": str(tmp_path / "stranger"), "learning_rate": 1e-3, "lora": LORA})
    with pytest.raises(InputError, match="unknown model"):
        load(family, teacher="mini/sd21x")
    with pytest.raises(InputError, match="unknown extractor 'tiny-clop', did you mean 'tiny-clip'"):
        load(family, clip=CLIP | {"scorer": "tiny-clop"})
    with pytest.raises(InputError, match="no picture's gradient"):
        load(family, clip=CLIP | {"scorer": "world-128"})


@pytest.mark.ci
@pytest.mark.parametrize("teacher_dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("lora", [None, LORA])
def test_every_precision_trains_and_makes_pictures(
    family: Path, tmp_path: Path, teacher_dtype: str, precision: str, lora: object
) -> None:
    """Steps, micro-batches, checkpointing, grid, panels: the student is float32 and its frozen parts may not be."""
    student = {"start": str(family / "start"), "learning_rate": 1e-3, "lora": lora}
    changes = {"teacher_dtype": teacher_dtype, "precision": precision, "student": student, "clip": CLIP}
    trainer, _ = make_trainer(family, **changes, gradient_checkpointing=True, micro_batch_size=2)
    exact, _ = make_trainer(family, student=student)
    pictures = [sample_student(networks, CAPTIONS).astype(int) for networks in (trainer.networks, exact.networks)]
    assert np.abs(pictures[0] - pictures[1]).mean() < (5 if "bfloat16" in (teacher_dtype, precision) else 0.1)  # of 255 levels
    assert all(np.isfinite(list(figures.values())).all() for figures in take_steps(trainer, 2))
    write_samples(trainer.networks, CAPTIONS, tmp_path, 2)
    write_panels(trainer.networks, CAPTIONS, tmp_path, 2)
    assert {path.name for path in tmp_path.glob("*.png")} == {"00000002.png", "00000002-teachers.png"}


def test_pictures_are_made_a_few_at_a_time(family: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twenty-four panels at once through the full autoencoder at 512 px would take as much memory as a step."""
    networks, seen = load(family, micro_batch_size=2, tiny_decoder=""), []
    original = networks.components.vae.decode
    monkeypatch.setattr(networks.components.vae, "decode", lambda z, *a, **k: (seen.append(len(z)), original(z, *a, **k))[1])
    write_samples(networks, CAPTIONS, tmp_path, 0)
    write_panels(networks, CAPTIONS, tmp_path, 0)
    assert max(seen) == 2 and sum(seen) == 4 * len(CAPTIONS)  # a grid, and three rows of panels


def test_an_average_on_another_device_follows_the_student(family: Path) -> None:
    """A shadow on the meta device stands for one on the CPU beside a student on a GPU: diffusers adds across neither."""
    networks = load(family, ema={"decay": 0.5})
    networks.average.to(device="meta")
    networks.update_average()
    assert networks.average.optimization_step == 1
    assert all(value.device.type == "meta" for value in networks.average.shadow_params)


def test_an_average_on_the_cpu_is_an_average(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a copy: diffusers only copies what takes no gradient, as detached copies do not."""
    networks = load(family, ema={"decay": 0.5})
    key = next(iter(networks.trained(STUDENT)))
    elsewhere = SimpleNamespace(device=torch.device("meta"))
    started = networks.average.shadow_params[0].clone()
    elsewhere_held = {k: Elsewhere(v) for k, v in networks.trained(STUDENT).items()}
    monkeypatch.setattr(networks, "trained", lambda network: elsewhere_held)
    for value in networks.trained(STUDENT).values():
        value.data.add_(1.0)
    assert networks.trained(STUDENT)[key].device == elsewhere.device
    networks.update_average()  # decay 0 at first
    networks.update_average()
    for value in networks.trained(STUDENT).values():
        value.data.add_(1.0)
    networks.update_average()
    decay = networks.average.cur_decay_value
    assert 0 < decay < 1
    assert torch.allclose(networks.average.shadow_params[0], started + 1 + (1 - decay), atol=1e-6)


class Elsewhere(torch.nn.Parameter):
    """A parameter that says it is on another device, and whose copy to the CPU is itself."""

    def __new__(cls, value: torch.Tensor) -> Elsewhere:
        return torch.Tensor._make_subclass(cls, value.detach().clone(), True)

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        return torch.device("meta")

    def detach(self) -> torch.Tensor:
        return self.data.as_subclass(torch.Tensor)


def test_text_encoders_are_compared_in_the_narrower_type(family: Path, tmp_path: Path) -> None:
    """A weight of 5 in bfloat16 is a hundredth off: the same encoder all the same. Another one is not."""
    for name in ("teacher", "start", "other"):
        shutil.copytree(family / ("teacher" if name == "other" else name), tmp_path / name)
        path = tmp_path / name / "text_encoder" / "model.safetensors"
        weights = load_file(path)
        first = next(key for key in sorted(weights) if weights[key].ndim == 2)
        weights[first] = weights[first].clone()
        weights[first][0, 0] = 5.3137 if name != "other" else 5.9
        save_file(weights, path, metadata={"format": "pt"})
    lora = {"learning_rate": 1e-3, "lora": LORA}
    same = {"teacher": str(tmp_path / "teacher"), "teacher_dtype": "bfloat16"}
    load(family, **same, student=lora | {"start": str(tmp_path / "start")})
    with pytest.raises(InputError, match="text encoder of local/other is not that of its teacher"):
        load(family, **same, student=lora | {"start": str(tmp_path / "other")})


def test_a_step_asks_no_float64_of_the_device(family: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MPS has none: levels come from float32 tables, made once on the CPU from the float64 schedule."""
    trainer, _ = make_trainer(family)
    networks = trainer.networks
    timesteps = torch.tensor([0, 20, 500, 999])
    alpha, sigma = networks.levels(timesteps)
    assert alpha.dtype == sigma.dtype == torch.float32
    assert torch.equal(alpha, networks.schedule.alpha(timesteps).float()) and torch.equal(
        sigma, networks.schedule.sigma(timesteps).float()
    )
    monkeypatch.setattr(diffusion.Schedule, "alpha", None)
    monkeypatch.setattr(diffusion.Schedule, "sigma", None)
    take_steps(trainer, 1)
