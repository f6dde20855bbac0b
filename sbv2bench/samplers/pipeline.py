"""Any text-to-image pipeline of diffusers, sampled by the pipeline's own `__call__`; its parts may be others."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from sbv2bench.errors import InputError
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, generators, refuse_unused, to_uint8
from sbv2bench.samplers.components import check_guidance, embeds_guidance, is_guided
from sbv2bench.samplers.library_warnings import warn_once
from sbv2bench.samplers.networks import StoredModel
from sbv2bench.samplers.noise import give_noise, noise_of_call
from sbv2bench.samplers.pipeline_call import call_parameters, check_length, check_scale, fixed_arguments, prompts, stated_size
from sbv2bench.samplers.pipeline_loading import load_pipeline
from sbv2bench.samplers.placement import USUAL, Placement, place
from sbv2bench.samplers.rehearsal import Rehearsal, check_rehearsal
from sbv2bench.samplers.schedulers import make_scheduler
from sbv2bench.samplers.timesteps import arrives, check_walk, count_levels, set_timesteps
from sbv2bench.specs import ModelSpec

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from sbv2bench.registry import Registry


class PipelineSampler:
    """A pipeline that keeps its own ways (text, guidance, latents, decoding) and is given seeds by image.

    All of its time is counted as the stage `denoise`: what happens inside is not ours to cut.
    """

    def __init__(
        self,
        spec: ModelSpec,
        device: str,
        dtype: torch.dtype,
        registry: Registry | None = None,
        *,
        placement: Placement = USUAL,
    ) -> None:
        """Loads the pipeline and asks it once, up to its first step; no remote code, no safety checker.

        Raises InputError where it is not text-to-image by seed, or cannot be asked as the spec says.
        """
        if spec.merge:
            raise InputError(f"{spec.id}: `sampler: pipeline` cannot merge, expected multi_step or one_step")
        refuse_unused(spec, "timestep", "alpha_T", "input_scaling")
        if spec.no_guidance == 1.0 and spec.guidance != "embedded":
            is_guided(spec.guidance_scale)  # refuses a scale that is neither
        warn_once()
        self.spec = spec
        self._device, self._placement = torch.device(device), placement
        _, self._pipeline = load_pipeline(StoredModel.find(spec, registry, dtype), dtype)
        place(self._pipeline, device, placement)
        self._takes = call_parameters(type(self._pipeline))
        check_length(spec, self._pipeline)
        if scheduler := getattr(self._pipeline, "scheduler", None):
            self._pipeline.scheduler = make_scheduler(spec, scheduler)
        embedded = False
        if denoiser := self._denoiser():
            check_guidance(spec, denoiser)
            embedded = embeds_guidance(denoiser) and spec.guidance_argument == "guidance_scale"
        check_scale(spec, self._pipeline, self._takes, embedded=embedded)
        self._guided = spec.guided() and not embedded
        self._fixed = fixed_arguments(spec, self._pipeline, self._takes)
        self._of_thread = threading.local()
        self.noise_levels = self._levels()
        stated = stated_size(spec, self._pipeline, self._takes)
        heard = self._rehearse(stated)
        check_rehearsal(spec, type(self._pipeline).__name__, heard, guided=self._guided, embedded=embedded)
        self.resolution, self.width = stated or heard.size or self._made_for()
        self.network_calls = self.noise_levels * (heard.rows or 1 + self._guided)

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, resolution, width, 3]; see `Sampler.generate`.

        Raises InputError for what the pipeline says of arguments that it cannot take, or where it makes images of another size.
        """
        rngs = generators(block.noise_seeds)
        pipeline = self.pipeline()
        give_noise(pipeline, rngs)
        arguments = self._arguments(block.captions, rngs, (self.resolution, self.width))
        with self._placement.sampling(), stopwatch.stage("denoise"):
            try:
                with noise_of_call(pipeline, rngs):
                    images = pipeline(**arguments).images
            except ValueError as error:
                first = (str(error) or type(error).__name__).splitlines()[0][:200]
                raise InputError(f"{self.spec.id}: {type(pipeline).__name__} cannot be asked so: {first}") from error
            if tuple(images.shape[-2:]) != (self.resolution, self.width):
                found, expected = "x".join(map(str, images.shape[-2:])), f"{self.resolution}x{self.width}"
                raise InputError(f"{self.spec.id}: {type(pipeline).__name__} makes images of {found}, expected {expected}")
            return to_uint8(images)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Its networks by part; see `HasNetworks.networks`."""
        parts = self._pipeline.components.items()
        return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}

    def pipeline(self) -> DiffusionPipeline:
        """A copy that shares the networks. For the same images pass the spec's settings and a CPU generator for each image.

        A pipeline writes to itself, its scheduler and its tokenizers while it runs; its networks it only reads. So the networks
        are shared, a thread keeps its copy of the tokenizers, which are slow to copy, and a scheduler is new in each copy.
        An autoencoder that its pipeline casts to float32 and back while it decodes (SDXL's in float16) is a thread's own too,
        where there may be several: on a CPU.
        """
        if not hasattr(self._of_thread, "parts"):
            parts = self._pipeline.components.items()
            own = {
                name: copy.deepcopy(part) for name, part in parts if isinstance(part, PreTrainedTokenizerBase | ProcessorMixin)
            }
            if self._device.type == "cpu" and _is_cast_in_place(self._pipeline):
                own["vae"] = copy.deepcopy(self._pipeline.vae)
            self._of_thread.parts = own
        made = _copied(self._pipeline, self._of_thread.parts)
        scheduler = getattr(made, "scheduler", None)
        if self.spec.timesteps and scheduler is not None and arrives(scheduler):  # its pipeline tells it no number of steps
            vars(scheduler)["set_timesteps"] = functools.partial(scheduler.set_timesteps, self.spec.steps)
        return made

    def _arguments(self, captions: Sequence[str], rngs: list[torch.Generator], size: tuple[int, int] | None) -> dict[str, object]:
        sides = {} if size is None else {"height": size[0], "width": size[1]}
        own = self._fixed | sides | prompts(self.spec, captions, self._takes, guided=self._guided) | {"generator": rngs}
        return {name: value for name, value in own.items() if name in self._takes}

    def _rehearse(self, size: tuple[int, int] | None) -> Rehearsal:
        rngs = generators([0])
        return Rehearsal.of(self.pipeline(), rngs, self._arguments(["a photograph"], rngs, size), self.spec)

    def _levels(self) -> int:
        """The noise levels at which the scheduler's own timesteps ask; the spec's steps where there is no one scheduler."""
        scheduler = copy.deepcopy(getattr(self._pipeline, "scheduler", None))
        if scheduler is None:
            return self.spec.steps
        set_timesteps(scheduler, self.spec)
        levels = count_levels(scheduler)
        denoiser = self._denoiser()
        channels = None if denoiser is None else denoiser.config.get("in_channels")
        if hasattr(scheduler, "alphas_cumprod") and isinstance(channels, int):
            check_walk(scheduler, self.spec, channels)
        return levels

    def _made_for(self) -> tuple[int, int]:
        """(height, width) that the denoiser was made for. Raises InputError where nothing says."""
        denoiser = self._denoiser()
        side = denoiser.config.get("sample_size") if denoiser is not None else None
        factor = getattr(self._pipeline, "vae_scale_factor", None)
        if not isinstance(side, int) or factor is None:
            raise InputError(
                f"{self.spec.id}: {type(self._pipeline).__name__} does not say its resolution, expected resolution: in its spec",
                "--resolution 512",
            )
        return int(side * factor), int(side * factor)

    def _denoiser(self) -> ModelMixin | None:
        return getattr(self._pipeline, "unet", None) or getattr(self._pipeline, "transformer", None)


def _copied(pipeline: DiffusionPipeline, own: dict[str, object]) -> DiffusionPipeline:
    """A shallow copy with some parts of its own, and new schedulers; the pipelines that it is made of are copied too."""
    made = copy.copy(pipeline)
    parts = pipeline.components.items()
    schedulers = {name: copy.deepcopy(part) for name, part in parts if isinstance(part, SchedulerMixin)}
    inner = {name: _copied(part, {}) for name, part in vars(pipeline).items() if isinstance(part, DiffusionPipeline)}
    vars(made).update(own | schedulers | inner)
    made.set_progress_bar_config(disable=True)
    return made


def _is_cast_in_place(pipeline: DiffusionPipeline) -> bool:
    """Whether a pipeline changes its autoencoder's dtype while it runs."""
    vae: ModelMixin | None = getattr(pipeline, "vae", None)
    if vae is None or not hasattr(pipeline, "upcast_vae"):
        return False
    return bool(vae.dtype == torch.float16 and vae.config.get("force_upcast"))
