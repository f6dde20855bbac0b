"""What is evaluated and how, as frozen declarations. No torch here: a spec says, other rooms do.

A spec's fingerprint is a hash of the fields that can change a number; names, licences and remarks are not in it.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

Family = Literal["mini", "full", "local"]
PredictionType = Literal["epsilon", "v_prediction", "sample"]
# From uint8 pixels to a network's input, where that is part of a metric's name (protocols.md 2, 3, 5).
Preprocessing = Literal["", "clean299", "tf1", "legacy_no_antialias", "antialias"]


class Spec(BaseModel):
    """Base of all declarations: immutable, no unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    remarks: ClassVar[frozenset[str]] = frozenset()  # fields that cannot change a number

    def fingerprint(self) -> str:
        """SHA-256 (64 hex digits) of the canonical JSON of every field that can change a number."""
        return fingerprint(self.protocol())

    def protocol(self) -> dict[str, Any]:
        """The fields that can change a number, JSON-ready."""
        return self.model_dump(mode="json", exclude=set(self.remarks))


def fingerprint(value: Any) -> str:
    """SHA-256 (64 hex digits) of a JSON-ready value, keys sorted, no spaces."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()).hexdigest()


class WeightsFile(Spec):
    """One file that was read, relative to the model's location, and its SHA-256."""

    path: str
    sha256: str


class MergeSpec(Spec):
    """theta = weight * a + (1 - weight) * b (paper eq. 6), made on load; a and b are model ids or folders."""

    a: str
    b: str
    weight: float = Field(ge=0.0, le=1.0)


class ModelSpec(Spec):
    """A model as it is sampled. Also the content of `sbv2bench.json` in every folder that the trainer writes.

    location: `package:mini/sd21` (shipped weights), `hub:org/name`, or a path. base: in the same words, the model that
    supplies the parts that this folder lacks; a relative path is meant from the model's own folder. weights: filled in when
    the model is resolved, with the hashes that were found, the base's too, for which the two locations are only remarks.
    """

    remarks = frozenset(
        {"id", "family", "location", "base", "description", "origin", "licence", "verified", "aliases", "published_as"}
    )

    id: str
    family: Family = "local"
    sampler: str  # a kind that the registry knows: multi_step, one_step, pipeline, image_folder, or a plugin's
    location: str = ""
    base: str = ""
    revision: str | None = None
    weights: tuple[WeightsFile, ...] = ()
    merge: MergeSpec | None = None
    steps: int = Field(default=25, ge=1, le=1000)
    guidance_scale: float = Field(default=1.0, ge=0.0, le=100.0)  # usual convention: 1 is no guidance
    scheduler: Literal["folder", "ddim", "dpmsolver++", "euler"] = "folder"  # folder: as the model's own folder says
    timestep: int = Field(default=999, ge=0, le=999)  # one_step only: where the student is asked
    alpha_T: float | None = None  # one_step only: None takes it from the schedule, SwiftBrush v1 hard-codes sqrt(0.0047)
    prediction_type: PredictionType | None = None  # None: as the scheduler's config says
    resolution: int | None = None  # None: the network's own
    description: str = ""
    origin: str = ""
    licence: str = ""
    verified: bool = False
    aliases: tuple[str, ...] = ()
    published_as: tuple[str, ...] = ()

    def has_network(self) -> bool:
        """Whether a network generates its images, so that steps, guidance and latency mean something."""
        return self.sampler not in {"image_folder", "renderings"}

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

    def protocol(self) -> dict[str, Any]:
        """The fields that can change a number, without later ones at their defaults."""
        defaults = {name: type(self).model_fields[name].default for name in self.later}
        return {name: value for name, value in super().protocol().items() if name not in defaults or value != defaults[name]}


class PromptSpec(Spec):
    """Captions of the world: `num_generated` of them from `caption_offset` of a split."""

    kind: Literal["world"] = "world"
    world_seed: int = 0
    split: Literal["training", "choosing", "reporting"] = "reporting"
    caption_offset: int = Field(default=0, ge=0)


class SuiteSpec(Spec):
    """Prompts, reference and metrics under a version. `extends` is resolved when a catalog is read."""

    remarks = frozenset({"description"})

    id: str
    version: int = 1
    family: Family
    prompts: PromptSpec
    num_generated: int = Field(ge=2)
    num_reference: int = Field(ge=0)
    metrics: tuple[str, ...]
    features: str  # extractor ids
    clip: str | None = None
    hps: str | None = None
    block_size: int = Field(default=50, ge=1)
    label_suffix: str = ""  # "-mini" for everything measured by mini networks
    description: str = ""


class MetricSpec(Spec):
    """A measure. target: "module:function" taking (features: FeatureSets) and returning {json key: MetricValue}."""

    remarks = frozenset({"title", "description"})

    id: str  # the flag of --metrics
    target: str
    keys: tuple[str, ...]  # what it writes into the result's metrics block
    needs: tuple[Literal["features", "reference", "clip", "hps", "attributes", "latency"], ...]
    higher_is_better: bool
    title: str = ""
    description: str = ""
