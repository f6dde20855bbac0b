"""What is evaluated and how, as frozen declarations. No torch here: a spec says, other rooms do.

What they have in common is in spec_base.py; those of downloads are in asset_spec.py, of extractors and metrics in metric_spec.py.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from sbv2bench.asset_spec import AssetSpec as AssetSpec  # noqa: PLC0414
from sbv2bench.metric_spec import ExtractorSpec as ExtractorSpec  # noqa: PLC0414
from sbv2bench.metric_spec import Family as Family  # noqa: PLC0414
from sbv2bench.metric_spec import MetricSpec as MetricSpec  # noqa: PLC0414
from sbv2bench.metric_spec import SuiteMetric as SuiteMetric  # noqa: PLC0414
from sbv2bench.metric_spec import WeightsFile as WeightsFile  # noqa: PLC0414
from sbv2bench.spec_base import Spec as Spec  # noqa: PLC0414  # all are taken from here
from sbv2bench.spec_base import fingerprint as fingerprint  # noqa: PLC0414

PredictionType = Literal["epsilon", "v_prediction", "sample"]
IN_MEMORY = "in_memory"  # the sampler of a model that somebody else holds and draws from, as a training loop does
Holds = Literal["model", "unet", "lora"]
# Where a model's images come from: a network, files that exist, the mini world itself, or nowhere (published numbers only).
Images = Literal["network", "files", "world", "none"]
_TRAITS: dict[str, dict[str, object]] = {  # of the built-in samplers that differ from most
    "one_step": {"one_step": True},
    "image_folder": {"images": "files"},
    "renderings": {"images": "world"},
    "published": {"images": "none"},
}


def _with_traits(said: object, sampler: str) -> object:
    return {**_TRAITS.get(said.get(sampler, ""), {}), **said} if isinstance(said, dict) else said


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


class ModelSpec(Spec):
    """A model as it is sampled. Also the content of `sbv2bench.json` in every folder that the trainer writes.

    location: `package:mini/sd21` (shipped weights), `hub:org/name`, `hub:org/name/file.safetensors`, either with `@revision`
    after the name, `home:name` (a folder or file that a user puts in $SBV2BENCH_HOME/models), or a path. base: in the same
    words, the model that supplies the parts that this location lacks; a relative path is meant from the model's own folder.
    vae: in the same words, an autoencoder in place of the model's. weights: filled in when the model is resolved, with the
    hashes that were found, the bases' too, for which locations are only remarks.
    """

    remarks = frozenset(
        {
            *("id", "family", "location", "base", "mirrors", "description", "origin", "licence", "verified"),
            *("aliases", "published_as", "inferred", "provisional", "guidance", "vae_scaling", "trained_with", "unstated"),
            *("images", "one_step"),  # the sampler's
        }
    )
    later = frozenset({"holds", "vae", "timesteps", "timestep_spacing", "input_scaling", "width", "dtype"})

    id: str
    family: Family = "local"
    sampler: str  # a kind that the registry knows: multi_step, one_step, pipeline, image_folder, or a plugin's
    location: str = ""
    holds: Holds = "model"  # unet, lora: the location is a UNet or an adapter alone, a file or a folder, for the base
    base: str = ""
    mirrors: tuple[str, ...] = ()  # other locations of the same files, tried in turn where the first has none
    vae: str = ""
    revision: str | None = None  # of the location
    weights: tuple[WeightsFile, ...] = ()
    merge: MergeSpec | None = None
    steps: int = Field(default=25, ge=1, le=1000)
    guidance_scale: float = Field(default=1.0, ge=0.0, le=100.0)  # usual convention: 1 is no guidance
    guidance: Literal["none", "cfg", "embedded"] | None = None  # embedded: an input of the network; proved on loading
    scheduler: Literal["folder", "ddim", "dpmsolver++", "euler", "lcm", "tcd"] = "folder"  # folder: the model's own folder's
    timestep_spacing: Literal["trailing", "leading", "linspace"] | None = None  # None: the folder's, or trailing of a named one
    timesteps: tuple[int, ...] = ()  # multi_step, pipeline: the very timesteps, in place of the scheduler's choice
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
    licence: str = ""
    verified: bool = False
    unstated: tuple[Literal["steps", "guidance_scale"], ...] = ()  # the pipeline's own are taken when the model is resolved
    inferred: tuple[str, ...] = ()  # fields that the published numbers' source does not state
    provisional: str = ""  # why it may not be the model of the published numbers; "" where it is
    aliases: tuple[str, ...] = ()
    trained_with: TrainedWith | None = None  # None: nobody has said
    published_as: tuple[str, ...] = ()  # rows of catalog/published.csv, "table/method"
    images: Images = "network"  # its sampler's, as the next
    one_step: bool = False

    @model_validator(mode="before")
    @classmethod
    def _traits_of_the_sampler(cls, said: object) -> object:
        return _with_traits(said, "sampler")

    @model_validator(mode="after")
    def _fields_that_go_together(self) -> ModelSpec:
        if self.timesteps and self.steps != len(self.timesteps):
            raise ValueError(f"steps is {self.steps}, expected {len(self.timesteps)}, the number of its timesteps")
        if self.width is not None and self.resolution is None:
            raise ValueError("a width without a resolution, which is the height")
        return self

    def has_network(self) -> bool:
        """Whether a network generates its images, so that steps, guidance and latency mean something."""
        return self.images == "network"

    def has_seeds(self) -> bool:
        """Whether another generation seed gives other images: those that exist already have none."""
        return self.images in {"network", "world"}

    def network_evaluations(self) -> int:
        """NFE: network function evaluations of the denoiser for one image; guidance pairs are not counted twice."""
        return {"files": 0, "world": 0}.get(self.images, 1 if self.one_step else self.steps)

    def denoiser_calls(self) -> int:
        """Forward passes of the denoiser for one image, those without the caption counted."""
        guided = self.has_network() and self.guidance_scale > 1.0 and self.guidance != "embedded"
        return self.network_evaluations() * (2 if guided else 1)


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


class PromptSpec(Spec):
    """Where captions come from.

    world: `num_generated` captions of the mini world from `caption_offset` of a split. coco2014: the first `num_generated`
    of a list in a file (the released evaluation's dataset.json, COCO's annotations, Karpathy's split or a list of strings).
    hpsv2: a folder with one list for each of the four styles. file: captions of anybody's, or files and their captions.
    none: images without captions, for metrics that read none.
    location: of that file or folder, `asset:NAME` or a path.
    captions_sha256: what the captions joined with newlines hash to; None takes what is found, and the result says so.
    """

    remarks = frozenset({"location"})

    kind: Literal["world", "coco2014", "hpsv2", "file", "none"] = "world"
    world_seed: int = 0
    split: Literal["training", "choosing", "reporting"] = "reporting"
    caption_offset: int = Field(default=0, ge=0)
    location: str = ""
    captions_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")

    @model_validator(mode="after")
    def _fields_of_its_kind(self) -> PromptSpec:
        of_the_world = {"world_seed", "split", "caption_offset"}
        foreign = {"location", "captions_sha256"} if self.kind == "world" else of_the_world
        for name in sorted(foreign):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"prompts of kind {self.kind} have no {name}")
        if (self.kind not in ("world", "none")) != bool(self.location):
            raise ValueError(f"prompts of kind {self.kind} {'have no' if self.location else 'need a'} location")
        return self

    def protocol(self) -> dict[str, object]:
        """The fields of its kind that can change a number."""
        if self.kind == "world":
            return self.model_dump(mode="json", include={"kind", "world_seed", "split", "caption_offset"})
        return self.model_dump(mode="json", include={"kind"} if self.kind == "none" else {"kind", "captions_sha256"})


class ReferenceSpec(Spec):
    """Real photographs: every image in a zip or a folder. location: `asset:NAME` or a path.

    content_sha256: what `ImageArchive.content_sha256` must give; None takes what is found, and the result says so.
    orientation: exif turns each picture as its EXIF orientation says, stored takes the pixels as they lie in the file. None
    is stored for a declared download, whose numbers were published so, and exif for a path, a user's own photographs.
    """

    remarks = frozenset({"location"})
    later = frozenset({"orientation"})

    location: str
    content_sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")
    orientation: Literal["stored", "exif"] | None = None

    @property
    def is_turned(self) -> bool:
        """Whether pictures are turned as their EXIF orientation says."""
        return self.orientation == "exif" or (self.orientation is None and not self.location.startswith("asset:"))

    def protocol(self) -> dict[str, object]:
        """The fields that can change a number, the orientation where pictures are turned."""
        fields = self.model_dump(mode="json", include={"content_sha256"})
        return fields | ({"orientation": "exif"} if self.is_turned else {})


class SuiteSpec(Spec):
    """Prompts, reference and metrics under a version. `extends` is resolved when a catalog is read.

    metrics: ids, or a mapping of ids to what this suite changes of each. reference: None is fresh renderings of the world, of
    the captions `rendered` where the prompts are others. preparation: what is done to every image, generated or real, before a
    network sees it. label_suffix: after every metric's name; a count in it ("-30k") becomes that of the images that were
    measured, so write a size as "-256px". inherited: what a catalog or `own` took from another suite, in words.
    """

    remarks = frozenset({"description", "inherited"})

    id: str
    version: int = 1
    family: Family
    prompts: PromptSpec
    num_generated: int = Field(ge=2)
    num_reference: int = Field(ge=0)
    metrics: tuple[SuiteMetric, ...]
    block_size: int = Field(default=50, ge=1)
    label_suffix: str = ""  # "-mini" for everything measured by mini networks
    description: str = ""
    reference: ReferenceSpec | None = None
    preparation: str | None = Field(default=None, pattern=r"^centre-crop-lanczos-[1-9]\d{0,3}$")  # to a square of that side
    rendered: PromptSpec | None = None
    inherited: str = ""
    look: int = Field(default=0, ge=0)  # a suite to look at: images in the grid beside its results, which no board takes

    @field_validator("metrics", mode="before")
    @classmethod
    def by_name(cls, found: object) -> object:
        """Metrics as they may be written, ids or a mapping of ids to changes, as a list of mappings; else as it was found."""
        if isinstance(found, dict):
            found = [{"id": name, **changes} if isinstance(changes, dict) else {"id": name} for name, changes in found.items()]
        return [{"id": one} if isinstance(one, str) else one for one in found] if isinstance(found, list | tuple) else found

    @property
    def flags(self) -> tuple[str, ...]:
        """The ids of the metrics that it computes by default."""
        return tuple(metric.id for metric in self.metrics if not metric.on_request)

    def changed(self, metric: MetricSpec) -> MetricSpec:
        """A metric as this suite has it: with what it changes, if it names the metric."""
        own = next((one for one in self.metrics if one.id == metric.id), None)
        return metric if own is None else own.of(metric)

    def names_extractor(self, flag: str) -> bool:
        """Whether the suite itself says by which extractor a metric is computed."""
        return any(one.id == flag and one.extractor is not None for one in self.metrics)

    def protocol(self) -> dict[str, object]:
        """The fields that can change a number."""
        fields = super().protocol() | {"prompts": self.prompts.protocol()}
        fields["reference"] = None if self.reference is None else self.reference.protocol()
        fields["rendered"] = None if self.rendered is None else self.rendered.protocol()
        return fields

    def reference_protocol(self, sha256: str | None) -> dict[str, object]:
        """What its reference is: photographs by the SHA-256 of their content, or the captions that are rendered."""
        if self.reference is None:
            return {"rendered": (self.rendered or self.prompts).protocol()}
        return self.reference.protocol() | {"content_sha256": sha256}

    def metric_protocol(
        self,
        metric: MetricSpec,
        extractor: ExtractorSpec | None,
        prompts_sha256: str,
        reference_sha256: str | None = None,
        images_per_prompt: int = 1,
    ) -> dict[str, object]:
        """Everything that can change a metric's numbers on this suite, JSON-ready; its hash is the metric's fingerprint.

        extractor: with its weights' hashes. reference_sha256: of the content of photographs. images_per_prompt: of the run; a
        metric of one image a caption reads the first. Labels and the metric's target are not in it.
        """
        compared = metric.reference == "suite"
        return {
            "metric": {"id": metric.id, "version": metric.version, "parameters": metric.parameters},
            "extractor": None if extractor is None else extractor.protocol(),
            "preparation": None if extractor is None else self.preparation,
            "prompts_sha256": prompts_sha256,
            "num_generated": self.num_generated,
            "images_per_prompt": images_per_prompt if metric.images_per_prompt > 1 else 1,
            "reference": self.reference_protocol(reference_sha256) if compared else None,
            "num_reference": self.num_reference if compared else None,
        }


class GroupSpec(Spec):
    """Suites that are evaluated together and make one leaderboard row, joined on the model's fingerprint.

    latency: the protocol of the command `latency` whose result, where there is one, belongs to the row too.
    """

    remarks = frozenset({"description"})
    later: ClassVar[frozenset[str]] = frozenset({"latency"})

    id: str
    version: int = 1
    family: Family
    suites: tuple[str, ...] = Field(min_length=1)
    latency: Literal["paper", "full"] | None = None
    description: str = ""
