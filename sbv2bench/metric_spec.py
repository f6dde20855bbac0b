"""The declarations of a measure: the network that looks at an image, and the function that makes a number of what it saw."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from sbv2bench.spec_base import Preparation, Spec

Family = Literal["mini", "full", "local"]
_GIVEN = {  # by built-in kinds, where it is not features
    "open_clip": "paired",
    "clip": "paired",
    "clip_logits": "scorer",
    "image_reward": "scorer",
    "world_attributes": "attributes",
}
_FOR_PEOPLE = frozenset({"title", "description", "confused_with", "punishes", "rewards_wrongly", "printed_by"})
# What an extractor measures of images, and what a metric may read besides: a clock, or scores that another tool gave.
Gives = Literal["features", "paired", "scorer", "attributes"]
Reads = Literal["features", "paired", "scorer", "attributes", "latency", "scores"]


class WeightsFile(Spec):
    """One file that was read, relative to the model's location, and its SHA-256."""

    path: str
    sha256: str


class ExtractorSpec(Spec):
    """A network that measures images one by one. kind: of those in `sbv2bench.features`, or a class of one's own, "module:Class".

    The class is made as Class(spec, device) and has `image_size: int | None`. By what it gives, it is called with uint8 images
    [B, H, W, 3] and returns float32 [B, D] (features) or the value read for each attribute, int64 [B, A] (attributes); or has
    embed_images(images) and embed_text(captions), float32 [B, D] each (paired); or score(images, captions), float32 [B] (scorer).
    location: as a model's, or `asset:NAME`, a declared download. files: which of the location's files are read (of the
    weights among them the first that is there); none named means all, in the layout of the kind. shown: the preparation of the
    images that it sees, in place of the suite's; which one it was, a metric's protocol says by itself. family: the suites that
    it is made for; None: any.
    """

    remarks = frozenset({"description", "label", "location", "files", "shown", "family", "gflop_image", "gflop_text"})
    later = frozenset({"tokenizer"})

    id: str
    kind: str
    gives: Gives = "features"
    location: str = ""
    tokenizer: str = ""
    files: tuple[str, ...] = ()
    weights: tuple[WeightsFile, ...] = ()
    architecture: str = ""  # open_clip: its name of a network, where the location holds a bare state dict
    preparation: str = ""  # from uint8 pixels to the network's input, where there are several ways; "": the kind's own
    shown: Preparation | None = None
    channels: Literal["rgb", "bgr"] = "rgb"  # the order in which inception sees them
    prefix: str = ""  # put before every prompt
    scale: float = 1.0  # multiplies the cosine: 1 for CLIP score, 100 for HPS
    family: Family | None = None
    gflop_image: float | None = Field(default=None, gt=0)
    gflop_text: float = Field(default=0.0, ge=0)
    label: str = ""  # how the metric's extractor is named to people
    description: str = ""

    @model_validator(mode="before")
    @classmethod
    def _what_its_kind_gives(cls, fields: object) -> object:
        own = _GIVEN.get(str(fields.get("kind"))) if isinstance(fields, dict) else None
        return {"gives": own, **fields} if isinstance(fields, dict) and own is not None else fields


class MetricSpec(Spec):
    """A measure. target: "module:function" taking one `Rows` and returning {key: MetricValue}; "" where it reads scores.

    reads: what its extractor gives, or `latency`, or `scores` that were imported; a `paired` extractor's image embeddings may
    be read as features. extractor: an id; a suite may name another. reference: images that it compares with: none, the suite's,
    or those of the model's teacher. images_per_prompt: how many of each caption it needs; a metric of one reads the first.
    version: raise it whenever its numbers would change. least, least_a_feature: images of either set that it needs, and as a
    multiple of the features' number. confused_with: what else goes by its name; that, and the fields after it, are for people.
    """

    remarks = _FOR_PEOPLE | {"target", "least", "least_a_feature"}

    id: str  # the flag of --metrics
    target: str = ""
    keys: tuple[str, ...] = Field(min_length=1)  # what it writes into the result's metrics block
    reads: Reads
    extractor: str | None = None
    reference: Literal["none", "suite", "teacher"] = "none"
    images_per_prompt: int = Field(default=1, ge=1)
    parameters: dict[str, Any] = Field(default_factory=dict)
    version: int = Field(default=1, ge=1)
    higher_is_better: bool
    least: int = Field(default=1, ge=1)
    least_a_feature: int = Field(default=0, ge=0)
    title: str = ""
    description: str = ""
    confused_with: str = ""
    punishes: str = ""
    rewards_wrongly: str = ""
    printed_by: str = ""

    @model_validator(mode="after")
    def _fields_that_go_together(self) -> MetricSpec:
        if self.reads in ("latency", "scores"):
            if self.extractor is not None or self.reference != "none":
                raise ValueError(f"a metric that reads {self.reads} has neither an extractor nor a reference")
        elif self.extractor is None:
            raise ValueError(f"a metric that reads {self.reads} names the extractor that gives them")
        if self.reads != "scores" and not self.target:
            raise ValueError('a target, "module:function"')
        return self

    @property
    def direction(self) -> Literal["lower", "higher"]:
        """Which way is better."""
        return "higher" if self.higher_is_better else "lower"

    @property
    def reads_captions(self) -> bool:
        """Whether a caption changes its numbers, beside the image that was made of it."""
        return self.reads in ("paired", "scorer", "attributes")

    def fits(self, extractor: ExtractorSpec) -> bool:
        """Whether an extractor gives what it reads."""
        return self.reads == extractor.gives or (self.reads, extractor.gives) == ("features", "paired")


class SuiteMetric(Spec):
    """A metric as a suite has it: by its id, and what the suite changes of it.

    extractor: in place of the metric's own. parameters: over the metric's. on_request: --metrics takes it, the default does not.
    """

    id: str
    extractor: str | None = None
    parameters: dict[str, Any] = Field(default_factory=dict)
    on_request: bool = False

    def of(self, metric: MetricSpec) -> MetricSpec:
        """The metric with these changes."""
        changes = {"extractor": self.extractor or metric.extractor, "parameters": {**metric.parameters, **self.parameters}}
        return metric.model_copy(update=changes)
