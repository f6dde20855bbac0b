"""Any diffusers pipeline folder, sampled by the pipeline's own `__call__`; its UNet and autoencoder may be others."""

from __future__ import annotations

import copy
import inspect
import math
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import diffusers
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from transformers import PreTrainedTokenizerBase

from sbv2bench.data.assets import pickles_allowed, read_json, selection_in
from sbv2bench.data.selection import plain_name
from sbv2bench.errors import InputError, IntegrityError
from sbv2bench.samplers.base import Images, PromptBlock, Stopwatch, generators, initial_noise, refuse_unused, to_uint8
from sbv2bench.samplers.components import check_guidance, embeds_guidance, is_guided, nearest_size
from sbv2bench.samplers.library_warnings import warn_once
from sbv2bench.samplers.networks import StoredModel, check_scaling, quiet
from sbv2bench.samplers.pipeline_parts import check_whole, proved_parts
from sbv2bench.samplers.schedulers import load_scheduler, make_scheduler, reading
from sbv2bench.samplers.timesteps import check_walk, count_calls, set_timesteps
from sbv2bench.specs import ModelSpec
from sbv2bench.weights import some

if TYPE_CHECKING:
    from diffusers import ModelMixin

    from sbv2bench.registry import Registry

REQUIRED = ("prompt", "generator", "output_type", "num_inference_steps")  # arguments of a text-to-image pipeline with seeds
BEYOND = ("image", "mask_image", "control_image")  # arguments of one that starts from a picture


class PipelineSampler:
    """A pipeline that keeps its own ways (text, guidance, decoding) and is given seeds by image.

    All of its time is counted as the stage `denoise`: what happens inside is not ours to cut.
    """

    def __init__(self, spec: ModelSpec, device: str, dtype: torch.dtype, registry: Registry | None = None) -> None:
        """Loads the pipeline; no remote code, no safety checker. Raises InputError where it is not text-to-image by seed."""
        if spec.merge:
            raise InputError(f"{spec.id}: `sampler: pipeline` cannot merge, expected multi_step or one_step")
        refuse_unused(spec, "timestep", "alpha_T", "input_scaling")
        warn_once()
        self.spec = spec
        guided = is_guided(spec.guidance_scale)
        self._device, self._dtype = torch.device(device), dtype
        folder, self._pipeline = _load(StoredModel.find(spec, registry, dtype), dtype)
        self._pipeline.to(device)
        self._arguments = inspect.signature(self._pipeline.__call__).parameters
        wrong = [f"no {name}" for name in REQUIRED if name not in self._arguments]
        wrong += [name for name in BEYOND if name in self._arguments]
        if wrong:
            kind = type(self._pipeline).__name__
            raise InputError(f"{folder}: {kind} takes {', '.join(wrong)}, expected a text-to-image pipeline with seeds")
        if spec.timesteps and "timesteps" not in self._arguments:
            raise InputError(f"{folder}: {type(self._pipeline).__name__} cannot be asked at timesteps {list(spec.timesteps)}")
        if scheduler := getattr(self._pipeline, "scheduler", None):
            self._pipeline.scheduler = make_scheduler(spec, scheduler)
        if denoiser := self._denoiser():
            check_guidance(spec, denoiser)
        self.resolution, self.width = _size(spec, self._pipeline)
        self.network_calls = self._calls(guided)
        self._of_thread = threading.local()

    def generate(self, block: PromptBlock, stopwatch: Stopwatch) -> Images:
        """uint8 [block size, resolution, width, 3]; see `Sampler.generate`."""
        rngs = generators(block.noise_seeds)
        pipeline = self._fresh_pipeline()
        arguments: dict[str, object] = {
            "prompt": list(block.captions),
            "num_inference_steps": self.spec.steps,
            "timesteps": list(self.spec.timesteps) or None,
            "guidance_scale": self.spec.guidance_scale,
            "height": self.resolution,
            "width": self.width,
            "generator": rngs,
            "latents": self.noise(rngs),
            "output_type": "pt",
        }
        if self.spec.steps != 2:  # SANA-Sprint's default is for its two steps alone
            arguments["intermediate_timesteps"] = None
        with torch.inference_mode(), stopwatch.stage("denoise"):
            try:
                images = pipeline(**{key: value for key, value in arguments.items() if key in self._arguments}).images
            except ValueError as error:  # what a pipeline says of arguments that it cannot take
                first = (str(error) or type(error).__name__).splitlines()[0][:200]
                raise InputError(f"{self.spec.id}: {type(pipeline).__name__} cannot be asked so: {first}") from error
            return to_uint8(images)

    def networks(self) -> dict[str, torch.nn.Module]:
        """Its networks by part; see `HasNetworks.networks`."""
        parts = self._pipeline.components.items()
        return {name: part for name, part in parts if isinstance(part, torch.nn.Module)}

    def pipeline(self) -> DiffusionPipeline:
        """The pipeline itself; for the same images pass the spec's steps and guidance_scale, the noise and the generators."""
        return self._fresh_pipeline()

    def _fresh_pipeline(self) -> DiffusionPipeline:
        """A pipeline writes to itself, its scheduler and its tokenizers while it runs; its networks it only reads.

        So the networks are shared, a thread keeps its copy of the tokenizers, which are slow to copy, and a scheduler is
        new for each block. An autoencoder that its pipeline casts to float32 and back while it decodes (SDXL's in float16)
        is a thread's own too, where there may be several: on a CPU.
        """
        if not hasattr(self._of_thread, "parts"):
            parts = self._pipeline.components.items()
            own = {name: copy.deepcopy(part) for name, part in parts if isinstance(part, PreTrainedTokenizerBase)}
            if self._device.type == "cpu" and _is_cast_in_place(self._pipeline):
                own["vae"] = copy.deepcopy(self._pipeline.vae)
            self._of_thread.parts = own
        pipeline = copy.copy(self._pipeline)
        schedulers = {name: copy.deepcopy(part) for name, part in pipeline.components.items() if isinstance(part, SchedulerMixin)}
        vars(pipeline).update(self._of_thread.parts | schedulers)
        pipeline.set_progress_bar_config(disable=True)
        return pipeline

    def noise(self, rngs: Sequence[torch.Generator]) -> torch.Tensor | None:
        """The initial noise in float32, cast, where the pipeline's latents are a UNet's; else the pipeline draws its own.

        It would draw in the run's dtype, and float16 draws other numbers than float32 of the same seed.
        """
        unet, factor = getattr(self._pipeline, "unet", None), getattr(self._pipeline, "vae_scale_factor", None)
        if unet is None or factor is None or unet.config.in_channels != self._pipeline.vae.config.latent_channels:
            return None
        sides = (self.resolution // factor, self.width // factor)
        return initial_noise(rngs, (unet.config.in_channels, *sides)).to(self._device, self._dtype)

    def _calls(self, guided: bool) -> int:
        """Steps as the scheduler counts them, twice where guided; a network that reads the scale as an input is called once."""
        scheduler = copy.deepcopy(getattr(self._pipeline, "scheduler", None))
        steps = self.spec.steps
        if scheduler is not None:
            set_timesteps(scheduler, self.spec)
            steps = count_calls(scheduler)
            unet = getattr(self._pipeline, "unet", None)
            if unet is not None and hasattr(scheduler, "alphas_cumprod"):
                check_walk(scheduler, self.spec, unet.config.in_channels)
        denoiser = self._denoiser()
        return steps * (2 if guided and not (denoiser is not None and embeds_guidance(denoiser)) else 1)

    def _denoiser(self) -> ModelMixin | None:
        return getattr(self._pipeline, "unet", None) or getattr(self._pipeline, "transformer", None)


def _is_cast_in_place(pipeline: DiffusionPipeline) -> bool:
    """Whether a pipeline changes its autoencoder's dtype while it runs."""
    vae: ModelMixin | None = getattr(pipeline, "vae", None)
    if vae is None or not hasattr(pipeline, "upcast_vae"):
        return False
    return bool(vae.dtype == torch.float16 and vae.config.get("force_upcast"))


def _load(stored: StoredModel, dtype: torch.dtype) -> tuple[Path, DiffusionPipeline]:
    """The pipeline's folder, and it with its parts swapped as the spec says; no remote code, no safety checker."""
    spec = stored.spec
    folder = stored.pipeline_folder()
    index = folder / "model_index.json"
    parts = read_json(index)
    foreign = [name for name, part in parts.items() if isinstance(part, list) and (folder / name / f"{part[0]}.py").is_file()]
    if isinstance(parts.get("_class_name"), list) or foreign:
        raise InputError(f"{index}: names code of its own ({', '.join(foreign) or parts['_class_name'][0]}), which is never run")
    # Parts that were left out when it was saved: diffusers wants to be told so of some, as of SD3's third text encoder.
    own: dict[str, object] = {name: None for name, part in parts.items() if isinstance(part, list) and part[:1] == [None]}
    if "safety_checker" in parts:  # it replaces whole pictures by black ones, which would count against the model
        own |= {"safety_checker": None, "requires_safety_checker": False}
    scheduler = stored.replaced(folder).get("scheduler", folder / "scheduler")
    if "vae" in parts and scheduler.is_dir():
        own["scheduler"] = load_scheduler(scheduler)
        stored.prediction_type(own["scheduler"])
    if stored.links[0].holds == "checkpoint":
        own |= {"vae": stored.vae(dtype)} if spec.vae else {}
        return folder, _of_one_file(stored.links[0].folder, folder, str(parts.get("_class_name")), dtype, own)
    own |= proved_parts(stored, folder, dtype)
    with quiet(), reading(folder), _as_plain_files(folder, stored) as place:
        pipeline = DiffusionPipeline.from_pretrained(
            place,
            torch_dtype=dtype,
            use_safetensors=None if pickles_allowed() else True,
            local_files_only=True,
            **own,
        )
    if getattr(getattr(pipeline, "vae", None), "config", {}).get("scaling_factor") is not None:
        check_scaling(spec, pipeline.vae, folder / "vae")
    check_whole(folder, pipeline)
    return folder, pipeline


def _of_one_file(file: Path, configs: Path, name: str, dtype: torch.dtype, own: dict[str, object]) -> DiffusionPipeline:
    """A whole model in one file, translated by diffusers as the configs say; the network is not asked.

    Raises InputError for a pipeline that has no such translation, IntegrityError where a network gets no weights from it.
    """
    kind = getattr(diffusers, name, None)
    if kind is None or not hasattr(kind, "from_single_file"):
        raise InputError(f"{configs}: {name} of diffusers reads no model from one file")
    with quiet(), reading(file):
        pipeline: DiffusionPipeline = kind.from_single_file(
            str(file), config=str(configs), torch_dtype=dtype, local_files_only=True, **own
        )
    for part, network in pipeline.components.items():
        lost = [key for key, value in network.named_parameters() if value.is_meta] if isinstance(network, torch.nn.Module) else []
        if lost:
            raise IntegrityError(f"{file}: {len(lost)} weights of {part} are missing ({some(lost)})", "download the whole file")
    return pipeline


@contextmanager
def _as_plain_files(folder: Path, stored: StoredModel) -> Iterator[Path]:
    """A pipeline's folder; where variants are read of it, a folder of links in which they have the plain names.

    diffusers takes one variant for a whole pipeline, and repositories have one for some of its networks.
    """
    read = selection_in(folder, stored.dtype)
    if not any(read.variants.values()):
        yield folder
        return
    with tempfile.TemporaryDirectory() as made:
        for name in read.files:
            link = Path(made, plain_name(name))
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to((folder / name).resolve())
        yield Path(made)


def _size(spec: ModelSpec, pipeline: DiffusionPipeline) -> tuple[int, int]:
    """(height, width) of the images: the spec's, or what the denoiser was made for. Raises InputError where neither says.

    diffusers' pipelines take multiples of 8, and of their own factor: they only say so when they are called.
    """
    if spec.resolution:
        height, width = spec.resolution, spec.width or spec.resolution
        multiple = math.lcm(8, getattr(pipeline, "vae_scale_factor", None) or 1)
        if height % multiple or width % multiple:
            raise InputError(
                f"{spec.id}: found a resolution of {height}x{width}, expected multiples of {multiple}",
                f"--resolution {nearest_size(height, width, multiple)}",
            )
        return height, width
    denoiser = getattr(pipeline, "unet", None) or getattr(pipeline, "transformer", None)
    side = getattr(denoiser.config, "sample_size", None) if denoiser is not None else None
    factor = getattr(pipeline, "vae_scale_factor", None)
    if not isinstance(side, int) or factor is None:
        raise InputError(
            f"{spec.id}: {type(pipeline).__name__} does not say its resolution, expected resolution: in the model's spec",
            "--resolution 512",
        )
    return int(side * factor), int(side * factor)
