"""What a pipeline's call is given of a ModelSpec, refused before the first image where the pipeline cannot take it.

What it requires decides whether it makes images of text alone; how a class names things is read off its call's signature.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence

from diffusers import DiffusionPipeline, SchedulerMixin
from transformers import PreTrainedModel

from sbv2bench.errors import InputError
from sbv2bench.samplers.components import nearest_size
from sbv2bench.samplers.timesteps import arrives
from sbv2bench.specs import ModelSpec

Parameters = Mapping[str, inspect.Parameter]
REQUIRED = ("prompt", "generator", "output_type", "num_inference_steps")  # arguments of a text-to-image pipeline with seeds
FRAMES = ("num_frames", "audio_duration", "audio_end_in_s", "audio_length_in_s")  # arguments of one that makes no images
# Arguments that have a field of their own in a spec, or belong to the sampler.
_OURS = {
    *REQUIRED, "height", "width", "latents", "timesteps", "sigmas", "negative_prompt", "max_sequence_length", "return_dict",
    "num_images_per_prompt", "true_cfg_scale",
}  # fmt: skip
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def call_parameters(pipeline: type[DiffusionPipeline]) -> Parameters:
    """Those of a pipeline's call, without the pipeline itself."""
    return {name: value for name, value in inspect.signature(pipeline.__call__).parameters.items() if name != "self"}


def check_kind(spec: ModelSpec, pipeline: type[DiffusionPipeline]) -> None:
    """Raises InputError for a class of pipelines that requires more than a prompt, or that cannot be asked as the spec says."""
    kind, parameters = pipeline.__name__, call_parameters(pipeline)
    wrong = [f"takes no {name}" for name in REQUIRED if name not in parameters]
    needed = [name for name, value in parameters.items() if value.default is value.empty and value.kind not in _VARIADIC]
    wrong += [f"needs {name}" for name in needed if name != "prompt"]
    wrong += [f"takes {name}" for name in FRAMES if name in parameters]
    if (found := pictures(parameters)) and not {"height", "width"} <= parameters.keys():
        wrong += [f"takes {found[0]} and no height and width"]
    if wrong:
        raise InputError(f"{spec.id}: {kind} {', '.join(wrong)}, expected a pipeline that makes images of text, by seed")
    said: dict[str, object] = {
        "timesteps": list(spec.timesteps),
        "sigmas": list(spec.sigmas),
        "negative_prompt": spec.negative_prompt,
    }
    said |= {"max_sequence_length": spec.max_sequence_length, spec.guidance_argument: spec.guidance_scale * spec.guided()}
    for name, value in said.items():
        if value and name not in parameters:
            raise InputError(f"{spec.id}: {kind} takes no {name}, found {value!r}", f"take {name} out of its spec")
    for name in spec.arguments:
        if name in _OURS | {spec.guidance_argument}:
            raise InputError(f"{spec.id}: arguments has {name}, which is said elsewhere in a spec", "take it out of arguments")
        if name not in parameters:
            raise InputError(f"{spec.id}: {kind} takes no argument {name}", f"take {name} out of arguments in its spec")


def check_scale(spec: ModelSpec, pipeline: DiffusionPipeline, parameters: Parameters, *, embedded: bool) -> None:
    """Raises InputError for a scale that nothing reads, or a negative prompt that no pass is made of.

    embedded: whether the network reads the scale. Pipelines with a `true_cfg_scale` pass `guidance_scale` on to the network.
    """
    kind, usual = type(pipeline).__name__, spec.guidance_argument == "guidance_scale"
    if spec.guided() and usual and not embedded and "true_cfg_scale" in parameters:
        raise InputError(
            f"{spec.id}: guidance_scale is {spec.guidance_scale:g}, which {kind} passes to its network, and that reads no scale",
            f"--guidance-scale {spec.no_guidance:g}, or guidance_argument: true_cfg_scale in its spec",
        )
    if spec.negative_prompt and embedded:
        raise InputError(
            f"{spec.id}: negative_prompt is {spec.negative_prompt!r}, and {kind} makes one pass: its network reads the scale",
            "take negative_prompt out of its spec",
        )


def pictures(parameters: Parameters) -> list[str]:
    """Arguments by which a call takes pictures, but for those of IP adapters, which any pipeline may have."""
    return [name for name in parameters if "image" in name and not name.startswith(("ip_", "negative_ip_", "num_images"))]


def check_length(spec: ModelSpec, pipeline: DiffusionPipeline) -> None:
    """Raises InputError where more tokens are asked for than a text encoder has positions, or its tokenizer gives.

    Of a pipeline with several encoders the length is not CLIP's, which has one of its own.
    """
    parts = {name: part for name, part in pipeline.components.items() if isinstance(part, PreTrainedModel)}
    long = {name: part for name, part in parts.items() if not type(part).__name__.startswith("CLIP")}
    for name, encoder in (long if len(parts) > 1 else parts).items():
        config = getattr(encoder.config, "text_config", encoder.config)
        tokenizer = pipeline.components.get(name.replace("text_encoder", "tokenizer"))
        tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
        limits = [getattr(config, "max_position_embeddings", None), getattr(tokenizer, "model_max_length", None)]
        most = min((limit for limit in limits if isinstance(limit, int)), default=None)
        if most is not None and (spec.max_sequence_length or 0) > most:
            raise InputError(
                f"{spec.id}: max_sequence_length is {spec.max_sequence_length}, its {name} reads at most {most} tokens",
                f"max_sequence_length: {most} in its spec",
            )


def fixed_arguments(spec: ModelSpec, pipeline: DiffusionPipeline, parameters: Parameters) -> dict[str, object]:
    """Those arguments that are the same for every block."""
    values: dict[str, object] = {
        name: list(value) if isinstance(value, tuple) else value for name, value in spec.arguments.items()
    }
    values |= {"num_inference_steps": spec.steps, spec.guidance_argument: spec.guidance_scale, "output_type": "pt"}
    if spec.sigmas:
        values["sigmas"] = list(spec.sigmas)
    if spec.max_sequence_length:
        values["max_sequence_length"] = spec.max_sequence_length
    if spec.timesteps:
        values["timesteps"] = list(spec.timesteps)
    if spec.guidance_argument != "true_cfg_scale":
        values.setdefault("true_cfg_scale", 1.0)  # none, of pipelines that have it beside another
    scheduler = pipeline.components.get("scheduler")
    if isinstance(scheduler, SchedulerMixin) and arrives(scheduler):  # SANA-Sprint's
        if spec.timesteps:
            values |= {"timesteps": [*spec.timesteps, 0.0], "max_timesteps": None, "intermediate_timesteps": None}
        elif spec.steps != 2:  # its default is for two steps alone
            values.setdefault("intermediate_timesteps", None)
    return {name: value for name, value in values.items() if name in parameters}


def prompts(spec: ModelSpec, captions: Sequence[str], parameters: Parameters, *, guided: bool) -> dict[str, object]:
    """The captions, and where they are guided by a second pass what takes their place in it.

    SDXL reads "" and no negative prompt at all as different things; a pipeline whose guidance is not `guidance_scale` makes no
    second pass without one.
    """
    values: dict[str, object] = {"prompt": list(captions)}
    wanted = spec.negative_prompt or spec.guidance_argument != "guidance_scale"
    if guided and wanted and "negative_prompt" in parameters:
        values["negative_prompt"] = [spec.negative_prompt] * len(captions)
    return values


def stated_size(spec: ModelSpec, pipeline: DiffusionPipeline, parameters: Parameters) -> tuple[int, int] | None:
    """(height, width) that the spec says, or the call's own defaults; None where only calling it tells.

    Raises InputError for a size that the pipeline would round to another.
    """
    if not spec.resolution:
        sides = [parameters[name].default for name in ("height", "width") if name in parameters]
        return (sides[0], sides[1]) if len(sides) == 2 and all(isinstance(side, int) for side in sides) else None
    if not {"height", "width"} <= parameters.keys():
        raise InputError(f"{spec.id}: {type(pipeline).__name__} takes no height and width", "take resolution out of its spec")
    height, width = spec.resolution, spec.width or spec.resolution
    processor = getattr(getattr(pipeline, "image_processor", None), "config", {})
    factors = [getattr(pipeline, "vae_scale_factor", None), processor.get("vae_scale_factor")]
    factors += [8] if hasattr(pipeline, "unet") else []  # StableDiffusionPipeline's, whatever its autoencoder
    multiple = math.lcm(*(factor for factor in factors if isinstance(factor, int) and factor > 0))
    if height % multiple or width % multiple:
        raise InputError(
            f"{spec.id}: found a resolution of {height}x{width}, expected multiples of {multiple}",
            f"--resolution {nearest_size(height, width, multiple)}",
        )
    return height, width
