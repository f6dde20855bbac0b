"""What is evaluated and how, as frozen declarations. No torch here: a spec says, other rooms do.

What they have in common is in spec_base.py.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from sbv2bench.asset_spec import AssetSpec as AssetSpec  # noqa: PLC0414
from sbv2bench.spec_base import Spec as Spec  # noqa: PLC0414  # both are taken from here
from sbv2bench.spec_base import fingerprint as fingerprint  # noqa: PLC0414

Family = Literal["mini", "full", "local"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
Holds = Literal["model", "unet", "lora"]
# From uint8 pixels to a network's input, where that is part of a metric's name.
Preprocessing = Literal["", "clean299", "tf1", "legacy_no_antialias", "antialias"]


class WeightsFile(Spec):
    """One file that was read, relative to the model's location, and its SHA-256."""

    path: str
    sha256: str


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

    @model_validator(mode="after")
    def _fields_that_go_together(self) -> ModelSpec:
        if self.timesteps and self.steps != len(self.timesteps):
            raise ValueError(f"steps is {self.steps}, expected {len(self.timesteps)}, the number of its timesteps")
        if self.width is not None and self.resolution is None:
            raise ValueError("a width without a resolution, which is the height")
        return self

    def has_network(self) -> bool:
        """Whether a network generates its images, so that steps, guidance and latency mean something."""
        return self.sampler not in {"image_folder", "renderings", "published"}

    def has_seeds(self) -> bool:
        """Whether another generation seed gives other images: those that exist already have none."""
        return self.sampler not in {"image_folder", "published"}

    def network_evaluations(self) -> int:
        """NFE: network function evaluations of the denoiser for one image; guidance pairs are not counted twice."""
        return {"one_step": 1, "image_folder": 0, "renderings": 0}.get(self.sampler, self.steps)


class SamplerSpec(Spec):
    """A way to sample a model. target: "module:function" taking (spec: ModelSpec, device: str, dtype: torch.dtype) -> Sampler."""

    remarks = frozenset({"description"})

    id: str
    target: str
    description: str = ""


class ExtractorSpec(Spec):
    """A network that turns images (and texts) into features. kind names the class in `sbv2bench.features`.

    location: as a model's, or `asset:NAME`, a declared download. files: which of the location's files are read (of the
    weights among them the first that is there); none named means all, in the layout of the kind.
    """

    remarks = frozenset({"description", "location", "files"})
    # Fields that came after the first results: at their defaults a fingerprint is what it was.
    later: ClassVar[frozenset[str]] = frozenset({"architecture", "preprocessing", "channels"})

    id: str
    kind: str  # "world_network" | "open_clip" | "inception" | a kind that a plugin registers
    location: str = ""
    files: tuple[str, ...] = ()
    weights: tuple[WeightsFile, ...] = ()
    architecture: str = ""  # open_clip: its name of a network, where the location holds a bare state dict
    preprocessing: Preprocessing = ""  # "": the kind's own
    channels: Literal["rgb", "bgr"] = "rgb"  # the order in which inception sees them
    prefix: str = ""  # put before every prompt
    scale: float = 1.0  # multiplies the cosine: 1 for CLIP score, 100 for HPS
    label: str = ""  # how the metric's extractor is named to people
    description: str = ""


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

    def protocol(self) -> dict[str, Any]:
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

    def protocol(self) -> dict[str, Any]:
        """The fields that can change a number, the orientation where pictures are turned."""
        fields = self.model_dump(mode="json", include={"content_sha256"})
        return fields | ({"orientation": "exif"} if self.is_turned else {})


class SuiteSpec(Spec):
    """Prompts, reference and metrics under a version. `extends` is resolved when a catalog is read.

    reference: None is fresh renderings of the world, of the captions `rendered` where the prompts are others. preparation: what
    is done to every image, generated or real, before a network sees it. label_suffix: after every metric's name; a count in it
    ("-30k") becomes that of the images that were measured, so write a size as "-256px". pr, pr_paper: extractors of precision
    and recall where they are not `features`, ours and those of the paper's script. hps_v21: HPS by the later weights, beside
    `hps`. inherited: what a catalog or `own` took from another suite, in words.
    """

    remarks = frozenset({"description", "inherited"})
    # Fields that came after the first results: where they are not used, a suite's fingerprint is what it was.
    later: ClassVar[frozenset[str]] = frozenset({"reference", "preparation", "pr", "pr_paper", "hps_v21", "rendered", "look"})

    id: str
    version: int = 1
    family: Family
    prompts: PromptSpec
    num_generated: int = Field(ge=2)
    num_reference: int = Field(ge=0)
    metrics: tuple[str, ...]
    features: str | None = None  # extractor ids
    clip: str | None = None
    hps: str | None = None
    block_size: int = Field(default=50, ge=1)
    label_suffix: str = ""  # "-mini" for everything measured by mini networks
    description: str = ""
    reference: ReferenceSpec | None = None
    preparation: str | None = Field(default=None, pattern=r"^centre-crop-lanczos-[1-9]\d{0,3}$")  # to a square of that side
    pr: str | None = None
    pr_paper: str | None = None
    hps_v21: str | None = None
    rendered: PromptSpec | None = None
    inherited: str = ""
    look: int = Field(default=0, ge=0)  # a suite to look at: images in the grid beside its results, which no board takes

    def protocol(self) -> dict[str, Any]:
        """The fields that can change a number; later ones only where they are used."""
        fields = super().protocol() | {"prompts": self.prompts.protocol()}
        if self.reference is not None:
            fields["reference"] = self.reference.protocol()
        if self.rendered is not None:
            fields["rendered"] = self.rendered.protocol()
        return fields

    def roles(self) -> dict[str, str]:
        """Role -> extractor id, for every network that the suite names."""
        named = {role: getattr(self, role) for role in ROLES}
        return {role: name for role, name in named.items() if name is not None}


# What an image can be measured by, in the order in which it is.
ROLES = ("features", "pr", "pr_paper", "clip", "hps", "hps_v21")


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


class MetricSpec(Spec):
    """A measure. target: "module:function" taking (features: FeatureSets) and returning {json key: MetricValue}.

    prefers: the role whose extractor takes the place of `features` in suites that name one; which it was, the suite's
    protocol says. least, least_a_feature: images of either set that it needs, and as a multiple of the features' number.
    """

    remarks = frozenset({"title", "description", "prefers", "least", "least_a_feature"})

    id: str  # the flag of --metrics
    target: str
    keys: tuple[str, ...]  # what it writes into the result's metrics block
    needs: tuple[Literal["features", "reference", "clip", "hps", "attributes", "latency", "pr_paper", "hps_v21"], ...]
    prefers: Literal["pr"] | None = None
    least: int = Field(default=1, ge=1)
    least_a_feature: int = Field(default=0, ge=0)
    higher_is_better: bool
    title: str = ""
    description: str = ""
