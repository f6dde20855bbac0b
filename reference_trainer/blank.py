"""A recipe's networks and trainer on the meta device, which computes shapes and takes no memory: to count what a run takes.

The trainer is the one that trains. What differs is where networks come from (configs alone), what captions and pairs say
(nothing), and that a test of numbers finds them sound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import numpy as np
import open_clip
import torch
from diffusers import AutoencoderKL, AutoencoderTiny, DDIMScheduler, UNet2DConditionModel
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPTextConfig, CLIPTextModel

from reference_trainer import architectures
from reference_trainer.accounting import GpuKernels, LiveBytes, ValuesOfMeta
from reference_trainer.config import Recipe, Regularisation, ScoreLoss
from reference_trainer.networks import Networks
from reference_trainer.pairs import Pairs
from reference_trainer.recipe_files import changed
from reference_trainer.step import Trainer
from sbv2bench.features.clip import OpenClipScorer
from sbv2bench.registry import Registry
from sbv2bench.samplers.components import Components
from sbv2bench.samplers.loading import quiet
from sbv2bench.specs import ExtractorSpec

_META = torch.device("meta")


class BlankNetworks(Networks):
    """`Networks` on the meta device, in the dtypes that training has. side: of the latents, None for the teacher's own.

    kernels: run in place of the meta device's, as a GPU would under the recipe's precision. An average that the recipe keeps
    on the CPU is left out: it is no part of the device's memory. Raises InputError or PrerequisiteError where a model's config
    is not to be had, and what `Networks` raises where the recipe does not fit.
    """

    def __init__(self, recipe: Recipe, registry: Registry, side: int | None = None) -> None:
        self._side, self.kernels = side, GpuKernels(recipe.precision == "bfloat16")
        with quiet():
            super().__init__(recipe, _META, registry)
        self.kernels.keep_in_float32(self.teacher.conv_out.weight, self.student.conv_out.weight)

    def autocast(self) -> AbstractContextManager[object]:
        """Nothing: the kernels do what it would."""
        return nullcontext()

    def modules(self) -> list[nn.Module]:
        """Every network that there is."""
        parts = self.components
        every = [self.teacher, self.student, parts.text_encoder, parts.vae, self.tiny_decoder]
        return [network for network in (*every, *(scorer.model for scorer in self.scorers.values())) if network is not None]

    def _config(self, model: str, part: str) -> dict[str, Any]:
        return architectures.config(model, part, self.registry)

    def _unet(self, model: str, dtype: torch.dtype) -> UNet2DConditionModel:
        with _META:
            unet: UNet2DConditionModel = UNet2DConditionModel.from_config(self._config(model, "unet"))
        return unet.to(dtype).to(memory_format=torch.channels_last).eval()

    def _load_components(self, dtype: torch.dtype) -> Components:
        teacher = self.recipe.teacher
        unet = self._unet(teacher, dtype)
        with _META:
            text_encoder = CLIPTextModel(CLIPTextConfig.from_dict(self._config(teacher, "text_encoder")))
            vae = _autoencoder(self._config(teacher, "vae"))
        scheduler = DDIMScheduler.from_config(self._config(teacher, "scheduler"))
        for network in (text_encoder, vae):
            network.to(dtype).eval().requires_grad_(False)
        factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = self._side or (self.teacher_spec.resolution or unet.config.sample_size * factor) // factor
        return Components(
            unet=unet,
            vae=vae.to(memory_format=torch.channels_last),
            text_encoder=text_encoder,
            tokenizer=_Tokenizer(text_encoder.config.max_position_embeddings),  # type: ignore[arg-type]
            scheduler=scheduler,
            prediction_type=self.teacher_spec.prediction_type or scheduler.config.prediction_type,
            resolution=side * factor,
            width=side * factor,
            latent_shape=(unet.config.in_channels, side, side),
            device=_META,
            dtype=dtype,
        )

    def _load_student(self) -> UNet2DConditionModel:
        return self._unet(self.recipe.student.start, torch.float32)

    def _make_trainable(self) -> None:
        with _META:
            super()._make_trainable()

    def check_other_parts(self) -> None:
        """What weights say is not known here."""

    def _moving_average(self) -> EMAModel | None:
        return None if self.recipe.ema_on_cpu else super()._moving_average()

    def load_tiny_decoder(self) -> AutoencoderTiny | None:
        if not self.recipe.tiny_decoder:
            return None
        with _META:
            return _autoencoder(architectures.tiny_config(self.recipe.tiny_decoder)).eval().requires_grad_(False)

    def load_scorer(self, loss: ScoreLoss) -> OpenClipScorer:
        return _Scorer(architectures.scorer_config(loss.scorer, self.registry), self.kernels)


class _Tokenizer:
    """As many tokens as there may be, whatever the caption."""

    def __init__(self, length: int) -> None:
        self.model_max_length = length

    def __call__(self, captions: Sequence[str], **_: object) -> SimpleNamespace:
        return SimpleNamespace(input_ids=torch.zeros(len(captions), self.model_max_length, dtype=torch.long))


class _Scorer(OpenClipScorer):
    """A scorer without weights. Captions cost nothing: they are embedded once, and without gradient."""

    def __init__(self, config: dict[str, Any], kernels: GpuKernels) -> None:
        self.spec = ExtractorSpec(id="blank", kind="open_clip")
        with _META:
            self.model = open_clip.CLIP(**config).eval().requires_grad_(False)
            self._mean, self._std = torch.zeros(1, 3, 1, 1), torch.ones(1, 3, 1, 1)
        size, self._width, self._kernels = self.model.visual.image_size, config["embed_dim"], kernels
        self._size = (size, size) if isinstance(size, int) else tuple(size)

    def embed_text(self, captions: Sequence[str]) -> NDArray[np.float32]:
        return np.zeros((len(captions), self._width), np.float32)

    def embed_pixels(self, pixels_BCHW: Tensor) -> Tensor:
        with self._kernels.in_full_precision():
            return super().embed_pixels(pixels_BCHW)


class BlankPairs(Pairs):
    """Pairs of a regularisation, of which none is made."""

    def __init__(self, recipe: Recipe, networks: BlankNetworks) -> None:
        assert recipe.regularisation is not None
        self.settings, self.batch_size = recipe.regularisation, recipe.regularisation.batch_size
        self.recipe, self.networks = recipe, networks
        self.perceptual, self._perceptual = None, None
        if self.settings.distance == "lpips":
            from torchmetrics.functional.image.lpips import _LPIPS

            with _META:
                self.perceptual = _LPIPS(pretrained=False, net="vgg", pnet_rand=True).to(_META).eval().requires_grad_(False)
            self._perceptual = self._lpips

    def _lpips(self, *pictures: Tensor, **options: bool) -> Tensor:
        assert self.perceptual is not None and isinstance(self.networks, BlankNetworks)
        with self.networks.kernels.in_full_precision():
            distance: Tensor = self.perceptual(*pictures, **options)
        return distance

    def batch(self, step: int, rows: Sequence[int]) -> tuple[list[str], Tensor, Tensor]:
        """Empty captions and latents."""
        latents = torch.empty(len(rows), *self.networks.latent_shape, device=_META)
        return [""] * len(rows), latents, torch.empty_like(latents)


class _Captions:
    def prompts_at(self, seed: int, step: int, batch_size: int, samples: Sequence[int]) -> list[str]:
        return [""] * len(samples)


class BlankTrainer(Trainer):
    """The trainer of one of `processes` devices that share a batch. device: "cuda" or "cpu", whose AdamW differ in memory.

    A step is one of at most two micro-batches, and of at most two updates of the LoRA teacher: more take no more memory.
    """

    networks: BlankNetworks
    pairs: BlankPairs | None

    def __init__(self, recipe: Recipe, registry: Registry, side: int | None, processes: int, device: str) -> None:
        share = recipe.batch_size // processes
        changes: dict[str, object] = {"batch_size": share, "micro_batch_size": min(recipe.micro_batch_size or share, share)}
        changes["optimiser.kind"] = "adamw"
        if recipe.lora_teacher is not None:
            changes["lora_teacher.steps_per_student_step"] = min(2, recipe.lora_teacher.steps_per_student_step)
        if recipe.regularisation is not None:
            changes["regularisation.batch_size"] = max(1, recipe.regularisation.batch_size // processes)
        part = changed(recipe, changes)
        networks = BlankNetworks(part, registry, side)
        super().__init__(part, networks, _Captions(), BlankPairs(part, networks) if part.regularisation else None)
        for optimiser in self.optimisers.values():
            for group in optimiser.param_groups:
                group["foreach"] = device == "cuda"
        self.sharing = processes > 1  # gradients then lie in DDP's messages, from the beginning to the end
        self._live: LiveBytes | None = None

    def modules(self) -> list[nn.Module]:
        """Every network that there is."""
        perceptual = [self.pairs.perceptual] if self.pairs is not None and self.pairs.perceptual is not None else []
        return [*self.networks.modules(), *perceptual, *(learner.network for learner in self.learners.values())]

    def pairs_of(self, settings: Regularisation) -> Pairs:
        """None is made."""
        return BlankPairs(self.recipe.model_copy(update={"regularisation": settings}), self.networks)

    def step_peaks(self) -> dict[str, tuple[int, int]]:
        """Bytes besides weights, moments and average at the worst moment of each part of a step, and without weights' gradients.

        Parts: "student", "regularisation", "student_update", "moving_average", "lora_teacher".
        """
        self._make_moments()
        with self._counted_bytes() as live:
            self._live = live
            self.take_step()
            self._live = None
        return live.parts

    def peak(self, run: Callable[[], object]) -> int:
        """Bytes that a call takes besides the same."""
        with self._counted_bytes() as live:
            run()
        self._forget_gradients()
        return live.peak

    def flops(self, run: Callable[[], object]) -> int:
        """Floating-point operations of a call: products, convolutions and attention; a multiplication and an addition are two."""
        with ValuesOfMeta(), FlopCounterMode(display=False) as counter, self.networks.kernels.patched(fused=False):
            run()
        self._forget_gradients()
        return int(counter.get_total_flops())

    def values_at_hand(self) -> AbstractContextManager[object]:
        """Where values of meta tensors may be asked for."""
        return ValuesOfMeta()

    def latents(self, count: int) -> Tensor:
        """Empty latents [B, C, h, w]."""
        return torch.empty(count, *self.networks.latent_shape, device=_META)

    @contextmanager
    def _counted_bytes(self) -> Iterator[LiveBytes]:
        """With fused attention, where values of meta tensors are found sound."""
        average = self.networks.average.shadow_params if self.networks.average is not None else ()
        moments = [
            held for optimiser in self.optimisers.values() for state in optimiser.state.values() for held in state.values()
        ]
        live = LiveBytes(self.modules(), (*moments, *average), "meta")
        with ValuesOfMeta(), self.networks.kernels.patched(fused=True), live:
            yield live
        live.stop()

    def _make_moments(self) -> None:
        for name, optimiser in self.optimisers.items():
            for parameter in self.trained(name).values():
                parameter.grad = torch.empty_like(parameter)
            optimiser.step()
        self._forget_gradients()

    def _forget_gradients(self) -> None:
        for optimiser in self.optimisers.values():
            optimiser.zero_grad(set_to_none=True)

    def _micro_batches(self, batch_size: int) -> list[list[int]]:
        return super()._micro_batches(batch_size)[:2]

    def part(self, name: str) -> AbstractContextManager[None]:
        """Bytes of a part of a step, where they are counted."""
        named = {"prompts": "student", "pairs": "regularisation"}.get(name, name)
        return nullcontext() if self._live is None else self._live.part(named)

    def update(self, name: str, figures: dict[str, float]) -> bool:
        with self.part(f"{name}_update"):
            sound = super().update(name, figures)
        if self._live is not None:
            self._live.forget_gradients()
        return sound


def _autoencoder(found: dict[str, Any]) -> AutoencoderKL | AutoencoderTiny:
    kind = AutoencoderTiny if found.get("_class_name") == "AutoencoderTiny" else AutoencoderKL
    return kind.from_config(found)
