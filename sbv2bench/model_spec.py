"""What a model is and how it is sampled, as frozen declarations; `sbv2bench.specs` gives them all."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from sbv2bench.metric_spec import Family, WeightsFile
from sbv2bench.spec_base import Spec

PredictionType = Literal["epsilon", "v_prediction", "sample"]
IN_MEMORY = "in_memory"  # the sampler of a model that somebody else holds and draws from, as a training loop does
Holds = Literal["model", "unet", "transformer", "lora"]
# Where a model's images come from: a network, files that exist, the mini world itself, or nowhere (published numbers only).
Images = Literal["network", "files", "world", "none"]
Argument = bool | int | float | str | tuple[bool | int | float | str, ...] | None  # of a pipeline's call
_TRAITS: dict[str, dict[str, object]] = {  # of the built-in samplers that differ from most
    "one_step": {"one_step": True},
    "image_folder": {"images": "files"},
    "renderings": {"images": "world"},
    "published": {"images": "none"},
}


def _with_traits(said: object, sampler: str) -> object:
    return {**_TRAITS.get(str(said.get(sampler)), {}), **said} if isinstance(said, dict) else said


class MergeSpec(Spec):
    """theta = weight * a + (1 - weight) * b (paper eq. 6), made on load; a and b are model ids or folders."""

    a: str
    b: str
    weight: float = Field(ge=0.0, le=1.0)


class TrainingPrompts(Spec):
    """One source of training captions: a file's name, world:SPLIT or hub:ORG/NAME. sha256: of the file's bytes, else ""."""

    source: str
    sha256: str = ""
    captions: int | None = None
    licence: str = ""


class TrainedWith(Spec):
    """What trained a student, since what a loss has seen is not held out. scorers: ids of the extractors in its losses."""

    losses: tuple[str, ...] = ()  # vsd, clip, hps, regularisation
    scorers: tuple[str, ...] = ()
    prompts: tuple[TrainingPrompts, ...] = ()

    def has_hps(self) -> bool:
        """Whether a loss was a human preference score, by weights of whatever version."""
        return "hps" in self.losses or any("hps" in scorer.lower() for scorer in self.scorers)


class AdapterSpec(Spec):
    """A LoRA that is folded into a model's networks. location: as a model's; scale: what multiplies its update."""

    location: str
    scale: float = Field(default=1.0, allow_inf_nan=False)


class ModelSpec(Spec):
    """A model as it is sampled. Also the content of `sbv2bench.json` in every folder that the trainer writes.

    location: `package:mini/sd21` (shipped weights), `hub:org/name`, `hub:org/name/file.safetensors`, either with `@revision`
    after the name, `home:name` (a folder or file that a user puts in $SBV2BENCH_HOME/models), or a path. base: in the same
    words, the model that supplies the parts that this location lacks; a relative path is meant from the model's own folder.
    parts: in the same words, what takes the place of a part, by its name in a pipeline: a file, a folder, or that of a pipeline
    which has the part; vae is the short form for an autoencoder.
    no_guidance: the scale at which the pipeline makes no second pass: 1 where guidance is uncond + g (cond - uncond), 0 where it
    is cond + g (cond - uncond). arguments: what else the pipeline's call is given. weights: filled in when the model is
    resolved, with the hashes that were found, the bases' too, for which locations are only remarks.
    """

    remarks = frozenset(
        {
            *("id", "family", "location", "base", "mirrors", "description", "origin", "licence", "verified"),
            *("aliases", "published_as", "inferred", "provisional", "guidance", "vae_scaling", "trained_with", "unstated"),
            *("teacher", "gated", "source", "pipeline", "requires", "changes_with", "size_gb"),
            *("images", "one_step"),  # the sampler's
        }
    )
    later = frozenset(
        {
            *("holds", "vae", "timesteps", "timestep_spacing", "input_scaling", "width", "dtype", "parts", "adapters"),
            *("no_guidance", "guidance_argument", "negative_prompt", "max_sequence_length", "sigmas", "arguments"),
        }
    )

    id: str
    family: Family = "local"
    sampler: str  # a kind that the registry knows: multi_step, one_step, pipeline, image_folder, or a plugin's
    location: str = ""
    holds: Holds = "model"  # unet, transformer, lora: the location is that alone, a file or a folder, for the base
    base: str = ""
    mirrors: tuple[str, ...] = ()  # other locations of the same files, tried in turn where the first has none
    vae: str = ""
    parts: dict[str, str] = Field(default={})  # part of a pipeline -> location of what takes its place
    adapters: tuple[AdapterSpec, ...] = ()  # LoRAs, folded in one after another; `holds: lora` is the short form of one
    revision: str | None = None  # of the location
    weights: tuple[WeightsFile, ...] = ()
    merge: MergeSpec | None = None
    steps: int = Field(default=25, ge=1, le=1000)
    guidance_scale: float = Field(default=1.0, ge=0.0, le=100.0)  # usual convention: 1 is no guidance
    guidance: Literal["none", "cfg", "embedded"] | None = None  # embedded: an input of the network; proved on loading
    no_guidance: float = Field(default=1.0, ge=0.0, le=1.0)  # the scale that means no guidance
    guidance_argument: str = "guidance_scale"  # pipeline: the argument that takes the scale, true_cfg_scale of some
    negative_prompt: str = ""
    max_sequence_length: int | None = Field(default=None, ge=1)  # tokens that a pipeline's text encoder reads; None: its own
    sigmas: tuple[float, ...] = ()  # pipeline: the very noise levels, in place of the scheduler's choice
    arguments: dict[str, Argument] = Field(default={})
    scheduler: Literal["folder", "ddim", "dpmsolver++", "euler", "lcm", "tcd"] = "folder"  # folder: the model's own folder's
    timestep_spacing: Literal["trailing", "leading", "linspace"] | None = None  # None: the folder's, or trailing of a named one
    timesteps: tuple[int | float, ...] = ()  # multi_step, pipeline: the very timesteps, in place of the scheduler's choice
    timestep: int = Field(default=999, ge=0, le=999)  # one_step only: where the student is asked
    alpha_T: float | None = None  # one_step only: None takes it from the schedule, SwiftBrush v1 hard-codes sqrt(0.0047)
    input_scaling: Literal["none", "sigma"] = "none"  # one_step only: what multiplies the noise, 1 or sigma_T
    prediction_type: PredictionType | None = None  # None: as the scheduler's config says
    vae_scaling: float | None = None  # the scaling_factor that an AutoencoderKL must have; None: whatever its config says
    resolution: int | None = None  # height, and width too unless that is said; None: the network's own
    width: int | None = None  # of images that are not square
    dtype: Literal["float32", "float16", "bfloat16"] | None = None  # what --dtype auto takes on a GPU; None: float16
    description: str = ""
    origin: str = ""
    licence: str = ""  # as its card prints it
    gated: bool = False  # whether its files are only given to who has accepted its licence
    source: str = ""  # where its settings are taken from
    pipeline: str = ""  # pipeline: the class of diffusers that its model_index.json names
    requires: str = ""  # the release of a library that has its pipeline, as "diffusers>=0.37"
    changes_with: str = ""  # library versions that change its numbers
    size_gb: float | None = None  # of the files that a run reads
    verified: bool = False
    # The pipeline's own are taken when the model is resolved; no_guidance: with guidance_argument.
    unstated: tuple[Literal["steps", "guidance_scale", "no_guidance"], ...] = ()
    inferred: tuple[str, ...] = ()  # fields that the published numbers' source does not state
    provisional: str = ""  # why it may not be the model of the published numbers; "" where it is
    aliases: tuple[str, ...] = ()
    teacher: str = ""  # the model that it was distilled from, by id or location, with whose images it can be compared
    trained_with: TrainedWith | None = None  # None: nobody has said
    published_as: tuple[str, ...] = ()  # rows of catalog/published.csv, "table/method"
    images: Images = "network"  # its sampler's, as the next
    one_step: bool = False

    @model_validator(mode="before")
    @classmethod
    def _traits_of_the_sampler(cls, said: object) -> object:
        return _with_traits(said, "sampler")

    @model_validator(mode="before")
    @classmethod
    def _one_word_for_an_autoencoder(cls, said: object) -> object:
        """The same model has one fingerprint, whichever of the two forms names its autoencoder."""
        parts = said.get("parts") if isinstance(said, dict) else None
        if not isinstance(said, dict) or not isinstance(parts, dict) or "vae" not in parts:
            return said
        if said.get("vae") not in (None, "", parts["vae"]):
            raise ValueError(f"vae is {said['vae']!r} and parts.vae {parts['vae']!r}, expected one of them")
        return {**said, "vae": parts["vae"], "parts": {name: place for name, place in parts.items() if name != "vae"}}

    @model_validator(mode="after")
    def _fields_that_go_together(self) -> ModelSpec:
        for name, levels in (("timesteps", self.timesteps), ("sigmas", self.sigmas)):
            least = len(levels) - (name == "sigmas" and levels[-1:] == (0.0,))  # schedulers differ in whether that is a step
            if levels and not least <= self.steps <= len(levels):
                raise ValueError(f"steps is {self.steps}, expected {least}, the number of its {name}")
        if self.timesteps and self.sigmas:
            raise ValueError("timesteps and sigmas, expected one of them")
        if self.width is not None and self.resolution is None:
            raise ValueError("a width without a resolution, which is the height")
        return self

    def named_parts(self) -> dict[str, str]:
        """Part of a pipeline -> location of what takes its place; the autoencoder first."""
        return {**({"vae": self.vae} if self.vae else {}), **self.parts}

    def named_locations(self) -> tuple[str, ...]:
        """The locations that it names besides its own: its base's, its parts', its adapters'."""
        named = (self.base, *self.named_parts().values(), *(adapter.location for adapter in self.adapters))
        return tuple(location for location in named if location)

    def has_network(self) -> bool:
        """Whether a network generates its images, so that steps, guidance and latency mean something."""
        return self.images == "network"

    def has_seeds(self) -> bool:
        """Whether another generation seed gives other images: those that exist already have none."""
        return self.images in {"network", "world"}

    def network_evaluations(self) -> int:
        """NFE: network function evaluations of the denoiser for one image; guidance pairs are not counted twice."""
        return {"files": 0, "world": 0}.get(self.images, 1 if self.one_step else self.steps)

    def guided(self) -> bool:
        """Whether a second pass, without the caption, is made at each noise level."""
        return self.has_network() and self.guidance_scale > self.no_guidance and self.guidance != "embedded"

    def denoiser_calls(self) -> int:
        """Forward passes of the denoiser for one image as declared, those without the caption counted."""
        return self.network_evaluations() * (2 if self.guided() else 1)


class SamplerSpec(Spec):
    """A way to sample a model. target: "module:function" taking (spec: ModelSpec, device: str, dtype: torch.dtype) -> Sampler.

    images: where they come from. one_step: steps and guidance cannot be chosen.
    """

    remarks = frozenset({"description"})

    id: str
    target: str
    description: str = ""
    images: Images = "network"
    one_step: bool = False

    @model_validator(mode="before")
    @classmethod
    def _traits_of_the_built_in(cls, said: object) -> object:
        return _with_traits(said, "id")
