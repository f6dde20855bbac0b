"""The cast: a student, a frozen teacher and its LoRA, a text encoder, decoders and scorers; and what each is asked for.

One copy of the teacher's UNet plays both teachers: with its adapter off it is the frozen one, with it on the LoRA teacher.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from diffusers import AutoencoderTiny, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from torch import Tensor, nn

from reference_trainer.adapter import Adapter
from reference_trainer.config import Recipe, ScoreLoss
from reference_trainer.trainable import alike, last_layer_in_float32, prepare, trainable
from reference_trainer.training.shared import SharedNetwork
from sbv2bench import diffusion
from sbv2bench.data.assets import hash_weights, resolve_location
from sbv2bench.data.chain import model_files
from sbv2bench.errors import InputError
from sbv2bench.features.base import load_extractor
from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.registry import Registry
from sbv2bench.samplers.components import Components, load_components, load_unet
from sbv2bench.samplers.loading import load_network
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.specs import ModelSpec

STUDENT, LORA_TEACHER = "student", "lora_teacher"  # names of the adapters


def base_hashes(recipe: Recipe, registry: Registry) -> dict[str, str]:
    """SHA-256 of every file of the models that a recipe starts from, "teacher:<path>" and "student:<path>".

    Raises what finding a model's files raises.
    """
    names = {"teacher": recipe.teacher, "student": recipe.student.start}
    specs = {role: registry.model(name) for role, name in names.items()}
    return {f"{role}:{file.path}": file.sha256 for role, spec in specs.items() for file in model_files(spec, registry.model)}


class Networks:
    """Everything that a recipe loads, on one device. What is trained is float32; the frozen base may be bfloat16."""

    def __init__(self, recipe: Recipe, device: torch.device, registry: Registry) -> None:
        """Raises what loading raises, and InputError where teacher, student and recipe do not fit each other."""
        self.recipe, self.device, self.registry = recipe, device, registry
        self.teacher_spec = registry.model(recipe.teacher)
        self.start_spec = registry.model(recipe.student.start)
        self.components = self._load_components(getattr(torch, recipe.teacher_dtype))
        self.prediction_type = self.components.prediction_type
        if self.prediction_type != recipe.prediction_type:
            raise InputError(
                f"recipe {recipe.name}: teacher {self.teacher_spec.id} predicts {self.prediction_type}, "
                f"the recipe is for {recipe.prediction_type}",
                f"prediction_type={self.prediction_type}, or the teacher that the recipe means",
            )
        self.schedule = diffusion.Schedule.from_config(self.components.scheduler.config)
        every = torch.arange(len(self.schedule))  # taken on the CPU in float64, which not every device has
        self._alphas, self._sigmas = (level(every).float().to(device) for level in (self.schedule.alpha, self.schedule.sigma))
        self.latent_shape = self.components.latent_shape
        self.teacher = self.components.unet
        last_layer_in_float32(self.teacher)
        self.student = self._load_student()
        self._check_student()
        self._make_trainable()
        self._shared: dict[str, SharedNetwork] = {}
        self._trained = {STUDENT: trainable(self.student), LORA_TEACHER: trainable(self.teacher)}
        self._adapters[LORA_TEACHER].off()
        if recipe.gradient_checkpointing:
            self.student.enable_gradient_checkpointing()
            self.teacher.enable_gradient_checkpointing()
        if recipe.compile:
            for unet in (self.student, self.teacher):
                unet.compile(dynamic=False)
        self.average = self._moving_average()
        self.tiny_decoder = self.load_tiny_decoder()
        self.scorers = {name: self.load_scorer(loss) for name, loss in (("clip", recipe.clip), ("hps", recipe.hps)) if loss}
        self.alpha_T, self.sigma_T = self.schedule.alpha(recipe.student.timestep), self.schedule.sigma(recipe.student.timestep)

    def trained(self, network: str) -> dict[str, nn.Parameter]:
        """Name -> parameter of what is trained of the "student" or the "lora_teacher", in a fixed order."""
        return self._trained[network]

    def share(self) -> None:
        """Train together with the processes of the group that this one has joined: gradients become means over all of them."""
        self._shared[STUDENT] = SharedNetwork(self.student)
        if self.recipe.lora_teacher is not None:
            self._shared[LORA_TEACHER] = SharedNetwork(self.teacher)

    def summing(self, network: str, now: bool) -> AbstractContextManager[None]:
        """For a forward and a backward pass: whether gradients are summed over processes after it, or wait for a later one."""
        return self._shared[network].summing(now) if network in self._shared else nullcontext()

    def encode_text(self, captions: Sequence[str]) -> Tensor:
        """Text states [B, L, D]."""
        with torch.no_grad():
            return self.components.encode_text(captions, guided=False)

    @cached_property
    def null_text(self) -> Tensor:
        """Text states [1, L, D] of "", the prompt of unconditional predictions."""
        with torch.inference_mode(False):  # it is kept, and a graph may need it
            return self.encode_text([""])

    def generate(self, z: Tensor, text: Tensor) -> Tensor:
        """The student's clean latents x0 [B, C, h, w] float32 of noise z, with gradient (equation 1)."""
        student = self._shared.get(STUDENT, self.student) if torch.is_grad_enabled() else self.student
        with self._adapters[STUDENT].on():
            output = self.predict(student, z, self.recipe.student.timestep, text, torch.float32)
        return diffusion.predict_x0(output, z, self.alpha_T, self.sigma_T, self.prediction_type)

    def teacher_epsilon(self, x_t: Tensor, timesteps: Tensor, text: Tensor, null: Tensor, scale: float, *, lora: bool) -> Tensor:
        """Guided noise prediction [B, C, h, w] of the frozen teacher, or with lora of the LoRA teacher; no gradient.

        text, null: states [B, L, D] of the captions and of "". Scale 1 asks for no unconditional half.
        """
        with torch.no_grad(), self.lora_teacher() if lora else nullcontext():
            if scale == 1.0:
                return self._epsilon(x_t, timesteps, text)
            twice = torch.cat([x_t, x_t]), torch.cat([timesteps, timesteps]), torch.cat([null, text])
            unconditional, conditional = self._epsilon(*twice).chunk(2)
            return diffusion.guide(unconditional, conditional, scale)

    def lora_teacher_epsilon(self, x_t: Tensor, timesteps: Tensor, text: Tensor) -> Tensor:
        """Noise prediction [B, C, h, w] of the LoRA teacher, unguided, with gradient to its adapter.

        To be called within `lora_teacher()`, which must last until the backward pass is done: with gradient checkpointing
        that pass computes the network again.
        """
        return self._epsilon(x_t, timesteps, text, self._shared.get(LORA_TEACHER))

    def lora_teacher(self) -> AbstractContextManager[None]:
        """The teacher with its adapter on."""
        return self._adapters[LORA_TEACHER].on()

    def levels(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        """alpha and sigma float32 [B] at timesteps, on the device."""
        where = timesteps.to(self.device)
        return self._alphas[where], self._sigmas[where]

    def pixels(self, x0: Tensor, decoder: str = "tiny") -> Tensor:
        """Pictures [B, 3, H, W] in [0, 1] of scaled latents, with gradient; clamping kills it where a pixel is saturated."""
        vae = self.tiny_decoder if decoder == "tiny" else self.components.vae
        assert vae is not None  # a recipe that decodes by it names one
        unscaled = x0 / vae.config.scaling_factor + (vae.config.get("shift_factor") or 0.0)
        with self.autocast():
            decoded: Tensor = vae.decode(unscaled.to(next(vae.parameters()).dtype)).sample
        return (decoded.float() / 2 + 0.5).clamp(0, 1)

    def cosines(self, name: str, x0: Tensor, captions: Sequence[str], decoder: str) -> Tensor:
        """Cosine [B] of decoded latents and their captions under the "clip" or the "hps" scorer, with gradient to x0."""
        scorer = self.scorers[name]
        text = torch.from_numpy(scorer.embed_text(captions)).to(self.device)
        images: Tensor = scorer.embed_pixels(self.pixels(x0, decoder))
        return (images * text).sum(1)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The student with its moving average for weights, where it has one."""
        if self.average is None:
            yield
            return
        parameters = list(self.trained(STUDENT).values())
        self.average.store(parameters)
        self.average.copy_to(parameters)
        try:
            yield
        finally:
            self.average.restore(parameters)

    def student_components(self) -> Components:
        """The teacher's parts around the student's UNet: what a sampler of sbv2bench needs. Shared, not copied.

        The student is float32 whatever the frozen parts are, so its inputs are: to be sampled within `autocast`.
        """
        own = vars(self.components) | {"unet": self.student, "dtype": torch.float32}
        return Components(**{name: own[name] for name in Components.__dataclass_fields__})

    def student_spec(self) -> ModelSpec:
        """How the student is sampled: what sbv2bench.json says of every export."""
        return ModelSpec(
            id=f"local/{self.recipe.name.rpartition('/')[2]}",
            sampler="one_step",
            steps=1,
            timestep=self.recipe.student.timestep,
            alpha_T=self.alpha_T,
            prediction_type=self.prediction_type,
        )

    def teacher_hashes(self) -> dict[str, str]:
        """SHA-256 of every file of the teacher, as `base_hashes`."""
        found = base_hashes(self.recipe, self.registry)
        return {name: sha256 for name, sha256 in found.items() if name.startswith("teacher:")}

    def autocast(self) -> AbstractContextManager[object]:
        """Half precision where the recipe says so."""
        half = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=half)

    def _epsilon(self, x_t: Tensor, timesteps: Tensor, text: Tensor, shared: SharedNetwork | None = None) -> Tensor:
        alpha, sigma = self.levels(timesteps)
        output = self.predict(shared or self.teacher, x_t, timesteps, text, self.teacher.dtype)
        return diffusion.predict_epsilon(output, x_t, alpha, sigma, self.prediction_type)

    def predict(
        self, unet: UNet2DConditionModel | SharedNetwork, x_t: Tensor, timesteps: Tensor | int, text: Tensor, dtype: torch.dtype
    ) -> Tensor:
        """A UNet's output float32 [B, C, h, w] of inputs in its dtype; a learned variance is dropped."""
        with self.autocast():
            output: Tensor = unet(x_t.to(dtype), timesteps, encoder_hidden_states=text.to(dtype)).sample
        return output[:, : self.latent_shape[0]].float()

    def _check_student(self) -> None:
        student, teacher = self.student.config, self.teacher.config
        for name in ("in_channels", "sample_size", "cross_attention_dim"):
            if student[name] != teacher[name]:
                raise InputError(
                    f"recipe {self.recipe.name}: student starts from {self.start_spec.id} with {name} {student[name]}, "
                    f"its teacher {self.teacher_spec.id} has {teacher[name]}"
                )
        declared = self.start_spec.prediction_type
        if declared not in {None, self.prediction_type}:
            raise InputError(
                f"recipe {self.recipe.name}: {self.start_spec.id} predicts {declared}, its teacher {self.prediction_type}"
            )
        last_layer_in_float32(self.student)
        if self.recipe.student.lora is not None:
            self.check_other_parts()

    def check_other_parts(self) -> None:
        """A LoRA student is sampled with the parts of the model that it started from: its text must read as the teacher's."""
        own = StoredModel.find(self.start_spec, self.registry).text_encoder(torch.float32).state_dict()
        teachers = self.components.text_encoder.state_dict()
        # Both in the type that the teacher is held in: what differs then is more than a rounding of the same number.
        if own.keys() == teachers.keys() and all(alike(own[key], value.cpu()) for key, value in teachers.items()):
            return
        raise InputError(
            f"recipe {self.recipe.name}: the text encoder of {self.start_spec.id} is not "
            f"that of its teacher {self.teacher_spec.id}",
            "student.lora=null, or a start that shares its teacher's text encoder",
        )

    def update_average(self) -> None:
        """Let the moving average follow the student, wherever the average is kept; nothing without one."""
        if self.average is None:
            return
        parameters = list(self.trained(STUDENT).values())
        held = self.average.shadow_params[0].device
        if parameters[0].device != held:  # diffusers subtracts the two, and only copies what takes no gradient
            parameters = [nn.Parameter(parameter.detach().to(held)) for parameter in parameters]
        self.average.step(parameters)

    def _load_components(self, dtype: torch.dtype) -> Components:
        return load_components(self.teacher_spec, str(self.device), dtype, self.registry)

    def _load_student(self) -> UNet2DConditionModel:
        unet = load_unet(self.start_spec, torch.float32, self.registry)
        return unet.to(self.device, memory_format=torch.channels_last)

    def _make_trainable(self) -> None:
        torch.manual_seed(self.recipe.seed)  # of the adapters' random halves
        prepare(self.student, self.recipe.student.lora, STUDENT)
        if self.recipe.lora_teacher is not None:
            prepare(self.teacher, self.recipe.lora_teacher.lora, LORA_TEACHER)
        half = self.recipe.gradient_checkpointing or {self.recipe.precision, self.recipe.teacher_dtype} != {"float32"}
        networks = {STUDENT: self.student, LORA_TEACHER: self.teacher}
        self._adapters = {name: Adapter(unet, name, half=half) for name, unet in networks.items()}

    def _moving_average(self) -> EMAModel | None:
        if self.recipe.ema is None:
            return None
        average = EMAModel(list(self.trained(STUDENT).values()), decay=self.recipe.ema.decay, foreach=True)
        average.to(device="cpu" if self.recipe.ema_on_cpu else self.device)
        return average

    def load_tiny_decoder(self) -> AutoencoderTiny | None:
        if not self.recipe.tiny_decoder:
            return None
        folder = resolve_location(self.recipe.tiny_decoder)
        hash_weights(folder)
        decoder = load_network(AutoencoderTiny, folder, torch.float32).to(self.device)
        if decoder.config.latent_channels != self.latent_shape[0]:
            found, expected = decoder.config.latent_channels, self.latent_shape[0]
            raise InputError(
                f"tiny_decoder {self.recipe.tiny_decoder}: decodes {found} latent channels, the teacher has {expected}"
            )
        return decoder

    def load_scorer(self, loss: ScoreLoss) -> OpenClipScorer:
        scorer: Any = load_extractor(self.registry.extractor(loss.scorer), str(self.device))
        if not hasattr(scorer, "embed_pixels"):
            raise InputError(f"scorer {loss.scorer}: no picture's gradient passes it, expected an extractor of kind open_clip")
        found: OpenClipScorer = scorer
        return found
